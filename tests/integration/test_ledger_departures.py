"""A caller that leaves while its hold is being written: nothing is held, and there is a record of it all the same."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from server.storage.database import Database
from server.storage.tables import generations
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import USD, Request, entries, make_teams, opened, problems, rows, wallet

CENT = USD // 100


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
