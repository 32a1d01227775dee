"""On PostgreSQL a team's wallet is taken last: what workers do that come to it at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from structlog.testing import capture_logs

from server.domain.errors import GatewayError, Reason
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.sweeper import Sweeper
from server.storage.tables import ledger_entries
from server.storage.video_jobs import SqlVideoJobs
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import (
    CENT,
    USD,
    Request,
    another_session,
    entries,
    make_teams,
    open_reservations,
    opened,
    problems,
    rows,
    wallet,
)
from tests.integration.video_rows import hold_of, new_job

CREDIT = 10 * USD
LIMIT_S = 30.0


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    async with migrated(postgres_url) as database:
        yield database


class Another:
    """Another worker in the middle of a transaction that has changed the team's wallet."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def waiting(self, count: int = 1) -> list[str]:
        """The statements that wait for a lock, once there are so many."""
        query = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        async with asyncio.timeout(LIMIT_S):
            while len(found := await self._connection.fetch(query)) < count:
                await asyncio.sleep(0.01)
                # Within a transaction the view stays as it was first seen.
                await self._connection.execute("SELECT pg_stat_clear_snapshot()")
        return [row["query"] for row in found]


@asynccontextmanager
async def another(database: Database, spends: int = 0) -> AsyncIterator[Another]:
    """It spends so much, which is seen when the block ends."""
    async with another_session(database) as session:
        await session.execute(
            "INSERT INTO ledger_entries (team_id, kind, balance_nanos, reserved_nanos, created_at)"
            " VALUES ('team', 'adjust', $1, 0, 0)",
            -spends,
        )
        await session.execute("UPDATE wallets SET balance_nanos = balance_nanos - $1", spends)
        yield Another(session)


async def test_all_else_is_written_before_the_wallet_is_waited_for(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, CREDIT)
    held = Request()
    async with opened(database, clock, "first") as first, opened(database, clock, "second") as second:
        await first.reserve(held.hold(CENT))
        async with another(database) as other:
            settled = first.settle(held.settlement(CENT))
            reserved = asyncio.ensure_future(second.reserve(Request().hold(CENT)))
            assert all(query.startswith("INSERT INTO wallets") for query in await other.waiting(2))
        await settled
        await reserved
    assert await wallet(database) == (CREDIT - CENT, CENT)
    assert await problems(database) == []


@pytest.mark.parametrize(
    ("left", "holds", "passes"),
    [(2 * USD, USD, True), (USD + 50 * CENT, 40 * CENT, True), (USD, USD, True), (USD - 1, CENT, False), (0, 1, False)],
)
async def test_a_hold_is_made_on_what_is_there_when_its_turn_comes(
    database: Database, clock: ManualClock, left: int, holds: int, passes: bool
) -> None:
    await make_teams(database, clock, CREDIT)
    request = Request()
    async with opened(database, clock) as ledger:
        async with another(database, spends=CREDIT - left) as other:
            reserved = asyncio.ensure_future(ledger.reserve(request.hold(holds)))
            assert (await other.waiting())[0].startswith("INSERT INTO wallets")  # it saw enough
        if passes:
            await reserved
        else:
            with pytest.raises(GatewayError) as refused:
                await reserved
            assert refused.value.reason is Reason.INSUFFICIENT_FUNDS
    assert await wallet(database) == (left, holds if passes else 0)
    assert await open_reservations(database) == passes
    assert len(await entries(database, request)) == passes
    assert await problems(database) == []


@pytest.mark.parametrize(("left", "passes"), [(2 * USD, True), (USD, True), (USD - 1, False), (0, False)])
async def test_so_is_that_of_a_video(database: Database, clock: ManualClock, left: int, passes: bool) -> None:
    await make_teams(database, clock, CREDIT)
    job, commits = new_job(clock), GroupCommit(database)
    store = SqlVideoJobs(database, commits, clock, "worker")
    async with another(database, spends=CREDIT - left) as other:
        begun = asyncio.ensure_future(store.open(job, hold_of(job)))
        await other.waiting()
    if passes:
        await begun
    else:
        with pytest.raises(GatewayError) as refused:
            await begun
        assert refused.value.reason is Reason.INSUFFICIENT_FUNDS
    await commits.close()
    assert (await store.get("team", job.suffix) is not None) == passes
    assert await wallet(database) == (left, (job.held_nanos or 0) if passes else 0)
    assert await problems(database) == []


async def test_what_is_given_back_beside_it_is_not_taken_for_what_was_there(
    database: Database, clock: ManualClock
) -> None:
    """A group that holds first and then gives back: the hold has only what was there before."""
    await make_teams(database, clock, CREDIT)
    held, asked = Request(), Request()
    async with opened(database, clock) as ledger:
        await ledger.reserve(held.hold(3 * USD))
        async with another(database, spends=4 * USD) as other:
            reserved = asyncio.ensure_future(ledger.reserve(asked.hold(4 * USD)))
            await asyncio.sleep(0)  # it is in the queue, and not yet in a group
            settled = ledger.settle(held.settlement(None))
            await other.waiting()
        with pytest.raises(GatewayError) as refused:
            await reserved
        assert refused.value.reason is Reason.INSUFFICIENT_FUNDS
        await settled
    assert [kind for kind, *_ in await entries(database, held)] == ["reserve", "void"]
    assert await wallet(database) == (6 * USD, 0)
    assert await problems(database) == []


async def test_a_reservation_that_two_end_at_once_ends_once(database: Database, clock: ManualClock) -> None:
    """Its worker was taken for dead, and settles at the very moment in which another lets its reservation expire."""
    await make_teams(database, clock, CREDIT)
    held = [Request() for _ in range(5)]
    async with opened(database, clock, "late") as ledger:
        await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in held))
        sweeper = Sweeper(database, clock, "sweeper", lease_s=15)
        for _ in range(10):
            clock.advance(5)
            await sweeper.beat()
        with capture_logs() as logged:
            async with another(database) as other:
                settled = [ledger.settle(request.settlement(CENT)) for request in held]
                await other.waiting(1)
                sweeping = asyncio.ensure_future(sweeper.sweep())
                await other.waiting(2)
            await asyncio.gather(*settled)
            await sweeping
    assert [line for line in logged if line["log_level"] == "error"] == []
    for request in held:
        assert [kind for kind, *_ in await entries(database, request)] == ["reserve", "settle"]
    assert await wallet(database) == (CREDIT - 5 * CENT, 0)
    assert len(await rows(database, ledger_entries)) == 1 + 1 + 10
    assert await problems(database) == []
