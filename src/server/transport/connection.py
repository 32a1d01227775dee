"""One connection to an upstream: a request is written, its reply is pulled, and then perhaps the next."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, Protocol, cast

from server.domain.errors import ProviderFailure
from server.transport.faults import Fault, failure
from server.transport.framing import Head, Replies

READ_BYTES: Final = 64 * 1024
"""What one read of a socket may bring."""
READ_AHEAD_BYTES: Final = 2 * READ_BYTES
"""What may come in and wait to be pulled; then the socket is read no further, and the upstream's writes block."""
UNSENT_BYTES: Final = 64 * 1024
"""What may wait to be sent of a body in pieces before its next piece is asked for."""
LOST_AT_ONCE_S: Final = 0.25
"""A request that met a closing connection is thrown back within a round trip, not after work was done for it."""
STALE_AFTER_S: Final = 0.25
"""No upstream closes connections that were idle for less: what happens to such a one has another reason."""

_TCP_CLOSED: Final = 7
_TCP_INFO: Final = struct.Struct("=B23xI")  # tcpi_state, tcpi_unacked; as Linux lays it out


class SizedBody(Protocol):
    @property
    def size(self) -> int: ...
    def pieces(self) -> AsyncGenerator[bytes, None]: ...


class Connection(asyncio.BufferedProtocol):
    """An HTTP/1.1 connection, used by one request at a time.

    `buffer`: READ_BYTES that all connections of a loop read into, one after another.
    `on_idle_close` is called where the peer closes it between two requests.
    """

    def __init__(self, buffer: memoryview, on_idle_close: Callable[[Connection], None]) -> None:
        self._buffer = buffer
        self._on_idle_close = on_idle_close
        self.idle_since = math.inf
        """Loop time; the pool sets it whenever it takes the connection back."""
        self.request_lost = False
        """Whether the last request met a connection that the peer was closing, so that no one has read it."""
        self._may_be_lost = False  # it was idle for long enough that the peer may be closing it, and has not answered
        self._sent_at = 0.0
        self._transport: asyncio.Transport
        self._poll = select.poll()
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self._paused = False
        self._writes_paused = False
        self._sent_whole = True
        self._closed = False
        self._failure: ProviderFailure | None = None
        self._replies = Replies()
        self._unread_bytes = 0  # as they came in, chunk sizes and all

    # What a request does with it.

    def send(self, request: bytes, body: bytes) -> None:
        """Begin an exchange: write the head of a request and its body."""
        self._begin()
        self._transport.writelines([request, body])

    async def send_pieces(self, request: bytes, body: SizedBody) -> None:
        """As `send`, for a body in pieces, and no faster than the peer takes it.

        Returns early where the peer refuses it meanwhile. Raises ProviderFailure where it closes without a reply, and
        whatever the body raises.
        """
        self._begin()
        self._sent_whole = False
        self._transport.write(request)
        left = body.size
        async with aclosing(body.pieces()) as pieces:
            async for piece in pieces:
                if not await self._may_write():
                    return
                left -= len(piece)
                if left < 0:
                    break
                self._transport.write(piece)
        if left:
            raise ValueError("a body is as long as it says")
        self._sent_whole = True

    def _begin(self) -> None:
        self._busy = True
        self._sent_at = asyncio.get_running_loop().time()
        self._may_be_lost = self._sent_at - self.idle_since >= STALE_AFTER_S
        self._replies.begin()

    async def _may_write(self) -> bool:
        """Wait until there is room for a piece; whether the peer still wants it."""
        if not self._closed and not self._paused and self._poll.poll(0):
            await asyncio.sleep(0)  # a reply that has come in is read before a write finds the connection closed
        while True:
            if self._failure is not None and self._replies.head is None:
                raise self._failure
            if self._closed or ((head := self._replies.head) is not None and head.status >= 300):
                return False
            if not self._writes_paused:
                return True
            await self._wait()

    async def head(self) -> Head:
        """The head of the reply. Raises ProviderFailure."""
        while (head := self._replies.head) is None:
            await self._wait()
        return head

    async def read(self) -> bytes:
        """What has come in of the body since the last call, at least one byte; empty at its end.

        Raises ProviderFailure, after what had come in before it was read.
        """
        while not self._replies.has_unread:
            if self._replies.complete:
                return b""
            await self._wait()
        data = self._replies.take()
        self._resume()
        return data

    @property
    def keep_alive_s(self) -> float | None:
        """How long the upstream said that it keeps the connection idle."""
        return self._replies.head.keep_alive_s if self._replies.head is not None else None

    @property
    def complete(self) -> bool:
        """Whether the reply has come in to its end."""
        return self._replies.complete

    def finish(self) -> bool:
        """End a complete exchange. Whether the connection may serve another."""
        head = self._replies.head
        assert head is not None
        if not head.persistent or self._closed or not self._sent_whole:
            self.abort()
            return False
        self._busy = False
        self._replies.take()
        self._resume()
        return True

    def is_fresh(self) -> bool:
        """Whether nothing has come in since the last reply: not even the peer's farewell, still in the kernel."""
        return not self._closed and not self._transport.is_closing() and not self._poll.poll(0)

    def abort(self) -> None:
        """Close the socket now, whatever is under way."""
        self._fail(failure(Fault.CLOSED))

    def _resume(self) -> None:
        self._unread_bytes = 0
        if self._paused:
            self._paused = False
            if not self._closed:
                self._transport.resume_reading()

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._busy:
            self._on_idle_close(self)
            self.abort()
            return
        self._may_be_lost = False
        try:
            self._replies.feed(self._buffer[:nbytes])
        except ProviderFailure as error:
            self._fail(error)
        if self._replies.has_unread:
            self._unread_bytes += nbytes
            if self._unread_bytes > READ_AHEAD_BYTES - READ_BYTES and not (self._paused or self._closed):
                self._paused = True
                self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._writes_paused = True

    def resume_writing(self) -> None:
        self._writes_paused = False
        self._wake()

    def eof_received(self) -> bool:
        self._end_of_input(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_input(exc)
        self._replies.end()

    def _end_of_input(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        head = self._replies.head
        if not self._busy:
            self._on_idle_close(self)
        elif head is None:
            self.request_lost = self._may_be_lost and self._was_thrown_back(error)
            self._failure = failure(Fault.DROPPED)
        elif head.ends_with_connection and error is None:
            self._replies.complete = True
        elif not self._replies.complete:
            self._failure = failure(Fault.CUT)
        self._wake()

    def _was_thrown_back(self, error: Exception | None) -> bool:
        """Whether TCP says that the peer's application never read the request.

        A peer that closes after reading it says FIN, which acknowledges the request. One that had closed already, or
        closes with the request unread, says RST; or FIN, while the request is still unacknowledged. An RST could
        also be meant: hence the two limits of time.
        """
        if asyncio.get_running_loop().time() - self._sent_at > LOST_AT_ONCE_S:
            return False
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return True
        if error is not None or sys.platform != "linux":
            return False
        tcp = self._transport.get_extra_info("socket")
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        state, unacknowledged = _TCP_INFO.unpack(info)
        return bool(state == _TCP_CLOSED or unacknowledged)

    def _fail(self, error: ProviderFailure) -> None:
        self._failure = self._failure or error
        self._closed = True
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
