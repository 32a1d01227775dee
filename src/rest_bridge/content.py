"""Parts of content that both OpenAI surfaces spell alike, from JSON values to the domain.

Everything raises GatewayError naming `param`, the path of the value.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

import msgspec

from rest_bridge.json import invalid, unsupported
from server.domain.limits import MAX_SHOWN_CHARS
from server.domain.request import File, Image
from server.domain.upload import HeldUpload, Upload

_DATA_URL: Final = re.compile(r"data:(?P<type>[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)(?:;[^;,]*)*?;base64,", re.I)
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\r\n"


class CacheBreakpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """OpenAI's mark on a content part; known, so that it can be refused by its name."""

    mode: str | None = None
    ttl: str | None = None


def refuse_breakpoint(mark: CacheBreakpoint | None, param: str) -> None:
    """`param` is the path of the content part."""
    if mark is not None:
        param = f"{param}.prompt_cache_breakpoint"
        raise unsupported(param, f"`{param}` is not supported: leave it out, and providers cache by themselves.")


def decode_image_url(url: str, detail: str | None, param: str) -> Image:
    """An http(s) URL is passed on unfetched; a data URL is taken apart."""
    if _scheme(url) == "data":
        media_type, data = split_data_url(url, param)
        if not media_type.startswith("image/"):
            raise invalid(param, f"`{param}` must hold an image, not {media_type[:MAX_SHOWN_CHARS]}.")
        return Image(data=data, media_type=media_type, detail=detail)
    return Image(url=check_web_url(url, param), detail=detail)


def decode_file_data(text: str, filename: str | None, param: str) -> File:
    """A file as a data URL, or as bare base64 without a media type."""
    if _scheme(text) == "data":
        media_type, data = split_data_url(text, param)
        return File(data=data, media_type=media_type, filename=filename)
    return File(data=check_base64(text, param), filename=filename)


def check_web_url(url: str, param: str) -> str:
    """`url` itself, where it is http(s); what lies behind it is the provider's to find out."""
    if _scheme(url) not in ("http", "https") or not url.partition("://")[2]:
        raise invalid(param, f"`{param}` must be an http(s) URL or a base64 data URL.")
    return url


def split_data_url(url: str, param: str) -> tuple[str, str]:
    """Media type (lower-case) and base64 text of a data URL."""
    found = _DATA_URL.match(url)
    if found is None:
        raise invalid(param, f"`{param}` must be of the form data:<media type>;base64,<data>.")
    return found["type"].lower(), check_base64(url[found.end() :], param)


def inline_file(url: str, param: str) -> Upload:
    """The file of a data URL. Nothing is fetched from an address: who sends a file sends it whole."""
    if _scheme(url) != "data":
        raise invalid(param, f"`{param}` must be a file, or a data URL: nothing is fetched from elsewhere.")
    media_type, data = split_data_url(url, param)
    try:
        return HeldUpload(binascii.a2b_base64(data), media_type)
    except binascii.Error:
        raise invalid(param, f"`{param}` must hold base64.") from None


def check_base64(data: str, param: str) -> str:
    """`data` itself, where it is base64 and not empty."""
    # Many megabytes must not hold up the loop, and deleting is far quicker than matching.
    if not data or data.encode("ascii", "replace").translate(None, _BASE64) not in (b"", b"=", b"=="):
        raise invalid(param, f"`{param}` must hold base64.")
    return data


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()
