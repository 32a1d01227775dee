"""An ASGI server for HTTP/2 that behaves towards its application as pyvoy does inside Envoy.

After the end of a request's body `receive` answers at once, again and again, so that only who reads or writes learns
that the client has gone; whoever is to know it otherwise is told by `on_end`, with the request's id, as Envoy tells.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

Application = Callable[[Any, Any, Any], Awaitable[None]]
REQUEST_ID = b"x-request-id"
WINDOW_BYTES = 256 * 1024


class ClientDisconnectedError(OSError):
    """As pyvoy's."""


class AsgiServer:
    """Serves in the running loop, on 127.0.0.1 or a Unix socket."""

    def __init__(self, application: Application, on_end: Callable[[str], None]) -> None:
        self.application = application
        self.on_end = on_end
        self.connections: set[_Connection] = set()
        self.port = 0
        self._servers: list[asyncio.Server] = []

    async def start(self, *, port: int = 0) -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", port)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    async def listen(self, path: str) -> None:
        self._servers.append(await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), path))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for connection in tuple(self.connections):
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, server: AsgiServer) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        )
        self.streams: dict[int, _Stream] = {}
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.peer = ("", 0)
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.add(self)
        self.peer = transport.get_extra_info("peername") or ("unix", 0)
        codes = h2.settings.SettingCodes
        self.h2.initiate_connection()
        self.h2.update_settings({codes.INITIAL_WINDOW_SIZE: WINDOW_BYTES, codes.MAX_CONCURRENT_STREAMS: 4096})
        self.h2.increment_flow_control_window(2**30)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.close()
            return
        for event in events:
            self._handle(event)
        self.flush()
        for stream in tuple(self.streams.values()):
            stream.pump()

    def _handle(self, event: Any) -> None:
        match event:
            case h2.events.RequestReceived():
                self.streams[event.stream_id] = _Stream(self, event.stream_id, event.headers)
            case h2.events.DataReceived():
                if stream := self.streams.get(event.stream_id):
                    stream.came(event.data, event.flow_controlled_length)
            case h2.events.StreamEnded():
                if stream := self.streams.get(event.stream_id):
                    stream.has_ended = True
                    stream.deliver()
            case h2.events.StreamReset():
                if stream := self.streams.pop(event.stream_id, None):
                    stream.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()
        for stream in tuple(self.streams.values()):
            stream.pump()

    def flush(self) -> None:
        if (data := self.h2.data_to_send()) and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        self.transport.abort()


def _resolve(future: asyncio.Future[None]) -> None:
    """Not at once: a writer gives the loop a turn for each message, as where another thread sends it."""
    if not future.done():
        future.set_result(None)


class _Stream:
    def __init__(self, connection: _Connection, number: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.connection, self.number = connection, number
        self.loop = asyncio.get_running_loop()
        self.pending, self.unread = bytearray(), 0
        self.has_ended = self.is_closed = False
        self.reading: asyncio.Future[Mapping[str, Any]] | None = None
        self.out: list[tuple[str, Any, asyncio.Future[None] | None]] = []
        self.start: Mapping[str, Any] | None = None
        named = dict(headers)
        # One that no caller could have sent: what is told of as the request's id is the guard's own.
        self.id = named.get(REQUEST_ID, f"<{uuid.uuid4().hex}>".encode())
        told = [(name, value) for name, value in headers if not name.startswith(b":") and name != REQUEST_ID]
        scope = {
            "type": "http",
            "path": named[b":path"].decode(),
            "headers": [*told, (REQUEST_ID, self.id)],
            "client": connection.peer,
        }
        self.task = asyncio.ensure_future(connection.server.application(scope, self.receive, self.send))

    def came(self, data: bytes, counted: int) -> None:
        self.pending += data
        self.unread += counted
        self.deliver()

    def receive(self) -> asyncio.Future[Mapping[str, Any]]:
        self.reading = reading = self.loop.create_future()
        self.deliver()
        return reading

    def deliver(self) -> None:
        if self.reading is None or not (self.pending or self.has_ended or self.is_closed):
            return
        reading, self.reading = self.reading, None
        if self.is_closed:
            reading.set_result({"type": "http.disconnect"})
            return
        piece, self.pending = bytes(self.pending), bytearray()
        if self.unread:
            with suppress(h2.exceptions.ProtocolError):
                self.connection.h2.acknowledge_received_data(self.unread, self.number)
            self.unread = 0
            self.connection.flush()
        reading.set_result({"type": "http.request", "body": piece, "more_body": not self.has_ended})

    def send(self, event: Mapping[str, Any]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        if self.is_closed:
            future.set_exception(ClientDisconnectedError())
            return future
        match event["type"]:
            case "http.response.start":
                self.start = event
                future.set_result(None)
            case "http.response.body":
                self._body(event, future)
            case "http.response.trailers":
                self.out.append(("trailers", event["headers"], None))
                future.set_result(None)
        self.pump()
        return future

    def _body(self, event: Mapping[str, Any], future: asyncio.Future[None]) -> None:
        is_last = not event.get("more_body", False)
        trailers = False
        if self.start is not None:
            trailers = self.start.get("trailers", False)
            is_whole = is_last and not trailers and not event["body"]
            self.out.append(("whole" if is_whole else "headers", self._headers(self.start), None))
            self.start = None
        self.out.append(("data", memoryview(event["body"]), None if is_last else future))
        if is_last:
            future.set_result(None)

    def _headers(self, start: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
        return [(b":status", b"%d" % start["status"]), *start["headers"]]

    def pump(self) -> None:
        """Send as much as the client takes."""
        while self.out and not self.is_closed and self.connection.can_write.is_set():
            kind, what, future = self.out[0]
            try:
                if kind == "data" and not self._data(what):
                    break
                if kind in ("headers", "whole", "trailers"):
                    self.connection.h2.send_headers(self.number, what, end_stream=kind != "headers")
            except h2.exceptions.ProtocolError:
                self.close()
                return
            self.connection.flush()
            self.out.pop(0)
            if future is not None:
                self.loop.call_soon(_resolve, future)
            if kind in ("whole", "trailers"):
                self._finished()
                return

    def _data(self, data: memoryview) -> bool:
        """Whether all of it has gone; what has not stays first in the queue."""
        sender = self.connection.h2
        while data:
            size = min(len(data), sender.local_flow_control_window(self.number), sender.max_outbound_frame_size)
            if size <= 0:
                self.out[0] = ("data", data, self.out[0][2])
                return False
            sender.send_data(self.number, bytes(data[:size]))
            self.connection.flush()
            data = data[size:]
        return True

    def _finished(self) -> None:
        self.connection.streams.pop(self.number, None)
        self.is_closed = True
        if not self.has_ended:
            with suppress(h2.exceptions.ProtocolError):
                self.connection.h2.reset_stream(self.number, 0)
                self.connection.flush()

    def close(self) -> None:
        """The client has gone."""
        self.is_closed = True
        for _, _, future in self.out:
            if future is not None and not future.done():
                future.set_exception(ClientDisconnectedError())
        self.out.clear()
        self.deliver()
        self.connection.server.on_end(self.id.decode())
