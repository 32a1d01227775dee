"""Content of videos that is kept: each variant a row with a lease, from when it is wanted until its object is gone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.domain.video import VARIANTS, Variant
from server.domain.video_contents import KeptContent
from server.domain.video_jobs import VideoJob
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import video_contents, video_jobs

__all__ = ["SqlVideoContents", "doom_contents", "want_content"]

MS: Final = 1000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(VideoJob).decode
_kept = video_contents.c
_STATE_KNOWN: Final = [getattr(_kept, name) for name in KeptContent.__struct_fields__]


def want_content(suffix: str, variant: Variant, now: float) -> Any:
    """The statement that has it copied."""
    values = {"suffix": suffix, "variant": variant, "state": "wanted", "created_at": int(now), "due_ms": int(now * MS)}
    return insert(video_contents).values(values)


def doom_contents(suffix: str, now: float) -> Any:
    """The statement that has all that is kept of a video deleted, and takes the lease from who is copying it."""
    values = {"state": "doomed", "due_ms": int(now * MS), "lease_owner": None, "failures": 0}
    return update(video_contents).where(_kept.suffix == suffix).values(values)


class SqlVideoContents:
    """Implements `server.domain.video_contents.ContentRows` for the worker `worker_id`."""

    def __init__(self, database: Database, commits: GroupCommit, clock: Clock, worker_id: str) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._worker_id = worker_id

    async def find(self, suffix: str, variant: Variant) -> KeptContent | None:
        query = select(*_STATE_KNOWN).where(
            _kept.suffix == suffix,
            _kept.variant == variant,
            _kept.state == "stored",
            _kept.expires_at > int(self._clock.now()),
        )

        async def work(connection: AsyncConnection) -> KeptContent | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _content(row)

        return await self._database.read(work)

    async def next_due(self, but_of: Collection[str] = ()) -> float | None:
        query = select(_kept.due_ms).where(_kept.state.not_in(sorted(but_of))).order_by(_kept.due_ms).limit(1)

        async def work(connection: AsyncConnection) -> float | None:
            due_ms: int | None = await connection.scalar(query)
            return None if due_ms is None else due_ms / MS

        return await self._database.read(work)

    async def claim(self, until: float, limit: int, but_of: Collection[str] = ()) -> Sequence[KeptContent]:
        due = (
            select(_kept.suffix, _kept.variant)
            .where(_kept.due_ms <= int(self._clock.now() * MS), _kept.state.not_in(sorted(but_of)))
            .order_by(_kept.due_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        def work(connection: Connection) -> list[KeptContent]:
            claimed: list[KeptContent] = []
            for suffix, variant in connection.execute(due).all():
                leased = (
                    update(video_contents)
                    .where(_kept.suffix == suffix, _kept.variant == variant)
                    .values(
                        lease_owner=self._worker_id,
                        due_ms=int(until * MS),
                        attempts=_kept.attempts + case((_kept.state == "wanted", 1), else_=0),
                    )
                    .returning(*_STATE_KNOWN)
                )
                claimed += map(_content, connection.execute(leased))
            return claimed

        return await self._database.transact(work)

    async def job_of(self, content: KeptContent) -> VideoJob | None:
        query = select(video_jobs.c.job_json).where(*_of_its_job(content))

        async def work(connection: AsyncConnection) -> VideoJob | None:
            job: bytes | None = await connection.scalar(query)
            return None if job is None else _decode(job)

        return await self._database.read(work)

    async def keep(self, content: KeptContent, until: float) -> bool:
        statement = update(video_contents).where(*self._ours(content)).values(due_ms=int(until * MS))

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement)).rowcount == 1

        return await self._commits.submit(work)

    async def store(self, content: KeptContent, others: Sequence[Variant]) -> bool:
        now = self._clock.now()
        stored = update(video_contents).where(*self._ours(content), _kept.state == "wanted")
        stored = stored.values(
            state="stored",
            object_key=content.object_key,
            size=content.size,
            content_type=content.content_type,
            etag=content.etag,
            stored_at=int(now),
            expires_at=content.expires_at,
            due_ms=content.expires_at * MS,
            lease_owner=None,
            failures=0,
        )
        ours_already = select(_kept.suffix).where(*_named(content), _kept.object_key == content.object_key)

        def work(connection: Connection) -> bool:
            # The job first, as who deletes it does: two that lock in another order could wait for each other.
            if connection.execute(_locked_job(content)).one_or_none() is None:
                return False
            if connection.execute(stored).rowcount != 1:
                return connection.execute(ours_already).one_or_none() is not None
            for variant in others:
                connection.execute(want_content(content.suffix, variant, now))
            return True

        return await self._database.transact(work)

    async def postpone(self, content: KeptContent, due_at: float) -> None:
        statement = update(video_contents).where(*self._ours(content))
        await self._write(statement.values(due_ms=int(due_at * MS), lease_owner=None, failures=_kept.failures + 1))

    async def give_up(self, content: KeptContent) -> None:
        def work(connection: Connection) -> None:
            job = connection.execute(_locked_job(content)).one_or_none()
            dropped = connection.execute(delete(video_contents).where(*self._ours(content)))
            if job is not None and dropped.rowcount == 1 and content.variant == VARIANTS[0]:
                encoded = _encode(replace(_decode(job.job_json), kept_until=None))
                connection.execute(update(video_jobs).where(*_of_its_job(content)).values(job_json=encoded))

        await self._database.transact(work)

    async def drop(self, content: KeptContent) -> None:
        await self._write(delete(video_contents).where(*self._ours(content)))

    async def kept_bytes(self) -> int:
        query = select(func.coalesce(func.sum(_kept.size), 0)).where(_kept.state == "stored")

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(query) or 0)

        return await self._database.read(work)

    def _ours(self, content: KeptContent) -> tuple[ColumnElement[bool], ...]:
        return *_named(content), _kept.lease_owner == self._worker_id

    async def _write(self, statement: Any) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._commits.submit(work)


def _named(content: KeptContent) -> tuple[ColumnElement[bool], ...]:
    return _kept.suffix == content.suffix, _kept.variant == content.variant


def _of_its_job(content: KeptContent) -> tuple[ColumnElement[bool], ...]:
    return video_jobs.c.suffix == content.suffix, video_jobs.c.deleted_at.is_(None)


def _locked_job(content: KeptContent) -> Any:
    return select(video_jobs.c.job_json).where(*_of_its_job(content)).with_for_update()


def _content(row: Any) -> KeptContent:
    return KeptContent(**{name: value for name, value in row._mapping.items() if value is not None})
