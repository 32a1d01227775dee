"""When a job is looked at again: as its provider says, later where that fails, and never beyond its deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from server.domain.catalog import Catalog
from server.domain.video import JobReport, VideoStatus
from server.domain.video_jobs import VideoJob
from server.pipeline.video_looks import Looks
from server.storage.group_commit import GroupCommit
from server.storage.video_jobs import SqlVideoJobs
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import make_teams
from tests.integration.video_rows import new_job


class Nothing:
    current = Catalog({}, {})


@pytest.fixture
async def store(sqlite_url: str, clock: ManualClock) -> AsyncIterator[SqlVideoJobs]:
    async with migrated(sqlite_url) as database:
        await make_teams(database, clock, 0)
        commits = GroupCommit(database)
        yield SqlVideoJobs(database, commits, clock, "one")
        await commits.close()


async def opened(store: SqlVideoJobs, clock: ManualClock, **facts: Any) -> VideoJob:
    job = new_job(clock, held=None, native_id="native", **facts)
    await store.open(job, None)
    return job


async def waits(store: SqlVideoJobs, clock: ManualClock, job: VideoJob) -> float:
    """How long until it is looked at again."""
    kept = await store.get("team", job.suffix)
    assert kept is not None
    return round(kept.due_at - clock.now(), 3)


@pytest.mark.parametrize(
    ("hint_s", "draw", "expected_s"),
    [(None, 0.0, 5.0), (2.0, 0.0, 2.0), (2.0, 0.5, 2.2), (10.0, 0.999, 11.998), (0.0, 0.0, 5.0), (0.001, 0.0, 0.2),
     (900.0, 0.0, 60.0)],
)  # fmt: skip
async def test_as_its_provider_says_and_a_little_later(
    store: SqlVideoJobs, clock: ManualClock, hint_s: float | None, draw: float, expected_s: float
) -> None:
    looks = Looks(store, {}, Nothing(), clock, lambda: draw)
    job = await opened(store, clock)
    assert await looks.take(job, JobReport("native", VideoStatus.IN_PROGRESS, poll_after_s=hint_s)) is not None
    assert await waits(store, clock, job) == expected_s


@pytest.mark.parametrize(
    ("errors", "hint_s", "retry_after_s", "expected_s"),
    [(0, None, None, 5.0), (1, None, None, 10.0), (3, None, None, 40.0), (4, None, None, 60.0), (500, None, None, 60.0),
     (0, 2.0, None, 2.0), (2, 2.0, None, 8.0), (0, 2.0, 30.0, 30.0), (0, None, 1e9, 60.0)],
)  # fmt: skip
async def test_later_each_time_it_fails(
    store: SqlVideoJobs,
    clock: ManualClock,
    errors: int,
    hint_s: float | None,
    retry_after_s: float | None,
    expected_s: float,
) -> None:
    looks = Looks(store, {}, Nothing(), clock, lambda: 0.0)
    job = await opened(store, clock, errors=errors, poll_after_s=hint_s)
    assert await looks.failed(job, retry_after_s)
    assert await waits(store, clock, job) == expected_s
    kept = await store.get("team", job.suffix)
    assert kept is not None
    assert kept.errors == errors + 1


async def test_never_beyond_its_deadline(store: SqlVideoJobs, clock: ManualClock) -> None:
    looks = Looks(store, {}, Nothing(), clock, lambda: 0.0)
    job = await opened(store, clock)
    job = replace(job, deadline_at=int(clock.now()) + 3)
    assert await looks.take(job, JobReport("native", VideoStatus.QUEUED, poll_after_s=10)) is not None
    assert await waits(store, clock, job) == 3
    clock.advance(3)
    [claimed] = await store.claim(clock.now() + 30, 1)
    assert await looks.failed(claimed)
    assert await waits(store, clock, job) == 0
