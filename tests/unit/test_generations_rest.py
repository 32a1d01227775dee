"""Records over REST: the contract's object, by any id, in pages, and never another team's."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.app import RestApp
from rest_bridge.generations import GenerationsRest, read_time
from rest_bridge.http import RestRequest
from server.domain.record import StoredContent
from server.domain.records import RecordFilter
from server.domain.usage import Usage
from server.pipeline.generations import Generations
from tests.fakes.records import BODY, PRICING, REPLY, MemoryRecords, record, refused, suffix_of
from tests.fakes.responses_rest import TEAMS, TwoTeams
from tests.fakes.rest import Reply, pieces_of, read

FIELDS = [
    "id", "object", "request_id", "created_at", "team_id", "key_id", "app_id", "endpoint", "model_id", "provider",
    "native_response_id", "stream", "byok", "status_code", "success", "error_code", "error_message", "finish_reason",
    "latency_ms", "generation_ms", "gateway_ms", "throughput", "usage", "usage_source", "cost_nanos", "currency",
    "pricing_lines", "attempts", "disconnect", "parent_id", "moderation", "replay_supported", "replay_request",
]  # fmt: skip


class Stage:
    """The REST face of records in memory."""

    def __init__(self) -> None:
        self.records = MemoryRecords()
        self.reception = TwoTeams(TEAMS)
        self.app = RestApp(self.reception, GenerationsRest(Generations(self.records)).routes())

    async def get(self, path: str, team: int = 1, **query: str | tuple[str, ...]) -> Reply:
        request = RestRequest(
            method="GET",
            path=path,
            headers={"authorization": f"Bearer key-of-team-{team}"},
            body=pieces_of(b""),
            arrival=self.reception.arrive(),
            query={name.rstrip("_"): value if isinstance(value, tuple) else (value,) for name, value in query.items()},
        )
        return await read(await self.app(request))


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_the_whole_object(stage: Stage) -> None:
    stage.records.put(record(1, "team-1"))
    reply = await stage.get(f"/v1/generation/gen_{suffix_of(1)}")
    assert reply.status == 200
    assert list(reply.json) == FIELDS
    assert reply.json == {
        "id": f"gen_{suffix_of(1)}",
        "object": "generation",
        "request_id": "request-1",
        "created_at": "2026-09-21T14:13:21Z",
        "team_id": "team-1",
        "key_id": "key-1",
        "app_id": None,
        "endpoint": "chat",
        "model_id": "acme/test-1",
        "provider": "acme",
        "native_response_id": "native-1",
        "stream": False,
        "byok": False,
        "status_code": 200,
        "success": True,
        "error_code": None,
        "error_message": None,
        "finish_reason": "stop",
        "latency_ms": 212.4,
        "generation_ms": 1840.0,
        "gateway_ms": 1.7,
        "throughput": 61.2,
        "usage": reply.json["usage"],
        "usage_source": "provider",
        "cost_nanos": 4200,
        "currency": "USD",
        "pricing_lines": reply.json["usage"]["pricing"]["lines"],
        "attempts": [
            {
                "provider": "dead", "provider_model": "gone", "status": None, "error_code": "connection",
                "latency_ms": 0.5, "billed": False, "cost_nanos": 0, "provider_request_id": None,
            },
            {
                "provider": "acme", "provider_model": "test-1", "status": 200, "error_code": None,
                "latency_ms": 212.4, "billed": True, "cost_nanos": 4200, "provider_request_id": None,
            },
        ],
        "disconnect": None,
        "parent_id": None,
        "moderation": None,
        "replay_supported": False,
        "replay_request": None,
    }  # fmt: skip
    usage = reply.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 3, 12)
    assert usage["pricing"]["total_nanos"] == sum(line["line_nanos"] for line in reply.json["pricing_lines"]) == 4200


async def test_usage_is_in_the_words_of_its_endpoint(stage: Stage) -> None:
    stage.records.put(record(1, "team-1", endpoint="responses"))
    usage = (await stage.get(f"/v1/generation/{suffix_of(1)}")).json["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["pricing"]["total_nanos"]) == (9, 3, 4200)


@pytest.mark.parametrize("endpoint", ["embeddings", "moderations"])
async def test_usage_of_what_has_no_output_tells_its_input(stage: Stage, endpoint: str) -> None:
    stage.records.put(record(1, "team-1", endpoint=endpoint, usage=Usage(9, pricing=PRICING)))
    usage = (await stage.get(f"/v1/generation/{suffix_of(1)}")).json["usage"]
    assert list(usage) == ["prompt_tokens", "total_tokens", "pricing"]
    assert (usage["prompt_tokens"], usage["total_tokens"], usage["pricing"]["total_nanos"]) == (9, 9, 4200)


async def test_what_is_not_known_is_null(stage: Stage) -> None:
    stage.records.put(refused(1, "team-1"))
    told = (await stage.get(f"/v1/generation/{suffix_of(1)}")).json
    assert list(told) == FIELDS
    assert (told["status_code"], told["success"], told["error_code"]) == (400, False, "malformed_json")
    assert [name for name, value in told.items() if value is None] == [
        "app_id", "provider", "native_response_id", "finish_reason", "latency_ms", "generation_ms", "gateway_ms",
        "throughput", "usage", "usage_source", "disconnect", "parent_id", "moderation", "replay_request",
    ]  # fmt: skip
    assert told["pricing_lines"] == told["attempts"] == []


async def test_content_is_told_where_it_is_kept(stage: Stage) -> None:
    stage.records.put(record(1, "team-1"), content=StoredContent("/v1/chat/completions", BODY, REPLY))
    reply = await stage.get(f"/v1/generation/{suffix_of(1)}")
    assert list(reply.json) == [*FIELDS, "reply"]
    assert reply.json["replay_supported"] is True
    assert b'"replay_request":' + BODY in reply.body, "byte for byte"
    assert reply.json["reply"] == json.loads(REPLY)
    (listed,) = (await stage.get("/v1/generations")).json["data"]
    assert list(listed) == FIELDS
    assert (listed["replay_supported"], listed["replay_request"]) == (True, None)


async def test_a_typed_calls_content_is_a_reply_alone(stage: Stage) -> None:
    stage.records.put(record(1, "team-1"), content=StoredContent("", None, REPLY))
    told = (await stage.get(f"/v1/generation/{suffix_of(1)}")).json
    assert (told["replay_supported"], told["replay_request"]) == (False, None)
    assert told["reply"] == json.loads(REPLY)


@pytest.mark.parametrize("prefix", ["", "gen_", "resp_", "chatcmpl-", "msg_", "video_"])
async def test_any_id_and_any_spelling_of_the_route(stage: Stage, prefix: str) -> None:
    stage.records.put(record(1, "team-1"))
    named = f"{prefix}{suffix_of(1)}"
    replies = [
        await stage.get(f"/v1/generation/{named}"),
        await stage.get("/v1/generation", id=named),
        await stage.get("/v1/generations", id=named),
    ]
    assert [reply.status for reply in replies] == [200] * 3
    assert len({reply.body for reply in replies}) == 1


@pytest.mark.parametrize(
    "named", [suffix_of(1), suffix_of(2), "gen_", "gen-" + suffix_of(1), suffix_of(1).upper() + "X", "%00", "x" * 5000]
)
async def test_what_is_unknown_and_what_is_anothers_are_the_same(stage: Stage, named: str) -> None:
    stage.records.put(record(1, "team-1"))
    for reply in (
        await stage.get(f"/v1/generation/{named}", team=2),
        await stage.get("/v1/generation", team=2, id=named),
        await stage.get("/v1/generations", team=2, id=named),
    ):
        told = reply.json
        del told["generation_id"]
        assert told == {
            "status_code": 404, "error": "not_found_error", "error_type": "user", "error_origin": "user",
            "description": "There is no such generation.", "reason": "resource_not_found", "param": None, "details": [],
        }  # fmt: skip


async def test_a_list_is_of_the_callers_team_and_newest_first(stage: Stage) -> None:
    stage.records.put(*(record(number, f"team-{number % 2 + 1}") for number in range(10)))
    told = (await stage.get("/v1/generations", team=2)).json
    assert list(told) == ["object", "ok", "data", "limit", "has_more", "next_cursor"]
    assert (told["object"], told["ok"], told["limit"], told["has_more"], told["next_cursor"]) == (
        "list", True, 50, False, None,
    )  # fmt: skip
    assert [one["id"] for one in told["data"]] == [f"gen_{suffix_of(number)}" for number in (9, 7, 5, 3, 1)]


@given(count=st.integers(0, 30), limit=st.integers(1, 35))
async def test_pages_put_together_are_the_whole(count: int, limit: int) -> None:
    stage = Stage()
    stage.records.put(*(record(number, "team-1") for number in range(count)))
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query: dict[str, Any] = {"after": cursor} if cursor else {}
        page = (await stage.get("/v1/generations", limit=str(limit), **query)).json
        assert len(page["data"]) == min(limit, count - len(seen))
        assert page["has_more"] is (page["next_cursor"] is not None) is (len(seen) + len(page["data"]) < count)
        seen += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
    assert seen == [f"gen_{suffix_of(number)}" for number in reversed(range(count))]


async def test_every_filter_is_handed_on(stage: Stage) -> None:
    await stage.get(
        "/v1/generations", model="a/b", provider="acme", endpoint="chat", key_id="k", status_code="404",
        success="false", from_="1790000000", to="2026-12-31T00:00:00Z", limit="7", after="resp_" + suffix_of(5),
    )  # fmt: skip
    wanted = RecordFilter("a/b", "acme", "chat", "k", 404, False, 1_790_000_000, 1_798_675_200)
    assert stage.records.asked == [("team-1", wanted, suffix_of(5), 8)]


@pytest.mark.parametrize(
    ("query", "param", "reason"),
    [
        ({"limit": "0"}, "limit", "invalid_value"),
        ({"limit": "251"}, "limit", "invalid_value"),
        ({"limit": "-1"}, "limit", "invalid_value"),
        ({"limit": "1.5"}, "limit", "invalid_value"),
        ({"limit": "９"}, "limit", "invalid_value"),
        ({"limit": ("1", "2")}, "limit", "invalid_value"),
        ({"status_code": "99"}, "status_code", "invalid_value"),
        ({"status_code": "ok"}, "status_code", "invalid_value"),
        ({"success": "yes"}, "success", "invalid_value"),
        ({"success": "True"}, "success", "invalid_value"),
        ({"endpoint": "chats"}, "endpoint", "invalid_value"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": "x" * 257}, "model", "invalid_value"),
        ({"key_id": "a\x00"}, "key_id", "invalid_value"),
        ({"from": "yesterday"}, "from", "invalid_value"),
        ({"to": "-1"}, "to", "invalid_value"),
        ({"to": "999999999999999"}, "to", "invalid_value"),
        ({"from": "2", "to": "1"}, "from", "invalid_value"),
        ({"after": "first"}, "after", "invalid_value"),
        ({"offset": "1"}, "offset", "unknown_parameter"),
        ({"id": suffix_of(1), "limit": "1"}, "limit", "invalid_value"),
    ],
)
async def test_what_a_list_cannot_be_asked(stage: Stage, query: dict[str, Any], param: str, reason: str) -> None:
    stage.records.put(record(1, "team-1"))
    reply = await stage.get("/v1/generations", **query)
    assert (reply.status, reply.json["reason"], reply.json["param"]) == (400, reason, param)
    assert stage.records.asked == []


async def test_the_older_route_needs_an_id_and_nothing_else(stage: Stage) -> None:
    stage.records.put(record(1, "team-1"))
    for reply, param, reason in (
        (await stage.get("/v1/generation"), "id", "missing_field"),
        (await stage.get("/v1/generation", id=suffix_of(1), limit="1"), "limit", "unknown_parameter"),
    ):
        assert (reply.status, reply.json["reason"], reply.json["param"]) == (400, reason, param)
    reply = await stage.get(f"/v1/generation/{suffix_of(1)}", expand="true")
    assert (reply.status, reply.json["param"]) == (400, "expand")


async def test_without_a_key_there_is_nothing(stage: Stage) -> None:
    stage.records.put(record(1, "team-1"))
    for path in ("/v1/generations", f"/v1/generation/{suffix_of(1)}"):
        assert (await stage.get(path, team=3)).status == 401


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1790000000", 1_790_000_000),
        ("2026-09-21", 1_789_948_800),
        ("2026-09-21T14:13:20", 1_790_000_000),
        ("2026-09-21T14:13:20Z", 1_790_000_000),
        ("2026-09-21T14:13:19.001Z", 1_790_000_000),
        ("2026-09-21T16:13:20+02:00", 1_790_000_000),
        ("2026-09-21 14:13:20", 1_790_000_000),
        ("1e9", None),
        ("", None),
        ("now", None),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200),
    ],
)
def test_times(text: str, seconds: int | None) -> None:
    assert read_time(text) == seconds


@given(st.integers(0, 253_402_300_799))
def test_a_time_that_was_told_is_read_back(seconds: int) -> None:
    assert read_time(datetime.fromtimestamp(seconds, UTC).isoformat()) == read_time(str(seconds)) == seconds


@given(st.integers(0, 2**62))
async def test_amounts_are_exact(nanos: int) -> None:
    stage = Stage()
    stage.records.put(record(1, "team-1", cost_nanos=nanos))
    told = (await stage.get(f"/v1/generation/{suffix_of(1)}")).body
    assert msgspec.json.decode(told)["cost_nanos"] == nanos
