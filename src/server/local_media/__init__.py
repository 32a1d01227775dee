"""Embedded media, OpenAI-compatible, as a process of its own: pictures, speech, transcripts, videos, no account.

`python -m server.local_media --port N --directory D` opens http://127.0.0.1:N/v1; to the rest of the gateway it is one
more upstream. Nothing here generates: pictures and videos are test cards that say what they are, speech is eSpeak NG,
transcripts are PocketSphinx. The server itself draws, encodes and decodes nothing: each piece of work is a short-lived
process (`work.py`) with limits of its own, so that a hostile file ends that and nothing else, and so that idle it costs
no memory.
"""

from __future__ import annotations

import importlib.util
from typing import Final

__all__ = ["IMAGE_MODEL", "PROVIDER_ID", "SPEECH_MODEL", "TRANSCRIPTION_MODEL", "VIDEO_MODEL", "is_available"]

PROVIDER_ID: Final = "local-media"
"""Its provider in the catalogue."""
IMAGE_MODEL: Final = "test-card-image"
"""How requests name what draws, upstream; the others likewise."""
VIDEO_MODEL: Final = "test-card-video"
SPEECH_MODEL: Final = "espeak"
TRANSCRIPTION_MODEL: Final = "pocketsphinx"

_PACKAGES: Final = ("aiohttp", "av", "espeakng_loader", "PIL", "pocketsphinx")


def is_available() -> bool:
    """Whether the extra `local` is installed. Imports nothing of it."""
    return all(map(importlib.util.find_spec, _PACKAGES))
