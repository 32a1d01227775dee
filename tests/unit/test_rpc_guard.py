"""The guard and its table, without any host: what it lets pass, what it raises, what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import pkgutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2_grpc

import aistats.gateway.v1
from aistats.gateway.v1 import chat_pb2_grpc
from server.clock import SystemClock, UuidV7
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Principal, Scope
from server.pipeline.authenticate import Authenticate
from server.reception import FrontDesk
from server.rpc.chat import ChatServicer
from server.rpc.context import CallContext
from server.rpc.interceptors import Guard, Method
from server.rpc.registry import SCOPES, guarded_routes
from server.rpc.status import RpcFailure
from tests.fakes.generation import ScriptedGenerate
from tests.fakes.rpc_host import LogBook, rest_error

OPEN = Method("/test.Service/Open", ())
ANY_KEY = Method("/test.Service/AnyKey", (Scope.INFERENCE, Scope.MANAGEMENT))


class Keys:
    """A `KeyStore` in memory; a database that is away where the token says so."""

    async def authenticate(self, token: str) -> Principal | None:
        if token == "away":
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "The database is away.")
        scopes = {"i": {Scope.INFERENCE}, "m": {Scope.MANAGEMENT}, "none": set[Scope]()}.get(token)
        return None if scopes is None else Principal("team", f"key-{token}", frozenset(scopes))


class Host:
    """A `HostCall` that keeps what it is told."""

    peer = "192.0.2.1"
    suffix: str | None = None

    def __init__(self, metadata: dict[str, str] | None = None, remaining_s: float | None = None) -> None:
        self.metadata = metadata or {}
        self.remaining_s = remaining_s
        self.told: list[Any] = []

    def time_remaining_s(self) -> float | None:
        return self.remaining_s

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.told.append(("initial", dict(metadata)))

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.told.append(("trailing", dict(metadata)))

    async def write(self, message: bytes) -> None:
        self.told.append(message)


@pytest.fixture
def log() -> LogBook:
    return LogBook()


@pytest.fixture
def guard(log: LogBook) -> Guard:
    reception = FrontDesk(Authenticate(Keys()), UuidV7(), SystemClock())
    return Guard(reception, SystemClock(), rest_error, log=log.logger)


def unary(
    guard: Guard, behaviour: Callable[[Empty, CallContext], Awaitable[Empty]], method: Method = OPEN
) -> Callable[[Any], Awaitable[bytes]]:
    entry = guard.unary(method, behaviour, Empty.FromString)
    return lambda host: entry(b"", host)


def declared_methods() -> dict[str, Any]:
    """Of every generated module that there is."""
    names = [found.name for found in pkgutil.iter_modules(aistats.gateway.v1.__path__) if found.name.endswith("_pb2")]
    files = [importlib.import_module(f"aistats.gateway.v1.{name}") for name in names]
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    return {f"/{service.full_name}/{method.name}": method for service in services for method in service.methods}


def test_the_table_of_scopes_has_every_typed_method_of_the_protos_and_no_other() -> None:
    declared = declared_methods()
    bridged = {name for name in declared if "RestService/" in name}
    assert set(SCOPES) == set(declared) - bridged
    assert {declared[name].output_type.full_name for name in bridged} == {"google.api.HttpBody"}


def test_only_liveness_needs_no_key() -> None:
    assert [name for name, scopes in SCOPES.items() if not scopes] == ["/aistats.gateway.v1.HealthService/GetLiveness"]


def test_a_method_that_the_table_does_not_know_cannot_be_served(guard: Guard) -> None:
    with pytest.raises(LookupError, match="has no line in the table"):
        guarded_routes([(health_pb2_grpc.add_HealthServicer_to_server, health_pb2_grpc.HealthServicer())], guard)


def test_routes_are_unary_or_streaming_as_declared(guard: Guard) -> None:
    chat = ChatServicer(ScriptedGenerate())
    routes = guarded_routes([(chat_pb2_grpc.add_ChatServiceServicer_to_server, chat)], guard)
    assert {(route.method, route.unary is None, route.stream is None) for route in routes} == {
        ("CreateChatCompletion", False, True),
        ("StreamChatCompletion", True, False),
    }


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("i", None),
        ("m", None),
        ("none", "MISSING_SCOPE"),
        ("x", "INVALID_API_KEY"),
        ("away", "DATABASE_UNAVAILABLE"),
    ],
)
async def test_any_one_of_the_scopes_is_enough(guard: Guard, token: str, reason: str | None) -> None:
    async def who(request: Empty, context: CallContext) -> Empty:
        assert context.call.principal.key_id == f"key-{token}"
        assert context.call.arrival is context.arrival
        return Empty()

    call = unary(guard, who, ANY_KEY)(Host({"authorization": f"Bearer {token}"}))
    if reason is None:
        assert await call == b""
    else:
        with pytest.raises(RpcFailure) as caught:
            await call
        assert reason.encode() in dict(caught.value.trailing_metadata)["grpc-status-details-bin"]
    assert guard.under_way == 0


async def test_a_method_without_a_key_has_no_call(guard: Guard) -> None:
    async def look(request: Empty, context: CallContext) -> Empty:
        assert not isinstance(context.call, BaseException)
        return Empty()

    with pytest.raises(RpcFailure) as caught:
        await unary(guard, look)(Host())
    assert caught.value.code is grpc.StatusCode.INTERNAL


async def test_a_swallowed_cancellation_is_raised_again(guard: Guard, log: LogBook) -> None:
    entered = asyncio.Event()

    async def swallow(request: Empty, context: CallContext) -> Empty:
        entered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return Empty()

    async def swallow_and_break(request: Empty, context: CallContext) -> Empty:
        await swallow(request, context)
        raise ValueError("on the way out")

    for behaviour in (swallow, swallow_and_break):
        log.clear()
        entered.clear()
        task = asyncio.ensure_future(unary(guard, behaviour)(Host()))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert [line["status"] for line in log.lines] == ["CANCELLED"]
        assert guard.under_way == 0


async def test_who_goes_with_the_last_message_has_missed_nothing(guard: Guard, log: LogBook) -> None:
    """It is left to the host, to go with the status: by then the call has been whole."""

    async def face(request: StringValue, context: CallContext) -> AsyncGenerator[StringValue, None]:
        yield StringValue(value="first")
        context.announce_last_message()
        yield StringValue(value="last")
        raise AssertionError("asked for more than the last")

    host = Host()
    last = await guard.stream(OPEN, face, StringValue.FromString)(b"", host)
    assert host.told[1:] == [StringValue(value="first").SerializeToString()]
    assert last == StringValue(value="last").SerializeToString()
    assert [line["status"] for line in log.lines] == ["OK"]


async def test_nothing_is_left_where_no_last_message_was_announced(guard: Guard) -> None:
    async def face(request: Empty, context: CallContext) -> AsyncGenerator[Empty, None]:
        yield Empty()

    host = Host()
    assert await guard.stream(OPEN, face, Empty.FromString)(b"", host) is None
    assert host.told[1:] == [b""]


async def test_who_goes_before_the_last_message_has_missed_it(guard: Guard, log: LogBook) -> None:
    class Leaving(Host):
        """Its client goes in the middle of a message."""

        async def write(self, message: bytes) -> None:
            task.cancel()
            await asyncio.sleep(10)

    async def face(request: Empty, context: CallContext) -> AsyncGenerator[Empty, None]:
        yield Empty()
        context.announce_last_message()
        yield Empty()

    task = asyncio.ensure_future(guard.stream(OPEN, face, Empty.FromString)(b"", Leaving()))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert [line["status"] for line in log.lines] == ["CANCELLED"]


async def test_a_timeout_of_the_servicers_own_is_no_cancellation(guard: Guard) -> None:
    async def patient(request: Empty, context: CallContext) -> Empty:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        except TimeoutError:
            raise GatewayError(Reason.UPSTREAM_TIMEOUT, "Too slow.") from None
        return Empty()

    with pytest.raises(RpcFailure) as caught:
        await unary(guard, patient)(Host())
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_servicers_own_headers_and_the_ids_go_together_and_once(guard: Guard, log: LogBook) -> None:
    async def face(request: Empty, context: CallContext) -> AsyncGenerator[Empty, None]:
        await context.send_initial_metadata([("x-gw-status", "402")])
        yield Empty()
        yield Empty()

    host = Host({"x-request-id": "req-9"})
    await guard.stream(OPEN, face, Empty.FromString)(b"", host)
    generation_id = log.lines[0]["generation_id"]
    assert host.told == [
        ("initial", {"x-gw-status": "402", "x-request-id": "req-9", "x-generation-id": generation_id}),
        b"",
        b"",
    ]
    assert log.lines[0]["http_status"] == "402"


async def test_an_empty_stream_still_has_headers(guard: Guard) -> None:
    async def nothing(request: Empty, context: CallContext) -> AsyncGenerator[Empty, None]:
        return
        yield

    host = Host()
    await guard.stream(OPEN, nothing, Empty.FromString)(b"", host)
    assert [kind for kind, _ in host.told] == ["initial"]


@pytest.mark.parametrize(("remaining_s", "kept"), [(None, False), (5.0, True), (1e12, False)])
async def test_only_a_deadline_that_can_pass_is_one(guard: Guard, remaining_s: float | None, kept: bool) -> None:
    seen = []

    async def note(request: Empty, context: CallContext) -> Empty:
        seen.append(context.arrival)
        return Empty()

    await unary(guard, note)(Host(remaining_s=remaining_s))
    assert seen[0].deadline_s == (seen[0].received_s + (remaining_s or 0.0) if kept else None)


async def test_a_call_that_envoy_has_named_needs_no_headers_of_its_own(guard: Guard) -> None:
    seen: list[str] = []

    async def face(request: Empty, context: CallContext) -> AsyncGenerator[Empty, None]:
        seen.append(context.arrival.suffix)
        yield Empty()

    host = Host()
    host.suffix = "0" * 32
    await guard.stream(OPEN, face, Empty.FromString)(b"", host)
    assert seen == ["0" * 32]
    assert host.told == [b""]


class Tally:
    """Remembers what it was told of calls, without how long they took."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, str]] = []

    def __call__(self, method: str, status: int, reason: str, took_s: float) -> None:
        assert took_s >= 0
        self.calls.append((method, status, reason))


async def test_every_end_of_a_call_is_told_once(log: LogBook) -> None:
    tally = Tally()
    reception = FrontDesk(Authenticate(Keys()), UuidV7(), SystemClock())
    guard = Guard(reception, SystemClock(), rest_error, observe=tally, log=log.logger)

    async def well(request: Empty, context: CallContext) -> Empty:
        return Empty()

    async def answers_error(request: Empty, context: CallContext) -> Empty:
        await context.send_initial_metadata((("x-gw-status", "404"),))
        context.answers_error(Reason.UNKNOWN_MODEL)
        return Empty()

    async def breaks(request: Empty, context: CallContext) -> Empty:
        raise ValueError("a bug")

    async def hangs(request: Empty, context: CallContext) -> Empty:
        await asyncio.sleep(10)
        return Empty()

    await unary(guard, well)(Host())
    await unary(guard, answers_error)(Host())
    for behaviour, method in ((breaks, OPEN), (well, ANY_KEY)):
        with pytest.raises(RpcFailure):
            await unary(guard, behaviour, method)(Host())
    for remaining_s in (None, 0.0):
        task = asyncio.ensure_future(unary(guard, hangs)(Host(remaining_s=remaining_s)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert tally.calls == [
        (OPEN.name, 200, ""),
        (OPEN.name, 404, "unknown_model"),
        (OPEN.name, 500, "internal"),
        (ANY_KEY.name, 401, "invalid_api_key"),
        (OPEN.name, 499, "client_disconnected"),
        (OPEN.name, 504, "deadline_exceeded"),
    ]
    assert [line.get("reason", "") for line in log.lines if line["event"] == "call"] == [
        reason for _, _, reason in tally.calls
    ]
