"""The months of the records: on PostgreSQL each has a partition of the table, made ahead and dropped as a whole.

A record's key begins with its time (UUIDv7), so that a range of keys is a range of time. Before the first month is
`generations_before`, with what was there before there were months and what comes late; after the last is
`generations_rest`, which takes what comes where nobody made a month in time. Whatever a key is, it has its place, and
no request fails by what is done here, or waits for more than half a second: a lock that is not had by then is left for
later.

On SQLite, and on a PostgreSQL whose collation does not sort hexadecimal digits as their bytes, there are no months.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.periods import date_of_day, day_of, day_of_date
from server.domain.ports import Clock
from server.storage.database import Database

__all__ = ["Months", "Partition", "drop_months", "make_months", "old_months", "partitions"]

BEFORE: Final = "generations_before"
REST: Final = "generations_rest"
AHEAD: Final = 2
"""Months that are made beyond the running one."""
LOCK_WAIT_MS: Final = 500
"""Less than PostgreSQL's `deadlock_timeout`: before a request that waits for this is ended, this has given way."""
_DAY_MS: Final = 86_400_000
_LOCK_KEY: Final = 0x6D6F6E746873
"""Of the PostgreSQL advisory lock under which partitions change: `months` in ASCII."""
_LOCK_NOT_AVAILABLE: Final = "55P03"
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'([0-9a-f]+)')\) TO \((?:MAXVALUE|'([0-9a-f]+)')\)")
_PARTITIONS: Final = text(
    "SELECT child.relname, pg_get_expr(child.relpartbound, child.oid) FROM pg_inherits"
    " JOIN pg_class child ON child.oid = inhrelid WHERE inhparent = to_regclass('generations')"
)

_MOVE: Final = text(
    "WITH moved AS (DELETE FROM generations_rest WHERE suffix < :end RETURNING *)"
    " INSERT INTO generations SELECT * FROM moved"
)

log = structlog.get_logger("server.storage")


class Partition(msgspec.Struct, frozen=True):
    """The keys from `start` on and before `end`; None has no limit."""

    name: str
    start: str | None
    end: str | None


class Months:
    """Makes them ahead, for any number of gateways at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def prepare(self) -> int:
        """Have the running month and the next two; 0, for there is nothing left to do. Raises GatewayError
        (`database_unavailable`).
        """
        now_s = self._clock.now()
        if _missing(await self._database.read(partitions), now_s):
            await self._database.write(lambda connection: make_months(connection, now_s))
        return 0


async def partitions(connection: AsyncConnection) -> Sequence[Partition]:
    """All there are, by time; none where the table is not partitioned."""
    if connection.dialect.name != "postgresql":
        return ()
    found = []
    for name, bounds in await connection.execute(_PARTITIONS):
        if bounds is None:  # another gateway drops it at this moment
            continue
        match = _BOUNDS.fullmatch(bounds)
        assert match is not None, f"{name}: {bounds}"
        found.append(Partition(name, *match.groups()))
    return sorted(found, key=lambda one: one.start or "")


async def make_months(connection: AsyncConnection, now_s: float) -> bool:
    """Make the months that are missing, and move into them what they should have had. Whether it could be done now."""
    if not await _locked(connection):
        return False
    missing = _missing(await partitions(connection), now_s)
    if not missing:
        return True
    await _run(connection, f"ALTER TABLE generations DETACH PARTITION {REST}")
    for month in missing:
        await _run(connection, _create(f"generations_{month:%Y_%m}", f"'{_bound(month)}'", f"'{_bound(_next(month))}'"))
    end = _bound(_next(missing[-1]))
    await connection.execute(_MOVE, {"end": end})
    await _run(connection, f"ALTER TABLE generations ATTACH PARTITION {REST} FOR VALUES FROM ('{end}') TO (MAXVALUE)")
    log.info("record_months_made", until=str(_next(missing[-1])))
    return True


def old_months(parts: Sequence[Partition], cutoff_s: float) -> Sequence[Partition]:
    """The months that had ended by then, the first ones first."""
    limit = f"{max(0, int(cutoff_s * 1000)):012x}"
    return [part for part in parts[1:-1] if part.end is not None and part.end <= limit]


async def drop_months(connection: AsyncConnection, months: Sequence[Partition]) -> bool:
    """Drop the first months there are, with all that is in them. Whether it could be done now: not where something
    lies before them.
    """
    if not await _locked(connection):
        return False
    parts = await partitions(connection)
    if list(parts[1 : 1 + len(months)]) != list(months):
        return False  # another worker was first
    if await connection.scalar(text("SELECT EXISTS (SELECT FROM generations_before)")):
        return False
    for part in (parts[0], *months):
        await _run(connection, f"DROP TABLE {part.name}")
    await _run(connection, _create(BEFORE, "MINVALUE", f"'{months[-1].end}'"))
    log.info("record_months_dropped", months=[month.name for month in months])
    return True


async def _locked(connection: AsyncConnection) -> bool:
    """Whether nobody else uses the table until the end of the transaction, nor the one that it refers to: its triggers
    come and go with partitions.
    """
    if not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}):
        return False
    try:
        async with connection.begin_nested():
            await _run(connection, f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
            await _run(connection, "LOCK TABLE teams, generations IN ACCESS EXCLUSIVE MODE")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


async def _run(connection: AsyncConnection, statement: str) -> None:
    await connection.execute(text(statement))


def _create(name: str, start: str, end: str) -> str:
    return f"CREATE TABLE {name} PARTITION OF generations FOR VALUES FROM ({start}) TO ({end})"


def _missing(parts: Sequence[Partition], now_s: float) -> list[date]:
    """The first days of the months between the last that there is and the last that there should be."""
    if not parts or parts[-1].start is None:
        return []
    wanted = date_of_day(day_of(now_s)).replace(day=1)
    for _ in range(AHEAD):
        wanted = _next(wanted)
    month = date_of_day(int(parts[-1].start, 16) // _DAY_MS)
    missing = []
    while month <= wanted:
        missing.append(month)
        month = _next(month)
    return missing


def _next(month: date) -> date:
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)


def _bound(month: date) -> str:
    """What the keys of the month begin with at its first moment, in UTC."""
    return f"{day_of_date(month) * _DAY_MS:012x}"
