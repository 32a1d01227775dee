"""Copying what providers have made: once, whoever dies; and what becomes of what cannot be kept."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from server.domain.errors import Reason
from server.domain.video import VideoBilling
from server.domain.video_contents import KeptContent
from server.pipeline import video_keeping
from server.pipeline.video_keeping import MAX_OF_STATE, MOST_AGE_S
from server.settings import Settings
from server.storage.content_address import ContentAddress
from server.storage.database import Database
from server.storage.tables import video_contents
from tests.fakes.replies import chunked, error
from tests.fakes.video_upstream import Media, Plan, media_bytes
from tests.fakes.wire import Call, Request
from tests.integration.databases import ManualClock
from tests.integration.kept_world import SIZE, WatchedObjects, download, kept, kept_studio, made, refused, states
from tests.integration.ledger_world import rows
from tests.integration.video_rows import LEASE_S
from tests.integration.video_world import CREDIT, PRICE, Studio, film, studio_with

DAY_S = 86_400


@pytest.fixture
def objects(tmp_path: Path, clock: ManualClock) -> WatchedObjects:
    return WatchedObjects(ContentAddress(tmp_path / "content"), clock)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "content")


@pytest.fixture
async def studio(sqlite_url: str, clock: ManualClock, objects: WatchedObjects) -> AsyncIterator[Studio]:
    async with kept_studio(sqlite_url, clock, objects) as opened:
        yield opened


async def test_what_a_dead_worker_was_copying_is_anothers_within_a_lease(
    database: Database, clock: ManualClock, objects: WatchedObjects, directory: str
) -> None:
    """It dies after the object was there, and before it could say so."""
    async with studio_with(database, clock) as studio:
        studio.objects = objects
        studio.upstreams[0].plan = Plan(polls=0, media=Media(size=SIZE))
        one, two = studio.worker("one"), studio.worker("two")
        video = await made(studio, one)
        there = asyncio.Event()

        async def die(_: str) -> None:
            there.set()
            await asyncio.Event().wait()

        objects.after = die
        assert one.keeper is not None
        await one.keeper.round()
        await there.wait()
        await one.keeper.close()
        objects.after = None
        await two.keep()
        assert await states(studio) == [("video", "wanted", 1)], "the lease is not over"
        clock.advance(LEASE_S)
        await two.keep()
        assert await states(studio) == [("video", "stored", 2)]
        assert os.listdir(directory) == [f"{video.suffix}-video-2"], "nor is the first one's object left"
        assert (await download(studio, one, video))[2] == media_bytes(SIZE)
        assert await studio.wallet() == (CREDIT - PRICE, 0)
        await two.videos.delete(studio.principal(), video.id)
        await one.keep()
        assert (await states(studio), os.listdir(directory)) == ([], [])


async def test_who_comes_too_late_takes_nothing_away(studio: Studio, objects: WatchedObjects, directory: str) -> None:
    one, two = studio.worker("one"), studio.worker("two")
    video = await made(studio, one)
    there, gate = asyncio.Event(), asyncio.Event()

    async def wait(key: str) -> None:
        if key.endswith("-1"):
            there.set()
            await gate.wait()

    objects.after = wait
    assert one.keeper is not None
    await one.keeper.round()
    await there.wait()
    studio.clock.advance(LEASE_S)
    await two.keep()
    gate.set()
    await one.keeper.idle()
    assert await states(studio) == [("video", "stored", 2)]
    assert os.listdir(directory) == [f"{video.suffix}-video-2"]
    assert (await download(studio, two, video))[2] == media_bytes(SIZE)


async def test_a_lease_is_kept_for_as_long_as_it_takes(
    studio: Studio, objects: WatchedObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_keeping, "KEEPS_IN_LEASE", 3000)
    one, two = studio.worker("one"), studio.worker("two")
    await made(studio, one)
    there, gate = asyncio.Event(), asyncio.Event()

    async def wait(_: str) -> None:
        there.set()
        await gate.wait()

    objects.after = wait
    assert one.keeper is not None
    assert two.keeper is not None
    await one.keeper.round()
    await there.wait()
    studio.clock.advance(LEASE_S)
    leased_until = int((studio.clock.now() + LEASE_S) * 1000)
    async with asyncio.timeout(30):
        while (await rows(studio.database, video_contents))[0]["due_ms"] < leased_until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await two.keeper.round()
    assert two.keeper.under_way == 0
    gate.set()
    await one.keeper.idle()
    assert await states(studio) == [("video", "stored", 1)]


async def test_what_takes_long_to_copy_keeps_nothing_from_being_deleted(studio: Studio, directory: str) -> None:
    worker, upstream, gate = studio.worker("one"), studio.upstreams[0], asyncio.Event()
    video, begun = await kept(studio, worker), 0

    async def opened(_: Request) -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    upstream.plan = Plan(polls=0, media=Media(size=SIZE, gate=Call(opened)))
    for _ in range(MAX_OF_STATE + 1):
        await made(studio, worker)
    assert worker.keeper is not None
    running = asyncio.create_task(worker.keeper.run())
    async with asyncio.timeout(60):
        while begun < MAX_OF_STATE:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await worker.videos.delete(studio.principal(), video.id)
        while len(await states(studio)) > MAX_OF_STATE + 1:  # noqa: ASYNC110 - the keeper tells no more
            await asyncio.sleep(0.01)
    assert [name for name in os.listdir(directory) if video.suffix in name] == []
    assert begun == MAX_OF_STATE
    gate.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker.keeper.idle()


# What cannot be kept.


async def test_content_that_breaks_off_is_copied_again(studio: Studio, directory: str) -> None:
    worker, upstream = studio.worker("one"), studio.upstreams[0]
    upstream.plan = Plan(polls=0, media=Media(size=SIZE, cut_at=150_000))
    video = await made(studio, worker)
    await worker.keep()
    assert await states(studio) == [("video", "wanted", 1)]
    assert os.listdir(directory) == []
    [job] = upstream.jobs.values()
    job.plan = Plan(polls=0, media=Media(size=SIZE))
    studio.clock.advance(60)
    await worker.keep()
    assert await states(studio) == [("video", "stored", 2)]
    assert (await download(studio, worker, video))[2] == media_bytes(SIZE)


async def test_what_is_too_large_is_relayed(studio: Studio, directory: str) -> None:
    studio.keep_limits = replace(studio.keep_limits, max_bytes=SIZE - 1)
    worker = studio.worker("one")
    video = await made(studio, worker)
    await worker.keep()
    assert await states(studio) == []
    video = await worker.videos.get(studio.principal(), video.id)
    assert video.expires_at == 1_795_000_000 + 3600, "which is what the provider says"
    assert (await download(studio, worker, video))[2] == media_bytes(SIZE)
    assert not os.path.exists(directory)  # noqa: ASYNC240


async def test_what_turns_out_to_be_too_large_is_not_left(studio: Studio, directory: str) -> None:
    studio.keep_limits = replace(studio.keep_limits, max_bytes=9)
    worker = studio.worker("one")
    await made(studio, worker)
    studio.upstreams[0].script(chunked([b"fi", b"lm" * 9], content_type="video/mp4"))
    await worker.keep()
    assert (await states(studio), os.listdir(directory)) == ([], [])


async def test_no_more_is_kept_than_may_be(studio: Studio) -> None:
    studio.keep_limits = replace(studio.keep_limits, max_total_bytes=SIZE)
    worker = studio.worker("one")
    first = await made(studio, worker)
    await worker.keep()
    second = await made(studio, worker)
    await worker.keep()
    assert sorted(await states(studio)) == [("video", "stored", 1), ("video", "wanted", 1)]
    assert (await download(studio, worker, second))[1]["etag"] == '"native_2"'
    await worker.videos.delete(studio.principal(), first.id)
    await worker.keep()
    studio.clock.advance(60)
    await worker.keep()
    assert await states(studio) == [("video", "stored", 2)]


async def test_a_store_that_cannot_be_written_to_costs_nobody_anything(studio: Studio, directory: str) -> None:
    os.close(os.open(directory, os.O_CREAT))
    worker = studio.worker("one")
    video = await made(studio, worker)
    await worker.keep()
    assert video.billing == VideoBilling("settled", PRICE, PRICE)
    assert await states(studio) == [("video", "wanted", 1)]
    assert (await download(studio, worker, video))[2] == media_bytes(SIZE)
    for _ in range(video_keeping.GIVE_UP_S // 600 + 20):
        studio.clock.advance(800)
        await worker.keep()
    assert await states(studio) == []
    assert (await download(studio, worker, video))[2] == media_bytes(SIZE)
    assert await studio.wallet() == (CREDIT - PRICE, 0)


async def test_a_provider_that_has_it_no_more_is_not_asked_for_ever(studio: Studio) -> None:
    worker, upstream = studio.worker("one"), studio.upstreams[0]
    video = await made(studio, worker)
    upstream.jobs.clear()
    upstream.forget()
    for _ in range(video_keeping.GIVE_UP_S // 600 + 20):
        await worker.keep()
        studio.clock.advance(800)
    assert await states(studio) == []
    assert 5 < len(upstream.requests) < 40
    assert (await refused(studio, worker, video)).reason is Reason.RESOURCE_NOT_FOUND


async def test_what_fails_or_is_cancelled_is_not_wanted(studio: Studio) -> None:
    worker, upstream = studio.worker("one"), studio.upstreams[0]
    upstream.plans.append(Plan(polls=0, outcome="failed"))
    failed = await worker.videos.create(studio.call(), film())
    await studio.wait(worker, failed)
    upstream.plans.append(Plan(polls=5))
    cancelled = await worker.videos.create(studio.call(), film())
    await worker.videos.cancel(studio.principal(), cancelled.id)
    assert await states(studio) == []


async def test_the_keeper_outlives_an_outage_of_the_provider(studio: Studio) -> None:
    worker, upstream = studio.worker("one"), studio.upstreams[0]
    await made(studio, worker)
    upstream.script(error(503, code="unavailable"), error(429, code="rate_limit_exceeded"))
    for _ in range(3):
        await worker.keep()
        studio.clock.advance(60)
    assert await states(studio) == [("video", "stored", 3)]


async def test_what_no_row_knows_is_deleted_for_its_age(studio: Studio, directory: str) -> None:
    worker = studio.worker("one")
    video = await kept(studio, worker)
    path, orphan = (os.path.join(directory, name) for name in (f"{video.suffix}-video-1", f"{'0' * 32}-video-1"))
    shutil.copy(path, orphan)
    now = studio.clock.now()
    os.utime(path, (now, now))
    os.utime(orphan, (now - 31 * DAY_S - 1, now - 31 * DAY_S - 1))
    assert worker.keeper is not None
    assert [await worker.keeper.purge(), await worker.keeper.purge()] == [1, 0]
    assert os.listdir(directory) == [os.path.basename(path)]
    shutil.rmtree(directory)
    os.close(os.open(directory, os.O_CREAT))
    assert await worker.keeper.purge() == 0, "it is logged, and tried again the next time"


async def test_what_is_kept_is_kept_for_as_long_as_was_said(studio: Studio, directory: str) -> None:
    """Whatever AISTATS_CONTENT_MAX_AGE_S is by then."""
    studio.keep_limits = replace(studio.keep_limits, max_age_s=30 * DAY_S)
    video = await kept(studio, studio.worker("one"))
    at = studio.clock.now()
    os.utime(os.path.join(directory, f"{video.suffix}-video-1"), (at, at))
    studio.clock.advance(30 * DAY_S - 60)
    studio.keep_limits = replace(studio.keep_limits, max_age_s=60)
    worker = studio.worker("two")
    assert worker.keeper is not None
    assert await worker.keeper.purge() == 0
    assert (await download(studio, worker, video))[2] == media_bytes(SIZE)


def test_the_longest_age_is_that_of_the_setting() -> None:
    assert MOST_AGE_S in [getattr(one, "le", None) for one in Settings.model_fields["content_max_age_s"].metadata]


async def test_one_claim_each(database: Database, clock: ManualClock, objects: WatchedObjects) -> None:
    async with studio_with(database, clock) as studio:
        studio.objects = objects
        studio.upstreams[0].plan = Plan(polls=0, media=Media(size=SIZE))
        workers = [studio.worker(name) for name in ("one", "two", "three")]
        for _ in range(6):
            await made(studio, workers[0])
        await asyncio.gather(*(worker.keep() for worker in workers))
        assert await states(studio) == [("video", "stored", 1)] * 6


def test_keys_are_the_gateways_own() -> None:
    content = KeptContent(suffix="0" * 32, variant="video", state="stored", created_at=1, attempts=2)
    assert content.keys == [f"{'0' * 32}-video-1", f"{'0' * 32}-video-2"]
