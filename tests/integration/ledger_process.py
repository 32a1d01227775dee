"""What a test of the ledger lets another process do: python -m tests.integration.ledger_process <job> <url> …"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from server.clock import SystemClock, UuidV7
from server.domain.errors import GatewayError, Reason
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.wallets import Wallets
from tests.integration.ledger_world import Request

LANES = 8


async def reserve(url: str, team: str, count: str, nanos: str) -> None:
    """Hold as often as that, all at once; print how many were granted. Only want of credit may refuse."""
    database = Database.open(url)
    ledger = SqlLedger(database, SystemClock(), UuidV7().new(), reserve_wait_s=60)

    async def one() -> bool:
        try:
            await ledger.reserve(Request(team).hold(int(nanos)))
        except GatewayError as error:
            if error.reason is Reason.INSUFFICIENT_FUNDS:
                return False
            raise
        return True

    try:
        print(sum(await asyncio.gather(*(one() for _ in range(int(count))))))
    finally:
        await ledger.close()
        await database.close()


async def spend(url: str, team: str, count: str) -> None:
    """Hold a cent and settle a nano-dollar, as often as that, some at a time; print the wallet as it is then."""
    database = Database.open(url)
    clock = SystemClock()
    ledger = SqlLedger(database, clock, UuidV7().new(), reserve_wait_s=60)

    async def lane() -> None:
        for _ in range(int(count) // LANES):
            request = Request(team)
            await ledger.reserve(request.hold(10_000_000))
            await ledger.settle(request.settlement(1))

    try:
        await asyncio.gather(*(lane() for _ in range(LANES)))
        shown = await Wallets(database, clock).show(team)
        print(shown.balance_nanos, shown.reserved_nanos)
    finally:
        await ledger.close()
        await database.close()


async def spend_until_killed(url: str, team: str) -> None:
    """Print the suffix of each request once it is settled, for ever; a line `open <suffix>` once it is held."""
    database = Database.open(url)
    ledger = SqlLedger(database, SystemClock(), UuidV7().new())

    async def lane() -> None:
        while True:
            request = Request(team)
            await ledger.reserve(request.hold(10_000_000))
            print("open", request.suffix, flush=True)
            await ledger.settle(request.settlement(1))
            print("settled", request.suffix, flush=True)

    await asyncio.gather(*(lane() for _ in range(LANES)))


Job = Callable[..., Coroutine[Any, Any, None]]
JOBS: dict[str, Job] = {
    "reserve": reserve,
    "spend": spend,
    "spend_until_killed": spend_until_killed,
}

if __name__ == "__main__":
    asyncio.run(JOBS[sys.argv[1]](*sys.argv[2:]))
