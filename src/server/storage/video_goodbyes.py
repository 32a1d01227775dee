"""What providers are still to be told of jobs that are over: columns of the jobs' rows, and their index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.domain.video_jobs import Goodbye, Verb, VideoJob
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import HAS_GOODBYE, video_jobs

__all__ = ["SqlVideoGoodbyes", "noted"]

FIRST_S: Final = 15.0
"""Who has ended a job says it himself, at once; after so long somebody else does."""
MS: Final = 1000

_DUE: Final[Any] = text(HAS_GOODBYE)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(VideoJob).decode


def noted(job: VideoJob, verb: Verb | None, now: float) -> dict[str, Any]:
    """The values of the row of a job that is over; none where no provider has it, or need be told."""
    if verb is None or job.native_id is None:
        return {}
    return {"goodbye": verb, "goodbye_due_ms": int((now + FIRST_S) * MS), "goodbye_tries": 0}


class SqlVideoGoodbyes:
    """Implements `server.domain.video_jobs.GoodbyeStore`."""

    def __init__(self, database: Database, commits: GroupCommit, clock: Clock) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock

    async def note(self, job: VideoJob) -> bool:
        values = noted(job, "cancel", self._clock.now())
        row = video_jobs.c.suffix == job.suffix, video_jobs.c.native_id.is_(None), video_jobs.c.ended_at.is_not(None)

        async def work(connection: AsyncConnection) -> bool:
            found = await connection.scalar(select(video_jobs.c.job_json).where(*row).with_for_update())
            if found is None:
                return False
            known = replace(_decode(found), native_id=job.native_id)
            changed = {**values, "native_id": job.native_id, "job_json": _encode(known)}
            return (await connection.execute(update(video_jobs).where(*row).values(changed))).rowcount == 1

        return await self._commits.submit(work)

    async def said(self, suffix: str, verb: Verb) -> None:
        await self._change(suffix, verb, goodbye=None, goodbye_due_ms=None)

    async def later(self, suffix: str, verb: Verb, due_at: float) -> None:
        tries = video_jobs.c.goodbye_tries + 1
        await self._change(suffix, verb, goodbye_due_ms=int(due_at * MS), goodbye_tries=tries)

    async def claim(self, until: float, limit: int) -> Sequence[Goodbye]:
        due = (
            select(video_jobs.c.suffix)
            .where(_DUE, video_jobs.c.goodbye_due_ms <= int(self._clock.now() * MS))
            .order_by(video_jobs.c.goodbye_due_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        columns = video_jobs.c.job_json, video_jobs.c.goodbye, video_jobs.c.goodbye_tries
        statement = (
            update(video_jobs)
            .where(video_jobs.c.suffix.in_(select(due.c.suffix)))
            .values(goodbye_due_ms=int(until * MS))
            .returning(*columns)
        )

        async def work(connection: AsyncConnection) -> list[Goodbye]:
            return [Goodbye(_decode(job), verb, tries) for job, verb, tries in await connection.execute(statement)]

        return await self._commits.submit(work)

    async def next_due(self) -> float | None:
        query = select(video_jobs.c.goodbye_due_ms).where(_DUE).order_by(video_jobs.c.goodbye_due_ms).limit(1)

        async def work(connection: AsyncConnection) -> float | None:
            due_ms: int | None = await connection.scalar(query)
            return None if due_ms is None else due_ms / MS

        return await self._database.read(work)

    async def _change(self, suffix: str, verb: Verb, **values: Any) -> None:
        statement = update(video_jobs).where(video_jobs.c.suffix == suffix, video_jobs.c.goodbye == verb).values(values)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._commits.submit(work)
