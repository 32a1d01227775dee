"""The kinds of work that a provider does for a client. All of them take the same way through the pipeline."""

from __future__ import annotations

from typing import Final, TypeAlias

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.embedding import EmbeddingRequest
from server.domain.images import ImageRequest
from server.domain.moderation import ModerationRequest
from server.domain.request import GenerationRequest
from server.domain.video import VideoRequest

Work: TypeAlias = (
    GenerationRequest
    | EmbeddingRequest
    | ModerationRequest
    | ImageRequest
    | SpeechRequest
    | TranscriptionRequest
    | VideoRequest
)

LATE: Final = (ImageRequest, TranscriptionRequest)
"""What shows itself late even where it is streamed: a picture is made first, and a file sent and listened to."""
