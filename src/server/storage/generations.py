"""Records of generations, read back and, in the end, deleted. They are written with the settlement, by the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.domain.record import GenerationRecord, StoredContent
from server.domain.records import Found, RecordFilter
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import generation_contents as contents
from server.storage.tables import generations

__all__ = ["SqlRecords"]

DAY_S: Final = 86_400
PURGE_RECORDS: Final = 500
PURGE_CONTENTS: Final = 100
"""Contents are as large as requests may be: fewer of them in one transaction."""

_decode = msgspec.json.Decoder(GenerationRecord).decode


class SqlRecords:
    """Implements `server.domain.records.Records`.

    `record_days`: for how long records are kept, None for ever; contents have a time of their own.
    """

    def __init__(
        self, database: Database, commits: GroupCommit, clock: Clock, *, record_days: int | None = None
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._record_days = record_days

    async def get(self, team_id: str, suffix: str) -> Found | None:
        kept = (contents.c.path, contents.c.request_json, contents.c.reply_json)
        query = (
            select(generations.c.record_json, *kept)
            .join_from(generations, contents, self._has_content(), isouter=True)
            .where(generations.c.suffix == suffix, generations.c.team_id == team_id)
        )

        async def work(connection: AsyncConnection) -> Found | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _found(row)

        return await self._database.read(work)

    async def page(self, team_id: str, wanted: RecordFilter, *, after: str | None, limit: int) -> Sequence[Found]:
        replayable = contents.c.request_json.is_not(None).label("replayable")
        query = (
            select(generations.c.record_json, replayable)
            .join_from(generations, contents, self._has_content(), isouter=True)
            .where(generations.c.team_id == team_id, *_conditions(wanted))
            .order_by(generations.c.suffix.desc())
            .limit(limit)
        )
        if after is not None:
            query = query.where(generations.c.suffix < after)

        async def work(connection: AsyncConnection) -> list[Found]:
            rows = await connection.execute(query)
            return [Found(_decode(row.record_json), replayable=bool(row.replayable)) for row in rows]

        return await self._database.read(work)

    async def purge_contents(self, limit: int = PURGE_CONTENTS) -> int:
        """Delete up to `limit` expired contents, the oldest first; how many. Call it again until it says 0."""
        expired = (
            select(contents.c.suffix)
            .where(contents.c.expires_at <= int(self._clock.now()))
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
        """Delete up to `limit` records that are too old, with their contents; how many. Call it again until it says 0.

        What they cost stays where money is counted: the ledger's entries and the sums by day.
        """
        if self._record_days is None:
            return 0
        old = (
            select(generations.c.suffix)
            .where(generations.c.created_at <= int(self._clock.now()) - self._record_days * DAY_S)
            .order_by(generations.c.created_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(connection: AsyncConnection) -> int:
            suffixes = (await connection.scalars(old)).all()
            if suffixes:
                await connection.execute(delete(contents).where(contents.c.suffix.in_(suffixes)))
                await connection.execute(delete(generations).where(generations.c.suffix.in_(suffixes)))
            return len(suffixes)

        return await self._commits.submit(work)

    def _has_content(self) -> ColumnElement[bool]:
        """What has expired is gone, whether or not it has been purged."""
        return and_(contents.c.suffix == generations.c.suffix, contents.c.expires_at > int(self._clock.now()))


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
