"""Video jobs: each a row with a lease; how one ends, its reservation's end and its record are one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, CursorResult, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import Hold, Settlement
from server.domain.ports import Clock
from server.domain.video import VARIANTS, VideoStatus
from server.domain.video_jobs import JobFacts, Order, Verb, VideoJob
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.ledger_apply import Operation, Release, Unrecorded, apply
from server.storage.tables import IS_OPEN, JOBS_WORKER, generations, video_jobs
from server.storage.video_contents import doom_contents, want_content
from server.storage.video_goodbyes import SqlVideoGoodbyes, noted
from server.storage.webhook_events import Outbox

__all__ = ["SqlVideoJobs"]

DAY_S: Final = 86_400
RETENTION_S: Final = 30 * DAY_S
"""How long jobs that have ended can be seen."""
PURGE_BATCH: Final = 500
MAX_OPEN: Final = 2000
"""Jobs of one team that have not ended."""
RETRY_AFTER_S: Final = 10.0
MS: Final = 1000

_OPEN: Final[Any] = text(IS_OPEN)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(VideoJob).decode

log = structlog.get_logger("server.storage")


class SqlVideoJobs:
    """Implements `server.domain.video_jobs.VideoJobStore` for the worker `worker_id`.

    `keep_s`: the content of a job that is complete is wanted then, and kept for so long; None: it is not.
    """

    def __init__(
        self,
        database: Database,
        commits: GroupCommit,
        clock: Clock,
        worker_id: str,
        *,
        retention_s: int = RETENTION_S,
        max_open: int = MAX_OPEN,
        outbox: Outbox | None = None,
        keep_s: int | None = None,
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._worker_id = worker_id
        self._retention_s = retention_s
        self._max_open = max_open
        self._outbox = outbox
        self.goodbyes = SqlVideoGoodbyes(database, commits, clock)
        self._keep_s = keep_s

    async def open(self, job: VideoJob, hold: Hold | None, *, key: str | None = None) -> None:
        row = {
            "idempotency_key": key,
            "suffix": job.suffix,
            "team_id": job.team_id,
            "key_id": job.opening.key_id,
            "created_at": job.opening.created_at,
            "deadline_at": job.deadline_at,
            **_changing(job, self._worker_id),
        }

        still_open = select(video_jobs.c.suffix).where(video_jobs.c.team_id == job.team_id, _OPEN).limit(self._max_open)

        def work(connection: Connection) -> GatewayError | None:
            if len(connection.execute(still_open).all()) >= self._max_open:
                return _too_many(self._max_open)
            if hold is not None:
                # Jobs are few: its wallet may be kept from others for as long as this takes.
                [refusal] = apply(connection, [hold], worker_id=JOBS_WORKER, now=self._clock.now(), locked=True)
                if refusal is not None:
                    return refusal
            connection.execute(insert(video_jobs), row)
            return None

        refusal = await self._database.transact(work)
        if refusal is not None:
            raise refusal

    async def withdraw(self, suffix: str) -> bool:
        forgotten = (
            delete(video_jobs)
            .where(*self._leased(suffix), video_jobs.c.native_id.is_(None))
            .returning(video_jobs.c.team_id)
        )

        def work(connection: Connection) -> bool:
            team_id = connection.execute(forgotten).scalar_one_or_none()
            if team_id is None:
                return False
            apply(connection, [Release(suffix, team_id)], worker_id=JOBS_WORKER, now=self._clock.now())
            return True

        return await self._database.transact(work)

    async def keep(self, suffix: str, until: float) -> bool:
        statement = update(video_jobs).where(*self._leased(suffix)).values(due_ms=_ms(until))
        return await self._changes_one(statement)

    async def save(self, job: VideoJob, *, leased: bool = False, began: bool = False) -> bool:
        values = _changing(job, self._worker_id if leased else None)
        statement = update(video_jobs).where(*self._leased(job.suffix)).values(values)
        outbox = self._outbox
        if not began or outbox is None:
            return await self._changes_one(statement)

        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(statement)).rowcount != 1:
                return False
            await connection.run_sync(outbox.note, job)
            return True

        return await self._commits.submit(work)

    async def finish(
        self, job: VideoJob, settlement: Settlement, *, unsubmitted: bool = False, goodbye: Verb | None = None
    ) -> bool:
        now = self._clock.now()
        guards: list[ColumnElement[bool]] = [video_jobs.c.suffix == job.suffix, _OPEN]
        if unsubmitted:
            guards.append(video_jobs.c.native_id.is_(None))
        if self._keep_s is not None and job.status is VideoStatus.COMPLETED:
            job = replace(job, kept_until=int(now) + self._keep_s)
        values = {**_changing(job, None), "ended_at": int(now), **noted(job, goodbye, now)}
        ending = update(video_jobs).where(*guards).values(values)
        # Of an error that was told though there is a job: the record of its end takes that one's place.
        premature = delete(generations).where(generations.c.suffix == job.suffix)

        async def end(operation: Operation) -> bool:
            def work(connection: Connection) -> bool:
                if connection.execute(ending).rowcount != 1:
                    return False
                if job.kept_until is not None:
                    connection.execute(want_content(job.suffix, VARIANTS[0], now))
                if self._outbox is not None:
                    self._outbox.note(connection, job)
                connection.execute(premature)
                apply(connection, [operation], worker_id=JOBS_WORKER, now=now)
                return True

            return await self._database.transact(work)

        try:
            return await end(settlement)
        except GatewayError:
            raise
        except Exception as error:  # the record cannot be written: the money is settled without it
            log.error("video_record_refused", suffix=job.suffix, cause=type(error).__name__)
            return await end(Unrecorded(settlement))

    async def claim(self, until: float, limit: int, but_of: Collection[str] = ()) -> Sequence[VideoJob]:
        due = (
            select(video_jobs.c.suffix)
            .where(_OPEN, video_jobs.c.due_ms <= _ms(self._clock.now()), *_not_of(but_of))
            .order_by(video_jobs.c.due_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        statement = (
            update(video_jobs)
            .where(video_jobs.c.suffix.in_(select(due.c.suffix)))
            .values(lease_owner=self._worker_id, due_ms=_ms(until))
            .returning(video_jobs.c.job_json, video_jobs.c.due_ms)
        )

        async def work(connection: AsyncConnection) -> list[VideoJob]:
            return [_job(row) for row in await connection.execute(statement)]

        return await self._commits.submit(work)

    async def next_due(self, but_of: Collection[str] = ()) -> float | None:
        query = select(video_jobs.c.due_ms).where(_OPEN, *_not_of(but_of)).order_by(video_jobs.c.due_ms).limit(1)

        async def work(connection: AsyncConnection) -> float | None:
            due_ms: int | None = await connection.scalar(query)
            return None if due_ms is None else due_ms / MS

        return await self._database.read(work)

    async def get(self, team_id: str, suffix: str) -> VideoJob | None:
        query = select(video_jobs.c.job_json, video_jobs.c.due_ms).where(*_seen(team_id), video_jobs.c.suffix == suffix)

        async def work(connection: AsyncConnection) -> VideoJob | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _job(row)

        return await self._database.read(work)

    async def team_of(self, suffix: str) -> str | None:
        seen = video_jobs.c.suffix == suffix, video_jobs.c.deleted_at.is_(None)

        async def work(connection: AsyncConnection) -> str | None:
            team_id: str | None = await connection.scalar(select(video_jobs.c.team_id).where(*seen))
            return team_id

        return await self._database.read(work)

    async def find(self, team_id: str, key: str, since: int) -> VideoJob | None:
        query = (
            select(video_jobs.c.job_json, video_jobs.c.due_ms)
            .where(
                video_jobs.c.team_id == team_id,
                video_jobs.c.idempotency_key == key,
                video_jobs.c.created_at >= since,
            )
            .order_by(video_jobs.c.suffix.desc())
            .limit(1)
        )

        async def work(connection: AsyncConnection) -> VideoJob | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _job(row)

        return await self._database.read(work)

    async def page(self, team_id: str, *, after: str | None, limit: int, order: Order) -> Sequence[VideoJob]:
        suffix = video_jobs.c.suffix
        query = select(video_jobs.c.job_json, video_jobs.c.due_ms).where(*_seen(team_id)).limit(limit)
        if order == "asc":
            query = query.order_by(suffix) if after is None else query.order_by(suffix).where(suffix > after)
        else:
            query = query.order_by(suffix.desc())
            query = query if after is None else query.where(suffix < after)

        async def work(connection: AsyncConnection) -> list[VideoJob]:
            return [_job(row) for row in await connection.execute(query)]

        return await self._database.read(work)

    async def delete(self, team_id: str, suffix: str) -> bool:
        ended = (*_seen(team_id), video_jobs.c.suffix == suffix, video_jobs.c.ended_at.is_not(None))
        query = select(video_jobs.c.job_json, video_jobs.c.due_ms).where(*ended)

        async def work(connection: AsyncConnection) -> bool:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return False
            job = _job(row)
            bare = replace(job, facts=JobFacts(seconds=job.facts.seconds), handle=None, fault=None)
            now = self._clock.now()
            values = {"deleted_at": int(now), "job_json": _encode(bare), **noted(job, "delete", now)}
            result = await connection.execute(update(video_jobs).where(*ended).values(values))
            await connection.execute(doom_contents(suffix, now))
            return result.rowcount == 1

        return await self._commits.submit(work)

    async def purge(self, limit: int = PURGE_BATCH) -> int:
        """Delete up to `limit` jobs that ended long ago, the oldest first; how many. Call it again until it says 0."""
        old = (
            select(video_jobs.c.suffix)
            .where(video_jobs.c.ended_at <= int(self._clock.now()) - self._retention_s)
            .order_by(video_jobs.c.ended_at)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> int:
            result = await connection.execute(delete(video_jobs).where(video_jobs.c.suffix.in_(old)))
            return result.rowcount

        return await self._commits.submit(work)

    def _leased(self, suffix: str) -> tuple[ColumnElement[bool], ...]:
        """That it goes on, and is ours to look after."""
        return video_jobs.c.suffix == suffix, _OPEN, video_jobs.c.lease_owner == self._worker_id

    async def _changes_one(self, statement: Any) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            result: CursorResult[Any] = await connection.execute(statement)
            return result.rowcount == 1

        return await self._commits.submit(work)


def _too_many(limit: int) -> GatewayError:
    return GatewayError(
        Reason.OVERLOADED,
        f"The team has {limit} videos in the making, the most that there may be: wait until some have ended.",
        retry_after_s=RETRY_AFTER_S,
    )


def _changing(job: VideoJob, lease_owner: str | None) -> dict[str, Any]:
    """The columns that change while a job goes on, and with its end."""
    return {
        "status": job.status.value,
        "model_id": job.model,
        "provider": job.provider,
        "provider_model": job.provider_model,
        "native_id": job.native_id,
        "held_nanos": job.held_nanos,
        "charged_nanos": job.charged_nanos,
        "due_ms": _ms(job.due_at),
        "lease_owner": lease_owner,
        "job_json": _encode(job),
    }


def _job(row: Any) -> VideoJob:
    """The lease's end, or when to look again, is the column's: a claim changes nothing else."""
    return replace(_decode(row.job_json), due_at=row.due_ms / MS)


def _seen(team_id: str) -> tuple[ColumnElement[bool], ...]:
    return video_jobs.c.team_id == team_id, video_jobs.c.deleted_at.is_(None)


def _not_of(providers: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    return (video_jobs.c.provider.not_in(sorted(providers)),) if providers else ()


def _ms(seconds: float) -> int:
    return int(seconds * MS)
