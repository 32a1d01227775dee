"""Records of generations, read back and, in the end, deleted. They are written with the settlement, by the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.domain.record import GenerationRecord, StoredContent
from server.domain.records import Found, RecordFilter
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.months import Partition, drop_months, old_months, partitions
from server.storage.tables import generation_contents as contents
from server.storage.tables import generations

__all__ = ["SqlRecords"]

DAY_S: Final = 86_400
PURGE_RECORDS: Final = 500
MAX_COUNTED: Final = 1_000_000
PURGE_CONTENTS: Final = 100
"""Contents are as large as requests may be: fewer of them in one transaction."""

_decode = msgspec.json.Decoder(GenerationRecord).decode


class SqlRecords:
    """Implements `server.domain.records.Records`.

    `record_days`: for how long records can be read, None for ever; contents have a time of their own. On PostgreSQL the
    records of a month are deleted together, when the last of them is that old.
    """

    def __init__(
        self, database: Database, commits: GroupCommit, clock: Clock, *, record_days: int | None = None
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._record_days = record_days

    async def get(self, team_id: str, suffix: str) -> Found | None:
        query = self.finding(team_id, suffix)

        async def work(connection: AsyncConnection) -> Found | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _found(row)

        return await self._database.read(work)

    def finding(self, team_id: str, suffix: str) -> Select[Any]:
        """What `get` asks the database."""
        kept = (contents.c.path, contents.c.request_json, contents.c.reply_json)
        return (
            select(generations.c.record_json, *kept)
            .join_from(generations, contents, self._has_content(), isouter=True)
            .where(generations.c.suffix == suffix, generations.c.team_id == team_id, *self._young())
        )

    async def page(self, team_id: str, wanted: RecordFilter, *, after: str | None, limit: int) -> Sequence[Found]:
        query = self.listing(team_id, wanted, after=after, limit=limit)

        async def work(connection: AsyncConnection) -> list[Found]:
            rows = await connection.execute(query)
            return [Found(_decode(row.record_json), replayable=bool(row.replayable)) for row in rows]

        return await self._database.read(work)

    def listing(self, team_id: str, wanted: RecordFilter, *, after: str | None, limit: int) -> Select[Any]:
        """What `page` asks the database."""
        replayable = contents.c.request_json.is_not(None).label("replayable")
        query = (
            select(generations.c.record_json, replayable)
            .join_from(generations, contents, self._has_content(), isouter=True)
            .where(generations.c.team_id == team_id, *self._young(), *_conditions(wanted))
            .order_by(generations.c.suffix.desc())
            .limit(limit)
        )
        return query if after is None else query.where(generations.c.suffix < after)

    async def purge_contents(self, limit: int = PURGE_CONTENTS) -> int:
        """Delete up to `limit` contents that have expired, or whose records are about to go; how many. Call it again
        until it says 0.
        """
        unwanted: ColumnElement[bool] = contents.c.expires_at <= int(self._clock.now())
        _, months = await self._months()
        if months:
            unwanted = or_(unwanted, _within(contents.c.suffix, months))
        expired = (
            select(contents.c.suffix)
            .where(unwanted)
            .order_by(contents.c.expires_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(connection: AsyncConnection) -> int:
            suffixes = (await connection.scalars(expired)).all()
            if suffixes:
                await connection.execute(delete(contents).where(contents.c.suffix.in_(suffixes)))
            return len(suffixes)

        return await self._commits.submit(work)

    async def purge_records(self, limit: int = PURGE_RECORDS) -> int:
        """Delete up to `limit` records that are too old, with their contents, or else the months in which all are;
        how many. Call it again until it says 0.

        What they cost stays where money is counted: the ledger's entries and the sums by day.
        """
        if (too_old := self._too_old()) is None:
            return 0
        parts, months = await self._months()
        old = select(generations.c.suffix).where(too_old)
        if parts:
            old = old.where(generations.c.suffix < parts[0].end)
        old = old.order_by(generations.c.created_at).limit(limit).with_for_update(skip_locked=True)

        async def work(connection: AsyncConnection) -> int:
            suffixes = (await connection.scalars(old)).all()
            if suffixes:
                await connection.execute(delete(contents).where(contents.c.suffix.in_(suffixes)))
                await connection.execute(delete(generations).where(generations.c.suffix.in_(suffixes)))
            return len(suffixes)

        if count := await self._commits.submit(work):
            return count
        return await self._drop(months) if months else 0

    async def _drop(self, months: Sequence[Partition]) -> int:
        """How many records were in them, a million for more; 0 where they can't go yet."""
        within, too_old = _within(generations.c.suffix, months), self._too_old()
        assert too_old is not None
        is_needed = exists().where(within, ~too_old) | exists().where(_within(contents.c.suffix, months))

        async def look(connection: AsyncConnection) -> int | None:
            if await connection.scalar(select(is_needed)):
                return None
            some = select(generations.c.suffix).where(within).limit(MAX_COUNTED).subquery()
            return await connection.scalar(select(func.count()).select_from(some))

        count = await self._database.read(look)
        if count is None or not await self._database.write(partial(drop_months, months=months)):
            return 0
        return count

    async def _months(self) -> tuple[Sequence[Partition], Sequence[Partition]]:
        """All partitions, and the months that are over for long enough."""
        if self._record_days is None:
            return (), ()
        parts = await self._database.read(partitions)
        return parts, old_months(parts, self._clock.now() - self._record_days * DAY_S)

    def _too_old(self) -> ColumnElement[bool] | None:
        if self._record_days is None:
            return None
        return generations.c.created_at <= int(self._clock.now()) - self._record_days * DAY_S

    def _young(self) -> Sequence[ColumnElement[bool]]:
        """What is too old is gone, whether or not it has been purged."""
        too_old = self._too_old()
        return () if too_old is None else (~too_old,)

    def _has_content(self) -> ColumnElement[bool]:
        """What has expired is gone, whether or not it has been purged."""
        return and_(contents.c.suffix == generations.c.suffix, contents.c.expires_at > int(self._clock.now()))


def _within(suffix: ColumnElement[str], months: Sequence[Partition]) -> ColumnElement[bool]:
    return and_(suffix >= months[0].start, suffix < months[-1].end)


def _conditions(wanted: RecordFilter) -> list[ColumnElement[bool]]:
    columns = {
        generations.c.model_id: wanted.model,
        generations.c.provider: wanted.provider,
        generations.c.endpoint: wanted.endpoint,
        generations.c.key_id: wanted.key_id,
        generations.c.status_code: wanted.status_code,
        generations.c.success: wanted.success,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in columns.items() if value is not None]
    if wanted.since is not None:
        conditions.append(generations.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(generations.c.created_at < wanted.until)
    return conditions


def _found(row: Any) -> Found:
    record = _decode(row.record_json)
    if row.path is None:
        return Found(record)
    return Found(record, StoredContent(row.path, row.request_json, row.reply_json), row.request_json is not None)
