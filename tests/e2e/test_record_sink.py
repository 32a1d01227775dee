"""A database that takes no records, and a gateway that is told to stop meanwhile: nothing is lost in silence."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import STOPPED_WITHIN_S, Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.typed_client import eventually

CHAT: dict[str, Any] = {"model": "acme/test-1:free", "messages": [{"role": "user", "content": "hi"}]}
REQUESTS = 6


@pytest.fixture
def gateway(tmp_path: Path, acme: UpstreamThread, backup: UpstreamThread) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path, config(acme, backup), environ={"ACME_KEY": ACME_KEY}).start()
    yield gateway
    assert gateway.process is not None
    if gateway.process.poll() is None:
        gateway.kill()


@contextmanager
def nothing_can_be_written(gateway: Gateway) -> Iterator[sqlite3.Connection]:
    """The database answers readers only, until the connection is rolled back."""
    with closing(sqlite3.connect(database(gateway), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def database(gateway: Gateway) -> Path:
    return gateway.directory / "data" / "gateway.db"


def recorded(gateway: Gateway) -> int:
    with closing(sqlite3.connect(database(gateway))) as connection:
        [count] = connection.execute("SELECT count(*) FROM generations WHERE success").fetchone()
        return int(count)


def events(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def all_are_answered(gateway: Gateway) -> None:
    """Free requests do not wait for their records for ever."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        replies = list(pool.map(lambda _: gateway.post("/v1/chat/completions", CHAT), range(REQUESTS)))
    assert [reply.status_code for reply in replies] == [200] * REQUESTS
    assert eventually(lambda: len(events(gateway, "record_late")) == REQUESTS)


def test_o2_records_that_waited_for_the_database_are_written_before_the_end(gateway: Gateway) -> None:
    with nothing_can_be_written(gateway) as lock:
        all_are_answered(gateway)
        assert recorded(gateway) == 0
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: '"event":"draining' in gateway.log)
        lock.rollback()
    assert gateway.process.wait(STOPPED_WITHIN_S) == 0, gateway.log[-4000:]
    assert recorded(gateway) == REQUESTS


@pytest.mark.slow
def test_o2_records_that_cannot_be_written_are_counted_and_the_exit_says_so(gateway: Gateway) -> None:
    with nothing_can_be_written(gateway):
        all_are_answered(gateway)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(2 * STOPPED_WITHIN_S) != 0, gateway.log[-4000:]
    lost = sum(event["count"] for event in events(gateway, "records_lost"))
    assert lost + recorded(gateway) >= REQUESTS
    assert recorded(gateway) < REQUESTS
    assert "requests were answered of which there is no record" in gateway.log
