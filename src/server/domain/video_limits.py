"""What of a request for a video can be meant, whatever surface it came in by. Errors name the field."""

from __future__ import annotations

import re
from typing import Final

from server.domain.image_limits import MAX_SIDE, check_picture, check_prompt, is_size
from server.domain.limits import check_length, invalid_value
from server.domain.upload import Upload
from server.domain.video import MAX_SECONDS, VideoRequest

__all__ = ["REFERENCE", "check_prompt", "check_reference", "check_settings"]

REFERENCE: Final = "input_reference"
MAX_SEED: Final = 2**32 - 1
MAX_NEGATIVE_CHARS: Final = 4096

_RESOLUTION: Final = re.compile(r"\d{3,4}p|[1-8]k")
_RATIO: Final = re.compile(r"[1-9]\d?:[1-9]\d?")


def check_settings(request: VideoRequest) -> None:
    """Fields are named as the request's own `parameters` spell them."""
    check_prompt(request.prompt)
    if request.seconds is not None and not 1 <= request.seconds <= MAX_SECONDS:
        spelling = request.parameters.get("seconds", "seconds")
        raise invalid_value(spelling, f"must be from 1 to {MAX_SECONDS}, not {request.seconds}")
    if request.seed is not None and not 0 <= request.seed <= MAX_SEED:
        raise invalid_value("seed", f"must be from 0 to {MAX_SEED}, not {request.seed}")
    check_length(request.negative_prompt or "", MAX_NEGATIVE_CHARS, "negative_prompt")
    if request.size is not None:
        if not is_size(request.size):
            raise invalid_value("size", f"must be <width>x<height> of at most {MAX_SIDE} pixels each")
        for name in ("resolution", "aspect_ratio"):
            if getattr(request, name) is not None:
                raise invalid_value(name, "cannot be given together with size, which says as much")
    if request.resolution is not None and not _RESOLUTION.fullmatch(request.resolution):
        raise invalid_value("resolution", "must be such as 720p, 1080p or 4k")
    if request.aspect_ratio is not None and not _RATIO.fullmatch(request.aspect_ratio):
        raise invalid_value("aspect_ratio", "must be such as 16:9")


async def check_reference(file: Upload) -> None:
    """It is not decoded: how large a picture is stands in its header."""
    await check_picture(REFERENCE, file)
