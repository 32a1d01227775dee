"""Workers that tell each other of providers through Valkey, and do without it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from aistats.gateway.v1 import chat_pb2_grpc, health_pb2, health_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.typed_client import eventually
from tests.integration.valkey import ValkeyServer, valkey

__all__ = ["valkey"]

FAILURES = 6
SEEN_WITHIN_S = 30.0


@pytest.fixture
def sharing(tmp_path: Path, acme: UpstreamThread, backup: UpstreamThread, valkey: ValkeyServer) -> Iterator[Gateway]:
    environ = {"ACME_KEY": ACME_KEY, "AISTATS_VALKEY_URL": valkey.url}
    gateway = Gateway(tmp_path, config(acme, backup), environ=environ).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def breaker_of_dead(gateway: Gateway, index: int) -> str:
    """What one worker's health says of the provider that never answers."""
    with grpc.insecure_channel(f"unix:{gateway.directory}/data/run/worker-{index}.sock") as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        health = health_pb2_grpc.HealthServiceStub(channel).GetHealth(
            health_pb2.GetHealthRequest(), metadata=metadata, timeout=30
        )
    return next(str(provider.breaker.state) for provider in health.providers if provider.id == "dead")


def fail_at(gateway: Gateway, index: int) -> None:
    """Requests to one worker that nobody can answer."""
    with grpc.insecure_channel(f"unix:{gateway.directory}/data/run/worker-{index}.sock") as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        for _ in range(FAILURES):
            with pytest.raises(grpc.RpcError):
                chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(
                    chat_request("acme/dead:free"), metadata=metadata, timeout=30
                )


def test_a_breaker_is_everybodys_through_valkey_and_without_it_requests_go_on(
    sharing: Gateway, valkey: ValkeyServer
) -> None:
    assert [breaker_of_dead(sharing, index) for index in (0, 1)] == ["closed", "closed"]
    fail_at(sharing, 0)
    assert breaker_of_dead(sharing, 0) == "open"
    assert eventually(lambda: breaker_of_dead(sharing, 1) == "open", SEEN_WITHIN_S)
    with closing(sqlite3.connect(sharing.directory / "data" / "gateway.db")) as database:
        assert database.execute("SELECT count(*) FROM health_reports").fetchone() == (0,)

    valkey.kill()
    for _ in range(20):
        assert sharing.post("/v1/chat/completions", CHAT).status_code == 200
    assert eventually(lambda: sharing.log.count("valkey_unavailable") == 2), "one line of each worker"
    assert sharing.post("/v1/chat/completions", CHAT).status_code == 200
    assert sharing.get("/v1/health").status_code == 200

    valkey.start()
    assert eventually(lambda: sharing.log.count("valkey_available_again") == 2)
    assert sharing.log.count("valkey_unavailable") == 2


def test_a_restart_forgets_no_open_breaker(sharing: Gateway) -> None:
    fail_at(sharing, 1)
    assert eventually(lambda: breaker_of_dead(sharing, 0) == "open", SEEN_WITHIN_S)
    assert sharing.stop() == 0
    sharing.start()
    assert eventually(lambda: {breaker_of_dead(sharing, index) for index in (0, 1)} == {"open"}, SEEN_WITHIN_S)
