"""What the operator does to a gateway that serves, and what those see who watch it: through the real Envoy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aistats.gateway.v1 import health_pb2 as gateway_health_pb2
from aistats.gateway.v1 import health_pb2_grpc as gateway_health_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_stream
from tests.fakes.typed_client import eventually

RECOVERED_WITHIN_S = 60.0
LONG = [f"word{number} " for number in range(200)]
TWO = {"model": "acme/two:free", "messages": [{"role": "user", "content": "hi"}]}
PACE_S = 0.05


class Operated:
    """A gateway of its own, with two providers of one model."""

    def __init__(self, gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread) -> None:
        self.gateway, self.acme, self.backup = gateway, acme, backup

    def providers(self, *arguments: str) -> str:
        done = self.gateway.run("providers", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def everywhere(self, provider: str, status: str) -> bool:
        """Whether every worker says so, as far as twenty questions can tell."""
        asked = [self.gateway.get("/v1/health").json() for _ in range(20)]
        return {one["status"] for health in asked for one in health["providers"] if one["id"] == provider} == {status}

    def in_flight(self, provider: str) -> set[int]:
        """What workers say of attempts under way there."""
        asked = [self.gateway.get("/v1/health").json() for _ in range(10)]
        return {one["in_flight"] for health in asked for one in health["providers"] if one["id"] == provider}

    def channel(self, way: str) -> grpc.Channel:
        port = self.gateway.http_port if way == "envoy" else self.gateway.grpc_port
        return grpc.insecure_channel(f"127.0.0.1:{port}")


@pytest.fixture
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    acme, backup = UpstreamThread(), UpstreamThread()
    gateway = Gateway(tmp_path_factory.mktemp("operated"), config(acme, backup), environ={"ACME_KEY": ACME_KEY})
    try:
        yield Operated(gateway.start(), acme, backup)
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            assert gateway.stop() == 0, gateway.log[-4000:]
        acme.close()
        backup.close()


class Traffic:
    """One request after another, until the end of the block; `statuses` of all of them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: list[int] = []

    def _run(self) -> None:
        with httpx.Client(base_url=self._gateway.base_url, headers=self._gateway.headers, timeout=30) as client:
            while not self._over.wait(PACE_S):
                self.statuses.append(client.post("/chat/completions", json=TWO).status_code)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def read_stream(gateway: Gateway) -> str:
    """A long stream of acme's, read to its end."""
    body = {**TWO, "stream": True, "provider": {"only": ["acme"]}}
    with httpx.stream(
        "POST", f"{gateway.base_url}/chat/completions", json=body, headers=gateway.headers, timeout=60
    ) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_a_provider_is_drained_under_traffic_and_brought_back(operated: Operated) -> None:
    gateway, acme = operated.gateway, operated.acme
    acme.script(chat_stream(*LONG, every_s=0.15))
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(read_stream, gateway)
        acme.wait_request(1)
        with Traffic(gateway) as traffic:
            assert eventually(lambda: len(acme.requests) > 5), "it gets its share"
            assert eventually(lambda: operated.in_flight("acme") >= {1}), "a stream under way is known to all workers"
            assert operated.providers("drain", "acme", "--reason", "maintenance").startswith("Drained acme.\n")
            assert eventually(lambda: operated.everywhere("acme", "drained"))
            under_way = len(traffic.statuses)
            assert eventually(lambda: len(traffic.statuses) > under_way + 1)
            before, made = len(acme.requests), len(traffic.statuses)
            assert eventually(lambda: len(traffic.statuses) > made + 20)
            assert len(acme.requests) == before
            assert eventually(lambda: operated.everywhere("backup", "ok"))
            assert "maintenance" in operated.providers("status")
            assert stream.result(60) == "".join(LONG), "what was under way went on"

            pinned = gateway.post("/v1/chat/completions", {**TWO, "model": "acme:acme/two:free"})
            assert pinned.status_code == 503
            assert pinned.json()["reason"] == "providers_unavailable"
            assert 'out of service: "acme"' in pinned.json()["description"]
            told = gateway.post("/v1/chat/completions", {**TWO, "debug": {"enabled": True}, "meta": True}).json()
            outcomes = {row["provider"]: row["outcome"] for row in told["meta"]["routing"]}
            assert outcomes == {"backup": "chosen", "acme": "drained"}

            assert operated.providers("undrain", "acme") == "acme is back.\n"
            assert eventually(lambda: len(acme.requests) > before, RECOVERED_WITHIN_S)
            assert eventually(lambda: operated.everywhere("acme", "ok")), "the other worker hears of it later"
    assert set(traffic.statuses) == {200}


def test_health_tells_all_that_the_contract_lists(operated: Operated) -> None:
    gateway = operated.gateway
    for _ in range(8):
        assert gateway.post("/v1/chat/completions", TWO).status_code == 200
    asked = gateway.get("/v1/health").json()
    assert asked.keys() == {"status", "version", "uptime_s", "providers"}
    assert asked["status"] == "ok"
    providers = {one["id"]: one for one in asked["providers"]}
    acme = providers["acme"]
    assert acme.keys() == {
        *("id", "status", "score", "breaker", "success_rate", "latency_ms", "ttft_ms", "throughput_tps"),
        *("in_flight", "requests_1m", "routes"),
    }
    assert acme["breaker"] == {"state": "closed", "opened_at": None, "retry_at": None, "reason": ""}
    assert acme["latency_ms"].keys() == {"p50", "p95"}
    assert {tuple(route) for route in acme["routes"]} == {("model", "endpoint", "score", "breaker")}
    assert (acme["status"], providers["openai"]["status"]) == ("ok", "not_configured")

    for _ in range(20):
        gateway.post("/v1/chat/completions", {**TWO, "model": "acme/dead:free"})
    assert eventually(lambda: operated.everywhere("dead", "down"))
    breakers = [one["breaker"] for one in gateway.get("/v1/health").json()["providers"] if one["id"] == "dead"]
    assert breakers[0].keys() == {"state", "opened_at", "retry_at", "reason"}
    assert breakers[0]["state"] == "open"
    assert breakers[0]["retry_at"] > breakers[0]["opened_at"] > 1.7e9


@pytest.mark.parametrize("way", ["envoy", "direct"])
def test_who_watches_sees_a_drain_and_is_sent_away_by_a_stop(operated: Operated, way: str) -> None:
    gateway = operated.gateway
    metadata = [("authorization", f"Bearer {gateway.key}")]
    with operated.channel(way) as channel:
        stub: Any = gateway_health_pb2_grpc.HealthServiceStub(channel)
        standard: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.WatchHealth(gateway_health_pb2.WatchHealthRequest(), metadata=metadata, timeout=60)
        served = standard.Watch(health_pb2.HealthCheckRequest(service="aistats.gateway.v1.ChatService"), timeout=60)
        assert status_of(next(watch), "acme") == "ok"
        assert next(served).status == health_pb2.HealthCheckResponse.SERVING
        operated.providers("drain", "acme")
        seen = next(told for told in watch if status_of(told, "acme") == "drained")
        assert status_of(seen, "backup") == "ok"

        stopping_s = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - stopping_s < 40, "nobody waits for those who only watch"
        with pytest.raises(grpc.RpcError) as ended:
            for _ in watch:
                pass
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert next(served).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as left:
            next(served)
        assert left.value.code() is grpc.StatusCode.UNAVAILABLE


def status_of(told: gateway_health_pb2.WatchHealthResponse, provider: str) -> str:
    return next(one.status for one in told.health.providers if one.id == provider)
