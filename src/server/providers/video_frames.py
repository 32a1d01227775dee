"""How large a video is to be: pixels, or a resolution and an aspect ratio, which say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from server.domain.catalog import Offer
from server.domain.video import VideoRequest

__all__ = ["Frame", "field_of", "frame_of", "is_offered", "named", "pixels", "words_of"]

SHORT_SIDES: Final[Mapping[str, int]] = {
    "360p": 360, "480p": 480, "540p": 540, "720p": 720, "1080p": 1080, "1440p": 1440, "4k": 2160,
}  # fmt: skip
RATIOS: Final[Mapping[str, tuple[int, int]]] = {
    "16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1), "4:3": (4, 3), "3:4": (3, 4), "3:2": (3, 2), "2:3": (2, 3),
    "21:9": (21, 9), "9:21": (9, 21),
}  # fmt: skip
_SPELLINGS: Final[Mapping[str, str]] = {"2160p": "4k"}
_USUAL: Final = ("720p", "16:9")
"""What the one of them stands beside where only the other is named."""


class Frame(msgspec.Struct, frozen=True):
    """Both ways to say it, as far as it can be said so; all None where it is left to the provider."""

    size: str | None = None
    resolution: str | None = None
    aspect_ratio: str | None = None


def pixels(resolution: str, aspect_ratio: str) -> str | None:
    """`1280x720` of `720p` and `16:9`; None for words that are not known. Both sides are even."""
    resolution = resolution.lower()
    short, ratio = SHORT_SIDES.get(_SPELLINGS.get(resolution, resolution)), RATIOS.get(aspect_ratio)
    if short is None or ratio is None:
        return None
    long = -(-short * max(ratio) // min(ratio))
    long += long % 2
    return f"{long}x{short}" if ratio[0] >= ratio[1] else f"{short}x{long}"


_WORDS: Final = {
    size: (resolution, ratio) for resolution in SHORT_SIDES for ratio in RATIOS if (size := pixels(resolution, ratio))
}


def words_of(size: str) -> tuple[str, str] | None:
    """`720p` and `16:9` of `1280x720`; None for a size that no such words stand for."""
    return _WORDS.get(size.lower())


def named(request: VideoRequest, field: str) -> str:
    """What the client calls a field."""
    return request.parameters.get(field, field)


def frame_of(offer: Offer, request: VideoRequest) -> Frame | str:
    """What the request comes to, with the offer's default.

    Or the field that cannot be understood, or not beside another.
    """
    default = offer.videos.default_size
    size, resolution, ratio = request.size, request.resolution, request.aspect_ratio
    if size is None and resolution is None and ratio is None:
        size = default
    if size is None:
        if resolution is None and ratio is None:
            return Frame()
        usual = (words_of(default) if default is not None else None) or _USUAL
        size = pixels(resolution or usual[0], ratio or usual[1])
        if size is None:
            return "aspect_ratio" if resolution is None or pixels(resolution, "1:1") else "resolution"
    words = words_of(size)
    frame = Frame(size, *words) if words is not None else Frame(size)
    if resolution is not None and _SPELLINGS.get(resolution.lower(), resolution.lower()) != frame.resolution:
        return "resolution"
    return "aspect_ratio" if ratio is not None and ratio != frame.aspect_ratio else frame


def is_offered(offer: Offer, frame: Frame) -> bool:
    return frame.size is None or not offer.videos.sizes or frame.size in offer.videos.sizes


def field_of(request: VideoRequest) -> str:
    """The field in which the client says how large."""
    return next((name for name in ("size", "resolution", "aspect_ratio") if getattr(request, name) is not None), "size")
