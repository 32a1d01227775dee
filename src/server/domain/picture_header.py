"""How large a PNG, JPEG or WebP is, by what stands before its pixels; nothing is decoded."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from server.domain.upload import Upload

__all__ = ["MAX_STEPS", "UnknownPicture", "media_type_of", "picture_size"]

_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG: Final = b"\xff\xd8\xff"
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header, which has its size."""
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""
_PIXELS: Final = frozenset({0xD9, 0xDA})
_ENOUGH: Final = 9
"""Bytes from a frame's marker to the end of its size."""
MAX_STEPS: Final = 4096
"""Segments and padding that are skipped; no camera writes a tenth of it."""


class UnknownPicture(ValueError):
    """Its text completes a sentence that begins with the field's name."""


def media_type_of(head: bytes) -> str | None:
    """By the first bytes of a file; None where it is none of the three."""
    if head.startswith(_PNG[:8]):
        return "image/png"
    if head.startswith(_JPEG):
        return "image/jpeg"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


async def picture_size(file: Upload) -> tuple[int, int]:
    """Width and height in pixels, neither of them 0. Raises UnknownPicture."""
    match media_type_of(file.head):
        case "image/png":
            size = _png(file.head)
        case "image/jpeg":
            size = await _jpeg(file)
        case "image/webp":
            size = _webp(file.head)
        case _:
            raise UnknownPicture("must be a PNG, JPEG or WebP picture")
    if size is None or not all(size):
        raise UnknownPicture("is no whole picture: it ends, or makes no sense, before its size is told")
    return size


def _png(head: bytes) -> tuple[int, int] | None:
    if not head.startswith(_PNG) or len(head) < 33:
        return None
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _webp(head: bytes) -> tuple[int, int] | None:
    kind, begins = head[12:16], head[20:30]
    if len(begins) < 10:
        return None
    match kind:
        case b"VP8X":
            return _little(begins[4:7]) + 1, _little(begins[7:10]) + 1
        case b"VP8L" if begins[0] == 0x2F:
            bits = _little(begins[1:5])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if begins[3:6] == b"\x9d\x01\x2a":
            return _little(begins[6:8]) & 0x3FFF, _little(begins[8:10]) & 0x3FFF
        case _:
            return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


async def _jpeg(file: Upload) -> tuple[int, int] | None:
    """Its segments are skipped up to the frame's: cameras write their own thumbnails before it."""
    skip, left, steps = 2, b"", 0
    async with aclosing(file.pieces()) as pieces:
        async for piece in pieces:
            data = left + piece
            while skip + _ENOUGH <= len(data):
                steps += 1
                if data[skip] != 0xFF or data[skip + 1] in _PIXELS or steps > MAX_STEPS:
                    return None
                marker = data[skip + 1]
                if marker in _FRAMES:
                    height, width = data[skip + 5 : skip + 7], data[skip + 7 : skip + 9]
                    return int.from_bytes(width), int.from_bytes(height)
                length = max(2, int.from_bytes(data[skip + 2 : skip + 4]))
                skip += 1 if marker == 0xFF else 2 if marker in _ALONE else 2 + length
            left = data[skip:]
            skip = max(0, skip - len(data))
    return None
