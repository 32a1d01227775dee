"""Two gateways on one PostgreSQL and one Valkey behind the balancer that deploy/ ships, and one of them is stopped."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from aistats.gateway.v1 import chat_pb2_grpc
from server.clock import SystemClock
from server.preflight import envoy_binary
from server.probes import unused_port
from server.storage.database import Database
from server.storage.ledger_verify import Problem, Verification, verify_ledger
from server.storage.wallets import Wallets
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.load import Load
from tests.e2e.purse import PAID
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream
from tests.fakes.typed_client import eventually
from tests.integration.databases import PostgresServer
from tests.integration.valkey import ValkeyServer, valkey

__all__ = ["valkey"]

BALANCER = Path(__file__).parents[2] / "deploy" / "balancer.yaml"
STREAMS = 6
TICKS = 20
WITHIN_S = 30.0


@pytest.fixture
def database_url() -> Iterator[str]:
    server = PostgresServer()
    try:
        server.start()
        yield server.url(asyncio.run(server.create_database()))
    finally:
        server.remove()


@pytest.fixture
def pair(
    tmp_path: Path, database_url: str, valkey: ValkeyServer, acme: UpstreamThread, backup: UpstreamThread
) -> Iterator[list[Gateway]]:
    """Both are started at once on an empty database."""
    environ = {
        "ACME_KEY": ACME_KEY,
        "AISTATS_DATABASE_URL": database_url,
        "AISTATS_VALKEY_URL": valkey.url,
        "AISTATS_TRUSTED_PROXIES": "1",
    }
    text = config(acme, backup)
    directories = [tmp_path / name for name in ("one", "two")]
    for directory in directories:
        directory.mkdir()
    gateways = [Gateway(directory, text, workers=1, environ=environ) for directory in directories]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Gateway.start, gateways))
    yield gateways
    assert [gateway.stop() for gateway in gateways] == [0, 0]


class Balancer:
    """Envoy as deploy/balancer.yaml says, with other addresses: as much of a gateway as a client sees."""

    def __init__(self, directory: Path, gateways: list[Gateway], key: str) -> None:
        self.port, self.admin_port = unused_port(), unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"authorization": f"Bearer {key}"}
        settings: Any = yaml.safe_load(BALANCER.read_text())
        settings["admin"]["address"]["socket_address"]["port_value"] = self.admin_port
        resources = settings["static_resources"]
        resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": self.port}
        endpoints = resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        for entry, gateway in zip(endpoints, gateways, strict=True):
            entry["endpoint"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": gateway.http_port}
        path = directory / "balancer.yaml"
        path.write_text(yaml.safe_dump(settings))
        command = [str(envoy_binary()), "-c", str(path), "--disable-hot-restart", "--log-level", "warning"]
        with (directory / "balancer.log").open("wb") as log:
            self._process = subprocess.Popen([*command, "--concurrency", "1"], stdout=log, stderr=log)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(WITHIN_S)

    def healthy(self) -> int:
        """How many gateways it sends to."""
        try:
            told = httpx.get(f"http://127.0.0.1:{self.admin_port}/clusters", params={"format": "json"}, timeout=30)
        except httpx.HTTPError:
            return 0
        [cluster] = told.json()["cluster_statuses"]
        return sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in cluster["host_statuses"])


@pytest.fixture
def balancer(tmp_path: Path, pair: list[Gateway]) -> Iterator[Balancer]:
    [key] = [gateway.key for gateway in pair if (gateway.directory / "data" / "bootstrap-key").exists()]
    balancer = Balancer(tmp_path, pair, key)
    try:
        assert eventually(lambda: balancer.healthy() == len(pair), WITHIN_S)
        yield balancer
    finally:
        balancer.close()


class TypedCalls:
    """One connection for all calls, one after another, from `with` until its end."""

    def __init__(self, balancer: Balancer) -> None:
        self.replies: list[str] = []
        self.failures: list[str] = []
        self._balancer = balancer
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> TypedCalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        metadata = [("authorization", self._balancer.headers["authorization"])]
        with grpc.insecure_channel(f"127.0.0.1:{self._balancer.port}") as channel:
            chat = chat_pb2_grpc.ChatServiceStub(channel)
            while not self._is_over.wait(0.05):
                try:
                    reply = chat.CreateChatCompletion(chat_request(PAID), metadata=metadata, timeout=WITHIN_S)
                    self.replies.append(reply.id)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()}: {error.details()}")  # type: ignore[attr-defined]


def read_stream(balancer: Balancer) -> str:
    body = {"model": PAID, "stream": True, "messages": [{"role": "user", "content": "Count."}]}
    options: Any = {"headers": balancer.headers, "timeout": WITHIN_S}
    with httpx.stream("POST", f"{balancer.url}/v1/chat/completions", json=body, **options) as reply:
        return "".join(reply.iter_text())


def calls(gateway: Gateway) -> int:
    """How many generations it has served."""
    return gateway.log.count('"event":"call"')


async def top_up(url: str) -> None:
    database = Database.open(url)
    try:
        await Wallets(database, SystemClock()).top_up("default", 10_000_000_000)
    finally:
        await database.close()


async def verified(url: str) -> tuple[Verification, list[Problem]]:
    database, problems = Database.open(url), list[Problem]()
    try:
        return await verify_ledger(database, problems.append), problems
    finally:
        await database.close()


def test_a_gateway_that_is_stopped_and_started_again_fails_nobody(
    balancer: Balancer, pair: list[Gateway], database_url: str, acme: UpstreamThread
) -> None:
    first, second = pair
    asyncio.run(top_up(database_url))
    acme.script(*[chat_stream(*["tick "] * TICKS, every_s=0.1)] * STREAMS)
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(read_stream, balancer) for _ in range(STREAMS)]
        acme.wait_request(STREAMS, timeout=WITHIN_S)
        with Load(balancer, PAID, clients=4, pause_s=0.1) as load, TypedCalls(balancer) as typed:  # type: ignore[arg-type]
            assert eventually(lambda: min(map(calls, pair)) > 10, WITHIN_S), "requests spread"
            assert first.process is not None
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(WITHIN_S) == 0, first.log[-4000:]
            left = calls(first)
            before = calls(second)
            assert eventually(lambda: calls(second) > before + 20, WITHIN_S), "the other goes on"
            assert calls(first) == left
            first.start()
            assert eventually(lambda: calls(first) > left + 10, WITHIN_S), "it is found again"
        for stream in streams:
            text = stream.result(WITHIN_S)
            assert text.count("tick ") == TICKS
            assert text.rstrip().endswith("data: [DONE]")
    assert [asked for asked in load.asked if not asked.is_ok] == []
    assert typed.failures == []
    assert len(typed.replies) > 10

    verification, problems = asyncio.run(verified(database_url))
    assert problems == []
    assert verification.open == 0
    assert verification.generations == len(load.asked) + len(typed.replies) + STREAMS


def test_without_any_gateway_the_error_has_the_shape_of_theirs(tmp_path: Path) -> None:
    gateways = [Gateway(tmp_path) for _ in range(2)]
    balancer = Balancer(tmp_path, gateways, "none")
    try:
        assert eventually(lambda: _answers(balancer), WITHIN_S)
        reply = httpx.get(f"{balancer.url}/v1/models", headers=balancer.headers, timeout=WITHIN_S)
        assert reply.status_code == 503
        assert (reply.json()["error"], reply.json()["reason"]) == ("unavailable_error", "overloaded")
    finally:
        balancer.close()


def _answers(balancer: Balancer) -> bool:
    try:
        return httpx.get(f"{balancer.url}/healthz", timeout=30).status_code == httpx.codes.SERVICE_UNAVAILABLE
    except httpx.HTTPError:
        return False
