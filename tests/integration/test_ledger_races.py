"""Many at the same wallet: from several tasks, several ledgers, several processes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from server.domain.errors import GatewayError, Reason
from server.storage import sqlite_writer
from server.storage.sweeper import Sweeper
from server.storage.tables import generations, ledger_entries, reservations
from tests.integration.databases import ManualClock, migrated, run_at_once
from tests.integration.ledger_world import (
    CENT,
    USD,
    Request,
    make_teams,
    open_reservations,
    opened,
    problems,
    rows,
    wallet,
)

PROCESSES = "tests.integration.ledger_process"


def how_many_fit(balance: int, held: int) -> int:
    """A hold passes while a dollar is available, and as much as it holds."""
    granted = 0
    while balance - granted * held >= max(USD, held):
        granted += 1
    return granted


@pytest.mark.parametrize(("balance", "held"), [(150 * CENT, 40 * CENT), (220 * CENT, 40 * CENT), (5 * USD, 3 * USD)])
async def test_b1_a_burst_gets_what_there_is_and_no_more(
    database_url: str, clock: ManualClock, balance: int, held: int
) -> None:
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(migrated(database_url)) for _ in range(4)]
        await make_teams(databases[0], clock, balance)
        ledgers = [
            await stack.enter_async_context(opened(database, clock, f"worker{number}"))
            for number, database in enumerate(databases)
        ]
        outcomes = await asyncio.gather(
            *(ledgers[number % 4].reserve(Request().hold(held)) for number in range(200)), return_exceptions=True
        )
        granted = outcomes.count(None)
        assert granted == how_many_fit(balance, held)
        assert {error.reason for error in outcomes if isinstance(error, GatewayError)} == {Reason.INSUFFICIENT_FUNDS}
        assert len(outcomes) - granted == sum(isinstance(outcome, GatewayError) for outcome in outcomes)
        assert await wallet(databases[0]) == (balance, granted * held)
        assert await problems(databases[0]) == []


async def test_b1_processes_together_get_what_there_is(database_url: str, clock: ManualClock) -> None:
    async with migrated(database_url) as database:
        await make_teams(database, clock, 220 * CENT)
        granted = await run_at_once(3, PROCESSES, "reserve", database_url, "team", "70", str(40 * CENT))
        assert sum(map(int, granted)) == how_many_fit(220 * CENT, 40 * CENT) == 4
        assert await wallet(database) == (220 * CENT, 160 * CENT)
        assert await problems(database) == []


async def test_l2_b7_processes_spend_side_by_side(database_url: str, clock: ManualClock) -> None:
    """No transaction fails for another's, and the balance is one for all and what is left of it."""
    pairs, processes = 504, 4
    async with migrated(database_url) as database:
        await make_teams(database, clock, 1000 * USD)
        shown = await run_at_once(processes, PROCESSES, "spend", database_url, "team", str(pairs))
        assert f"{1000 * USD - processes * pairs} 0" in [line.strip() for line in shown]
        assert await wallet(database) == (1000 * USD - processes * pairs, 0)
        kinds = [row["kind"] for row in await rows(database, ledger_entries)]
        assert (kinds.count("reserve"), kinds.count("settle")) == (processes * pairs, processes * pairs)
        assert len(await rows(database, generations)) == processes * pairs
        assert await problems(database) == []


async def test_l2_every_transaction_says_from_the_start_that_it_writes(
    sqlite_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    real = sqlite_writer._engine

    def traced(*arguments: Any, **options: Any) -> Any:
        engine = real(*arguments, **options)

        @event.listens_for(engine, "connect")
        def trace(connection: Any, _: object) -> None:
            connection.set_trace_callback(statements.append)

        return engine

    monkeypatch.setattr(sqlite_writer, "_engine", traced)
    async with migrated(sqlite_url) as database:
        await make_teams(database, clock, 10 * USD)
        del statements[:]
        async with opened(database, clock) as ledger:
            for _ in range(3):
                request = Request()
                await ledger.reserve(request.hold(CENT))
                await ledger.settle(request.settlement(1))
    assert [statement for statement in statements if statement.startswith("BEGIN")] == ["BEGIN IMMEDIATE"] * 6
    assert statements[:2] == ["PRAGMA synchronous = NORMAL;", "BEGIN IMMEDIATE"]
    assert len(statements) / 6 < 10  # few to a group, however many it has


async def test_what_a_killed_worker_had_settled_is_on_disk_and_the_rest_expires(
    database_url: str, clock: ManualClock
) -> None:
    async with migrated(database_url) as database:
        await make_teams(database, clock, 1000 * USD)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            PROCESSES,
            "spend_until_killed",
            database_url,
            "team",
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        said: dict[str, set[str]] = {"open": set(), "settled": set()}
        try:
            async with asyncio.timeout(60):
                while len(said["settled"]) < 200:
                    state, suffix = (await process.stdout.readline()).decode().split()
                    said[state].add(suffix)
        finally:
            process.kill()
            rest = (await process.communicate())[0].decode()
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                said[line.split()[0]].add(line.split()[1])
        recorded = {row["suffix"] for row in await rows(database, generations)}
        held = {row["id"] for row in await rows(database, reservations)}
        assert said["settled"] <= recorded
        assert said["open"] <= recorded | held
        clock.seconds = 2_000_000_000
        sweeper = Sweeper(database, clock, "other", lease_s=30)
        assert await sweeper.sweep() == len(held)
        assert await open_reservations(database) == 0
        assert await wallet(database) == (1000 * USD - len(recorded), 0)
        assert await problems(database) == []
