"""Files that clients send: too large to be held in memory, and read as often as providers are tried."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

__all__ = ["Upload"]


class Upload(Protocol):
    """One file of a request; there until the request has been answered."""

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
