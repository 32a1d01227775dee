"""A file that came inside a JSON body."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

PIECE_BYTES: Final = 64 * 1024
HEAD_BYTES: Final = 4096


class InlineUpload:
    """A `server.domain.upload.Upload` of bytes that are there anyway."""

    def __init__(self, media_type: str, data: bytes) -> None:
        self._media_type = media_type
        self._data = data

    @property
    def filename(self) -> str:
        return ""

    @property
    def media_type(self) -> str:
        return self._media_type

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def head(self) -> bytes:
        return self._data[:HEAD_BYTES]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self._data), PIECE_BYTES):
            yield self._data[start : start + PIECE_BYTES]
