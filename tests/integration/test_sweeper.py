"""The sweeper: who is dead, what of theirs ends, and how SQLite's log stays short."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiosqlite
import msgspec
import pytest
from structlog.testing import capture_logs

from server.domain.record import GenerationRecord
from server.storage import sqlite
from server.storage.database import Database
from server.storage.sweeper import Sweeper
from server.storage.tables import generations, workers
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import (
    CENT,
    USD,
    Request,
    entries,
    make_teams,
    open_reservations,
    opened,
    problems,
    rows,
    stalled,
    wallet,
)

LEASE_S = 30.0


def sweeper(database: Database, clock: ManualClock, worker: str = "sweeper", batch: int = 200) -> Sweeper:
    return Sweeper(database, clock, worker, lease_s=LEASE_S, batch=batch)


async def hold(database: Database, clock: ManualClock, worker: str, count: int = 1) -> list[Request]:
    """Requests that a worker has begun and will not end."""
    requests = [Request() for _ in range(count)]
    async with opened(database, clock, worker) as ledger:
        await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in requests))
    return requests


async def test_the_dead_are_told_from_the_living(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 10 * USD)
    await sweeper(database, clock, "dead").beat()
    await sweeper(database, clock, "alive").beat()
    [dead] = await hold(database, clock, "dead")
    [alive] = await hold(database, clock, "alive")
    [silent] = await hold(database, clock, "never seen")
    sweep = sweeper(database, clock)
    clock.advance(LEASE_S - 1)
    await sweeper(database, clock, "alive").beat()
    assert await sweep.sweep() == 0
    clock.advance(1)
    [young] = await hold(database, clock, "not seen yet")
    assert await sweep.sweep() == 2
    for request in (dead, silent):
        assert await entries(database, request) == [("reserve", 0, CENT, None), ("expire", 0, -CENT, None)]
    for request in (alive, young):
        assert await entries(database, request) == [("reserve", 0, CENT, None)]
    kept = [msgspec.json.decode(row["record_json"], type=GenerationRecord) for row in await rows(database, generations)]
    assert {record.suffix for record in kept} == {dead.suffix, silent.suffix}
    for record in kept:
        assert (record.status_code, record.success, record.cost_nanos) == (500, False, 0)
        assert (record.error_code, record.model_id) == ("gateway_restarted", "a/b")
    assert await wallet(database) == (10 * USD, 2 * CENT)
    assert await problems(database) == []


async def test_b4_several_sweep_at_once_in_small_batches(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 10 * USD)
    await hold(database, clock, "dead", 50)
    clock.advance(LEASE_S + 1)
    sweepers = [sweeper(database, clock, f"sweeper{number}", batch=7) for number in range(4)]
    for one in sweepers:
        await one.beat()
    clock.advance(LEASE_S)
    for one in sweepers:
        await one.beat()
    await asyncio.gather(*(one.sweep() for one in sweepers))
    clock.advance(LEASE_S)
    await sweeper(database, clock).sweep()
    assert await open_reservations(database) == 0
    assert await wallet(database) == (10 * USD, 0)
    assert await problems(database) == []


async def test_who_was_kept_from_the_database_lets_the_others_show_themselves_first(
    database: Database, clock: ManualClock
) -> None:
    await make_teams(database, clock, 10 * USD)
    [request] = await hold(database, clock, "alive")
    sweep = sweeper(database, clock)
    clock.advance(LEASE_S + 1)
    await sweep.beat()
    assert await sweep.sweep() == 0
    await sweeper(database, clock, "alive").beat()
    for _ in range(4):
        clock.advance(LEASE_S / 3)
        await sweep.beat()
        await sweeper(database, clock, "alive").beat()
        assert await sweep.sweep() == 0
    assert await entries(database, request) == [("reserve", 0, CENT, None)]


async def test_it_signs_off_and_forgets_those_who_did_not(database: Database, clock: ManualClock) -> None:
    await sweeper(database, clock, "gone").beat()
    clock.advance(LEASE_S * 11)
    mine = sweeper(database, clock, "mine")
    running = asyncio.create_task(mine.run())
    async with asyncio.timeout(30):
        while [row["id"] for row in await rows(database, workers)] != ["mine"]:  # noqa: ASYNC110 - the database tells no more
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    await mine.end()
    assert await rows(database, workers) == []


async def test_it_waits_for_a_database_that_is_away(database_url: str, clock: ManualClock) -> None:
    async with migrated(database_url):
        pass
    database = Database.open(database_url, slot_wait_s=1.0, statement_timeout_s=1.0, quiet=True)
    try:
        mine = Sweeper(database, clock, "mine", lease_s=0.3)
        async with stalled(database):
            running = asyncio.create_task(mine.run())
            await asyncio.sleep(1.5)
            assert not running.done()
        async with asyncio.timeout(30):
            while not await rows(database, workers):  # noqa: ASYNC110 - the database tells no more
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
    finally:
        await database.close()


async def test_l4_the_log_is_short_again_when_its_reader_has_ended(
    sqlite_url: str, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2 * 1024 * 1024
    monkeypatch.setattr(sqlite, "LOG_LIMIT_BYTES", limit)
    log = tmp_path / "data" / "gateway.db-wal"
    async with migrated(sqlite_url) as database:
        await make_teams(database, clock, 100 * USD)
        async with aiosqlite.connect(tmp_path / "data" / "gateway.db", isolation_level=None) as reader:
            await reader.execute("BEGIN")
            await (await reader.execute("SELECT count(*) FROM teams")).fetchone()
            async with opened(database, clock, max_batch=8) as ledger:
                while log.stat().st_size <= limit:
                    requests = [Request() for _ in range(50)]
                    await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in requests))
                    await asyncio.gather(*(ledger.settle(request.settlement(1)) for request in requests))
            with capture_logs() as logs:
                await database.trim()
            assert [(line["event"], line["limit_bytes"]) for line in logs] == [("write_ahead_log_is_long", limit)]
            await reader.execute("ROLLBACK")
        with capture_logs() as logs:
            await database.trim()
        assert logs == []
        assert log.stat().st_size == 0
        async with opened(database, clock) as ledger:
            request = Request()
            await ledger.reserve(request.hold(CENT))
            await ledger.settle(request.settlement(1))
        assert await problems(database) == []
