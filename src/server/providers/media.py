"""What an image really is, by its first bytes: clients mislabel, and providers refuse or misread it then."""

from __future__ import annotations

import base64
import binascii
from typing import Final

_SNIFFED_CHARS: Final = 24
"""Base64 characters that hold every magic number below; a multiple of four."""

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def sniff_image(data: str) -> str | None:
    """The media type of base64 `data` (PNG, JPEG, GIF or WebP), else None. Reads only its beginning."""
    head = data[: 2 * _SNIFFED_CHARS].translate({10: None, 13: None, 32: None})[:_SNIFFED_CHARS]
    try:
        return image_type(base64.b64decode(head[: len(head) // 4 * 4], validate=True))
    except (binascii.Error, ValueError):
        return None


def image_type(start: bytes) -> str | None:
    """The same of bytes; 12 of them are enough."""
    for magic, media_type in _MAGIC:
        if start.startswith(magic):
            return media_type
    return "image/webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None


def image_data_url(data: str, media_type: str | None) -> str:
    """A data URL whose label is true where the bytes tell, else the client's."""
    return f"data:{sniff_image(data) or media_type or 'application/octet-stream'};base64,{data}"


def relabelled(url: str) -> str:
    """The same URL; a base64 data URL gets the label that its bytes call for."""
    if not url.startswith("data:"):
        return url
    label, comma, data = url.partition(",")
    if not comma or not label.endswith(";base64"):
        return url
    declared = label[len("data:") : -len(";base64")]
    true = sniff_image(data)
    if true is None or true == declared.partition(";")[0].strip().lower():
        return url
    return f"data:{true};base64,{data}"
