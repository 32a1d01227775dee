"""One connection to an upstream: a request is written, its reply is pulled, and then perhaps the next."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from server.domain.errors import ProviderFailure
from server.transport.faults import Fault, failure
from server.transport.framing import MAX_HEAD_BYTES, Body, Head, body_of, parse_head

READ_AHEAD_BYTES: Final = 64 * 1024
"""More than this unread, and the socket is read no further: the upstream's writes block."""
LOST_AT_ONCE_S: Final = 0.25
"""A request that met a closing connection is thrown back within a round trip, not after work was done for it."""
STALE_AFTER_S: Final = 0.25
"""No upstream closes connections that were idle for less: what happens to such a one has another reason."""

_TCP_CLOSED: Final = 7
_TCP_INFO: Final = struct.Struct("=B23xI")  # tcpi_state, tcpi_unacked


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection, used by one request at a time.

    `on_idle_close` is called where the peer closes it between two requests. `idle_since` is for the pool's use.
    """

    def __init__(self, on_idle_close: Callable[[Connection], None]) -> None:
        self._on_idle_close = on_idle_close
        self.idle_since = 0.0
        self.request_lost = False
        """Whether the last request met a connection that the peer was closing, so that no one has read it."""
        self._used = False
        self._stale = False  # it was idle for long enough that the peer may be closing it
        self._sent_at = 0.0
        self._heard = False  # a byte of a reply to the last request
        self._transport: asyncio.Transport
        self._poll = select.poll()
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self._paused = False
        self._closed = False
        self._failure: ProviderFailure | None = None
        self._head_bytes = b""
        self._head: Head | None = None
        self._body: Body | None = None
        self._unread: list[bytes] = []
        self._unread_bytes = 0  # as they came in, chunk sizes and all
        self._complete = False

    # What a request does with it.

    def send(self, request: bytes, body: bytes) -> None:
        """Begin an exchange: write the head of a request and its body."""
        self._busy, self._heard, self.request_lost = True, False, False
        self._sent_at = asyncio.get_running_loop().time()
        self._stale = self._used and self._sent_at - self.idle_since >= STALE_AFTER_S
        self._used = True
        self._head_bytes, self._head, self._body, self._complete, self._failure = b"", None, None, False, None
        self._transport.writelines([request, body])

    async def head(self) -> Head:
        """The head of the reply. Raises ProviderFailure."""
        while self._head is None:
            if self._failure is not None:
                raise self._failure
            await self._wait()
        return self._head

    async def read(self) -> bytes:
        """What has come in of the body since the last call, at least one byte; empty at its end.

        Raises ProviderFailure, after what had come in before it was read.
        """
        while not self._unread:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._wait()
        data = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        self._resume()
        return data

    @property
    def keep_alive_s(self) -> float | None:
        """How long the upstream said that it keeps the connection idle."""
        return self._head.keep_alive_s if self._head is not None else None

    @property
    def complete(self) -> bool:
        """Whether the reply has come in to its end."""
        return self._complete

    def finish(self) -> bool:
        """End a complete exchange. Whether the connection may serve another."""
        assert self._complete
        assert self._head is not None
        self._unread.clear()
        self._unread_bytes = 0
        self._busy = False
        self._resume()
        if not self._head.persistent or self._closed or self._failure is not None:
            self.abort()
            return False
        return True

    def is_fresh(self) -> bool:
        """Whether nothing has come in since the last reply: not even the peer's farewell, still in the kernel."""
        return not self._closed and not self._transport.is_closing() and not self._poll.poll(0)

    def abort(self) -> None:
        """Close the socket now, whatever is under way."""
        self._busy = False
        self._closed = True
        self._transport.abort()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._closed:
                self._transport.resume_reading()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self._lose_idle()
            return
        self._heard = True
        try:
            if self._body is None:
                data = self._take_head(data)
            if self._body is not None:
                self._take_body(self._body, data)
        except ProviderFailure as error:
            self._fail(error)
        self._wake()

    def _take_head(self, data: bytes) -> bytes:
        """Read heads until one is final (1xx are not). What follows it."""
        data = self._head_bytes + data if self._head_bytes else data
        while (end := data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)) >= 0:
            head = parse_head(data[:end])
            data = data[end + 4 :]
            if head.status >= 200:
                self._body = body_of(head)
                self._head = head
                return data
            if head.status == 101:
                raise failure(Fault.MALFORMED)
        if len(data) > MAX_HEAD_BYTES:
            raise failure(Fault.MALFORMED)
        self._head_bytes = data
        return b""

    def _take_body(self, body: Body, data: bytes) -> None:
        if self._complete:
            raise failure(Fault.MALFORMED)
        self._unread_bytes += len(data)
        used = body.feed(data, self._unread)
        if used is not None:
            self._complete = True
            if used != len(data):
                raise failure(Fault.MALFORMED)  # noticed by `finish`: such a connection is not used again
        elif not self._paused and self._unread_bytes > READ_AHEAD_BYTES:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._end_of_input(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_input(exc)

    def _end_of_input(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._busy:
            self._on_idle_close(self)
        elif self._body is None:
            self.request_lost = self._stale and not self._heard and self._was_thrown_back(error)
            self._fail(failure(Fault.DROPPED))
        elif self._body.at_eof():
            self._complete = True
        elif not self._complete:
            self._fail(failure(Fault.CUT))
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
        if error is not None or not hasattr(socket, "TCP_INFO"):
            return False
        tcp = self._transport.get_extra_info("socket")
        info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        state, unacknowledged = _TCP_INFO.unpack(info)
        return bool(state == _TCP_CLOSED or unacknowledged)

    def _lose_idle(self) -> None:
        self._closed = True
        self._on_idle_close(self)
        self._transport.abort()

    def _fail(self, error: ProviderFailure) -> None:
        if self._failure is None:
            self._failure = error
        if not self._closed:
            self._closed = True
            self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
