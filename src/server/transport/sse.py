"""Event streams as bytes: framing only, so that a character that is cut in two by the network stays whole."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Final, Protocol

import msgspec

from server.transport.faults import Fault, failure

MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
"""Of one event on the wire; images come as one line of base64."""

_BOM: Final = b"\xef\xbb\xbf"


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `data` is its data lines joined by LF; `event` is None where the stream gave it no name."""

    event: str | None
    data: bytes


class SseDecoder:
    """Feed it what comes in, however it is cut; it gives back the events that are complete.

    Lines may end in LF, CRLF or CR. Comments and fields other than `event` and `data` are read over.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # pieces of a line that has not ended
        self._data: list[bytes] = []  # data lines of an event that has not ended
        self._name: str | None = None
        self._size = 0  # of the event that has not ended, bytes
        self._after_cr = False  # a LF at the start of the next chunk belongs to the line end before it
        self._at_start = True
        self._events: list[SseEvent] = []
        self.comments = 0
        """How many keep-alive comments there were: a sign of life without content."""

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that `chunk` completes. Raises ProviderFailure (protocol) where one is too large."""
        if not chunk:
            return []
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_plain_line_ends(chunk)
        if not self._size and len(chunk) <= MAX_EVENT_BYTES:
            end = chunk.rfind(b"\n\n")
            if end >= 0:
                self._take_whole_events(chunk[:end])
                chunk = chunk[end + 2 :]
        if chunk:
            self._take_lines(chunk)
        return self._take_events()

    def finish(self) -> list[SseEvent]:
        """The event at the end of the stream, where its last empty line is missing."""
        if self._line:
            self._end_line(b"".join(self._line))
        self._end_event()
        return self._take_events()

    def _with_plain_line_ends(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") if chunk else False
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take_whole_events(self, events: bytes) -> None:
        """The usual case, quickly: events of one data line each."""
        if events.startswith(b"data: "):
            self._at_start = False
            blocks = events[6:].split(b"\n\ndata: ")
            if events.count(b"\n") == 2 * (len(blocks) - 1):
                self._events = [SseEvent(None, data) for data in blocks]
                return
        for line in events.split(b"\n"):
            self._end_line(line)
        self._end_event()

    def _take_lines(self, chunk: bytes) -> None:
        lines = chunk.split(b"\n")
        rest = lines.pop()
        for line in lines:
            self._grow(len(line) + 1)
            if self._line:
                self._line.append(line)
                line = b"".join(self._line)
                self._line.clear()
            self._end_line(line)
        if rest:
            self._grow(len(rest))
            self._line.append(rest)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_EVENT_BYTES:
            raise failure(Fault.TOO_LARGE)

    def _end_line(self, line: bytes) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._end_event()
        elif line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
        elif line.startswith(b":"):
            self.comments += 1
        elif line.startswith(b"event:"):
            self._name = line[6:].decode("utf-8", "replace").removeprefix(" ")
        elif line == b"data":
            self._data.append(b"")

    def _end_event(self) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            self._events.append(SseEvent(self._name, data))
            self._data.clear()
        self._name = None
        self._size = 0

    def _take_events(self) -> list[SseEvent]:
        events, self._events = self._events, []
        return events


class Pieces(Protocol):
    async def piece(self) -> bytes: ...
    async def close(self) -> None: ...


async def sse_batches(response: Pieces, limit: int | None = None) -> AsyncGenerator[list[SseEvent], None]:
    """The events of one network read after another; an empty list where it brought no whole event.

    A last event whose empty line is missing comes in a batch of its own. Raises ProviderFailure, also (protocol) where
    the decoded stream has more than `limit` bytes. Ending early closes the response.
    """
    decoder = SseDecoder()
    left = math.inf if limit is None else limit
    try:
        while piece := await response.piece():
            left -= len(piece)
            if left < 0:
                raise failure(Fault.TOO_LARGE)
            yield decoder.feed(piece)
        if events := decoder.finish():
            yield events
    finally:
        await response.close()
