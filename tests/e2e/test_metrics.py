"""The operator's figures: what they count, where they are told, and that callers cannot make them grow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, content_pb2
from server.probes import unused_port
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.metered import Metered, grown
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.typed_client import eventually

PAID = "acme/test-1"
CHAT: dict[str, Any] = {"model": PAID, "messages": [{"role": "user", "content": "hi"}]}
BAD_KEY = {"authorization": "Bearer aistats_v1_sk_nobody_secret"}


@pytest.fixture(scope="module")
def metered(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Metered]:
    gateway = Metered(
        tmp_path_factory.mktemp("metered"),
        config(acme_upstream, backup_upstream),
        environ={"ACME_KEY": ACME_KEY, "AISTATS_METRICS_PORT": str(unused_port())},
    )
    gateway.start()
    gateway.run("wallet", "top-up", "--team", "default", "--usd", "100")
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def test_requests_attempts_money_and_tokens_are_counted(metered: Metered, acme: UpstreamThread) -> None:
    before = metered.series()
    for _ in range(3):
        assert metered.post("/v1/chat/completions", CHAT).status_code == 200
    assert metered.post("/v1/chat/completions", {**CHAT, "stream": True}).status_code == 200
    assert metered.post("/v1/chat/completions", {**CHAT, "model": "acme/dead:free"}).status_code == 502
    assert metered.post("/v1/responses", CHAT, headers=BAD_KEY).status_code == 401
    with grpc.insecure_channel(f"127.0.0.1:{metered.rpc_port}") as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        request = chat_pb2.CreateChatCompletionRequest(model=PAID)
        request.messages.add(role=content_pb2.ROLE_USER).parts.add(text=content_pb2.TextPart(text="hi"))
        stub.CreateChatCompletion(request, metadata=(("authorization", f"Bearer {metered.key}"),))
    after = metered.series()
    chat = "method=ChatRestService/CreateChatCompletion"
    assert grown(before, after, "aistats_requests_total") == {
        f"{chat},reason=,status=2xx": 4,
        f"{chat},reason=all_candidates_failed,status=5xx": 1,
        "method=ResponsesRestService/CreateResponse,reason=invalid_api_key,status=4xx": 1,
        "method=ChatService/CreateChatCompletion,reason=,status=2xx": 1,
    }
    assert grown(before, after, "aistats_attempts_total") == {
        "model=test-1,outcome=ok,provider=acme": 5,
        "model=gone,outcome=connection,provider=dead": 1,
    }
    assert grown(before, after, "aistats_generations_total") == {
        "endpoint=chat,reason=,status=2xx": 5,
        "endpoint=chat,reason=all_candidates_failed,status=5xx": 1,
    }
    assert grown(before, after, "aistats_first_token_seconds_count") == {"provider=acme": 1}
    assert grown(before, after, "aistats_generation_seconds_count") == {"provider=acme": 5}
    tokens = grown(before, after, "aistats_tokens_total")
    charged = grown(before, after, "aistats_charged_nano_usd_total")
    prices = {"input": 150, "output": 600}
    expected = sum(tokens[f"kind={kind},provider=acme"] * price for kind, price in prices.items())
    assert charged == {"provider=acme": expected}
    assert after["aistats_requests_in_flight", ""] == 0
    assert after["aistats_worker_up", ""] == after["aistats_database_up", ""] == 2
    assert after["aistats_breaker_state", "provider=acme"] == 0


def test_an_open_breaker_shows(metered: Metered, acme: UpstreamThread) -> None:
    for _ in range(20):
        metered.post("/v1/chat/completions", {**CHAT, "model": "acme/dead:free"})
    assert eventually(lambda: metered.series()["aistats_breaker_state", "provider=dead"] > 0)


def test_o1_what_callers_make_up_makes_no_series(metered: Metered, acme: UpstreamThread) -> None:
    def ask(number: int) -> None:
        made_up = f"mine-{number}"
        assert metered.post("/v1/chat/completions", {**CHAT, "model": made_up}).status_code == 404
        body = {**CHAT, "model": f"{PAID}:free", "user": made_up, "session_id": made_up}
        assert metered.post(
            "/v1/chat/completions", body, headers={**metered.headers, "x-request-id": made_up}
        ).is_success
        assert httpx.get(f"{metered.url}/v1/{made_up}", headers=metered.headers).status_code == 404

    for number in range(8):  # until both workers have had each
        ask(number)
    first = metered.series().keys()
    for number in range(8, 60):
        ask(number)
    assert metered.series().keys() == first


def test_the_public_port_tells_nothing(metered: Metered) -> None:
    for path in ("/metrics", "/v1/metrics"):
        assert metered.get(path).status_code == 404
    port = metered.environ["AISTATS_METRICS_PORT"]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.2:{port}/metrics", timeout=2)  # the loopback's other addresses are not listened on
    told = httpx.get(metered.metrics_url).text
    assert metered.key not in told
    assert ACME_KEY not in told


def test_a_worker_that_starts_again_begins_at_nought(metered: Metered, acme: UpstreamThread) -> None:
    assert metered.post("/v1/chat/completions", CHAT).status_code == 200
    [first, second] = metered.workers()
    second.send_signal(signal.SIGKILL)
    assert eventually(lambda: metered.series()["aistats_worker_up", ""] == 1)
    assert eventually(lambda: metered.series()["aistats_worker_up", ""] == 2, within_s=20)
    assert next(worker.pid for worker in metered.workers()) == first.pid
    assert eventually(metered.is_ready)


def test_nothing_listens_where_nobody_asked_for_figures(gateway: Gateway) -> None:
    run = gateway.directory / "data" / "run"
    assert not list(run.rglob("*.stat"))
