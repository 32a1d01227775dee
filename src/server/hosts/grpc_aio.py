"""The host that carries the servicers on grpc.aio: on a Unix socket for Envoy, and on TCP for direct clients.

Everything that a call needs has been decided by the guard before it gets here; this module only speaks grpc.aio.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from server.hosts.health import WORKER, ServiceHealth
from server.hosts.host import (
    CLIENT_KEY,
    EMPTY_BODY,
    MAX_CALLS,
    MAX_MESSAGE_BYTES,
    SPARE_CALLS,
    SUFFIX_KEY,
    UNWIND_TIMEOUT_S,
    ListenError,
)
from server.hosts.standard import standard_routes
from server.rpc.interceptors import MAX_CONCURRENT_CALLS, Sent, StreamEntry, UnaryEntry
from server.rpc.registry import Route
from server.rpc.status import RpcFailure

__all__ = ["GrpcAioHost", "ListenError"]

MAX_METADATA_BYTES: Final = 64 * 1024
MAX_UNREAD_BYTES: Final = 256 * 1024
"""What the sender of a stream may be ahead of its reader."""
MAX_STREAMS_PER_CONNECTION: Final = 4096
NEWS_OF_LEAVING_S: Final = 0.005
"""A caller that leaves, or is late, first looks as if its stream had ended well; its call is cancelled just after."""

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # The 32 KiB of headers that Envoy lets through, and its own; grpc's limit is 8 KiB, and its refusal says nothing.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    # Calls that have come in and not been begun: past grpc's own limit of 1000 it cancels some at random, in silence.
    ("grpc.server.max_pending_requests", MAX_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_CALLS),
    # Left to itself, grpc lets a fast sender be 6 MB ahead.
    ("grpc.http2.lookahead_bytes", MAX_UNREAD_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.so_reuseport", 1),
    # Envoy pings every 5 s and clients every 10 s, through silence of any length: none of that is abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A direct client that vanished without a word is noticed within 40 s, and its calls are cancelled.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class GrpcAioHost:
    """One server in the running event loop. Start it once, stop it once.

    `tcp` is a host and port; port 0 takes a free one, which `tcp_port` then tells. `max_connection_age_s`: after how
    long, give or take a tenth, a client is told to connect anew; calls under way go on for as long as they take.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        unix_socket: Path | None = None,
        tcp: tuple[str, int] | None = None,
        max_concurrent_calls: int = MAX_CONCURRENT_CALLS,
        max_connection_age_s: float | None = None,
    ) -> None:
        self._health = ServiceHealth()
        self._services = list(dict.fromkeys(route.service for route in routes))
        self._routes = (*routes, *standard_routes(self._health, self._services))
        self._unix_socket = unix_socket
        self._tcp = tcp
        self._max_concurrent_calls = max_concurrent_calls
        self._options = OPTIONS
        if max_connection_age_s is not None:
            self._options += (("grpc.max_connection_age_ms", round(max_connection_age_s * 1000)),)
        self._calls: set[asyncio.Task[Any]] = set()
        self._server: grpc.aio.Server | None = None
        self.tcp_port: int | None = None

    async def start(self) -> None:
        """Listen and serve. Raises ListenError."""
        max_calls = self._max_concurrent_calls + SPARE_CALLS
        server = grpc.aio.server(options=self._options, maximum_concurrent_rpcs=max_calls)
        self._health.tell(dict.fromkeys(self._services, False))
        server.add_generic_rpc_handlers(
            (_Methods({f"/{route.service}/{route.method}": self._handler(route) for route in self._routes}),)
        )
        if self._unix_socket is not None:
            _listen_on_socket(server, self._unix_socket)
        if self._tcp is not None:
            self.tcp_port = _listen_on_tcp(server, *self._tcp)
        await server.start()
        self._server = server
        self._health.tell(dict.fromkeys((WORKER, *self._services), True))

    def tell_ready(self, is_ready: Callable[[str], bool]) -> None:
        """Tell `grpc.health.v1` which services can do their work; by `start` all of them can."""
        self._health.tell({service: is_ready(service) for service in self._services})

    def leave(self) -> None:
        """Tell `grpc.health.v1`, for good, that nothing takes calls; those that come are served all the same."""
        self._health.leave()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, give those under way `grace_s` seconds, then cancel them and wait for their ends."""
        if self._server is None:
            return
        self.leave()
        await self._server.stop(grace_s)
        if self._calls:
            await asyncio.wait(self._calls, timeout=UNWIND_TIMEOUT_S)
        if self._unix_socket is not None:
            self._unix_socket.unlink(missing_ok=True)

    def _handler(self, route: Route) -> Handler:
        # Without serializers, bytes pass as they are.
        if route.stream is not None and not route.sends_bodies:
            stream = self._stream_handler(route.stream)
            if route.takes_stream:
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_stream_rpc_method_handler(stream)
        # On the wire a stream of bodies is no other than one reply, but here its last message and the status share one
        # write.
        entry = route.stream or route.unary
        assert entry is not None
        unary = self._unary_handler(entry)
        if route.takes_stream:
            return grpc.stream_unary_rpc_method_handler(unary)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _unary_handler(self, entry: UnaryEntry | StreamEntry) -> Any:
        async def handle(request: bytes | object, context: Context) -> bytes:
            task = self._tracked()
            try:
                return await entry(_sent(request, context), _GrpcCall(context)) or EMPTY_BODY
            except RpcFailure as failure:
                await _abort(context, failure)
            finally:
                self._calls.discard(task)

        return handle

    def _stream_handler(self, entry: StreamEntry) -> Any:
        async def handle(request: bytes | object, context: Context) -> None:
            task = self._tracked()
            try:
                last = await entry(_sent(request, context), _GrpcCall(context))
                if last is not None:
                    await context.write(last)
            except RpcFailure as failure:
                await _abort(context, failure)
            finally:
                self._calls.discard(task)

        return handle

    def _tracked(self) -> asyncio.Task[Any]:
        """The call's task, which a stop waits for. Not by a callback of the task: that costs a turn of the loop."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        return task


class _Methods(grpc.GenericRpcHandler):
    """Finds a method by its name.

    Of methods that are registered with the server each has a future, and every call would wait for all of them anew.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(handler_call_details.method)


def _sent(request: bytes | object, context: Context) -> Sent:
    return request if isinstance(request, bytes) else _Messages(context)


class _Messages:
    """A stream's messages. Each is fetched when it is asked for: until then its sender is held back by HTTP/2."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> bytes:
        message: Any = await self._context.read()
        if message is grpc.aio.EOF:
            await asyncio.sleep(NEWS_OF_LEAVING_S)
            raise StopAsyncIteration
        return bytes(message)


class _GrpcCall:
    """A `server.rpc.context.HostCall` on grpc.aio's context."""

    __slots__ = ("_context", "_is_from_envoy", "_peer", "metadata", "set_trailing_metadata", "write")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._peer = context.peer()
        # Only this user's processes reach the socket; what Envoy says there no client can have said.
        self._is_from_envoy = self._peer.startswith("unix:")
        sent = context.invocation_metadata() or ()
        # Backwards, so that of a repeated name the first is what stays.
        self.metadata: Mapping[str, str] = {
            name: value for name, value in reversed(tuple(sent)) if isinstance(value, str)
        }
        self.set_trailing_metadata: Callable[[Sequence[tuple[str, str]]], None] = context.set_trailing_metadata
        self.write: Callable[[bytes], Awaitable[None]] = context.write

    @property
    def peer(self) -> str:
        """For a call through Envoy, whom Envoy was called by, or whom the proxies say that it trusts."""
        if self._is_from_envoy:
            return self.metadata.get(CLIENT_KEY) or "unix"
        return unquote(self._peer.partition(":")[2].rpartition(":")[0])

    @property
    def suffix(self) -> str | None:
        return self.metadata.get(SUFFIX_KEY) if self._is_from_envoy else None

    def time_remaining_s(self) -> float | None:
        return self._context.time_remaining()

    def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> Awaitable[None]:
        return self._context.send_initial_metadata(tuple(metadata))


async def _abort(context: Context, failure: RpcFailure) -> NoReturn:
    await context.abort(failure.code, failure.message, failure.trailing_metadata)


def _listen_on_socket(server: grpc.aio.Server, path: Path) -> None:
    """Bind a Unix socket that only this user can reach, in place of one that a killed worker has left."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{path} exists and is not a socket: remove it, or choose another data directory")
        path.unlink()
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise ListenError(f"cannot listen on {path}: check its directory's permissions") from None
    path.chmod(0o600)


def _listen_on_tcp(server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind TCP, shared with the other workers; the port that it became."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        raise ListenError(f"cannot listen on {address}: another program has it, or it is not of this machine") from None
