"""An upstream that has a model for everything that there is a route for."""

from __future__ import annotations

from tests.fakes.audio_wire import as_openai_audio
from tests.fakes.embedding_wire import as_openai_embeddings
from tests.fakes.image_wire import as_openai_images
from tests.fakes.moderation_wire import judging
from tests.fakes.openai_upstream import Reply, Request, as_openai

_as_openai_moderations = judging(lambda _: {})


def as_all_of_openai(request: Request) -> Reply:
    path = request.path.partition("?")[0]
    if path.endswith("/embeddings"):
        return as_openai_embeddings(request)
    if "/audio/" in path:
        return as_openai_audio(request)
    if path.endswith("/moderations"):
        return _as_openai_moderations(request)
    if "/images/" in path:
        return as_openai_images(request)
    return as_openai(request)
