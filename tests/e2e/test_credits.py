"""Credits and activity through the front door, as HTTP, gRPC and the product's own SDK."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import credits_pb2, credits_pb2_grpc
from server.domain.periods import date_of_day, day_of
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread

PAID = "acme/test-1"
REPLY_NANOS = 9 * 150 + 3 * 600
"""What the stand-in's ordinary reply of 9 and 3 tokens costs."""
TOPPED_UP_NANOS = 12_345_678_901
LEFT_NANOS = TOPPED_UP_NANOS - REPLY_NANOS
EARLIER_NANOS = 1_000_000_000
"""What an earlier day cost."""


class Spender:
    """A team that paid in, has an earlier life and has just asked once; keys of it and of another team."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.today = day_of(time.time())
        gateway.create_team("spender")
        gateway.create_team("bystander")
        self.key = gateway.create_key(team="spender")
        self.manager = gateway.create_key(team="spender", scopes=("management",))
        self.other = gateway.create_key(team="bystander")
        self.kid = self.key.split("_")[3]
        database = sqlite3.connect(gateway.directory / "data" / "gateway.db", timeout=10)
        with closing(database), database:
            (team,) = database.execute("SELECT id FROM teams WHERE name = 'spender'").fetchone()
            database.executemany(
                "INSERT INTO daily_usage VALUES (?, ?, ?, 'acme/test-1', ?, 'acme', ?, 10, 5, 2, ?)",
                [
                    (team, self.today - 1, "other-key", "responses", 3, EARLIER_NANOS),
                    (team, self.today - 40, self.kid, "chat", 1, 7),
                ],
            )
        self.run("wallet", "top-up", "--team", "spender", "--usd", "12.345678901")
        assert self.ask().status_code == 200

    def run(self, *arguments: str) -> str:
        done = self.gateway.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, key: str | None = None) -> httpx.Response:
        """A paid request."""
        body = {"model": PAID, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
        headers = {"authorization": f"Bearer {key or self.key}"}
        return self.gateway.post("/v1/chat/completions", body, headers=headers)

    def get(self, path: str, key: str | None = None) -> Any:
        reply = self.gateway.get(path, headers={"authorization": f"Bearer {key or self.key}"})
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        return reply.json()

    def refused(self, path: str, key: str | None = None) -> Any:
        reply = self.gateway.get(path, headers={"authorization": f"Bearer {key or self.key}"})
        assert reply.status_code == 400, reply.text
        return reply.json()


@pytest.fixture(scope="module")
def spender(gateway: Gateway, acme_upstream: UpstreamThread) -> Spender:
    acme_upstream.reset()
    return Spender(gateway)


@pytest.fixture
def sdk(spender: Spender) -> Phaseo:
    return Phaseo(api_key=spender.key, base_url=spender.gateway.base_url, timeout=30)


def test_the_credit_of_the_callers_team(spender: Spender) -> None:
    for key in (spender.key, spender.manager):
        assert spender.get("/v1/credits", key) == {
            "ok": True,
            "credits": {
                "remaining": 12.345675751,
                "balance_nanos": LEFT_NANOS,
                "reserved_nanos": 0,
                "available_nanos": LEFT_NANOS,
                "thirty_day_usage": 1.00000315,
                "thirty_day_usage_nanos": EARLIER_NANOS + REPLY_NANOS,
                "thirty_day_requests": 4,
            },
        }
    assert set(spender.get("/v1/credits", spender.other)["credits"].values()) == {0}


def test_activity_by_day(spender: Spender) -> None:
    body = spender.get("/v1/activity")
    assert [(row["date"], row["endpoint"], row["usage_nanos"]) for row in body["data"]] == [
        (date_of_day(spender.today).isoformat(), "chat", REPLY_NANOS),
        (date_of_day(spender.today - 1).isoformat(), "responses", EARLIER_NANOS),
    ]
    assert (body["total"], body["total_cost_nanos"], body["period_days"]) == (2, EARLIER_NANOS + REPLY_NANOS, 30)
    assert body == spender.get("/v1/analytics")
    assert spender.get("/v1/activity", spender.other)["data"] == []


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        ("days=1", REPLY_NANOS),
        ("days=365", EARLIER_NANOS + REPLY_NANOS + 7),
        ("from={old}&to={old}", 7),
        ("from={old}", EARLIER_NANOS + REPLY_NANOS + 7),
        ("endpoint=responses", EARLIER_NANOS),
        ("endpoint=responses&endpoint=chat", EARLIER_NANOS + REPLY_NANOS),
        ("model=acme/test-1&provider=acme&key_id={kid}", REPLY_NANOS),
        ("model=none", 0),
        ("limit=1&offset=1", EARLIER_NANOS + REPLY_NANOS),
    ],
)
def test_filters(spender: Spender, query: str, cost: int) -> None:
    old = date_of_day(spender.today - 40).isoformat()
    assert spender.get(f"/v1/activity?{query.format(old=old, kid=spender.kid)}")["total_cost_nanos"] == cost


@pytest.mark.parametrize(
    ("query", "param", "reason"),
    [
        ("dayz=1", "dayz", "unknown_parameter"),
        ("team_id=x", "team_id", "unknown_parameter"),
        ("days=0", "days", "invalid_value"),
        ("days=-1", "days", "invalid_value"),
        ("days=one", "days", "invalid_value"),
        ("days=1&days=2", "days", "invalid_value"),
        ("from=yesterday", "from", "invalid_value"),
        ("to=2026-02-30", "to", "invalid_value"),
        ("limit=1001", "limit", "invalid_value"),
    ],
)
def test_what_cannot_be_asked_is_named(spender: Spender, query: str, param: str, reason: str) -> None:
    body = spender.refused(f"/v1/activity?{query}")
    assert (body["param"], body["reason"]) == (param, reason)


def test_credits_take_no_query(spender: Spender) -> None:
    assert spender.refused("/v1/credits?team_id=x")["param"] == "team_id"


def test_only_get(spender: Spender) -> None:
    for path in ("/v1/credits", "/v1/activity", "/v1/analytics"):
        reply = spender.gateway.post(path, {})
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
        assert spender.gateway.get(path, headers={}).status_code == 401


def test_the_products_sdk(spender: Spender, sdk: Phaseo) -> None:
    assert sdk.get_credits()["credits"]["remaining"] == 12.345675751
    activity = sdk.get_activity({"days": 30, "limit": 1})
    assert activity["activity"][0]["cost_cents"] == 0.000315
    assert (activity["total"], activity["limit"], activity["total_cost_cents"]) == (2, 1, 100.000315)
    (row,) = sdk.get_analytics({"days": 1})["data"]
    assert (row["model_permaslug"], row["provider_name"], row["requests"], row["usage"]) == (
        PAID, "acme", 1, 0.00000315,
    )  # fmt: skip


def test_typed_clients_by_both_ways_in(spender: Spender, channel: grpc.Channel) -> None:
    stub: Any = credits_pb2_grpc.CreditsServiceStub(channel)
    metadata = [("authorization", f"Bearer {spender.key}")]
    credits = stub.GetCredits(credits_pb2.GetCreditsRequest(), metadata=metadata)
    assert (credits.available_nanos, credits.thirty_day_usage_nanos) == (LEFT_NANOS, EARLIER_NANOS + REPLY_NANOS)
    activity = stub.ListActivity(credits_pb2.ListActivityRequest(endpoint=["chat"]), metadata=metadata)
    assert [(row.endpoint, row.cost_nanos, row.total_tokens) for row in activity.rows] == [("chat", REPLY_NANOS, 12)]


def test_a_limit_of_a_key_holds_until_it_is_lifted(spender: Spender, acme: UpstreamThread) -> None:
    spender.gateway.create_team("limited")
    spender.run("wallet", "top-up", "--team", "limited", "--usd", "5.00")
    made = ("keys", "create", "--team", "limited", "--name", "tight", "--scope", "inference", "--json")
    created = json.loads(spender.run(*made, "--limit", "0.000001", "--limit-reset", "daily"))
    refused = spender.ask(created["key"])
    assert (refused.status_code, refused.json()["reason"]) == (402, "key_limit_reached")
    assert acme.requests == []
    spender.run("keys", "set", created["id"], "--limit", "1.00")
    time.sleep(1)  # by then every worker knows
    assert spender.ask(created["key"]).status_code == 200
    (listed,) = [key for key in json.loads(spender.run("keys", "list", "--json")) if key["id"] == created["id"]]
    assert (listed["limit_nanos"], listed["limit_reset"], listed["spent_nanos"]) == (10**9, "daily", REPLY_NANOS)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_usage_always_says_what_it_cost(gateway: Gateway, path: str, stream: bool) -> None:
    messages = "messages" if path.endswith("completions") else "input"
    body = {"model": LOCAL_MODEL, messages: [{"role": "user", "content": "Hi"}], "stream": stream}
    limit = {"max_tokens": 16} if path.endswith("completions") else {"max_output_tokens": 16}
    usage = {"usage": True} if path.endswith("completions") else {}
    reply = gateway.post(path, {**body, **limit, **usage}, timeout=60)
    assert reply.status_code == 200, reply.text
    told = reply.json() if not stream else _last(reply.text)
    pricing = told["usage"]["pricing"]
    assert (pricing["currency"], pricing["total_nanos"], pricing["total_usd"]) == ("USD", 0, "0")


def _last(stream: str) -> Any:
    """The object that ends a stream, whose usage is final."""
    data = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    last = json.loads(data[-1])
    return last.get("response", last)
