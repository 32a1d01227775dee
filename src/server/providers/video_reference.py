"""The picture that a video begins with, as dialects take it: a file of a form, or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.upload import Upload
from server.domain.video import InlineImage
from server.providers.media import sniff_image
from server.providers.pictures import TrueUpload, true_type

__all__ = ["as_upload", "base64_part", "media_type_of"]

_HEAD_BYTES: Final = 4096
_PIECE_BYTES: Final = 64 * 1024


def media_type_of(reference: Upload | InlineImage) -> str:
    """As its first bytes tell, else as the client declared it; may be empty."""
    if isinstance(reference, InlineImage):
        return sniff_image(reference.data) or reference.media_type
    return true_type(reference)


def base64_part(reference: Upload | InlineImage) -> bytes | Upload:
    """A part of an `InlineBody`, to stand between quotes."""
    return msgspec.json.encode(reference.data)[1:-1] if isinstance(reference, InlineImage) else reference


def as_upload(reference: Upload | InlineImage) -> Upload:
    """Under its true type. Raises ProviderFailure where it is not base64."""
    if not isinstance(reference, InlineImage):
        return TrueUpload(reference)
    try:
        data = base64.b64decode(reference.data)
    except (binascii.Error, ValueError):
        said = UpstreamError(message="The picture is not base64.")
        raise ProviderFailure(FailureCategory.CALLER_ERROR, upstream=said, was_sent=False) from None
    return TrueUpload(_Held(data, media_type_of(reference)))


class _Held:
    """See `server.domain.upload.Upload`."""

    filename = ""

    def __init__(self, data: bytes, media_type: str) -> None:
        self._data = data
        self.media_type = media_type

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def head(self) -> bytes:
        return self._data[:_HEAD_BYTES]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self._data), _PIECE_BYTES):
            yield self._data[start : start + _PIECE_BYTES]
