"""What is charged for beside tokens, as far as the gateway can see it: pictures, seconds of sound, characters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from server.domain.audio import SpeechRequest, Transcript, TranscriptionRequest
from server.domain.images import ImageRequest, Images
from server.domain.video import VideoRequest
from server.domain.work import Work

__all__ = ["most_units", "produced_units", "sent_units"]

LEAST_BYTES_PER_SECOND: Final = 1_000
"""No usual sound file has fewer."""
USUAL_BYTES_PER_SECOND: Final = 16_000
"""How long a file is of which nobody says so."""
LEAST_CHARS_PER_SECOND: Final = 4
"""Nobody is heard who speaks slower."""

USUAL_VIDEO_SECONDS: Final = 8
"""How long a video is where neither its client nor its provider says so; Veo's are."""


def produced_units(result: object) -> Mapping[str, int]:
    """What of a whole result is counted."""
    match result:
        case Images(images=images):
            return {"output_image": len(images)}
        case Transcript(duration_s=float() as seconds):
            return {"input_audio_seconds": math.ceil(seconds)}
        case _:
            return {}


def sent_units(request: Work) -> Mapping[str, int]:
    """What of a request is counted as soon as anything has been made of it."""
    match request:
        case SpeechRequest(text=text):
            return {"input_characters": len(text)}
        case ImageRequest(images=images) if images:
            return {"input_image": len(images)}
        case TranscriptionRequest(file=file):
            return {"input_audio_seconds": file.size // USUAL_BYTES_PER_SECOND + 1}
        case _:
            return {}


def most_units(request: Work) -> Mapping[str, int]:
    """The most that a request may come to."""
    match request:
        case SpeechRequest(text=text, speed=speed):
            slowest = LEAST_CHARS_PER_SECOND * min(1.0, speed or 1.0)
            return {"input_characters": len(text), "output_audio_seconds": math.ceil(len(text) / slowest) + 1}
        case ImageRequest(n=n):
            return {**sent_units(request), "output_image": n}
        case TranscriptionRequest(file=file):
            return {"input_audio_seconds": file.size // LEAST_BYTES_PER_SECOND + 1}
        case VideoRequest(seconds=seconds):
            return {"video_seconds": USUAL_VIDEO_SECONDS if seconds is None else seconds}
        case _:
            return {}
