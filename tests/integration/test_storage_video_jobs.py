"""Where video jobs are kept: leases, one end each, and what their teams see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import Settlement
from server.domain.video import TERMINAL, JobReport, VideoStatus
from server.domain.video_jobs import VideoJob
from server.pipeline.video_account import OUTCOME_UNKNOWN, ended
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.sweeper import Sweeper
from server.storage.tables import daily_usage, generations, ledger_entries, reservations, video_jobs
from server.storage.video_jobs import RETENTION_S, SqlVideoJobs
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import USD, make_teams, opened, problems, rows, wallet
from tests.integration.video_rows import LEASE_S, NANOS_PER_SECOND, hold_of, new_job

Stores = Callable[[str], SqlVideoJobs]

HELD = 8 * NANOS_PER_SECOND


@pytest.fixture
async def stores(database: Database, clock: ManualClock) -> AsyncIterator[Stores]:
    """A store for each name of a worker."""
    await make_teams(database, clock, 10 * USD, ("team", "other"))
    commits = GroupCommit(database)
    yield lambda worker: SqlVideoJobs(database, commits, clock, worker)
    await commits.close()


async def kinds(database: Database) -> list[str]:
    return [entry["kind"] for entry in await rows(database, ledger_entries) if entry["reservation_id"]]


def at_end(
    job: VideoJob, clock: ManualClock, status: VideoStatus = VideoStatus.COMPLETED
) -> tuple[VideoJob, Settlement]:
    return ended(job, status, clock.now(), report=JobReport(job.native_id or "native", status))


async def sweep(database: Database, clock: ManualClock) -> int:
    """By the one worker that lives, long after all others have died."""
    sweeper = Sweeper(database, clock, "sweeper", lease_s=LEASE_S)
    for _ in range(20):
        await sweeper.beat()
        clock.advance(LEASE_S / 3)
    return await sweeper.sweep()


async def test_a_job_and_its_reservation_are_there_together_or_not_at_all(
    database: Database, clock: ManualClock, stores: Stores
) -> None:
    job = new_job(clock, held=11 * USD)
    with pytest.raises(GatewayError) as caught:
        await stores("one").open(job, hold_of(job))
    assert caught.value.reason is Reason.INSUFFICIENT_FUNDS
    assert await stores("one").get("team", job.suffix) is None
    job = new_job(clock)
    await stores("one").open(job, hold_of(job))
    assert await stores("one").get("team", job.suffix) == job
    assert await wallet(database) == (10 * USD, HELD)


async def test_a_team_has_so_many_in_the_making(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 10 * USD, ("team", "other"))
    commits = GroupCommit(database)
    store = SqlVideoJobs(database, commits, clock, "one", max_open=2)
    jobs = [new_job(clock) for _ in range(3)]
    for job in jobs[:2]:
        await store.open(job, hold_of(job))
    with pytest.raises(GatewayError, match="2 videos in the making") as caught:
        await store.open(jobs[2], hold_of(jobs[2]))
    assert caught.value.reason is Reason.OVERLOADED
    others = new_job(clock, "other")
    await store.open(others, hold_of(others))
    assert await store.finish(*at_end(jobs[0], clock))
    await store.open(jobs[2], hold_of(jobs[2]))
    assert await wallet(database) == (10 * USD - HELD, 2 * HELD)
    await commits.close()


async def test_a_reservation_outlives_its_worker_and_ends_with_its_job(
    database: Database, clock: ManualClock, stores: Stores
) -> None:
    job = new_job(clock)
    await stores("dead").open(job, hold_of(job))
    assert await sweep(database, clock) == 0
    assert await wallet(database) == (10 * USD, HELD)
    [claimed] = await stores("next").claim(clock.now() + LEASE_S, 10)
    assert replace(claimed, due_at=job.due_at) == job
    assert await stores("next").finish(*at_end(claimed, clock))
    assert await kinds(database) == ["reserve", "settle"]
    assert await wallet(database) == (10 * USD - HELD, 0)
    assert await problems(database) == []


async def test_what_a_lease_has_been_lost_of_is_not_written(
    database: Database, clock: ManualClock, stores: Stores
) -> None:
    job = new_job(clock)
    await stores("slow").open(job, hold_of(job))
    assert await stores("next").claim(clock.now() + LEASE_S, 10) == []
    assert await stores("slow").keep(job.suffix, clock.now() + 2 * LEASE_S)
    clock.advance(LEASE_S + 1)
    assert await stores("next").claim(clock.now() + LEASE_S, 10) == []
    clock.advance(LEASE_S)
    [claimed] = await stores("next").claim(clock.now() + LEASE_S, 10)
    assert not await stores("slow").keep(job.suffix, clock.now() + LEASE_S)
    assert not await stores("slow").save(replace(job, native_id="too late"))
    assert not await stores("slow").withdraw(job.suffix)
    assert await stores("next").save(replace(claimed, native_id="in time"))
    assert not await stores("next").save(claimed)
    kept = await stores("slow").get("team", job.suffix)
    assert kept is not None
    assert kept.native_id == "in time"


async def test_j2_of_many_who_end_a_job_at_once_one_does(
    database: Database, clock: ManualClock, stores: Stores
) -> None:
    for status in sorted(TERMINAL):
        before = await wallet(database)
        job = new_job(clock)
        await stores("one").open(job, hold_of(job))
        others = [at_end(job, clock, other) for other in sorted(TERMINAL, key=lambda one: one is not status)] * 2
        clock.advance(LEASE_S)
        sweeper = Sweeper(database, clock, "sweeper", lease_s=1)
        done = await asyncio.gather(
            sweeper.sweep(), *(stores(f"worker{n}").finish(*end) for n, end in enumerate(others)), sweeper.sweep()
        )
        assert [done[0], done[1:-1].count(True), done[-1]] == [0, 1, 0]
        kept = await stores("one").get("team", job.suffix)
        assert kept is not None
        charged = HELD if kept.status is VideoStatus.COMPLETED else 0
        assert (kept.charged_nanos or 0) == charged
        assert await wallet(database) == (before[0] - charged, 0)
        assert len([row for row in await rows(database, generations) if row["suffix"] == job.suffix]) == 1
    assert await problems(database) == []


async def test_what_was_submitted_is_not_ended_as_if_it_were_not(
    database: Database, clock: ManualClock, stores: Stores
) -> None:
    job = new_job(clock)
    await stores("one").open(job, hold_of(job))
    assert await stores("one").save(replace(job, native_id="native"))
    end = ended(job, VideoStatus.FAILED, clock.now(), fault=OUTCOME_UNKNOWN)
    assert not await stores("two").finish(*end, unsubmitted=True)
    assert await wallet(database) == (10 * USD, HELD)
    assert await stores("two").finish(*end)
    assert await kinds(database) == ["reserve", "void"]


async def test_a_withdrawn_job_holds_nothing_from_then_on_and_its_record_may_follow(
    database: Database, clock: ManualClock, stores: Stores
) -> None:
    lives, dies = new_job(clock), new_job(clock)
    for job in (lives, dies):
        await stores("one").open(job, hold_of(job))
        assert not await stores("two").withdraw(job.suffix)
        assert await stores("one").withdraw(job.suffix)
        assert not await stores("one").withdraw(job.suffix)
        assert await stores("one").get("team", job.suffix) is None
        assert await wallet(database) == (10 * USD, 0)
    async with opened(database, clock, "one") as ledger:
        await ledger.settle(Settlement(replace(lives.opening, success=False), held=True))
    assert await sweep(database, clock) == 0
    assert await kinds(database) == ["reserve", "void"] * 2
    assert [row["suffix"] for row in await rows(database, generations)] == [lives.suffix]
    assert await problems(database) == []


@pytest.mark.parametrize("held", [HELD, None])
async def test_the_end_of_a_job_takes_the_place_of_what_was_recorded_of_it_before(
    database: Database, clock: ManualClock, stores: Stores, held: int | None
) -> None:
    job = new_job(clock, held=held)
    await stores("one").open(job, hold_of(job))
    async with opened(database, clock, "one") as ledger:
        await ledger.settle(Settlement(replace(job.opening, success=False, status_code=503, attempts=()), held=False))
    assert await stores("one").finish(*at_end(job, clock))
    charged = held or 0
    assert await wallet(database) == (10 * USD - charged, 0)
    [record], [used] = await rows(database, generations), await rows(database, daily_usage)
    assert (record["success"], record["cost_nanos"]) == (True, charged)
    assert (used["requests"], used["cost_nanos"]) == (1, charged)
    assert await problems(database) == []


async def test_leases_are_given_once_the_longest_due_first(clock: ManualClock, stores: Stores) -> None:
    jobs = [new_job(clock, held=None, due_at=clock.now() + n) for n in range(12)]
    for job in reversed(jobs):
        await stores("one").open(job, None)
    slow = new_job(clock, held=None, provider="slow", due_at=clock.now() - 1)
    await stores("one").open(slow, None)
    assert await stores("one").next_due() == slow.due_at
    assert await stores("one").next_due(["slow"]) == jobs[0].due_at
    assert await stores("one").next_due(["slow", "first"]) is None
    clock.advance(7.5)
    first = await stores("two").claim(clock.now() + LEASE_S, 2, ["slow"])
    assert sorted(job.suffix for job in first) == sorted(job.suffix for job in jobs[:2])
    found = await asyncio.gather(*(stores(f"worker{n}").claim(clock.now() + LEASE_S, 3) for n in range(5)))
    suffixes = [job.suffix for of_one in found for job in of_one]
    assert sorted(suffixes) == sorted(job.suffix for job in [slow, *jobs[2:8]])
    assert all(len(of_one) <= 3 for of_one in found)
    assert await stores("one").next_due() == jobs[8].due_at


async def test_a_team_sees_its_own_by_age(clock: ManualClock, stores: Stores) -> None:
    store = stores("one")
    mine = [new_job(clock, held=None) for _ in range(5)]
    for job in (*mine, new_job(clock, "other", held=None)):
        await store.open(job, None)
    assert await store.page("team", after=None, limit=3, order="asc") == mine[:3]
    assert await store.page("team", after=mine[2].suffix, limit=3, order="asc") == mine[3:]
    assert await store.page("team", after=None, limit=3, order="desc") == mine[:1:-1]
    assert await store.page("team", after=mine[2].suffix, limit=3, order="desc") == mine[1::-1]
    assert await store.get("other", mine[0].suffix) is None
    assert not await store.delete("team", mine[0].suffix)
    assert await store.finish(*at_end(mine[0], clock))
    assert not await store.delete("other", mine[0].suffix)
    assert await store.delete("team", mine[0].suffix)
    assert not await store.delete("team", mine[0].suffix)
    assert await store.get("team", mine[0].suffix) is None
    assert await store.page("team", after=None, limit=9, order="asc") == mine[1:]


async def test_what_is_deleted_or_old_leaves_no_prompt(database: Database, clock: ManualClock, stores: Stores) -> None:
    store = stores("one")
    first, second, open_still = (new_job(clock, held=None) for _ in range(3))
    for job in (first, second, open_still):
        await store.open(job, None)
    for job in (first, second):
        assert await store.finish(*at_end(job, clock))
    assert await store.delete("team", first.suffix)
    prompts = {row["suffix"]: b"a cat" in row["job_json"] for row in await rows(database, video_jobs)}
    assert prompts == {first.suffix: False, second.suffix: True, open_still.suffix: True}
    assert await store.purge() == 0
    clock.advance(RETENTION_S)
    assert await store.purge(1) == 1
    assert await store.purge() == 1
    assert [row["suffix"] for row in await rows(database, video_jobs)] == [open_still.suffix]


async def test_the_audit_knows_the_reservations_of_jobs(database: Database, clock: ManualClock, stores: Stores) -> None:
    jobs = [new_job(clock) for _ in range(3)]
    for job in jobs:
        await stores("one").open(job, hold_of(job))
    assert await problems(database) == []

    async def tamper(connection: AsyncConnection) -> None:
        await connection.execute(delete(reservations).where(reservations.c.id == jobs[0].suffix))
        await connection.execute(
            update(video_jobs).where(video_jobs.c.suffix == jobs[1].suffix).values(status="completed")
        )
        await connection.execute(delete(video_jobs).where(video_jobs.c.suffix == jobs[2].suffix))

    await database.write(tamper)
    found = {(problem.kind, problem.subject) for problem in await problems(database)}
    assert found >= {
        ("job_without_reservation", f"gen_{jobs[0].suffix}"),
        ("reservation_without_job", f"gen_{jobs[1].suffix}"),
        ("reservation_without_job", f"gen_{jobs[2].suffix}"),
    }
