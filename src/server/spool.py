"""Where uploads wait while their request is answered: in memory as long as they are small, else in unnamed files.

An unnamed file is gone with its last descriptor, however this process ends.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import structlog

from server.domain.errors import GatewayError, Reason
from server.domain.upload import HEAD_BYTES, PIECE_BYTES

__all__ = ["Spool", "Spooled"]

IN_MEMORY_BYTES: Final = 128 * 1024
"""What one upload holds in memory; the rest is on disk."""
MAX_SPOOLED_BYTES: Final = 4 * 1024 * 1024 * 1024
"""All uploads of one worker at a time."""
MAX_FILENAME: Final = 255
RETRY_S: Final = 1.0

_log: Final = structlog.get_logger(__name__)


class Spool:
    """The uploads of one worker. `directory` is tempfile's own where it is not given."""

    def __init__(self, directory: Path | None = None, *, max_bytes: int = MAX_SPOOLED_BYTES) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self.held_bytes = 0
        """Of all uploads that have not been let go."""

    def begin(self, *, filename: str = "", media_type: str = "") -> Spooled:
        """An upload of no bytes, to be written. What the client said is kept as `Upload` has it."""
        return Spooled(self, _plain_name(filename), media_type.partition(";")[0].strip().lower())

    def take(self, size: int) -> None:
        """Raises GatewayError (`overloaded`) where there is no room for so many bytes more."""
        if self.held_bytes + size > self._max_bytes:
            raise _no_room()
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        self.held_bytes -= size


class Spooled:
    """An `Upload`. It is written by one, and read by any number once it is whole.

    It is let go of once it has been closed and nobody holds it.
    """

    def __init__(self, spool: Spool, filename: str, media_type: str) -> None:
        self.filename = filename
        self.media_type = media_type
        self.size = 0
        self.head = b""
        self._spool = spool
        self._file: _File | None = None
        self._on_disk = 0
        self._rest = bytearray()
        self._is_closed = self._is_gone = False
        self._holders = 0

    async def write(self, piece: bytes) -> None:
        """Raises GatewayError (`overloaded`) where there is no room."""
        self._spool.take(len(piece))
        self.size += len(piece)
        if len(self.head) < HEAD_BYTES:
            self.head += piece[: HEAD_BYTES - len(self.head)]
        self._rest += piece
        if len(self._rest) > IN_MEMORY_BYTES:
            await self._flush()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """As `Upload` says. Raises RuntimeError once it has been let go."""
        position = 0
        while position < self.size:
            if self._is_gone:
                raise RuntimeError("this upload has been let go")
            if position < self._on_disk:
                assert self._file is not None
                piece = await asyncio.to_thread(self._file.read, position)
            else:
                start = position - self._on_disk
                piece = bytes(self._rest[start : start + PIECE_BYTES])
            yield piece
            position += len(piece)

    def hold(self) -> Callable[[], None]:
        self._holders += 1
        return self._release

    def close(self) -> None:
        """Idempotent. A file that is just being read is gone when it has been."""
        self._is_closed = True
        self._end()

    def __del__(self) -> None:
        self._holders = 0
        self.close()

    def _release(self) -> None:
        self._holders -= 1
        self._end()

    def _end(self) -> None:
        if self._is_closed and not self._holders and not self._is_gone:
            self._is_gone = True
            self._spool.give_back(self.size)
            self._file = None
            self._rest = bytearray()

    async def _flush(self) -> None:
        data, self._rest = self._rest, bytearray()
        try:
            if self._file is None:
                self._file = await asyncio.to_thread(_File, self._spool.directory)
            await asyncio.to_thread(self._file.append, data)
        except OSError as error:
            _log.error("upload_not_kept", cause=os.strerror(error.errno or 0))
            raise _no_room() from None
        self._on_disk += len(data)


class _File:
    """An unnamed file, closed when nobody has it any more: not while another thread reads it."""

    def __init__(self, directory: Path | None) -> None:
        with TemporaryFile(dir=directory, buffering=0) as file:
            self._descriptor = os.dup(file.fileno())

    def append(self, data: bytearray) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def read(self, position: int) -> bytes:
        """At least one byte. Raises OSError where it ends there."""
        if piece := os.pread(self._descriptor, PIECE_BYTES, position):
            return piece
        raise OSError("a file of an upload is shorter than it was")

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def _plain_name(filename: str) -> str:
    """Without a folder, and without what would break a header."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in name if letter.isprintable())[:MAX_FILENAME]


def _no_room() -> GatewayError:
    return GatewayError(Reason.OVERLOADED, "The gateway has no room for this upload now.", retry_after_s=RETRY_S)
