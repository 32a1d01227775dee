"""The kinds of work that a provider does for a client. All of them take the same way through the pipeline."""

from __future__ import annotations

from typing import TypeAlias

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
