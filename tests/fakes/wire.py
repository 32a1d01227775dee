"""A scriptable HTTP/1.1 server on a loopback socket: exact bytes out, whole requests in, hang-ups on record.

It plays replies, which are sequences of steps, and leaves nothing to a framework: where a header is missing,
a chunk is cut in half or a socket is reset, a script said so. Times are `time.monotonic()` seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeAlias, cast

HIGH_WATER = 64 * 1024
"""How much may wait in the server for the peer to read, bytes; beyond it a step blocks."""


@dataclass
class Request:
    """One request as it arrived. `sent` counts the bytes of the reply that were handed to the socket."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    arrived_at: float
    sent: int = 0
    replied_at: float | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever the case of its name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Disconnect:
    """The peer closed a connection. `request` was being answered then; None between two requests."""

    at: float
    request: Request | None
    connection: int


class Wire(Protocol):
    """What a step may do to the connection that it plays on."""

    request: Request

    async def send(self, data: bytes) -> None: ...
    async def hang(self) -> None: ...
    def cut(self) -> None: ...
    def reset(self) -> None: ...


class Step(Protocol):
    async def play(self, wire: Wire) -> None: ...


Reply: TypeAlias = Sequence[Step]
Script: TypeAlias = "Reply | Callable[[Request], Reply]"


@dataclass(frozen=True)
class Send:
    """Write these bytes, and wait while the peer does not read."""

    data: bytes

    async def play(self, wire: Wire) -> None:
        await wire.send(self.data)


@dataclass(frozen=True)
class Pause:
    seconds: float

    async def play(self, wire: Wire) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class Hang:
    """Say nothing more, until the peer leaves."""

    async def play(self, wire: Wire) -> None:
        await wire.hang()


@dataclass(frozen=True)
class Cut:
    """Close the connection properly (FIN), whatever was promised."""

    async def play(self, wire: Wire) -> None:
        wire.cut()


@dataclass(frozen=True)
class Reset:
    """Close the connection rudely (RST)."""

    async def play(self, wire: Wire) -> None:
        wire.reset()


@dataclass(frozen=True)
class Endless:
    """Write the same bytes again and again, until the peer leaves."""

    data: bytes
    every_s: float = 0.0

    async def play(self, wire: Wire) -> None:
        while True:
            await wire.send(self.data)
            await asyncio.sleep(self.every_s)


@dataclass(frozen=True)
class Call:
    """Run the test's own code at this point of the reply."""

    function: Callable[[Request], Awaitable[None]]

    async def play(self, wire: Wire) -> None:
        await self.function(wire.request)


@dataclass
class _Head:
    method: str
    path: str
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


def _take_head(buffer: bytearray) -> _Head | None:
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = buffer[:end].decode("latin-1").split("\r\n")
    del buffer[: end + 4]
    method, path, _version = lines[0].split(" ", 2)
    pairs = (line.split(":", 1) for line in lines[1:])
    return _Head(method, path, [(name, value.strip()) for name, value in pairs])


def _take_chunked(buffer: bytearray) -> bytes | None:
    body, at = bytearray(), 0
    while (line_end := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line_end].split(b";")[0], 16)
        start, at = line_end + 2, line_end + 2 + size + 2
        if len(buffer) < at:
            return None
        if size == 0:
            del buffer[:at]
            return bytes(body)
        body += buffer[start : start + size]
    return None


def _take_body(head: _Head, buffer: bytearray) -> bytes | None:
    if "chunked" in head.get("transfer-encoding").lower():
        return _take_chunked(buffer)
    length = int(head.get("content-length") or 0)
    if len(buffer) < length:
        return None
    body = bytes(buffer[:length])
    del buffer[:length]
    return body


class _Connection(asyncio.Protocol):
    """One socket: requests are answered one after another, as HTTP/1.1 wants it."""

    def __init__(self, server: WireServer, number: int) -> None:
        self._server = server
        self._number = number
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._waiting: deque[Request] = deque()
        self._player: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing_by_us = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self.request: Request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._server.send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._server.send_buffer)
        self._server.connected(self)

    def data_received(self, data: bytes) -> None:
        self._stop_idle_timer()
        self._buffer += data
        while True:
            if self._head is None:
                self._head = _take_head(self._buffer)
            if self._head is None or (body := _take_body(self._head, self._buffer)) is None:
                break
            head, self._head = self._head, None
            request = Request(head.method, head.path, head.headers, body, self._number, time.monotonic())
            self._waiting.append(request)
            self._server.arrived(request)
        self._play_next()

    def _play_next(self) -> None:
        if self._player is None and self._waiting and not self.transport.is_closing():
            self.request = self._waiting.popleft()
            self._player = asyncio.get_running_loop().create_task(self._play(self.request))
            self._player.add_done_callback(self._played)

    def _played(self, player: asyncio.Task[None]) -> None:
        if not player.cancelled() and (error := player.exception()) is not None:
            self._server.failures.append(error)
            self.reset()

    async def _play(self, request: Request) -> None:
        for step in self._server.reply_to(request):
            await step.play(self)
        request.replied_at = time.monotonic()
        self._player = None
        if self._server.keep_alive_s is not None and not self._waiting:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._server.keep_alive_s, self.cut)
        self._play_next()

    async def send(self, data: bytes) -> None:
        await self._writable.wait()
        if self.transport.is_closing():
            raise asyncio.CancelledError
        self.transport.write(data)
        self.request.sent += len(data)
        await self._writable.wait()

    async def hang(self) -> None:
        await asyncio.get_running_loop().create_future()

    def cut(self) -> None:
        self._closing_by_us = True
        self.transport.close()

    def reset(self) -> None:
        self._closing_by_us = True
        linger_not = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        self.transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        self._peer_left()
        self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer_left()
        self._stop_idle_timer()
        self._server.lost(self)

    def _peer_left(self) -> None:
        if self._closing_by_us:
            return
        self._closing_by_us = True
        answering = self.request if self._player is not None else None
        self._server.disconnected(Disconnect(time.monotonic(), answering, self._number))
        self.stop()

    def stop(self) -> None:
        if self._player is not None:
            self._player.cancel()

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    @property
    def player(self) -> asyncio.Task[None] | None:
        return self._player


@dataclass(kw_only=True)
class WireServer:
    """The server. Scripts are consumed one a request, as they arrive; `default` answers when none is left.

    `keep_alive_s`: idle connections are closed after so long (None: never). `send_buffer`: SO_SNDBUF, bytes,
    to make back-pressure visible early. An error in a script's own code surfaces when the server stops.
    """

    default: Script
    port: int = 0
    keep_alive_s: float | None = None
    send_buffer: int | None = None
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    disconnects: list[Disconnect] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    connections_accepted: int = 0
    _scripts: deque[Script] = field(default_factory=deque)
    _open: set[_Connection] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _notices: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> WireServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, "127.0.0.1", self.port, ssl=self.tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse new connections and drop the open ones."""
        assert self._server is not None
        self._server.close()
        players = [connection.player for connection in self._open if connection.player is not None]
        for connection in list(self._open):
            connection.stop()
            connection.reset()
        await asyncio.gather(*players, return_exceptions=True)
        await self.wait_until(lambda: not self._open, timeout=30)
        if self.failures:
            raise self.failures[0]

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open_sockets(self) -> int:
        return len(self._open)

    def script(self, *replies: Script) -> None:
        """Answer the coming requests with these, one each."""
        self._scripts.extend(replies)

    def forget(self) -> None:
        """Drop scripts and records, as if it had just started; open connections stay."""
        for record in (self.requests, self.disconnects, self.failures, self._scripts):
            record.clear()

    async def wait_request(self, count: int = 1, *, timeout: float = 30.0) -> Request:
        """The `count`-th request (from 1), when it has arrived whole. Raises TimeoutError."""
        await self.wait_until(lambda: len(self.requests) >= count, timeout=timeout)
        return self.requests[count - 1]

    async def wait_disconnect(self, count: int = 1, *, timeout: float = 30.0) -> Disconnect:
        """The `count`-th time (from 1) that a peer closed a connection. Raises TimeoutError."""
        await self.wait_until(lambda: len(self.disconnects) >= count, timeout=timeout)
        return self.disconnects[count - 1]

    async def wait_open_sockets(self, count: int = 0, *, timeout: float = 30.0) -> None:
        """Until at most `count` connections are open. Raises TimeoutError."""
        await self.wait_until(lambda: len(self._open) <= count, timeout=timeout)

    async def wait_until(self, predicate: Callable[[], bool], *, timeout: float) -> None:
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(predicate)

    # What connections report.

    def _connection(self) -> _Connection:
        self.connections_accepted += 1
        return _Connection(self, self.connections_accepted)

    def reply_to(self, request: Request) -> Reply:
        script = self._scripts.popleft() if self._scripts else self.default
        return script(request) if callable(script) else script

    def connected(self, connection: _Connection) -> None:
        self._open.add(connection)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._notify()

    def arrived(self, request: Request) -> None:
        self.requests.append(request)
        self._notify()

    def disconnected(self, disconnect: Disconnect) -> None:
        self.disconnects.append(disconnect)
        self._notify()

    def _notify(self) -> None:
        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        notice = asyncio.get_running_loop().create_task(wake())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)
