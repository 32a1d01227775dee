"""What is charged for beside tokens, as far as the gateway can see it: pictures, sound, characters, searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.domain.audio import AudioFormat, SpeechRequest, Transcript, TranscriptionRequest
from server.domain.images import ImageRequest, Images
from server.domain.request import BuiltInTool, GenerationRequest
from server.domain.video import VideoRequest
from server.domain.work import Work

__all__ = ["is_search", "most_units", "produced_units", "sent_units", "spoken_seconds"]

LEAST_BYTES_PER_SECOND: Final = 1_000
"""No usual sound file has fewer."""
USUAL_BYTES_PER_SECOND: Final = 16_000
"""How long a file is of which nobody says so."""
LEAST_CHARS_PER_SECOND: Final = 4
"""Nobody is heard who speaks slower."""
MADE_BYTES_PER_SECOND: Final[Mapping[AudioFormat, int]] = {
    "mp3": 16_000,
    "opus": 8_000,
    "aac": 16_000,
    "flac": 24_000,
    "wav": 48_000,
    "pcm": 48_000,
}
"""Of speech: exact where nothing is compressed, else what is usual."""

SEARCH_OPTIONS: Final = "web_search_options"
USUAL_SEARCHES: Final = 10
"""How often a model may search that is given the tool and no limit of its calls."""

USUAL_VIDEO_SECONDS: Final = 8
"""How long a video is where neither its client nor its provider says so; Veo's are."""


class _Item(msgspec.Struct):
    type: Any = None
    status: Any = None
    action: Any = None


_decode_item: Final = msgspec.json.Decoder(_Item).decode


def is_search(item: msgspec.Raw) -> bool:
    """Whether an output item is a search of the web that was made: to open a page or look into it is none."""
    told = _decode_item(item)
    if told.type != "web_search_call" or told.status not in (None, "completed"):
        return False
    return not isinstance(told.action, dict) or told.action.get("type", "search") == "search"


def spoken_seconds(request: SpeechRequest, size: int) -> int:
    """How long so many bytes of it are heard, though never longer than it may be."""
    return min(math.ceil(size / MADE_BYTES_PER_SECOND[request.format]), most_units(request)["output_audio_seconds"])


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
        case GenerationRequest(passthrough=given):
            return {"web_searches": 1} if SEARCH_OPTIONS in given else {}
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
        case GenerationRequest(tools=tools, passthrough=given):
            if any(isinstance(tool, BuiltInTool) and "web_search" in tool.type for tool in tools):
                return {"web_searches": _whole_number(given.get("max_tool_calls")) or USUAL_SEARCHES}
            return sent_units(request)
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


def _whole_number(raw: msgspec.Raw | None) -> int | None:
    try:
        return None if raw is None else max(0, msgspec.json.decode(raw, type=int))
    except msgspec.ValidationError:
        return None
