"""A gateway whose database goes away and comes back: what callers read, what the log says, what the figures count."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import grpc
import httpx
import pytest

from server.domain.errors import Reason
from server.probes import unused_port
from server.storage.keys import CACHE_TTL_S
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.metered import Metered, grown
from tests.e2e.upstreams import UpstreamThread
from tests.e2e.ways_in import SURFACES, TYPED, body, typed
from tests.fakes.failure_texts import DATABASE, INNER, sentences
from tests.fakes.openai_upstream import chat_stream
from tests.fakes.typed_client import details, eventually, refused
from tests.integration.databases import PostgresServer

UNAVAILABLE: Final = Reason.DATABASE_UNAVAILABLE.value
ROUNDS: Final = 8
READS: Final = ("/v1/models", "/v1/credits", "/v1/generations", "/v1/responses/resp_1", "/v1/generation/gen_1")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    server: PostgresServer,
    acme_upstream: UpstreamThread,
    backup_upstream: UpstreamThread,
) -> Iterator[Metered]:
    url = server.url(asyncio.run(server.create_database()))
    gateway = Metered(
        tmp_path_factory.mktemp("outage"),
        config(acme_upstream, backup_upstream),
        environ={
            "ACME_KEY": ACME_KEY,
            "AISTATS_METRICS_PORT": str(unused_port()),
            "AISTATS_DATABASE_URL": url,
        },
    )
    gateway.start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def events(gateway: Gateway, since: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log[since:].splitlines() if line.startswith("{")]


def test_o3_o4_an_outage_is_told_once_to_the_operator_and_plainly_to_callers(
    stage: Metered, server: PostgresServer, acme: UpstreamThread
) -> None:
    began, before = len(stage.log), stage.series()
    acme.script(chat_stream(*"abcdefghijklmnop", every_s=0.4))
    options: dict[str, Any] = {"headers": stage.headers, "timeout": 30}
    asked = body("/v1/chat/completions", "test-1", stream=True)
    with httpx.stream("POST", f"{stage.url}/v1/chat/completions", json=asked, **options) as reply:
        assert reply.status_code == 200
        pieces = reply.iter_text()
        first = next(pieces)
        server.stop()
        all_are_refused(stage)
        rest = "".join(pieces)
    assert (first + rest).rstrip().endswith("data: [DONE]")
    after = stage.series()
    assert after["aistats_database_up", ""] == 0
    refusals = grown(before, after, "aistats_requests_total")
    assert sum(count for labels, count in refusals.items() if UNAVAILABLE in labels) >= ROUNDS * len(READS + SURFACES)
    server.start()
    assert eventually(lambda: stage.get("/v1/models").status_code == 200)
    record = f"/v1/generation/{reply.headers['x-generation-id']}"
    assert eventually(lambda: stage.get(record).status_code == 200)
    assert eventually(lambda: stage.series()["aistats_database_up", ""] == 2)

    told = events(stage, began)
    errors = [event for event in told if event.get("level") in {"error", "critical"}]
    causes = Counter((event["worker"], event["event"], event["cause"]) for event in errors)
    assert {event for _, event, _ in causes} == {"database_unavailable"}
    assert set(causes.values()) == {1}
    assert len(causes) <= 8
    succeeded = {event["generation_id"] for event in told if event["event"] == "call" and "reason" not in event}
    assert reply.headers["x-generation-id"] in succeeded
    assert not succeeded & {event.get("generation_id") for event in errors}


def all_are_refused(stage: Gateway) -> None:
    """By every way in, again and again; a worker knows a key that it has just looked up for a little longer."""
    time.sleep(CACHE_TTL_S)
    assert eventually(lambda: all(stage.get("/v1/models").status_code == 503 for _ in range(12)))
    for _ in range(ROUNDS):
        replies = [stage.get(path) for path in READS]
        for stream in (False, True):
            replies += [stage.post(path, body(path, "test-1", stream=stream)) for path in SURFACES]
        for reply in replies:
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
            assert sentences(reply.content) == {DATABASE}
            assert not INNER.search(reply.text)
    with grpc.insecure_channel(f"127.0.0.1:{stage.rpc_port}") as channel:
        for surface in TYPED:
            error = refused(*typed(surface, channel, "acme/test-1:free"), (("authorization", f"Bearer {stage.key}"),))
            status, info = details(error)
            assert (error.details(), status.message, info.reason) == (DATABASE, DATABASE, UNAVAILABLE.upper())
            assert not INNER.search(" ".join(info.metadata.values()))


def test_o3_a_storm_of_bad_keys_leaves_a_trace(stage: Metered) -> None:
    began, before = len(stage.log), stage.series()
    with httpx.Client() as client:
        for number in range(50):
            key = {"authorization": f"Bearer aistats_v1_sk_nobody{number}_secret"}
            assert client.post(f"{stage.url}/v1/responses", json={}, headers=key).status_code == 401
    labels = "method=ResponsesRestService/CreateResponse,reason=invalid_api_key,status=4xx"
    assert grown(before, stage.series(), "aistats_requests_total")[labels] == 50

    def traces() -> list[dict[str, Any]]:
        return [event for event in events(stage, began) if event.get("reason") == "invalid_api_key"]

    assert eventually(lambda: len(traces()) == 50)
    assert {(event["event"], event["level"], event["http_status"]) for event in traces()} == {("call", "info", "401")}
    assert "secret" not in json.dumps(traces())
