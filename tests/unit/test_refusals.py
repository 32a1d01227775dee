"""What fails before the pipeline takes it over is recorded, once, and never at the expense of its error."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from aistats.gateway.v1 import chat_pb2
from rest_bridge.app import RestApp
from rest_bridge.chat import ChatRest
from rest_bridge.http import Exchange, RestResponse, Route, json_response
from rest_bridge.responses import ResponsesRest
from server.clock import SystemClock
from server.domain.errors import HTTP_STATUS, GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal, Scope, TeamPolicy
from server.domain.ledger import Hold, Settlement
from server.domain.record import MAX_TEXT_BYTES, GenerationRecord
from server.domain.request import Endpoint
from server.pipeline import refusals
from server.pipeline.refusals import RecordRefusals
from server.pipeline.respond import Respond
from server.rpc.interceptors import Guard, Method
from server.rpc.registry import ENDPOINTS, SCOPES
from server.rpc.status import RpcFailure
from tests.fakes.responses_rest import FixedClock, MemoryStore
from tests.fakes.rest import ARRIVAL, KEY, OpenDoor, ScriptedGenerate, read, rest_request, text_events, whole
from tests.fakes.rpc_host import LogBook, rest_error

BODY = {"model": "acme/test-1", "messages": [{"role": "user", "content": "hi"}]}
NO_MODEL = GatewayError(Reason.UNKNOWN_MODEL, 'There is no model "acme/test-1" here.')


class MemoryLedger:
    """A `server.domain.ledger.Ledger` that remembers what it settled; `outcome` is what its awaitables come to."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []
        self.outcome: asyncio.Future[None] | None = None
        self.asked = asyncio.Event()

    async def reserve(self, hold: Hold) -> None:
        raise AssertionError("a refusal holds nothing")

    def settle(self, settlement: Settlement) -> asyncio.Future[None]:
        self.settled.append(settlement)
        self.asked.set()
        if self.outcome is not None:
            return self.outcome
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @property
    def record(self) -> GenerationRecord:
        (settlement,) = self.settled
        assert not settlement.held
        assert settlement.charge_nanos is None
        return settlement.record


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


class KeepingDoor(OpenDoor):
    """A reception whose team keeps content; remembers its last call."""

    def __init__(self, policy: TeamPolicy) -> None:
        self.policy = policy
        self.call: Call

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        call = await super().authenticate(arrival, authorization, scope)
        principal = msgspec.structs.replace(call.principal, policy=self.policy)
        self.call = msgspec.structs.replace(call, principal=principal)
        return self.call


def app(generate: ScriptedGenerate, ledger: MemoryLedger, door: OpenDoor | None = None) -> RestApp:
    return RestApp(door or OpenDoor(), ChatRest(generate).routes(), RecordRefusals(ledger))


@pytest.mark.parametrize(
    ("body", "error", "model", "stream", "reason"),
    [
        (BODY, NO_MODEL, "acme/test-1", False, "unknown_model"),
        (BODY | {"stream": True}, NO_MODEL, "acme/test-1", True, "unknown_model"),
        (BODY, GatewayError(Reason.INSUFFICIENT_FUNDS, "no"), "acme/test-1", False, "insufficient_funds"),
        (BODY, GatewayError(Reason.DATABASE_UNAVAILABLE, "no"), "acme/test-1", False, "database_unavailable"),
        (BODY, ZeroDivisionError(), "acme/test-1", False, "internal"),
        (BODY | {"nonsense": 1}, None, "acme/test-1", False, "unknown_parameter"),
        ({"model": "acme/test-1"}, None, "acme/test-1", False, "missing_field"),
        ({"model": 7, "messages": []}, None, "", False, "invalid_value"),
        ({"model": "a\x00b", "messages": []}, None, "", False, "invalid_value"),
        (b'{"model": "acme/test-1"', None, "", False, "malformed_json"),
        (b'{"model": "\xff", "messages": 1}', None, "", False, "malformed_json"),
        (b"", None, "", False, "malformed_json"),
        (b"[" * 100_000, None, "", False, "invalid_value"),
    ],
)  # fmt: skip
async def test_a_refused_request_has_a_record(
    ledger: MemoryLedger, body: Any, error: Exception | None, model: str, stream: bool, reason: str
) -> None:
    reply = await read(await app(ScriptedGenerate(*([error] if error else [])), ledger)(rest_request(body)))
    record = ledger.record
    assert reply.json["reason"] == reason
    assert (record.status_code, record.error_code, record.error_message) == (
        reply.status, reply.json["reason"], reply.json["description"],
    )  # fmt: skip
    assert (record.suffix, record.request_id, record.created_at) == (
        ARRIVAL.suffix, ARRIVAL.request_id, ARRIVAL.created_at,
    )  # fmt: skip
    assert (record.team_id, record.key_id, record.endpoint) == ("team-1", "key-1", "chat")
    assert (record.model_id, record.stream, record.success, record.cost_nanos) == (model, stream, False, 0)


async def test_what_succeeds_or_has_no_key_has_none(ledger: MemoryLedger) -> None:
    generate = ScriptedGenerate(*whole(*text_events("x")))
    assert (await app(generate, ledger)(rest_request(BODY))).status == 200
    assert (await app(generate, ledger)(rest_request(BODY, headers={}))).status == 401
    assert (await app(generate, ledger)(rest_request(BODY, path="/v1/none"))).status == 404
    assert ledger.settled == []


async def test_what_is_settled_already_is_not_settled_again(ledger: MemoryLedger) -> None:
    class Settles:
        async def handle(self, exchange: Exchange) -> RestResponse:
            record = GenerationRecord("s", "r", 1, "team-1", "key-1", "chat", "m")
            exchange.call.progress.settlement = Settlement(record, held=True)
            raise NO_MODEL

    routes = (Route("POST", "/v1/chat/completions", Settles().handle, endpoint=Endpoint.CHAT),)
    reply = await RestApp(OpenDoor(), routes, RecordRefusals(ledger))(rest_request(BODY))
    assert reply.status == 404
    assert ledger.settled == []


async def test_whoever_defers_hands_the_settlement_on(ledger: MemoryLedger) -> None:
    call = Call(ARRIVAL, Principal("team-1", "key-1", frozenset()))
    call.progress.defers = True
    await RecordRefusals(ledger)(call, Endpoint.CHAT, NO_MODEL)
    assert ledger.settled == []
    assert call.progress.settlement is not None
    assert call.progress.settlement.record.error_code == "unknown_model"


async def test_a_ledger_that_fails_changes_no_error(ledger: MemoryLedger) -> None:
    ledger.outcome = asyncio.get_running_loop().create_future()
    ledger.outcome.set_exception(GatewayError(Reason.OVERLOADED, "full"))
    reply = await read(await app(ScriptedGenerate(NO_MODEL), ledger)(rest_request(BODY)))
    assert (reply.status, reply.json["reason"]) == (404, "unknown_model")


@pytest.mark.parametrize(
    ("error", "patience_s"), [(NO_MODEL, 0.1), (GatewayError(Reason.DATABASE_UNAVAILABLE, "away"), 60.0)]
)
async def test_a_database_that_is_away_is_not_waited_for_long(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch, error: GatewayError, patience_s: float
) -> None:
    monkeypatch.setattr(refusals, "PATIENCE_S", patience_s)
    ledger.outcome = asyncio.get_running_loop().create_future()
    began = time.monotonic()
    reply = await read(await app(ScriptedGenerate(error), ledger)(rest_request(BODY)))
    assert reply.status == HTTP_STATUS[error.code]
    assert time.monotonic() - began < 30
    assert len(ledger.settled) == 1
    ledger.outcome.set_result(None)


async def test_whatever_was_sent_a_record_is_bounded(ledger: MemoryLedger) -> None:
    long = GatewayError(Reason.UNKNOWN_MODEL, "漢\ud800" * 20_000)
    await app(ScriptedGenerate(long), ledger)(rest_request(BODY | {"model": "m" * 100_000}))
    assert ledger.record.model_id == ""
    assert MAX_TEXT_BYTES - 3 <= len((ledger.record.error_message or "").encode()) <= MAX_TEXT_BYTES


@pytest.mark.parametrize("keeps", [True, False])
async def test_the_request_is_kept_where_the_team_wants_that(ledger: MemoryLedger, keeps: bool) -> None:
    door = KeepingDoor(TeamPolicy(store_content=keeps))
    await app(ScriptedGenerate(*whole(*text_events("x"))), ledger, door)(rest_request(BODY))
    progress = door.call.progress
    if keeps:
        assert progress.path == "/v1/chat/completions"
        assert msgspec.json.decode(progress.body or b"") == BODY
    else:
        assert (progress.path, progress.body) == ("", None)


async def test_a_route_that_generates_nothing_keeps_and_records_nothing(ledger: MemoryLedger) -> None:
    async def fail(exchange: Exchange) -> RestResponse:
        raise NO_MODEL if exchange.body == b"fail" else GatewayError(Reason.INVALID_VALUE, "no")

    door = KeepingDoor(TeamPolicy(store_content=True))
    answer = RestApp(door, (Route("POST", "/v1/x", fail),), RecordRefusals(ledger))
    assert (await answer(rest_request(b"fail", path="/v1/x"))).status == 404
    assert door.call.progress.body is None
    assert ledger.settled == []


async def test_any_key_will_do_where_the_route_says_so() -> None:
    async def handle(exchange: Exchange) -> RestResponse:
        return json_response(b"{}")

    scopes = (Scope.INFERENCE, Scope.MANAGEMENT)
    answer = RestApp(ManagementKey(), (Route("GET", "/v1/x", handle, scopes), Route("GET", "/v1/y", handle)))
    assert (await answer(rest_request(method="GET", path="/v1/x"))).status == 200
    assert (await answer(rest_request(method="GET", path="/v1/y"))).status == 403
    assert (await answer(rest_request(method="GET", path="/v1/x", headers={}))).status == 401


class ManagementKey(OpenDoor):
    """A reception whose one key has not the scope to generate."""

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        if authorization == KEY and scope is not Scope.MANAGEMENT:
            raise GatewayError(Reason.MISSING_SCOPE, "This API key lacks the scope 'inference'.")
        return await super().authenticate(arrival, authorization, scope)


async def test_a_key_without_the_scope_is_known_and_recorded(ledger: MemoryLedger) -> None:
    generate = ScriptedGenerate()
    reply = await read(await app(generate, ledger, ManagementKey())(rest_request(BODY)))
    assert reply.status == 403
    assert (ledger.record.status_code, ledger.record.error_code) == (403, "missing_scope")
    assert (ledger.record.key_id, ledger.record.model_id) == ("key-1", "")
    assert generate.requests == []
    assert (await app(generate, ledger, ManagementKey())(rest_request(BODY, headers={}))).status == 401
    assert len(ledger.settled) == 1


async def test_a_typed_call_without_the_scope_is_recorded(ledger: MemoryLedger) -> None:
    async def never(request: Any, context: Any) -> Any:
        raise AssertionError("without the scope it goes no further")

    its_guard = guard(ledger)
    its_guard.reception = ManagementKey()
    decode = chat_pb2.CreateChatCompletionRequest.FromString
    with pytest.raises(RpcFailure):
        await its_guard.unary(method("ChatService/CreateChatCompletion"), never, decode)(b"", Host())
    assert (ledger.record.status_code, ledger.record.error_code) == (403, "missing_scope")


# Typed calls.


class Host:
    """A `HostCall` with a key."""

    peer = "192.0.2.1"
    suffix: str | None = ARRIVAL.suffix

    def __init__(self) -> None:
        self.metadata = {"authorization": KEY}

    def time_remaining_s(self) -> float | None:
        return None

    async def send_initial_metadata(self, metadata: Any) -> None: ...

    def set_trailing_metadata(self, metadata: Any) -> None: ...

    async def write(self, message: bytes) -> None: ...


def guard(ledger: MemoryLedger) -> Guard:
    refusals = RecordRefusals(ledger)
    return Guard(OpenDoor(), SystemClock(), rest_error, refusals=refusals, log=LogBook().logger)


def method(name: str) -> Method:
    name = f"/aistats.gateway.v1.{name}"
    return Method(name, SCOPES[name], ENDPOINTS.get(name))


async def test_a_refused_typed_call_has_a_record(ledger: MemoryLedger) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise NO_MODEL

    decode = chat_pb2.CreateChatCompletionRequest.FromString
    entry = guard(ledger).unary(method("ChatService/CreateChatCompletion"), refuse, decode)
    request = chat_pb2.CreateChatCompletionRequest(model="acme/test-1").SerializeToString()
    with pytest.raises(RpcFailure):
        await entry(request, Host())
    record = ledger.record
    assert (record.endpoint, record.model_id, record.stream) == ("chat", "acme/test-1", False)
    assert (record.status_code, record.error_code) == (404, "unknown_model")


async def test_a_refused_typed_stream_has_a_record(ledger: MemoryLedger) -> None:
    async def never(request: Any, context: Any) -> Any:
        if request is not None:
            raise AssertionError("what cannot be read goes no further")
        yield

    decode = chat_pb2.CreateChatCompletionRequest.FromString
    entry = guard(ledger).stream(method("ResponsesService/StreamResponse"), never, decode)
    with pytest.raises(RpcFailure):
        await entry(b"\xff\xff\xff", Host())
    record = ledger.record
    assert (record.endpoint, record.model_id, record.stream) == ("responses", "", True)
    assert (record.status_code, record.error_code) == (400, "malformed_request")


async def test_a_caller_that_goes_while_its_record_is_written_leaves_the_guard(ledger: MemoryLedger) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise NO_MODEL

    ledger.outcome = asyncio.get_running_loop().create_future()
    its_guard = guard(ledger)
    entry = its_guard.unary(
        method("ChatService/CreateChatCompletion"), refuse, chat_pb2.CreateChatCompletionRequest.FromString
    )
    call = asyncio.ensure_future(entry(b"", Host()))
    await ledger.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert its_guard.under_way == 0


async def test_reading_is_no_generation(ledger: MemoryLedger) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise GatewayError(Reason.RESOURCE_NOT_FOUND, "no")

    decode = chat_pb2.CreateChatCompletionRequest.FromString
    with pytest.raises(RpcFailure):
        await guard(ledger).unary(method("ResponsesService/GetResponse"), refuse, decode)(b"", Host())
    assert ledger.settled == []


def test_every_typed_method_that_generates_says_so() -> None:
    generating = {
        name
        for name, scopes in SCOPES.items()
        if scopes == (Scope.INFERENCE,) and name.rpartition("/")[2].startswith(("Create", "Edit", "Remix", "Stream"))
    }
    generating.remove("/aistats.gateway.v1.VideosService/CreateVideoDownloadUrl")  # of a video that there is
    assert set(ENDPOINTS) == generating


def test_every_rest_route_that_generates_says_so() -> None:
    generate = ScriptedGenerate()
    respond = Respond(generate, MemoryStore(), FixedClock())
    routes = (*ChatRest(generate).routes(), *ResponsesRest(respond).routes())
    assert all((route.endpoint is not None) == (route.method == "POST") for route in routes)
