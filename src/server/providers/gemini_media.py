"""Images, sound and files as Gemini's parts: inline, or by the few addresses that it fetches itself."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from server.domain.request import Audio, File, Image
from server.providers.media import sniff_image

_FETCHED: Final = re.compile(
    r"https://generativelanguage\.googleapis\.com/v1(?:alpha|beta)?/files/\S+"
    r"|gs://\S+|https://(?:www\.|m\.)?youtube\.com/\S+|https://youtu\.be/\S+"
)
"""Files of its own, and videos; any other address it would have to be sent inline."""

_AUDIO_TYPES: Final = {"wav": "audio/wav", "mp3": "audio/mp3"}
_PDF: Final = b"%PDF"


def is_fetched(url: str) -> bool:
    return _FETCHED.fullmatch(url) is not None


def says_image(image: Image) -> bool:
    """Whether it can be sent at all."""
    if image.url is not None:
        return is_fetched(image.url) or _data_url(image.url) is not None
    return image.data is not None and _image_type(image.data, image.media_type) is not None


def says_file(file: File) -> bool:
    if file.url is not None:
        return is_fetched(file.url) or _data_url(file.url) is not None
    return file.data is not None and _file_type(file) is not None


def is_inline(part: Image | File) -> bool:
    return part.data is not None or (part.url is not None and _data_url(part.url) is not None)


def image_part(image: Image) -> dict[str, Any]:
    return {"inlineData": blob(image)} if is_inline(image) else {"fileData": {"fileUri": image.url}}


def file_part(file: File) -> dict[str, Any]:
    return {"inlineData": blob(file)} if is_inline(file) else {"fileData": {"fileUri": file.url}}


def audio_part(audio: Audio) -> dict[str, Any]:
    return {"inlineData": {"mimeType": _AUDIO_TYPES.get(audio.format, f"audio/{audio.format}"), "data": audio.data}}


def blob(part: Image | File) -> dict[str, str]:
    """`inlineData` under the type that the bytes have, where they tell, else the client's."""
    declared, data = part.media_type, part.data
    if data is None:
        declared, data = _data_url(part.url or "") or (None, "")
    if isinstance(part, Image) or (declared or "").startswith("image/"):
        media_type = _image_type(data, declared)
    else:
        media_type = declared or _sniffed_file(data)
    return {"mimeType": media_type or "application/octet-stream", "data": data}


def _image_type(data: str, declared: str | None) -> str | None:
    return sniff_image(data) or declared


def _file_type(file: File) -> str | None:
    return file.media_type or _sniffed_file(file.data or "")


def _sniffed_file(data: str) -> str | None:
    try:
        start = base64.b64decode(data[:8], validate=True)
    except (binascii.Error, ValueError):
        return None
    return "application/pdf" if start.startswith(_PDF) else sniff_image(data)


def _data_url(url: str) -> tuple[str, str] | None:
    """Type and base64 of a data URL."""
    label, comma, data = url.partition(",")
    if not url.startswith("data:") or not comma or not label.endswith(";base64"):
        return None
    return label[len("data:") : -len(";base64")].partition(";")[0].strip().lower(), data
