"""Files that clients send: too large to be held in memory, and read as often as providers are tried."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol

__all__ = ["HEAD_BYTES", "PIECE_BYTES", "HeldUpload", "Renamed", "Upload"]

PIECE_BYTES: Final = 64 * 1024
HEAD_BYTES: Final = 4096


class Upload(Protocol):
    """One file of a request; there until the request has been answered, and nobody holds it."""

    @property
    def filename(self) -> str:
        """As the client called it, without any folder; may be empty."""
        ...

    @property
    def media_type(self) -> str:
        """As the client declared it, in lower case and without parameters; may be empty."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def head(self) -> bytes:
        """Its first bytes, 4,096 at the most: enough to see what it is."""
        ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it from the beginning, at most 64 KiB at a time; any number of readers may read at once."""
        ...

    def hold(self) -> Callable[[], None]:
        """Keep it, for work that goes on without the request, until what is returned has been called, once."""
        ...


class HeldUpload:
    """An `Upload` that came inside a message, and so is in memory as it is."""

    def __init__(self, data: bytes, media_type: str, filename: str = "") -> None:
        self.filename = filename
        self.media_type = media_type
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def head(self) -> bytes:
        return self._data[:HEAD_BYTES]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self._data), PIECE_BYTES):
            yield self._data[start : start + PIECE_BYTES]

    def hold(self) -> Callable[[], None]:
        return lambda: None


class Renamed:
    """An upload under another name, or of another type."""

    def __init__(self, upload: Upload, *, filename: str, media_type: str) -> None:
        self.filename = filename
        self.media_type = media_type
        self.size = upload.size
        self.head = upload.head
        self.pieces = upload.pieces
        self.hold = upload.hold
