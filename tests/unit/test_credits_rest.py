"""`/v1/credits` and `/v1/activity`: exact numbers, and query parameters that mean what they say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from aistats.gateway.v1 import credits_pb2
from rest_bridge.app import RestApp
from rest_bridge.credits import CreditsRest, encode_activity, encode_credits
from rest_bridge.servicer import RestServicer
from server.domain.credits import ActivityPage, ActivityQuery, ActivityRow, Credits
from tests.fakes.credits import CREDITS, DAY, PAGE, FixedClock, MemoryCredits
from tests.fakes.rest import OpenDoor, Reply, read, rest_request
from tests.unit.test_rest_servicer import Context


async def get(reader: MemoryCredits, path: str, **query: tuple[str, ...]) -> Reply:
    app = RestApp(OpenDoor(), CreditsRest(reader, FixedClock()).routes())
    return await read(await app(msgspec.structs.replace(rest_request(method="GET", path=path), query=query)))


async def test_the_credit_of_a_team() -> None:
    reader = MemoryCredits({"team-1": CREDITS})
    reply = await get(reader, "/v1/credits")
    assert reply.status == 200
    assert reply.body == (
        b'{"ok":true,"credits":{"remaining":4.249999999,"balance_nanos":5000000000,"reserved_nanos":750000001,'
        b'"available_nanos":4249999999,"thirty_day_usage":0.0000042,"thirty_day_usage_nanos":4200,'
        b'"thirty_day_requests":3}}'
    )
    assert reader.since == [DAY - 29]


async def test_a_team_without_a_wallet_has_nothing() -> None:
    credits = (await get(MemoryCredits(), "/v1/credits")).json["credits"]
    assert set(credits.values()) == {0}


@pytest.mark.parametrize(
    ("nanos", "number"),
    [(0, "0"), (1, "0.000000001"), (-1, "-0.000000001"), (-2_500_000_000, "-2.5"), (2**62, "4611686018.427387904")],
)
def test_dollars_are_numbers_with_all_of_their_decimals(nanos: int, number: str) -> None:
    body = encode_credits(Credits(nanos, 0, 0, 0))
    assert f'"remaining":{number},'.encode() in body
    assert f'"balance_nanos":{nanos},'.encode() in body


async def test_the_rows_of_a_page() -> None:
    reply = await get(MemoryCredits(), "/v1/activity")
    body = reply.json
    assert body["data"][0] == {
        "date": "2026-11-22",
        "model": "acme/test-1",
        "model_permaslug": "acme/test-1",
        "endpoint": "chat",
        "endpoint_id": "chat",
        "provider": "acme",
        "provider_name": "acme",
        "requests": 3,
        "prompt_tokens": 90,
        "completion_tokens": 30,
        "reasoning_tokens": 10,
        "total_tokens": 120,
        "usage": 0.0000042,
        "usage_nanos": 4200,
        "byok_usage_inference": 0,
    }
    assert b'"usage":0.0000042,' in reply.body
    assert (body["data"][1]["date"], body["data"][1]["provider"], body["data"][1]["usage"]) == ("2026-11-21", None, 0)
    assert {name: body[name] for name in body if name not in ("data", "activity")} == {
        "ok": True,
        "from": "2026-10-24",
        "to": "2026-11-22",
        "period_days": 30,
        "limit": 100,
        "offset": 0,
        "total": 7,
        "total_count": 7,
        "total_cost_nanos": 123_456_789_012,
        "total_cost_cents": 12345.6789012,
    }
    assert b'"total_cost_cents":12345.6789012}' in reply.body


async def test_the_sdks_own_shape_of_the_same_rows() -> None:
    first, second = (await get(MemoryCredits(), "/v1/activity")).json["activity"]
    assert first == {
        "timestamp": "2026-11-22T00:00:00Z",
        "request_id": None,
        "model": "acme/test-1",
        "provider": "acme",
        "endpoint": "chat",
        "latency_ms": None,
        "usage": {
            "requests": 3,
            "prompt_tokens": 90,
            "completion_tokens": 30,
            "reasoning_tokens": 10,
            "total_tokens": 120,
        },
        "cost_cents": 0.00042,
    }
    assert (second["provider"], second["cost_cents"]) == (None, 0)


async def test_analytics_is_activity() -> None:
    assert (await get(MemoryCredits(), "/v1/analytics")).body == (await get(MemoryCredits(), "/v1/activity")).body


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({}, ActivityQuery(DAY - 29, DAY)),
        ({"days": ("1",)}, ActivityQuery(DAY, DAY)),
        ({"days": ("365",)}, ActivityQuery(DAY - 364, DAY)),
        ({"from": ("2026-11-20",)}, ActivityQuery(DAY - 2, DAY)),
        ({"to": ("2026-11-20",)}, ActivityQuery(DAY - 31, DAY - 2)),
        ({"from": ("2026-11-20",), "to": ("2026-11-20",)}, ActivityQuery(DAY - 2, DAY - 2)),
        ({"from": ("2025-11-23",)}, ActivityQuery(DAY - 364, DAY)),
        (
            {"model": ("a/b", "a/c, a/d,"), "provider": ("acme",), "endpoint": ("chat",), "key_id": ("k1,k2",)},
            ActivityQuery(
                DAY - 29,
                DAY,
                models=frozenset({"a/b", "a/c", "a/d"}),
                providers=frozenset({"acme"}),
                endpoints=frozenset({"chat"}),
                key_ids=frozenset({"k1", "k2"}),
            ),
        ),
        ({"model": ("",)}, ActivityQuery(DAY - 29, DAY)),
        ({"limit": ("1000",), "offset": ("4294967295",)}, ActivityQuery(DAY - 29, DAY, limit=1000, offset=2**32 - 1)),
    ],
)
async def test_what_a_query_asks_for(query: dict[str, tuple[str, ...]], asked: ActivityQuery) -> None:
    reader = MemoryCredits()
    assert (await get(reader, "/v1/activity", **query)).status == 200
    assert reader.queries == [("team-1", asked)]


@pytest.mark.parametrize(
    ("query", "param", "reason", "told"),
    [
        ({"dayz": ("1",)}, "dayz", "unknown_parameter", "not a known parameter"),
        ({"team_id": ("other",)}, "team_id", "unknown_parameter", "not a known parameter"),
        ({"days": ("0",)}, "days", "invalid_value", "from 1 to 365"),
        ({"days": ("366",)}, "days", "invalid_value", "from 1 to 365"),
        ({"days": ("-1",)}, "days", "invalid_value", "whole number"),
        ({"days": ("1.5",)}, "days", "invalid_value", "whole number"),
        ({"days": ("٣",)}, "days", "invalid_value", "whole number"),
        ({"days": ("99999999999",)}, "days", "invalid_value", "whole number"),
        ({"days": ("1", "2")}, "days", "invalid_value", "only once"),
        ({"days": ("1",), "from": ("2026-11-22",)}, "days", "invalid_value", "together"),
        ({"from": ("2026-11-23",)}, "from", "invalid_value", "not be later"),
        ({"from": ("2025-11-22",)}, "from", "invalid_value", "365 days"),
        ({"from": ("20261122",)}, "from", "invalid_value", "2026-11-22"),
        ({"from": ("2026-02-30",)}, "from", "invalid_value", "2026-11-22"),
        ({"to": ("0000-01-01",)}, "to", "invalid_value", "2026-11-22"),
        ({"to": ("",)}, "to", "invalid_value", "2026-11-22"),
        ({"limit": ("0",)}, "limit", "invalid_value", "from 1 to 1000"),
        ({"limit": ("1001",)}, "limit", "invalid_value", "from 1 to 1000"),
    ],
)
async def test_a_query_that_cannot_be_is_refused_by_name(
    query: dict[str, tuple[str, ...]], param: str, reason: str, told: str
) -> None:
    reader = MemoryCredits()
    reply = await get(reader, "/v1/activity", **query)
    assert (reply.status, reply.json["param"], reply.json["reason"]) == (400, param, reason)
    assert told in reply.json["description"]
    assert reader.queries == []


async def test_credits_take_no_query() -> None:
    reply = await get(MemoryCredits(), "/v1/credits", team_id=("other",))
    assert (reply.status, reply.json["param"]) == (400, "team_id")


async def test_there_is_no_day_before_the_first() -> None:
    body = (await get(MemoryCredits(), "/v1/activity", to=("0001-01-02",))).json
    assert (body["from"], body["to"], body["period_days"]) == ("0001-01-01", "0001-01-02", 2)


async def test_a_typed_message_stands_for_the_query_it_was_made_of() -> None:
    reader = MemoryCredits()
    service = credits_pb2.DESCRIPTOR.services_by_name["CreditsRestService"]
    face = RestServicer(service, RestApp(OpenDoor(), CreditsRest(reader, FixedClock()).routes())).methods
    request = credits_pb2.ListActivityRequest(
        from_date="2026-11-20", to_date="2026-11-21", model=["a", "b"], key_id=["k"], limit=5, offset=0
    )
    (message,) = [message async for message in face["ListActivity"](request, Context())]
    asked = ActivityQuery(DAY - 2, DAY - 1, frozenset({"a", "b"}), key_ids=frozenset({"k"}), limit=5)
    assert reader.queries == [("team-1", asked)]
    assert message.data == encode_activity(PAGE, asked)
    (message,) = [message async for message in face["GetCredits"](credits_pb2.GetCreditsRequest(), Context())]
    assert msgspec.json.decode(message.data)["ok"] is True


def test_sums_beyond_what_a_float_holds_are_exact() -> None:
    most = 2**63 - 1
    row = ActivityRow(DAY, "m", "chat", "p", most, most, 0, 0, most)
    body = encode_activity(ActivityPage((row,), 1, most), ActivityQuery(DAY, DAY))
    exact: Any = msgspec.json.decode(body, type=dict[str, Any])
    assert exact["data"][0]["usage_nanos"] == exact["total_cost_nanos"] == exact["data"][0]["prompt_tokens"] == most
    assert f'"usage":{Decimal(most).scaleb(-9):f},'.encode() in body
