"""The ledger while its database is slow, away, or forgets to answer: nothing held for nobody, nothing lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.pool import QueuePool
from structlog.testing import capture_logs

from server.domain.errors import GatewayError, Reason
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.sweeper import Sweeper
from server.storage.tables import generations, ledger_entries
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import (
    CENT,
    USD,
    Fate,
    Forgetful,
    Request,
    entries,
    make_teams,
    open_reservations,
    opened,
    problems,
    rows,
    settle_all,
    stalled,
    wallet,
)

ANSWERED: Fate = "answered"


@pytest.fixture
async def patient(database_url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """A database that a team of 1000 USD has, and whose statements give up soon."""
    async with migrated(database_url) as usual:
        await make_teams(usual, clock, 1000 * USD)
    opened = Database.open(database_url, slot_wait_s=1.0, statement_timeout_s=1.0, quiet=True)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def forgetful(database_url: str, clock: ManualClock) -> AsyncIterator[Forgetful]:
    opened = Forgetful.open(database_url, quiet=True)
    assert isinstance(opened, Forgetful)
    await make_teams(opened, clock, 1000 * USD)
    try:
        yield opened
    finally:
        await opened.close()


async def hold(ledger: SqlLedger, request: Request, nanos: int = CENT) -> Reason | None:
    """Why it was refused."""
    try:
        await ledger.reserve(request.hold(nanos))
    except GatewayError as error:
        return error.reason if error.retry_after_s else None
    return None


async def test_b6_while_nothing_can_be_written_requests_are_refused_and_settlements_wait(
    patient: Database, clock: ManualClock
) -> None:
    async with opened(patient, clock, reserve_wait_s=2.0) as ledger:
        held = [Request() for _ in range(20)]
        assert [await hold(ledger, request) for request in held] == [None] * 20
        async with stalled(patient):
            waiting = asyncio.gather(*(ledger.settle(request.settlement(1)) for request in held))
            late = [Request() for _ in range(20)]
            reasons = await asyncio.gather(*(hold(ledger, request) for request in late))
            assert set(reasons) == {Reason.DATABASE_UNAVAILABLE}
            assert not waiting.done()
        async with asyncio.timeout(30):
            await waiting
        assert await hold(ledger, Request()) is None
    assert await wallet(patient) == (1000 * USD - 20, CENT)
    for request in late:
        assert sum(reserved for _, _, reserved, _ in await entries(patient, request)) == 0
    assert await open_reservations(patient) == 1
    assert await problems(patient) == []


async def test_a_short_stall_fails_nobody(patient: Database, clock: ManualClock) -> None:
    async with opened(patient, clock) as ledger:
        async with stalled(patient):
            holding = [asyncio.create_task(hold(ledger, Request())) for _ in range(10)]
            await asyncio.sleep(1.2)  # longer than a statement may take
        assert await asyncio.gather(*holding) == [None] * 10
    assert await wallet(patient) == (1000 * USD, 10 * CENT)


@pytest.mark.parametrize("fate", ["lost before", "lost after"])
async def test_b5_a_settlement_whose_transaction_failed_counts_once(
    forgetful: Forgetful, clock: ManualClock, fate: Fate
) -> None:
    async with opened(forgetful, clock) as ledger:
        held, free = Request(), Request()
        await ledger.reserve(held.hold(40 * CENT))
        fates = iter([fate, fate])
        forgetful.fate = lambda: next(fates, ANSWERED)
        await settle_all(ledger, [held.settlement(CENT), free.settlement(None, held=False)])
    assert await entries(forgetful, held) == [
        ("reserve", 0, 40 * CENT, None),
        ("settle", -CENT, -40 * CENT, None),
    ]
    assert await wallet(forgetful) == (1000 * USD - CENT, 0)
    assert await problems(forgetful) == []


@pytest.mark.parametrize("fate", ["lost before", "lost after"])
async def test_a_hold_whose_answer_was_lost_is_held_once(forgetful: Forgetful, clock: ManualClock, fate: Fate) -> None:
    async with opened(forgetful, clock) as ledger:
        fates = iter([fate, fate])
        forgetful.fate = lambda: next(fates, ANSWERED)
        request = Request()
        assert await hold(ledger, request) is None
        assert await entries(forgetful, request) == [("reserve", 0, CENT, None)]


async def test_a_hold_that_nobody_waits_for_any_longer_is_void(forgetful: Forgetful, clock: ManualClock) -> None:
    """The transaction is carried out, its answer is lost until the caller has gone."""
    async with opened(forgetful, clock, reserve_wait_s=1.5) as ledger:
        forgetful.fate = lambda: "lost after"
        request = Request()
        assert await hold(ledger, request) is Reason.DATABASE_UNAVAILABLE
        assert await wallet(forgetful) == (1000 * USD, CENT)
        forgetful.fate = lambda: "answered"
    assert await entries(forgetful, request) == [("reserve", 0, CENT, None), ("void", 0, -CENT, None)]
    assert await wallet(forgetful) == (1000 * USD, 0)


async def test_l1_callers_that_leave_at_any_moment_hold_nothing(database: Database, clock: ManualClock) -> None:
    chance = random.Random(11)
    await make_teams(database, clock, 1000 * USD)
    async with opened(database, clock) as ledger:

        async def leave(request: Request) -> None:
            task = asyncio.create_task(ledger.reserve(request.hold(CENT)))
            await asyncio.sleep(chance.uniform(0, 0.03))
            if not task.cancel():
                await ledger.settle(request.settlement(None))
            try:
                await task
            except asyncio.CancelledError:
                pass
            else:
                await ledger.settle(request.settlement(None))

        await asyncio.gather(*(leave(Request()) for _ in range(500)))
        last = Request()
        assert await hold(ledger, last) is None
        await ledger.settle(last.settlement(None))
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    assert await wallet(database) == (1000 * USD, 0)
    assert await open_reservations(database) == 0
    assert await problems(database) == []


async def test_a_settlement_outlives_who_handed_it_in(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 1000 * USD)
    async with opened(database, clock) as ledger:
        closed, cancelled, alone = (Request() for _ in range(3))
        for request in (closed, cancelled, alone):
            await ledger.reserve(request.hold(CENT))

        async def generator() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                ledger.settle(closed.settlement(1))

        batches = generator()
        await anext(batches)
        await batches.aclose()  # type: ignore[attr-defined]

        async def settle() -> None:
            await ledger.settle(cancelled.settlement(1))

        task = asyncio.create_task(settle())
        await asyncio.sleep(0)
        task.cancel()
        ledger.settle(alone.settlement(1))
    assert await wallet(database) == (1000 * USD - 3, 0)


async def test_l7_all_is_recorded_with_a_pool_of_two(database_url: str, clock: ManualClock) -> None:
    async with migrated(database_url, pool_size=2) as database:
        await make_teams(database, clock, 1000 * USD)
        async with opened(database, clock, max_queued=4096) as ledger:

            async def run() -> bool:
                request = Request()
                if await hold(ledger, request) is not None:
                    return False
                await ledger.settle(request.settlement(1))
                return True

            passed = sum(await asyncio.gather(*(run() for _ in range(2000))))
        assert passed > 0
        assert await wallet(database) == (1000 * USD - passed, 0)
        assert len(await rows(database, generations)) == passed
        kinds = [row["kind"] for row in await rows(database, ledger_entries)]
        assert kinds.count("settle") == passed


async def test_l8_what_was_handed_in_is_on_disk_when_it_has_closed(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 1000 * USD)
    async with opened(database, clock, max_batch=16) as ledger:
        held = [Request() for _ in range(200)]
        await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in held))
        for request in held:
            ledger.settle(request.settlement(1))
        late = asyncio.create_task(hold_when_closed(ledger))
    assert await late is Reason.SHUTTING_DOWN
    assert await wallet(database) == (1000 * USD - 200, 0)


async def hold_when_closed(ledger: SqlLedger) -> Reason:
    with pytest.raises(GatewayError) as caught:
        await ledger.reserve(Request().hold(CENT))
    return caught.value.reason


async def test_a_full_queue_refuses_and_drops_nothing(patient: Database, clock: ManualClock) -> None:
    async with opened(patient, clock, max_queued=10, max_records=20, max_batch=5, reserve_wait_s=10) as ledger:
        held = [Request() for _ in range(30)]
        for request in held:
            await ledger.reserve(request.hold(CENT))
        async with stalled(patient):
            holding = [asyncio.create_task(hold(ledger, Request())) for _ in range(30)]
            await asyncio.wait(holding, return_when=asyncio.FIRST_COMPLETED)
            overloaded = [task.result() for task in holding if task.done()]
            assert set(overloaded) == {Reason.OVERLOADED}
            assert 10 <= len(overloaded) <= 20
            settling = asyncio.gather(*(ledger.settle(request.settlement(1)) for request in held))
            with pytest.raises(GatewayError, match="more to write"):
                await ledger.settle(Request().settlement(None, held=False))
        await settling
        await asyncio.gather(*holding)
    assert await wallet(patient) == (1000 * USD - 30, (30 - len(overloaded)) * CENT)


async def test_an_ending_worker_does_not_wait_for_ever(patient: Database, clock: ManualClock) -> None:
    request = Request()
    async with opened(patient, clock, close_wait_s=0.3) as ledger:
        await ledger.reserve(request.hold(CENT))
        with capture_logs() as logs:
            async with stalled(patient):
                settling = ledger.settle(request.settlement(1))
                await ledger.close()
                await asyncio.sleep(2.0)  # until the transaction under way has given up as well
            with pytest.raises(GatewayError):
                await settling
            with pytest.raises(GatewayError):
                await ledger.settle(Request().settlement(None, held=False))
    assert [(line["event"], line["count"]) for line in logs if "given_up" in line["event"]] == [
        ("settlements_given_up", 1),
        ("settlements_given_up", 1),
    ]
    clock.advance(31)
    assert await Sweeper(patient, clock, "other", lease_s=30).sweep() == 1
    assert await wallet(patient) == (1000 * USD, 0)
    assert await problems(patient) == []


async def test_what_cannot_be_written_fails_alone_and_its_money_counts(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 1000 * USD)
    async with opened(database, clock) as ledger:
        good, bad = [Request() for _ in range(5)], Request()
        await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in (*good, bad)))
        with capture_logs() as logs:
            outcomes = await asyncio.gather(
                *(
                    ledger.settle(request.settlement(7, model_id="\ud800" if request is bad else "a/b"))
                    for request in (*good[:3], bad, *good[3:])
                ),
                return_exceptions=True,
            )
    failures = [outcome for outcome in outcomes if outcome is not None]
    assert [type(failure) for failure in failures] == [GatewayError]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["ledger_operation_failed"]
    assert await wallet(database) == (1000 * USD - 42, 0)
    assert {row["suffix"] for row in await rows(database, generations)} == {request.suffix for request in good}
    assert await problems(database) == []


async def test_b8_spending_survives_workers(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 2 * USD)
    for number in range(4):
        async with opened(database, clock, f"worker{number}") as ledger:
            request = Request()
            await ledger.reserve(request.hold(20 * CENT))
            await ledger.settle(request.settlement(10 * CENT))
    assert await wallet(database) == (160 * CENT, 0)


async def test_nothing_is_written_while_nothing_happens(database: Database, clock: ManualClock) -> None:
    """An idle ledger has no task, so an ended one leaves none."""
    before = asyncio.all_tasks()
    async with opened(database, clock):
        assert asyncio.all_tasks() == before
