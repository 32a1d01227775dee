"""Uploads that tests make."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

PIECE_BYTES = 64 * 1024
HEAD_BYTES = 4096


class BytesUpload:
    """An `Upload` of bytes that are at hand. `readings`: how often it has been read from its beginning."""

    def __init__(self, data: bytes, *, filename: str = "", media_type: str = "") -> None:
        self.data = data
        self.filename = filename
        self.media_type = media_type
        self.readings = 0

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def head(self) -> bytes:
        return self.data[:HEAD_BYTES]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        self.readings += 1
        for start in range(0, len(self.data), PIECE_BYTES):
            yield self.data[start : start + PIECE_BYTES]

    def hold(self) -> Callable[[], None]:
        return lambda: None
