"""Providers hear that a job is over, whoever dies and however often they do not answer; on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.domain.video import VideoStatus
from server.pipeline.video_account import CANCELLED, ended
from server.pipeline.video_goodbyes import MAX_TRIES, MOST_PAUSE_S, Goodbyes
from server.storage.database import Database
from server.storage.tables import video_jobs
from tests.fakes.replies import error
from tests.fakes.video_upstream import Plan
from tests.fakes.wire import Reply, Request
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import rows
from tests.integration.video_rows import hold_of, new_job
from tests.integration.video_world import CREDIT, Studio, Worker, film, paths, studio_with

FIRST = ("POST", "/videos/native_1/cancel")
AGAIN = ("DELETE", "/videos/native_1")
HOUR_S = 3600

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where it makes no difference which database it is."""


@pytest.fixture
async def studio(database: Database, clock: ManualClock) -> AsyncIterator[Studio]:
    async with studio_with(database, clock) as opened:
        opened.upstreams[0].plan = Plan(polls=1_000_000)
        yield opened


def deaf(studio: Studio, times: int) -> None:
    """Its provider answers so many cancels and deletes with 500."""
    upstream, left = studio.upstreams[0], [times]
    usual = upstream.answer

    def answer(request: Request) -> Reply:
        verb = "cancel" if request.path.endswith("/cancel") else request.method.lower()
        if verb in ("cancel", "delete") and left[0] > 0:
            left[0] -= 1
            return error(500, "broken", code=None)
        return usual(request)

    upstream.default = answer


async def passes(studio: Studio, worker: Worker, seconds: float) -> None:
    goodbyes = Goodbyes(worker.store.goodbyes, worker.looks, studio.clock)
    step_s = max(5.0, seconds / 60)
    for _ in range(int(seconds / step_s)):
        studio.clock.advance(step_s)
        while await goodbyes.round():
            pass


async def left(studio: Studio) -> list[str | None]:
    return [row["goodbye"] for row in await rows(studio.database, video_jobs)]


@on_sqlite
async def test_what_its_provider_hears_at_once_is_not_said_again(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await worker.videos.create(studio.call(), film())
    await worker.videos.cancel(studio.principal(), video.id)
    assert await left(studio) == [None]
    await passes(studio, worker, HOUR_S)
    assert paths(studio.upstreams[0]).count(FIRST) == 1


@pytest.mark.parametrize("times", [1, 5])
async def test_a_cancel_that_fails_is_tried_until_it_is_heard(studio: Studio, times: int) -> None:
    worker = studio.worker("one")
    video = await worker.videos.create(studio.call(), film())
    deaf(studio, times)
    assert (await worker.videos.cancel(studio.principal(), video.id)).status is VideoStatus.CANCELLED
    assert await left(studio) == ["cancel"]
    await passes(studio, studio.worker("two"), HOUR_S)
    assert [job.ended for job in studio.upstreams[0].jobs.values()] == ["cancelled"]
    assert (paths(studio.upstreams[0]).count(FIRST), await left(studio)) == (times + 1, [None])
    assert await studio.wallet() == (CREDIT, 0)


async def test_who_dies_with_the_end_of_a_job_leaves_its_goodbye_to_others(studio: Studio) -> None:
    worker = studio.worker("dies")
    video = await worker.videos.create(studio.call(), film())
    job = await worker.store.get("team", video.suffix)
    assert job is not None
    assert await worker.store.finish(
        *ended(job, VideoStatus.CANCELLED, studio.clock.now(), fault=CANCELLED), goodbye="cancel"
    )
    other = studio.worker("other")
    await passes(studio, other, 10)
    assert FIRST not in paths(studio.upstreams[0])
    await passes(studio, other, 10)
    assert (paths(studio.upstreams[0])[-1], await left(studio)) == (FIRST, [None])


@on_sqlite
async def test_an_expired_job_is_ended_where_it_is_made(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await worker.videos.create(studio.call(), film())
    deaf(studio, 2)
    studio.clock.advance(HOUR_S)
    await worker.look()
    assert (await worker.videos.get(studio.principal(), video.id)).status is VideoStatus.EXPIRED
    assert await left(studio) == ["cancel"]
    await passes(studio, worker, HOUR_S)
    assert [job.ended for job in studio.upstreams[0].jobs.values()] == ["cancelled"]


async def test_a_delete_that_fails_is_tried_until_it_is_heard_and_cancels_first(studio: Studio) -> None:
    worker, [upstream] = studio.worker("one"), studio.upstreams
    video = await worker.videos.create(studio.call(), film())
    deaf(studio, 3)
    await worker.videos.delete(studio.principal(), video.id)
    assert (await left(studio), len(upstream.jobs)) == (["delete"], 1)
    before = len(upstream.requests)
    await passes(studio, worker, HOUR_S)
    assert (await left(studio), upstream.jobs) == ([None], {})
    assert paths(upstream)[before:] == [FIRST, FIRST, AGAIN]


async def test_what_a_provider_took_too_late_is_cancelled_until_it_is_heard(studio: Studio) -> None:
    worker, job = studio.worker("one"), new_job(studio.clock, provider_model="film-1")
    await worker.store.open(job, hold_of(job))
    cancelled = await worker.videos.cancel(studio.principal(), f"video_{job.suffix}")
    adapter, offer = worker.looks.way(job) or pytest.fail("no way")
    taken = await adapter.submit(offer, film(), cancelled.id)
    deaf(studio, 2)
    await worker.looks.let_go(job, taken.native_id)
    assert await left(studio) == ["cancel"]
    await passes(studio, worker, HOUR_S)
    assert [one.ended for one in studio.upstreams[0].jobs.values()] == ["cancelled"]
    assert (await left(studio), await studio.wallet()) == ([None], (CREDIT, 0))


@on_sqlite
async def test_in_the_end_it_is_given_up(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await worker.videos.create(studio.call(), film())
    deaf(studio, 1000)
    await worker.videos.cancel(studio.principal(), video.id)
    await passes(studio, worker, 2 * HOUR_S + MOST_PAUSE_S)
    assert (paths(studio.upstreams[0]).count(FIRST), await left(studio)) == (MAX_TRIES + 2, [None])
    assert (await worker.videos.get(studio.principal(), video.id)).status is VideoStatus.CANCELLED


@on_sqlite
async def test_it_waits_for_a_provider_that_is_not_in_the_catalogue(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await worker.videos.create(studio.call(), film())
    studio.current = studio.catalog(names=())
    await worker.videos.cancel(studio.principal(), video.id)
    await passes(studio, worker, 60)
    assert await left(studio) == ["cancel"]
    studio.current = studio.catalog()
    await passes(studio, worker, HOUR_S)
    assert (paths(studio.upstreams[0])[-1], await left(studio)) == (FIRST, [None])


async def test_a_goodbye_is_claimed_by_one(studio: Studio) -> None:
    worker, other = studio.worker("one"), studio.worker("two")
    video = await worker.videos.create(studio.call(), film())
    deaf(studio, 1)
    await worker.videos.cancel(studio.principal(), video.id)
    now = studio.clock.now()
    assert await worker.store.goodbyes.claim(now + 30, 10) == []
    studio.clock.advance(15)
    assert [one.verb for one in await worker.store.goodbyes.claim(now + 45, 10)] == ["cancel"]
    assert await other.store.goodbyes.claim(now + 45, 10) == []
    assert await other.store.goodbyes.next_due() == now + 45
