"""A response's body that one task writes and any number of others read, each from its beginning."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Tape", "TapeReader"]


class Tape:
    """Pieces of a body, kept for those who begin to read it later, as long as they come to `limit` bytes at most.

    A longer one runs through: what all readers have is let go, nobody can begin to read it any more, and the writer
    waits while the slowest reader is `limit` bytes behind. Without readers it goes on alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._dropped = 0
        """Pieces that are gone from the front."""
        self._released = 0
        """Pieces, from the first ever, that readers may have."""
        self._kept_bytes = 0
        self._is_held = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._readers: set[TapeReader] = set()
        self.is_whole = True
        """Whether it can still be read from its beginning."""
        self.ended = False
        self.error: Exception | None = None

    async def write(self, piece: bytes) -> None:
        """Add a piece; wait where the tape runs through and its readers do not follow."""
        if not piece:
            return
        self._pieces.append(piece)
        self._kept_bytes += len(piece)
        if self._kept_bytes > self._limit:
            self.is_whole = False
        if not self._is_held:
            self._released = self._dropped + len(self._pieces)
            self._tell()
        self.trim()
        while not self._is_held and self._kept_bytes > self._limit:
            self._room.clear()
            await self._room.wait()

    def hold(self) -> None:
        """Let readers have nothing of what comes from now on, until the end."""
        self._is_held = True

    def end(self, error: Exception | None = None) -> None:
        """Let readers have all of it; nothing follows but `error`, which they get."""
        self.ended, self.error = True, error
        self._released = self._dropped + len(self._pieces)
        self._tell()

    def content(self) -> bytes | None:
        """The body as far as it is written; None where its beginning is gone."""
        return b"".join(self._pieces) if self.is_whole else None

    def reader(self) -> TapeReader:
        """Begin to read; only while the tape is whole."""
        assert self.is_whole, "the beginning is gone"
        reader = TapeReader(self)
        self._readers.add(reader)
        return reader

    def remove(self, reader: TapeReader) -> None:
        self._readers.discard(reader)
        self.trim()

    def has_more(self, position: int) -> bool:
        return position < self._released

    def take(self, position: int) -> tuple[bytes, int]:
        """All that is released from `position` on, and the position behind it."""
        taken = [self._pieces[index - self._dropped] for index in range(position, self._released)]
        return taken[0] if len(taken) == 1 else b"".join(taken), self._released

    def trim(self) -> None:
        """Let go of what every reader has, once the tape runs through."""
        if self.is_whole:
            return
        needed = min((reader.position for reader in self._readers), default=self._released)
        while self._dropped < needed:
            self._kept_bytes -= len(self._pieces.popleft())
            self._dropped += 1
        if self._kept_bytes <= self._limit:
            self._room.set()

    async def news(self) -> None:
        """Wait until more is released, or the end."""
        await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class TapeReader:
    """A `rest_bridge.http.ByteStream`: pieces that wait for their reader go to it as one."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.position = 0

    def __aiter__(self) -> TapeReader:
        return self

    async def __anext__(self) -> bytes:
        tape = self._tape
        while not tape.has_more(self.position):
            if tape.error is not None:
                raise tape.error
            if tape.ended:
                raise StopAsyncIteration
            await tape.news()
        data, self.position = tape.take(self.position)
        tape.trim()
        return data

    @property
    def ended(self) -> bool:
        return self._tape.ended and self._tape.error is None and not self._tape.has_more(self.position)

    async def aclose(self) -> None:
        self._tape.remove(self)
