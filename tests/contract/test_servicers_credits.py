"""CreditsService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import credits_pb2, credits_pb2_grpc
from server.domain.credits import ActivityQuery, Credits
from server.rpc.credits import CreditsServicer
from tests.fakes.credits import CREDITS, DAY, FixedClock, MemoryCredits
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any


class OneTeam(MemoryCredits):
    """The same credit for whatever team asks, and which that was."""

    def __init__(self) -> None:
        super().__init__()
        self.teams: list[str] = []

    async def credits(self, team_id: str, *, since_day: int) -> Credits:
        self.teams.append(team_id)
        self.known[team_id] = CREDITS
        return await super().credits(team_id, since_day=since_day)


@pytest.fixture(scope="module")
def reader() -> OneTeam:
    return OneTeam()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return credits_pb2_grpc.add_CreditsServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(reader: OneTeam) -> CreditsServicer:
    return CreditsServicer(reader, FixedClock())


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return credits_pb2_grpc.CreditsServiceStub


def test_any_key_sees_its_own_team(
    grpc_stub: Stub, reader: OneTeam, as_inference: Metadata, as_management: Metadata
) -> None:
    for metadata in (as_inference, as_management):
        assert grpc_stub.GetCredits(credits_pb2.GetCreditsRequest(), metadata=metadata) == (
            credits_pb2.GetCreditsResponse(
                balance_nanos=5_000_000_000,
                reserved_nanos=750_000_001,
                available_nanos=4_249_999_999,
                thirty_day_usage_nanos=4200,
                thirty_day_requests=3,
            )
        )
    assert reader.since[-2:] == [DAY - 29] * 2
    assert len(set(reader.teams)) == 1
    error = refused(grpc_stub.GetCredits, credits_pb2.GetCreditsRequest(), ())
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_page_of_activity(grpc_stub: Stub, reader: OneTeam, as_inference: Metadata) -> None:
    request = credits_pb2.ListActivityRequest(days=7, model=["a/b,a/c"], key_id=["k"], limit=2, offset=1)
    reply = grpc_stub.ListActivity(request, metadata=as_inference)
    assert reader.queries[-1][1] == ActivityQuery(
        DAY - 6, DAY, frozenset({"a/b", "a/c"}), key_ids=frozenset({"k"}), limit=2, offset=1
    )
    assert (reply.from_date, reply.to_date, reply.period_days) == ("2026-11-16", "2026-11-22", 7)
    assert (reply.limit, reply.offset, reply.total, reply.total_cost_nanos) == (2, 1, 7, 123_456_789_012)
    assert reply.rows[0] == credits_pb2.ActivityRow(
        date="2026-11-22",
        model="acme/test-1",
        endpoint="chat",
        provider="acme",
        requests=3,
        input_tokens=90,
        output_tokens=30,
        reasoning_tokens=10,
        total_tokens=120,
        cost_nanos=4200,
    )
    assert reply.rows[1].provider == ""


def test_without_any_field_it_is_thirty_days(grpc_stub: Stub, reader: OneTeam, as_inference: Metadata) -> None:
    grpc_stub.ListActivity(credits_pb2.ListActivityRequest(), metadata=as_inference)
    assert reader.queries[-1][1] == ActivityQuery(DAY - 29, DAY)


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"days": 0}, "days", "from 1 to 365"),
        ({"days": 366}, "days", "from 1 to 365"),
        ({"days": 3, "to_date": "2026-11-22"}, "days", "together"),
        ({"from_date": "yesterday"}, "from", "2026-11-22"),
        ({"from_date": ""}, "from", "2026-11-22"),
        ({"from_date": "2026-11-22", "to_date": "2026-11-21"}, "from", "not be later"),
        ({"limit": 0}, "limit", "from 1 to 1000"),
        ({"limit": 1001}, "limit", "from 1 to 1000"),
        ({"model": [",".join(map(str, range(100_000)))]}, "model", "at most 32768 characters"),
        ({"model": ["m" * 20_000] * 2}, "model", "at most 32768 characters"),
        ({"provider": [",".join(map(str, range(251)))]}, "provider", "at most 250 entries"),
        ({"endpoint": [""] * 251}, "endpoint", "at most 250 entries"),
        ({"key_id": list(map(str, range(251)))}, "key_id", "at most 250 entries"),
    ],
)
def test_what_cannot_be_is_named(
    grpc_stub: Stub, as_inference: Metadata, fields: dict[str, Any], param: str, told: str
) -> None:
    error = refused(grpc_stub.ListActivity, credits_pb2.ListActivityRequest(**fields), as_inference)
    _, info = details(error)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.metadata["param"]) == ("INVALID_VALUE", param)
    assert told in error.details()


def test_a_filter_names_as_much_as_a_page_of_a_list(grpc_stub: Stub, reader: OneTeam, as_inference: Metadata) -> None:
    models = [f"{'a' * 64}/{number:063}" for number in range(250)]
    grpc_stub.ListActivity(credits_pb2.ListActivityRequest(model=[",".join(models)]), metadata=as_inference)
    assert reader.queries[-1][1].models == set(models)
