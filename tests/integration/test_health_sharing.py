"""What workers tell each other of providers, over both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from server.clock import SystemClock
from server.domain.catalog import Catalog, Model
from server.domain.errors import FailureCategory, GatewayError, Reason
from server.domain.health import SharedReport
from server.domain.ports import Clock
from server.pipeline.health.breaker import PROBES
from server.pipeline.health.figures import MINUTE
from server.pipeline.health.offers import BUSY_S, Health
from server.pipeline.health.polling import INTERVAL_S
from server.pipeline.health.share import RENEW_S, Sharing
from server.pipeline.health.view import route_keys
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.health_reports import KEPT_S, SqlHealthExchange
from tests.fakes.health import KEY, fail, middle, offers, succeed
from tests.integration.databases import ManualClock

ROUTE = KEY._replace(provider="p0")
SEEN_WITHIN_S = 20.0


class Source:
    """Two offers of one model."""

    def __init__(self) -> None:
        found = offers(2)
        self.current = Catalog(
            {one.offer.provider.id: one.offer.provider for one in found},
            {"a/b": Model("a/b", tuple(one.offer for one in found))},
        )


class Worker:
    def __init__(self, name: str, database: Database, commits: GroupCommit, clock: Clock) -> None:
        self.clock = clock
        self.health = Health(clock, middle)
        self.exchange = SqlHealthExchange(database, commits, clock, name)
        self.sharing = Sharing(self.health, self.exchange, Source(), clock)

    @property
    def breaker(self) -> str:
        return self.health.entry(ROUTE).standing(self.clock.monotonic()).breaker

    def busy(self) -> int:
        return self.health.entry(ROUTE).busy(self.clock.monotonic())

    def attempts(self) -> float:
        return self.health.entry(ROUTE).reading(self.clock.monotonic()).windows[MINUTE].attempts


@pytest.fixture
async def commits(database: Database) -> AsyncIterator[GroupCommit]:
    group = GroupCommit(database)
    yield group
    await group.close()


async def exchange(*workers: Worker) -> None:
    for worker in workers:
        await worker.sharing.exchange()


async def test_figures_of_all_workers_add_up_and_fade(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    workers = [Worker(name, database, commits, clock) for name in "abc"]
    for worker in workers:
        succeed(worker.health, 10, ROUTE)
    await exchange(*workers, *workers)
    assert [worker.attempts() for worker in workers] == pytest.approx([30, 30, 30])
    await exchange(*workers, *workers)
    assert workers[0].attempts() == pytest.approx(30), "told twice, counted once"
    clock.advance(60.0)
    assert workers[0].attempts() == pytest.approx(30 / 2.71828, rel=1e-3)


async def test_an_opened_breaker_is_everybodys_and_so_is_its_closing(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    fail(one.health, 5, ROUTE)
    with capture_logs() as logs:
        await exchange(one, other)
    assert (one.breaker, other.breaker) == ("open", "open")
    assert [(log["to"], log["seen_by"]) for log in logs if log["event"] == "breaker"] == [("open", "one")]
    theirs, ours = other.health.entry(ROUTE).breaker, one.health.entry(ROUTE).breaker
    assert theirs.reason == "error_rate"
    assert theirs.retry_s == pytest.approx(ours.retry_s, abs=0.01)

    clock.advance(40.0)
    assert (one.breaker, other.breaker) == ("half_open", "half_open")
    for _ in range(PROBES):
        succeed(other.health, 1, ROUTE)
    await exchange(other, one)
    assert (one.breaker, other.breaker) == ("closed", "closed")
    await exchange(one, other)
    assert (one.breaker, other.breaker) == ("closed", "closed")


async def test_failures_spread_over_workers_open_it(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    workers = [Worker(f"w{n}", database, commits, clock) for n in range(4)]
    for worker in workers[:3]:
        fail(worker.health, 2, ROUTE)
    await exchange(*workers)
    fail(workers[3].health, 1, ROUTE)
    assert workers[3].breaker == "open"


async def test_an_open_breaker_survives_all_workers(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    old = Worker("old", database, commits, clock)
    fail(old.health, 1, ROUTE, category=FailureCategory.QUOTA_EXHAUSTED)
    await exchange(old)
    del old
    clock.advance(10.0)
    new = Worker("new", database, commits, clock)
    assert new.breaker == "closed"
    await exchange(new)
    assert (new.breaker, new.health.entry(ROUTE).breaker.reason) == ("open", "quota_exhausted")
    clock.advance(30.0)
    assert new.breaker == "half_open", "as late as it was to be, and no later"


async def test_a_longer_pause_that_the_provider_asks_for_is_told_too(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    slow = one.health.start(ROUTE)
    assert slow is not None
    fail(one.health, 1, ROUTE, category=FailureCategory.RATE_LIMITED, retry_after_s=1.0)
    await exchange(one, other)
    slow.failed(FailureCategory.RATE_LIMITED, 60.0)
    await exchange(one, other)
    clock.advance(30.0)
    assert (one.breaker, other.breaker) == ("open", "open")


async def test_what_the_catalogue_does_not_have_and_another_release_wrote_is_left_aside(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    succeed(one.health, 1, KEY)
    await SqlHealthExchange(database, commits, clock, "strange").publish(1, b'{"of": "another release"}')
    await exchange(one, other)
    assert {entry.key for entry in other.health.entries()} <= route_keys(Source().current)


async def test_an_idle_worker_writes_nothing_and_old_reports_go(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    await exchange(one)
    assert await other.exchange.others({}) == []
    succeed(one.health, 1, ROUTE)
    await exchange(one, one)
    assert [report.number for report in await other.exchange.others({})] == [1]
    assert await other.exchange.others({"one": 1}) == []
    clock.advance(KEPT_S + 1.0)
    await other.exchange.purge()
    clock.advance(-KEPT_S)
    assert await other.exchange.others({}) == []


async def test_workers_that_run_see_it(database: Database, commits: GroupCommit) -> None:
    clock = SystemClock()
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    async with asyncio.TaskGroup() as running:
        tasks = [running.create_task(worker.sharing.run()) for worker in (one, other)]
        await asyncio.sleep(INTERVAL_S / 2)
        fail(one.health, 5, ROUTE)
        async with asyncio.timeout(SEEN_WITHIN_S):
            while other.breaker != "open":  # noqa: ASYNC110 - how soon it is seen is the test
                await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()


async def test_the_last_word_of_a_worker_is_published(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    fail(one.health, 5, ROUTE)
    await one.sharing.close()
    await exchange(other)
    assert other.breaker == "open"


async def test_attempts_under_way_are_counted_at_all_workers_until_one_falls_silent(
    database: Database, commits: GroupCommit, clock: ManualClock
) -> None:
    one, other = Worker("one", database, commits, clock), Worker("other", database, commits, clock)
    watches = [worker.health.start(ROUTE) for worker in (one, one, other)]
    await exchange(one, other, one)
    assert (one.busy(), other.busy()) == (3, 3)
    first = watches[0]
    assert first is not None
    first.dropped()
    await exchange(one, other)
    assert other.busy() == 2
    for _ in range(4):
        clock.advance(RENEW_S)
        await exchange(one, other)
    assert other.busy() == 2, "it goes on, and says so"
    clock.advance(BUSY_S)
    await exchange(other)
    assert other.busy() == 1, "one has been killed"


class Away:
    """A database that is down."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def publish(self, number: int, report: bytes) -> None:
        self.asked.set()
        raise GatewayError(Reason.DATABASE_UNAVAILABLE, "The database is away.")

    async def others(self, known: Mapping[str, int]) -> list[SharedReport]:
        raise GatewayError(Reason.DATABASE_UNAVAILABLE, "The database is away.")


async def test_without_a_database_a_worker_goes_on_alone(clock: ManualClock) -> None:
    health, away = Health(clock, middle), Away()
    sharing = Sharing(health, away, Source(), clock)
    fail(health, 5, ROUTE)
    async with AsyncExitStack() as stack:
        running = asyncio.create_task(sharing.run())
        stack.callback(running.cancel)
        await asyncio.wait_for(away.asked.wait(), 30)
        assert not running.done()
        assert health.entry(ROUTE).standing(clock.monotonic()).breaker == "open"
    await sharing.close()
