"""The host that carries the servicers inside Envoy's process: an ASGI application that speaks gRPC.

Everything that a call needs has been decided by the guard before it gets here. An ASGI server tells an application that
its client has gone only when it next reads or writes; that one who waits in silence hears of it too, whoever has the
news calls `gone`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import structlog

from server.domain.errors import GatewayError, Reason
from server.hosts.health import WORKER, ServiceHealth
from server.hosts.host import CLIENT_KEY, EMPTY_BODY, MAX_CALLS, SUFFIX_KEY, UNWIND_TIMEOUT_S
from server.hosts.standard import standard_routes
from server.hosts.wire import (
    Inbox,
    NoMessage,
    Receive,
    framed,
    headers_of,
    metadata_of,
    percent_encoded,
    timeout_s,
)
from server.rpc.registry import Route
from server.rpc.status import Metadata, RpcFailure

__all__ = ["InEnvoyHost", "Scope", "Send"]

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]

DEADLINE_SLACK_S: Final = 0.002
"""A timer may fire a moment early, and a call that is ended then would not look late."""
REQUEST_KEY: Final = "x-request-id"
"""What Envoy calls each request."""
_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_ENCODING_KEY: Final = "grpc-encoding"
_REFUSED_CODE: Final = {
    Reason.REQUEST_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MALFORMED_REQUEST: grpc.StatusCode.INTERNAL,
}

log = structlog.get_logger(__name__)


class InEnvoyHost:
    """A `server.hosts.host.Host`, and the application that an ASGI server with trailers calls for each request."""

    def __init__(self, routes: Sequence[Route], *, max_calls: int = MAX_CALLS) -> None:
        self._health = ServiceHealth()
        self._services = list(dict.fromkeys(route.service for route in routes))
        every = (*routes, *standard_routes(self._health, self._services))
        self._routes = {f"/{route.service}/{route.method}": route for route in every}
        self._max_calls = max_calls
        self._calls: dict[str, _Call] = {}
        self._is_stopping = False

    async def start(self) -> None:
        self._health.tell(dict.fromkeys((WORKER, *self._services), True))

    def tell_ready(self, is_ready: Callable[[str], bool]) -> None:
        self._health.tell({service: is_ready(service) for service in self._services})

    def leave(self) -> None:
        self._health.leave()

    async def stop(self, grace_s: float) -> None:
        self._is_stopping = True
        self.leave()
        if tasks := {call.task for call in self._calls.values()}:
            await asyncio.wait(tasks, timeout=grace_s)
        for call in self._calls.values():
            call.cut(grpc.StatusCode.UNAVAILABLE, "This worker is being stopped.")
        if tasks := {call.task for call in self._calls.values()}:
            await asyncio.wait(tasks, timeout=UNWIND_TIMEOUT_S)

    def gone(self, request_id: str) -> None:
        """The client that sent this request has left. Without effect where the call has ended."""
        if call := self._calls.get(request_id):
            call.gone()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _Call(scope, receive, send)
        route = self._routes.get(scope["path"])
        if refused := self._refusal(call, route):
            await call.end(*refused)
            return
        assert route is not None
        self._calls[call.key] = call
        try:
            await self._answer(route, call)
        except asyncio.CancelledError:
            pass  # its caller has left, or it is cut, while its end waits to be sent
        finally:
            del self._calls[call.key]
            del call.inbox  # which knows the call: neither would end before a collection

    async def _answer(self, route: Route, call: _Call) -> None:
        try:
            with call.deadline():
                await _carry(route, call)
        except RpcFailure as failure:
            await call.end(failure.code, failure.message, failure.trailing_metadata)
        except GatewayError as error:
            await call.end(_REFUSED_CODE.get(error.reason, grpc.StatusCode.INTERNAL), error.description)
        except asyncio.CancelledError:
            await call.end_cut()
        except Exception:
            log.exception("host_failed", path=f"/{route.service}/{route.method}")
            await call.end(grpc.StatusCode.INTERNAL, "The gateway failed to handle this request.")

    def _refusal(self, call: _Call, route: Route | None) -> tuple[grpc.StatusCode, str, Metadata] | None:
        if route is None:
            return grpc.StatusCode.UNIMPLEMENTED, "There is no such method.", ()
        if self._is_stopping:
            return grpc.StatusCode.UNAVAILABLE, "This worker is being stopped.", ()
        if len(self._calls) >= self._max_calls:
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls are under way.", ()
        if call.metadata.get(_ENCODING_KEY, "identity") != "identity":
            accepted = (("grpc-accept-encoding", "identity"),)
            return grpc.StatusCode.UNIMPLEMENTED, "Messages must not be compressed.", accepted
        return None


async def _carry(route: Route, call: _Call) -> None:
    sent = call.inbox if route.takes_stream else await call.only_message()
    if route.stream is not None and not route.sends_bodies:
        await call.finish(await route.stream(sent, call))
    else:
        entry = route.stream or route.unary
        assert entry is not None
        await call.finish(await entry(sent, call) or EMPTY_BODY)


class _Call:
    """A `server.rpc.context.HostCall`. It ends once: by `finish`, by `end`, or because its caller has gone."""

    __slots__ = (
        "_cut",
        "_deadline_s",
        "_flush",
        "_flushing",
        "_has_begun",
        "_initial",
        "_is_gone",
        "_loop",
        "_scope",
        "_send",
        "_trailing",
        "inbox",
        "key",
        "metadata",
        "task",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._loop = asyncio.get_running_loop()
        self.metadata: Mapping[str, str] = metadata_of(scope["headers"])
        timeout = timeout_s(self.metadata.get("grpc-timeout"))
        self._deadline_s = None if timeout is None else self._loop.time() + timeout
        self.key = self.metadata.get(REQUEST_KEY) or f"{id(self)}"
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.inbox = Inbox(receive, self._left)
        self._cut: tuple[grpc.StatusCode, str] = (grpc.StatusCode.CANCELLED, "The call was cancelled.")
        self._is_gone = False
        self._has_begun = False
        self._initial: list[tuple[bytes, bytes]] | None = None
        self._trailing: list[tuple[bytes, bytes]] = []
        self._flush: asyncio.Handle | None = None
        self._flushing: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        """Whom Envoy was called by, or whom the proxies say that it trusts."""
        client = self._scope.get("client")
        return self.metadata.get(CLIENT_KEY) or (client[0] if client else "")

    @property
    def suffix(self) -> str | None:
        return self.metadata.get(SUFFIX_KEY)

    def time_remaining_s(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - self._loop.time()

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """They go out with what is written in this turn of the loop, or by themselves at its end."""
        self._initial = headers_of(metadata)
        self._flush = self._loop.call_soon(self._flush_headers)

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._trailing = headers_of(metadata)

    async def write(self, message: bytes) -> None:
        try:
            await self._begin()
            event = {"type": "http.response.body", "body": framed(message), "more_body": True}
            await asyncio.shield(self._send(event))  # as the inbox does
        except OSError as gone:
            _forget_frames(gone)
            await self._left()

    def deadline(self) -> _Deadline:
        """Ends the call when its time is up, within the block."""
        return _Deadline(self, self.time_remaining_s())

    def cut(self, code: grpc.StatusCode, message: str) -> None:
        """End it with this status."""
        self._cut = (code, message)
        self.task.cancel()

    def gone(self) -> None:
        """Its caller has left."""
        self._is_gone = True
        self.task.cancel()

    async def only_message(self) -> bytes:
        """The message of a caller that sends one. Raises RpcFailure where it sends none, and like the inbox."""
        try:
            return await self.inbox.only()
        except NoMessage:
            raise RpcFailure(grpc.StatusCode.INTERNAL, "The call has no message.", ()) from None

    async def finish(self, message: bytes | None) -> None:
        """Send the last message, if there is one, and that all went well."""
        body = b"" if message is None else framed(message)
        await self._last(body, [(b"grpc-status", b"0"), *self._trailing])

    async def end(self, code: grpc.StatusCode, message: str, trailing: Metadata = ()) -> None:
        """Send a status; without anything before it, as headers that are trailers as well."""
        status = b"%d" % code.value[0]
        trailers = [(b"grpc-status", status), (b"grpc-message", percent_encoded(message)), *headers_of(trailing)]
        if self._has_begun or self._initial is not None:
            await self._last(b"", trailers)
        else:
            self._has_begun = True
            headers = [_CONTENT_TYPE, *trailers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._quietly({"type": "http.response.body", "body": b"", "more_body": False})

    async def end_cut(self) -> None:
        """Send the status of a call that was cancelled, unless nobody hears it."""
        if self._is_gone:
            self._drop_flush()
        else:
            await self.end(*self._cut)

    async def _last(self, body: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
        await self._begin()
        await self._quietly({"type": "http.response.body", "body": body, "more_body": False})
        await self._quietly({"type": "http.response.trailers", "headers": trailers})

    async def _begin(self) -> None:
        """Have the headers sent, if they have not been."""
        self._drop_flush()
        if self._flushing is not None:
            await asyncio.wait({self._flushing})
        if not self._has_begun:
            await self._start()

    async def _start(self) -> None:
        self._has_begun = True
        headers = [_CONTENT_TYPE, *(self._initial or ())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})

    async def _quietly(self, event: Mapping[str, Any]) -> None:
        """Send what ends the call: who has gone by now no longer matters."""
        if not self._is_gone:
            try:
                await self._send(event)
            except OSError as gone:
                _forget_frames(gone)
                self._is_gone = True

    def _drop_flush(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None

    def _flush_headers(self) -> None:
        self._flush = None
        self._flushing = self._loop.create_task(self._send_headers())

    async def _send_headers(self) -> None:
        await self._start()
        await self._quietly({"type": "http.response.body", "body": b"", "more_body": True})

    async def _left(self) -> NoReturn:
        """Cancel the call, from whichever of its tasks has seen that its caller has left."""
        self.gone()
        await asyncio.sleep(0)
        raise asyncio.CancelledError


def _forget_frames(error: OSError) -> None:
    """The module that Envoy runs keeps each error that it has given, and with its frames would keep the whole call."""
    error.__traceback__ = None


class _Deadline:
    """A timer that cuts a call; nothing where there is no deadline."""

    __slots__ = ("_call", "_remaining_s", "_timer")

    def __init__(self, call: _Call, remaining_s: float | None) -> None:
        self._call = call
        self._remaining_s = remaining_s
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._remaining_s is not None:
            delay_s = max(self._remaining_s, 0) + DEADLINE_SLACK_S
            self._timer = asyncio.get_running_loop().call_later(
                delay_s, self._call.cut, grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline has passed."
            )

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
