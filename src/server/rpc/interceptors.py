"""What happens around every call, whichever host carries it: `Guard` wraps each servicer method once, at registration.

In order: ids and deadline, the limit on calls under way, the key, the request's bytes; then the servicer; then the
translation of whatever it raised, and one line in the access log. Bytes go in and out, so that no body is parsed before
its sender is known.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, TypeAlias

import msgspec
import structlog
from google.protobuf.message import DecodeError, Message
from structlog.typing import FilteringBoundLogger

from server.domain.errors import HTTP_STATUS, ErrorCode, GatewayError, Reason, internal_error
from server.domain.identity import Arrival, Call, Scope
from server.domain.ports import CallObserver, Clock, Reception, Refusals
from server.domain.record import CLIENT_GONE, CLIENT_GONE_STATUS
from server.domain.request import Endpoint
from server.rpc.context import CallContext, HostCall
from server.rpc.status import REST_MARK_KEY, REST_STATUS_KEY, RpcFailure, rest_failure, rpc_failure

__all__ = ["Guard", "Method", "StreamEntry", "UnaryEntry"]

MAX_CONCURRENT_CALLS: Final = 8192
"""Calls that one worker carries at a time; further ones are refused with `overloaded`."""
OVERLOAD_RETRY_S: Final = 1.0
MAX_DEADLINE_S: Final = 366 * 86_400.0
"""A caller that asks for more time than this might as well have set no deadline."""

HTTP_OK: Final = 200

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

Decode: TypeAlias = Callable[[bytes], Message]
UnaryBehaviour: TypeAlias = Callable[[Any, CallContext], Awaitable[Message]]
StreamBehaviour: TypeAlias = Callable[[Any, CallContext], AsyncGenerator[Message, None]]
Sent: TypeAlias = bytes | AsyncIterator[bytes]
"""What the caller sends: the one message, or all of them as they come in, no faster than they are asked for."""
UnaryEntry: TypeAlias = Callable[[Sent, HostCall], Awaitable[bytes]]
"""One method that answers once, from bytes to bytes. Raises RpcFailure, or CancelledError where the caller has gone."""
StreamEntry: TypeAlias = Callable[[Sent, HostCall], Awaitable[bytes | None]]
"""One server-streaming method. Its messages go to `HostCall.write`, but the last where that was announced: it is
returned, so that it can go out together with the status. Raises like a unary one.
"""
RestError: TypeAlias = Callable[[GatewayError, Arrival], tuple[int, bytes]]
"""The HTTP status and JSON body of an error, for calls that came in as REST."""


class Method(msgspec.Struct, frozen=True):
    """A method's full name (`/package.Service/Method`), and the scopes of which its caller needs one.

    Without scopes the guard asks for no key. `endpoint` is set where it generates: its calls are recorded, all of them.
    """

    name: str
    scopes: tuple[Scope, ...]
    endpoint: Endpoint | None = None


class Guard:
    """Wraps methods. One guard serves a whole worker, for the limit on calls under way is the worker's."""

    def __init__(
        self,
        reception: Reception,
        clock: Clock,
        rest_error: RestError,
        *,
        refusals: Refusals | None = None,
        observe: CallObserver | None = None,
        log: FilteringBoundLogger | None = None,
        max_concurrent_calls: int = MAX_CONCURRENT_CALLS,
    ) -> None:
        self.reception = reception
        self.clock = clock
        self.rest_error = rest_error
        self.refusals = refusals
        self.observe = observe
        self.log: FilteringBoundLogger = log or structlog.get_logger().bind()
        self.max_concurrent_calls = max_concurrent_calls
        self.under_way = 0

    def unary(self, method: Method, behaviour: UnaryBehaviour, decode: Decode) -> UnaryEntry:
        async def entry(sent: Sent, host: HostCall) -> bytes:
            passage = _Passage(self, method, host)
            try:
                await passage.enter()
                reply = await behaviour(passage.take(sent, decode), passage)
                passage.add_ids_to_unary()
                encoded = reply.SerializeToString()
                _check_not_cancelled()
            except BaseException as error:
                await passage.record(error)
                raise passage.failed(error) from None
            passage.ended()
            return encoded

        return entry

    def stream(self, method: Method, behaviour: StreamBehaviour, decode: Decode) -> StreamEntry:
        async def entry(sent: Sent, host: HostCall) -> bytes | None:
            passage = _Passage(self, method, host)
            last = None
            try:
                await passage.enter()
                async with aclosing(behaviour(passage.take(sent, decode), passage)) as replies:
                    async for reply in replies:
                        await passage.ensure_initial_metadata()
                        if passage.last_announced:
                            last = reply.SerializeToString()
                            break
                        await host.write(reply.SerializeToString())
                await passage.ensure_initial_metadata()
                _check_not_cancelled()
            except BaseException as error:
                await passage.record(error, stream=True)
                raise passage.failed(error) from None
            passage.ended()
            return last

        return entry


def _decoded(decode: Decode, request: bytes) -> Message:
    try:
        return decode(request)
    except DecodeError:
        raise GatewayError(Reason.MALFORMED_REQUEST, "The request is not a valid message of its type.") from None


class _Messages:
    """The messages of a stream, each decoded when it is asked for; the first is what the record of the call knows."""

    def __init__(self, sent: AsyncIterator[bytes], decode: Decode, passage: _Passage) -> None:
        self._sent = sent
        self._decode = decode
        self._passage = passage

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Message:
        message = _decoded(self._decode, await anext(self._sent))
        if self._passage.message is None:
            self._passage.message = message
        return message


class _Passage:
    """One call on its way through the guard; its servicer's `CallContext`."""

    __slots__ = (
        "_call",
        "_counted",
        "_guard",
        "_host",
        "_http_status",
        "_initial_sent",
        "_is_named",
        "_method",
        "_reason",
        "arrival",
        "last_announced",
        "message",
        "metadata",
    )

    def __init__(self, guard: Guard, method: Method, host: HostCall) -> None:
        self._guard = guard
        self._method = method
        self._host = host
        self._call: Call | None = None
        self._counted = False
        self._initial_sent = False
        self.last_announced = False
        self._http_status: str | None = None
        self._reason = ""
        self.message: Message | None = None
        self.metadata: Mapping[str, str] = host.metadata
        suffix = host.suffix
        self._is_named = suffix is not None
        self.arrival: Arrival = guard.reception.arrive(
            suffix=suffix,
            request_id=_sane_request_id(self.metadata.get("x-request-id")),
            deadline_in_s=_deadline(host.time_remaining_s()),
            client=host.peer,
        )

    @property
    def call(self) -> Call:
        if self._call is None:
            raise RuntimeError(f"{self._method.name} does not authenticate before its servicer")
        return self._call

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._initial_sent = True
        for name, value in metadata:
            if name == REST_STATUS_KEY:
                self._http_status = value
        await self._host.send_initial_metadata((*metadata, *self._ids()))

    def answers_error(self, reason: Reason) -> None:
        self._reason = reason.value

    def announce_last_message(self) -> None:
        self.last_announced = True

    async def ensure_initial_metadata(self) -> None:
        """Send the ids now where nobody has told the caller of them."""
        if not (self._initial_sent or self._is_named):
            await self.send_initial_metadata(())

    def add_ids_to_unary(self) -> None:
        """Native clients find the ids in the trailers: headers of their own would cost a write to the socket more.

        A caller behind Envoy has them from Envoy.
        """
        if not (self._initial_sent or self._is_named):
            self._host.set_trailing_metadata(self._ids())

    async def enter(self) -> None:
        """Raise where the worker is full or the caller has no right to this method."""
        guard = self._guard
        if guard.under_way >= guard.max_concurrent_calls:
            raise GatewayError(
                Reason.OVERLOADED,
                "This gateway is handling as many requests as it can: retry shortly.",
                retry_after_s=OVERLOAD_RETRY_S,
            )
        guard.under_way += 1
        self._counted = True
        if self._method.scopes:
            try:
                self._call = await self._authenticate(self._method.scopes)
            except GatewayError as error:
                if error.reason is Reason.MISSING_SCOPE:
                    with suppress(GatewayError):  # of a key without any scope; else the record and the log name it
                        self._call = await self._authenticate(tuple(Scope))
                raise

    def take(self, sent: Sent, decode: Decode) -> Message | _Messages:
        """What the servicer gets of the caller: a message, or an iterator of them."""
        if not isinstance(sent, bytes):
            return _Messages(sent, decode, self)
        self.message = _decoded(decode, sent)
        return self.message

    async def _authenticate(self, scopes: Sequence[Scope]) -> Call:
        """The call, with the first of the scopes that the key has."""
        authorization = self.metadata.get("authorization")
        *others, last = scopes
        for scope in others:
            try:
                return await self._guard.reception.authenticate(self.arrival, authorization, scope)
            except GatewayError as error:
                if error.reason is not Reason.MISSING_SCOPE:
                    raise
        return await self._guard.reception.authenticate(self.arrival, authorization, last)

    async def record(self, error: BaseException, *, stream: bool = False) -> None:
        """Have a generating call that failed recorded, where the pipeline has not done so. Never raises."""
        refusals, endpoint, call = self._guard.refusals, self._method.endpoint, self._call
        if refusals is None or endpoint is None or call is None or not isinstance(error, Exception):
            return
        told = error if isinstance(error, GatewayError) else internal_error()
        model: str = getattr(getattr(self.message, "settings", self.message), "model", "")
        # The caller may go meanwhile: `failed` sees that, and its error is a cancellation then.
        with suppress(asyncio.CancelledError):
            await refusals(call, endpoint, told, model=model, stream=stream)

    def ended(self) -> None:
        self._leave("OK", int(self._http_status or HTTP_OK), self._reason)

    def failed(self, error: BaseException) -> BaseException:
        """What to raise instead of `error`; logs what the client must not see."""
        if _is_being_cancelled():
            # Whatever the servicer made of it: a cancelled call must end as one, or gRPC leaks it.
            deadline_s = self.arrival.deadline_s
            late = deadline_s is not None and self._guard.clock.monotonic() >= deadline_s
            if late:
                self._leave("DEADLINE_EXCEEDED", HTTP_STATUS[ErrorCode.TIMEOUT], Reason.DEADLINE_EXCEEDED.value)
            else:
                self._leave("CANCELLED", CLIENT_GONE_STATUS, CLIENT_GONE)
            return error if isinstance(error, asyncio.CancelledError) else asyncio.CancelledError()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        if not isinstance(error, GatewayError):
            self._guard.log.error("unhandled_exception", method=self._method.name, exc_info=error)
            error = internal_error()
        failure = self._failure(error)
        self._leave(failure.code.name, HTTP_STATUS[error.code], error.reason.value)
        return failure

    @property
    def _is_rest(self) -> bool:
        """Whether Envoy made this call of a REST one."""
        return self.metadata.get(REST_MARK_KEY) == "1"

    def _failure(self, error: GatewayError) -> RpcFailure:
        if self._is_rest:
            failure = rest_failure(error, *self._guard.rest_error(error, self.arrival))
        else:
            failure = rpc_failure(error, self.arrival)
        if not self._initial_sent:
            failure.trailing_metadata = (*failure.trailing_metadata, *self._ids())
        return failure

    def _ids(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", self.arrival.request_id), ("x-generation-id", self.arrival.generation_id))

    def _leave(self, status: str, as_http: int, reason: str) -> None:
        """Log and count the end: `as_http` is its status as HTTP has it, `reason` empty where all went well."""
        guard, more = self._guard, {}
        if self._counted:
            guard.under_way -= 1
        took_s = guard.clock.monotonic() - self.arrival.received_s
        if guard.observe is not None:
            guard.observe(self._method.name, as_http, reason, took_s)
        if reason:
            more["reason"] = reason
        if self._http_status is not None:
            more["http_status"] = self._http_status
        if self._call is not None:
            more["team_id"] = self._call.principal.team_id
            more["key_id"] = self._call.principal.key_id
        guard.log.info(
            "call",
            method=self._method.name,
            status=status,
            duration_ms=round(took_s * 1000, 3),
            peer=self.arrival.client,
            request_id=self.arrival.request_id,
            generation_id=self.arrival.generation_id,
            **more,
        )


def _sane_request_id(text: str | None) -> str | None:
    return text if text is not None and _REQUEST_ID.fullmatch(text) else None


def _deadline(remaining_s: float | None) -> float | None:
    return None if remaining_s is None or remaining_s > MAX_DEADLINE_S else remaining_s


def _check_not_cancelled() -> None:
    """Raise the cancellation that a servicer has swallowed."""
    if _is_being_cancelled():
        raise asyncio.CancelledError


def _is_being_cancelled() -> bool:
    """Whether the call itself is cancelled; a stray CancelledError of the servicer's own is only a bug of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
