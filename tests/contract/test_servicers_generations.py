"""GenerationsService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import generations_pb2, generations_pb2_grpc, usage_pb2
from server.domain.record import StoredContent
from server.domain.records import Found, RecordFilter
from server.pipeline.generations import Generations
from server.rpc.generations import GenerationsServicer
from tests.fakes.records import BODY, REPLY, MemoryRecords, record, refused, suffix_of
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details
from tests.fakes.typed_client import refused as fails

Stub = Any
Get = generations_pb2.GetGenerationRequest
List = generations_pb2.ListGenerationsRequest


class OneTeam(MemoryRecords):
    """The same records for whatever team asks, and which those were."""

    def __init__(self) -> None:
        super().__init__()
        self.teams: set[str] = set()

    async def get(self, team_id: str, suffix: str) -> Found | None:
        self.teams.add(team_id)
        return await super().get("its own", suffix)

    async def page(self, team_id: str, wanted: RecordFilter, *, after: str | None, limit: int) -> Sequence[Found]:
        self.teams.add(team_id)
        return await super().page("its own", wanted, after=after, limit=limit)


@pytest.fixture(scope="module")
def records() -> OneTeam:
    records = OneTeam()
    records.put(record(1, "its own", disconnect="drained", status_code=499, success=False, error_code="client_gone"))
    records.put(record(2, "its own"), content=StoredContent("/v1/chat/completions", BODY, REPLY))
    records.put(refused(3, "its own"))
    records.put(record(4, "another"))
    return records


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return generations_pb2_grpc.add_GenerationsServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(records: OneTeam) -> GenerationsServicer:
    return GenerationsServicer(Generations(records))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return generations_pb2_grpc.GenerationsServiceStub


def test_a_record_with_all_that_is_known(grpc_stub: Stub, as_inference: Metadata) -> None:
    told = grpc_stub.GetGeneration(Get(generation_id=f"resp_{suffix_of(2)}"), metadata=as_inference).generation
    assert (told.id, told.request_id, told.created_at) == (f"gen_{suffix_of(2)}", "request-2", 1_790_000_002)
    assert (told.team_id, told.key_id, told.endpoint, told.model_id) == ("its own", "key-1", "chat", "acme/test-1")
    assert (told.provider, told.native_response_id, told.finish_reason) == ("acme", "native-1", "stop")
    assert (told.status_code, told.success, told.stream, told.byok) == (200, True, False, False)
    assert (told.latency_ms, told.generation_ms, told.gateway_ms, told.throughput) == (212.4, 1840.0, 1.7, 61.2)
    assert (told.cost_nanos, told.currency, told.usage.pricing.total_nanos) == (4200, "USD", 4200)
    assert told.usage.source == usage_pb2.USAGE_SOURCE_PROVIDER
    dead, served = told.attempts
    assert not dead.HasField("status")
    assert (dead.provider, dead.error_code, dead.billed, dead.cost_nanos) == ("dead", "connection", False, 0)
    assert (served.status, served.billed, served.cost_nanos) == (200, True, 4200)
    assert not served.HasField("error_code")
    assert (told.replay_supported, told.replay_request_json, told.reply_json) == (True, BODY.decode(), REPLY.decode())
    assert not any(told.HasField(name) for name in ("app_id", "error_code", "error_message", "disconnect"))


def test_a_record_of_which_hardly_anything_is_known(grpc_stub: Stub, as_management: Metadata) -> None:
    told = grpc_stub.GetGeneration(Get(generation_id=suffix_of(3)), metadata=as_management).generation
    assert (told.status_code, told.success, told.error_code) == (400, False, "malformed_json")
    absent = ("provider", "finish_reason", "latency_ms", "throughput", "usage", "replay_request_json", "reply_json")
    assert not any(told.HasField(name) for name in absent)
    assert not told.attempts


def test_what_is_unknown_or_anothers_is_not_found(grpc_stub: Stub, as_inference: Metadata) -> None:
    told = set()
    for generation_id in (suffix_of(4), suffix_of(5), "nonsense"):
        error = fails(grpc_stub.GetGeneration, Get(generation_id=generation_id), as_inference)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        told.add((error.details(), details(error)[1].reason))
    assert told == {("There is no such generation.", "RESOURCE_NOT_FOUND")}
    error = fails(grpc_stub.GetGeneration, Get(), as_inference)
    assert details(error)[1].metadata["param"] == "generation_id"
    assert fails(grpc_stub.GetGeneration, Get(generation_id="x"), ()).code() is grpc.StatusCode.UNAUTHENTICATED


def test_pages(grpc_stub: Stub, as_inference: Metadata, as_management: Metadata, records: OneTeam) -> None:
    first = grpc_stub.ListGenerations(List(limit=2), metadata=as_inference)
    assert [one.id for one in first.generations] == [f"gen_{suffix_of(3)}", f"gen_{suffix_of(2)}"]
    assert (first.limit, first.next_cursor) == (2, f"gen_{suffix_of(2)}")
    kept = first.generations[1]
    assert (kept.replay_supported, kept.HasField("replay_request_json"), kept.HasField("reply_json")) == (
        True, False, False,
    )  # fmt: skip
    rest = grpc_stub.ListGenerations(List(limit=2, after=first.next_cursor), metadata=as_management)
    assert [one.id for one in rest.generations] == [f"gen_{suffix_of(1)}"]
    assert rest.generations[0].disconnect == "drained"
    assert not rest.HasField("next_cursor")
    assert grpc_stub.ListGenerations(List(), metadata=as_inference).limit == 50
    assert len(records.teams) == 1


def test_filters(grpc_stub: Stub, as_inference: Metadata, records: OneTeam) -> None:
    fields: dict[str, Any] = {"model": "a/b", "provider": "acme", "endpoint": "chat", "key_id": "k"}
    request = List(**fields, status_code=404, success=False, to=20, limit=7)
    setattr(request, "from", 10)
    grpc_stub.ListGenerations(request, metadata=as_inference)
    _, wanted, after, limit = records.asked[-1]
    assert wanted == RecordFilter("a/b", "acme", "chat", "k", 404, False, 10, 20)
    assert (after, limit) == (None, 8)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (List(limit=0), "limit"),
        (List(limit=251), "limit"),
        (List(after="x"), "after"),
        (List(after=""), "after"),
        (List(endpoint="chats"), "endpoint"),
        (List(status_code=-1), "status_code"),
        (List(to=-1), "to"),
        (List(model=""), "model"),
    ],
)
def test_what_a_list_cannot_be_asked(grpc_stub: Stub, as_inference: Metadata, request_: Any, param: str) -> None:
    error = fails(grpc_stub.ListGenerations, request_, as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param
