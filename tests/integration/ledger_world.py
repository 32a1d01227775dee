"""Teams with credit, and requests of theirs, for tests of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import aiosqlite
import asyncpg
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.errors import GatewayError, Reason
from server.domain.ledger import Hold, Outcome, Settlement, SpendLimit
from server.domain.ports import Clock
from server.domain.record import AttemptRecord, GenerationRecord, StoredContent
from server.domain.usage import Usage
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.ledger_verify import Problem, verify_ledger
from server.storage.tables import ledger_entries, reservations, teams, wallets
from server.storage.wallets import Wallet, Wallets

T = TypeVar("T")
Fate = Literal["answered", "lost before", "lost after"]

USD = 1_000_000_000
CENT = USD // 100


class Request:
    """One request of a team, from its hold to its settlement."""

    def __init__(self, team: str = "team", key: str = "key", created_at: int = 1_800_000_000) -> None:
        self.suffix = UuidV7().new()
        self.team = team
        self.opening = GenerationRecord(
            suffix=self.suffix,
            request_id=f"req-{self.suffix}",
            created_at=created_at,
            team_id=team,
            key_id=key,
            endpoint="chat.completions",
            model_id="a/b",
        )

    def hold(self, nanos: int, limit: SpendLimit | None = None) -> Hold:
        return Hold(nanos, self.opening, limit)

    def record(self, cost: int = 0, **changes: Any) -> GenerationRecord:
        attempt = AttemptRecord("first", "test-1", 200, None, 1.0, billed=True, cost_nanos=cost)
        known = {name: getattr(self.opening, name) for name in GenerationRecord.__struct_fields__}
        done = {"provider": "first", "usage": Usage(10, 20, reasoning_tokens=5), "cost_nanos": cost}
        return GenerationRecord(**(known | done | {"attempts": (attempt,)} | changes))

    def settlement(
        self,
        charge: int | None,
        *,
        held: bool = True,
        content: StoredContent | None = None,
        outcome: Outcome | None = None,
        **changes: Any,
    ) -> Settlement:
        return Settlement(self.record(charge or 0, **changes), held, charge, content, outcome)


async def make_teams(database: Database, clock: Clock, credit: int, names: Iterable[str] = ("team",)) -> None:
    """Teams whose names are their ids, each with credit."""
    rows = [{"id": name, "name": name, "created_at": 0} for name in names]

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(insert(teams), rows)

    await database.write(work)
    for row in rows:
        if credit:
            await Wallets(database, clock).top_up(str(row["id"]), credit)


@asynccontextmanager
async def opened(database: Database, clock: Clock, worker: str = "worker", **limits: Any) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(database, clock, worker, **limits)
    try:
        yield ledger
    finally:
        await ledger.close()


async def wallet(database: Database, team: str = "team") -> tuple[int, int]:
    """Balance and what is reserved."""
    query = select(wallets.c.balance_nanos, wallets.c.reserved_nanos).where(wallets.c.team_id == team)

    async def work(connection: AsyncConnection) -> tuple[int, int]:
        row = (await connection.execute(query)).one_or_none()
        found = Wallet() if row is None else Wallet(*row)
        return found.balance_nanos, found.reserved_nanos

    return await database.read(work)


async def entries(database: Database, request: Request) -> list[tuple[str, int, int, str | None]]:
    """Kind, balance, reserved and note of a request's entries, in their order."""
    columns = (
        ledger_entries.c.kind,
        ledger_entries.c.balance_nanos,
        ledger_entries.c.reserved_nanos,
        ledger_entries.c.note,
    )
    query = select(*columns).where(ledger_entries.c.reservation_id == request.suffix).order_by(ledger_entries.c.id)

    async def work(connection: AsyncConnection) -> list[tuple[str, int, int, str | None]]:
        return [tuple(row) for row in await connection.execute(query)]

    return await database.read(work)


async def rows(database: Database, table: Table) -> list[dict[str, Any]]:
    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        found = await connection.execute(select(table).order_by(*table.primary_key.columns))
        return [dict(row) for row in found.mappings()]

    return await database.read(work)


async def problems(database: Database) -> list[Problem]:
    """What `ledger verify` finds."""
    found: list[Problem] = []
    verified = await verify_ledger(database, found.append)
    assert verified.problems == len(found)
    return found


async def settle_all(ledger: SqlLedger, settlements: Iterable[Settlement]) -> None:
    await asyncio.gather(*map(ledger.settle, settlements))


async def open_reservations(database: Database) -> int:
    return len(await rows(database, reservations))


@asynccontextmanager
async def another_session(database: Database) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Another program's transaction on the same PostgreSQL, committed when the block ends."""
    url = database.engine.url
    session = await asyncpg.connect(host=str(url.query["host"]), user=url.username, database=url.database)
    try:
        async with session.transaction():
            yield session
    finally:
        await session.close()


@asynccontextmanager
async def stalled(database: Database, table: str = "ledger_entries") -> AsyncIterator[None]:
    """Another program keeps every writer from the table, or from all of SQLite; readers go on."""
    url = database.engine.url
    if url.get_backend_name() == "sqlite":
        async with aiosqlite.connect(str(url.database), isolation_level=None) as other:
            await other.execute("BEGIN IMMEDIATE")
            yield
            await other.execute("ROLLBACK")
        return
    async with another_session(database) as session:
        await session.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        yield


class Forgetful(Database):
    """A database whose answers get lost: `fate` says of each transaction whether it is, and where."""

    fate: Callable[[], Fate] = staticmethod(lambda: "answered")  # type: ignore[assignment]

    async def transact(self, work: Callable[[Connection], T], *, flush: bool = True) -> T:
        fate = self.fate()
        if fate == "lost before":
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose")
        result = await super().transact(work, flush=flush)
        if fate == "lost after":
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose")
        return result
