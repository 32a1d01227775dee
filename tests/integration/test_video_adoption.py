"""Jobs whose submit nobody saw answered: a provider that heeds their key is asked again, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from server.domain.upload import HeldUpload
from server.domain.video import TERMINAL, VideoRequest, VideoStatus
from server.domain.video_jobs import KeptRequest
from server.pipeline.video_submit import MAX_KEPT_BYTES
from server.storage.database import Database
from tests.fakes.replies import error, rate_limited
from tests.fakes.video_upstream import Plan
from tests.fakes.wire import Cut, Reply, Request
from tests.integration.databases import ManualClock
from tests.integration.video_rows import LEASE_S, hold_of, new_job
from tests.integration.video_world import CREDIT, PRICE, Studio, film, paths, studio_with

PNG = b"\x89PNG\r\n\x1a\n" + bytes(3000)

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where it makes no difference which database it is."""


@pytest.fixture
async def studio(database: Database, clock: ManualClock) -> AsyncIterator[Studio]:
    async with studio_with(database, clock, 2) as opened:
        opened.current = opened.catalog(idempotent=True)
        opened.upstreams[0].honours_keys = True
        yield opened


async def left_behind(studio: Studio, *, begun: bool, request: VideoRequest | None = None, **changes: Any) -> str:
    """The id of a job whose worker died: before its provider heard of it, or before it had written down the answer."""
    request = request or film(provider_options={"first": {}})
    job = new_job(studio.clock, provider_model="film-1", kept=KeptRequest(request), **changes)
    job = replace(job, opening=replace(job.opening, attempts=()))
    await studio.worker("dead").store.open(job, hold_of(job))
    if begun:
        [adapter, offer] = studio.workers[0].looks.way(job) or pytest.fail("no way")
        await adapter.submit(offer, request, f"video_{job.suffix}")
    studio.clock.advance(LEASE_S)
    return f"video_{job.suffix}"


@pytest.mark.parametrize("begun", [False, True])
async def test_what_a_dead_worker_left_is_adopted_or_begun(studio: Studio, begun: bool) -> None:
    video_id, other, [first, second] = await left_behind(studio, begun=begun), studio.worker("other"), studio.upstreams
    await other.look()
    video = await other.videos.get(studio.principal(), video_id)
    assert (video.status, video.billing.state) == (VideoStatus.QUEUED, "reserved")
    video = await studio.wait(other, video)
    assert (video.status, video.billing.total_nanos) == (VideoStatus.COMPLETED, PRICE)
    assert (len(first.jobs), second.requests) == (1, [])
    assert await studio.wallet() == (CREDIT - PRICE, 0)
    kept = await other.store.get("team", video.suffix)
    assert kept is not None
    assert kept.kept is None
    assert [(one.provider, one.billed) for one in kept.opening.attempts] == [("first", False)]


async def test_its_picture_goes_with_it(studio: Studio) -> None:
    request = film(reference=HeldUpload(PNG, "image/png", "cat.png"))
    first, worker = studio.upstreams[0], studio.worker("one")
    usual = first.answer
    first.default = troubled(usual, [[Cut()], [Cut()]])
    video = await worker.videos.create(studio.call(), request)
    assert (video.status, len(first.jobs)) == (VideoStatus.QUEUED, 0)
    first.default = usual
    video = await studio.wait(worker, video)
    assert video.status is VideoStatus.COMPLETED
    assert [job.files for job in first.jobs.values()] == [{"input_reference": PNG}]


@on_sqlite
async def test_one_too_large_is_not_kept(studio: Studio) -> None:
    first, worker = studio.upstreams[0], studio.worker("one")
    first.default = troubled(first.answer, [[Cut()], [Cut()]])
    large = HeldUpload(PNG + bytes(MAX_KEPT_BYTES), "image/png")
    video = await worker.videos.create(studio.call(), film(reference=large))
    assert video.error is not None
    assert (video.status, video.error.code) == (VideoStatus.FAILED, "submit_outcome_unknown")
    assert await studio.wallet() == (CREDIT, 0)


async def test_an_answer_that_is_lost_again_and_again_is_asked_for_until_it_comes(studio: Studio) -> None:
    worker, [first, second] = studio.worker("one"), studio.upstreams
    troubles: list[Reply] = [error(500, "broken", code=None), rate_limited("3"), [Cut()]]
    first.plan = Plan(submit="lost")
    first.default = troubled(first.answer, troubles, after=1)
    video = await worker.videos.create(studio.call(), film())
    assert (video.status, video.billing.state, len(first.jobs)) == (VideoStatus.QUEUED, "reserved", 1)
    video = await studio.wait(worker, video)
    assert (video.status, len(first.jobs), troubles, second.requests) == (VideoStatus.COMPLETED, 1, [], [])
    assert await studio.wallet() == (CREDIT - PRICE, 0)


@on_sqlite
async def test_a_refusal_ends_it(studio: Studio) -> None:
    first, other = studio.upstreams[0], studio.worker("other")
    video_id = await left_behind(studio, begun=False)
    first.plan = Plan(submit=error(400, "No cats.", type="invalid_request_error", code="invalid_value"))
    await other.look()
    video = await other.videos.get(studio.principal(), video_id)
    assert video.error is not None
    assert (video.status, video.error.code, video.billing.state) == (VideoStatus.FAILED, "caller_error", "void")
    assert await studio.wallet() == (CREDIT, 0)


@on_sqlite
async def test_nobody_asks_beyond_the_deadline_or_who_heeds_no_keys(studio: Studio) -> None:
    other = studio.worker("other")
    late = await left_behind(studio, begun=True, deadline_at=int(studio.clock.now()) + 5)
    gone = await left_behind(studio, begun=True)
    submits = studio.upstreams[0].submits.total()
    studio.current = studio.catalog(idempotent=False)
    await other.look()
    for video_id in (late, gone):
        video = await other.videos.get(studio.principal(), video_id)
        assert video.error is not None
        assert (video.status, video.error.code) == (VideoStatus.FAILED, "submit_outcome_unknown")
    assert studio.upstreams[0].submits.total() == submits
    assert await studio.wallet() == (CREDIT, 0)


@on_sqlite
async def test_who_was_thought_dead_does_not_cancel_what_another_has_adopted(studio: Studio) -> None:
    """He was answered before, and comes to write it down after."""
    video_id, slow, other = await left_behind(studio, begun=True), studio.worker("slow"), studio.worker("other")
    job = await other.store.get("team", video_id.removeprefix("video_"))
    assert job is not None
    await slow.looks.let_go(job, "native_1")
    assert ("POST", "/videos/native_1/cancel") not in paths(studio.upstreams[0])
    await other.look()
    job = await other.store.get("team", video_id.removeprefix("video_"))
    assert job is not None
    assert job.native_id is not None
    await slow.looks.let_go(job, job.native_id)
    assert ("POST", "/videos/native_1/cancel") not in paths(studio.upstreams[0])
    await slow.looks.let_go(job, "native_2")
    assert ("POST", "/videos/native_2/cancel") in paths(studio.upstreams[0])


@on_sqlite
async def test_a_job_that_was_done_at_its_first_look_had_begun_when_it_was_asked_for(studio: Studio) -> None:
    studio.upstreams[0].plan = Plan(polls=0)
    worker = studio.worker("one")
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film()))
    assert video.status in TERMINAL
    assert video.started_at == video.created_at <= (video.completed_at or 0)


def troubled(usual: Callable[[Request], Reply], troubles: list[Reply], *, after: int = 0) -> Callable[[Request], Reply]:
    """Answers submits with these, once so many have been answered as usual."""
    left = [after]

    def answer(request: Request) -> Reply:
        if request.method == "POST":
            left[0] -= 1
            if left[0] < 0 and troubles:
                return troubles.pop(0)
        return usual(request)

    return answer
