"""OpenAI's API of videos, by a provider whose videos are done as soon as they are looked at."""

from __future__ import annotations

import re

from tests.fakes.openai_upstream import Reply, Request
from tests.fakes.replies import error, head, json_reply, whole
from tests.fakes.wire import Send

FILM = bytes(range(256)) * 16
"""What every video consists of."""
LONG_FILM_BYTES = 50_000_000
"""But for those of the model `long-film`."""
_LONG = "video_long_of_acme"
_PIECE = bytes(65_536)
HINT = {"openai-poll-after-ms": "200"}


def as_openai_videos(request: Request) -> Reply:
    """Jobs are all alike, so that nothing need be kept of them."""
    path = request.path.partition("?")[0]
    ids = re.search(r"/videos/(\w+)", path)
    if request.method == "DELETE" and ids:
        return json_reply({"id": ids[1], "object": "video.deleted", "deleted": True})
    if path.endswith("/content"):
        return _long_film() if ids and ids[1] == _LONG else whole(FILM, content_type="video/mp4")
    if path.endswith("/cancel"):
        return error(404, "There is no such route.", code="not_found")
    begins = request.method == "POST"
    job = {
        "id": _LONG if b"long-film" in request.body or (ids and ids[1] == _LONG) else "video_of_acme",
        "object": "video",
        "model": "film",
        "status": "queued" if begins else "completed",
        "progress": 0 if begins else 100,
        "created_at": 1_795_000_000,
        "seconds": "4",
        "size": "1280x720",
    }
    return json_reply(job, headers=HINT)


def _long_film() -> Reply:
    pieces = [_PIECE] * (LONG_FILM_BYTES // len(_PIECE)) + [_PIECE[: LONG_FILM_BYTES % len(_PIECE)]]
    opening = head(200, {"content-type": "video/mp4", "content-length": str(LONG_FILM_BYTES)})
    return [opening, *map(Send, pieces)]
