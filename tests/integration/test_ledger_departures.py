"""A caller that leaves while its hold is being written: nothing is held, and there is a record of it all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from server.storage.database import Database
from server.storage.tables import generations
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import (
    CENT,
    USD,
    Fate,
    Forgetful,
    Request,
    entries,
    make_teams,
    opened,
    problems,
    rows,
    stalled,
    wallet,
)


@pytest.fixture
async def counted(database_url: str, clock: ManualClock) -> AsyncIterator[tuple[Forgetful, list[Fate], asyncio.Event]]:
    """A database, what became of each transaction of a ledger, and whether one has begun."""
    opened = Forgetful.open(database_url)
    assert isinstance(opened, Forgetful)
    await make_teams(opened, clock, 1000 * USD)
    made: list[Fate] = []
    begun = asyncio.Event()

    def fate() -> Fate:
        begun.set()
        made.append("answered")
        return "answered"

    opened.fate = fate
    try:
        yield opened, made, begun
    finally:
        await opened.close()


async def test_what_ends_a_hold_that_was_left_has_its_record_in_the_same_transaction(
    counted: tuple[Forgetful, list[Fate], asyncio.Event], clock: ManualClock
) -> None:
    """A worker that is killed between the two would leave a void reservation that nobody knows anything of."""
    database, made, begun = counted
    request = Request()
    async with opened(database, clock) as ledger:
        async with stalled(database):
            task = asyncio.create_task(ledger.reserve(request.hold(CENT)))
            await asyncio.wait_for(begun.wait(), 30)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            settled = ledger.settle(request.settlement(None))
        await settled
    assert [kind for kind, *_ in await entries(database, request)] == ["reserve", "void"]
    assert [row["suffix"] for row in await rows(database, generations)] == [request.suffix]
    assert len(made) == 2


async def test_whoever_leaves_during_its_hold_is_recorded(database: Database, clock: ManualClock) -> None:
    """As a generation does that is cancelled in `reserve`: it settles at once, for the hold may have been made."""
    chance = random.Random(5)
    await make_teams(database, clock, 1000 * USD)
    requests = [Request() for _ in range(100)]
    async with opened(database, clock) as ledger:

        async def leave(request: Request) -> None:
            task = asyncio.create_task(ledger.reserve(request.hold(CENT)))
            await asyncio.sleep(chance.uniform(0, 0.004))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            ledger.settle(request.settlement(None))

        for at in range(0, len(requests), 10):
            await asyncio.gather(*map(leave, requests[at : at + 10]))
    recorded = {row["suffix"] for row in await rows(database, generations)}
    assert {request.suffix for request in requests} - recorded == set()
    assert any([await entries(database, request) for request in requests])
    assert await wallet(database) == (1000 * USD, 0)
    assert await problems(database) == []
