"""Videos as their teams meet them, from the first word to the last: what is made, what is charged, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call
from server.domain.video import VideoBilling, VideoStatus
from server.pipeline.generations import Generations
from server.storage.generations import SqlRecords
from server.storage.tables import generations
from tests.fakes.replies import error, rate_limited
from tests.fakes.video_upstream import Media, Plan, media_bytes
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import rows
from tests.integration.video_world import CREDIT, PRICE, Studio, film, paths, studio_with


@pytest.fixture
async def studio(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Studio]:
    async with migrated(sqlite_url) as database, studio_with(database, clock, 2) as opened:
        yield opened


async def test_a_video_from_its_beginning_to_its_end(studio: Studio) -> None:
    [upstream, _], worker, call = studio.upstreams, studio.worker("one"), studio.call()
    upstream.plan = Plan(polls=2, media=Media(size=200_000))
    video = await worker.videos.create(call, film(size="1280x720"))
    assert (video.id, video.status, video.prompt) == (f"video_{call.suffix}", "queued", "a cat on the moon")
    assert (video.model, video.provider, video.seconds, video.size) == ("a/b", "first", 8, "1280x720")
    assert video.billing == VideoBilling("reserved", PRICE, 0)
    assert video.poll_after_seconds is not None
    assert await studio.wallet() == (CREDIT, PRICE)
    seen = [video.progress]
    while not video.has_ended:
        with pytest.raises(GatewayError) as caught:
            await worker.videos.content(studio.principal(), video.id)
        assert caught.value.reason is Reason.NOT_READY
        studio.clock.advance(10)
        await worker.look()
        video = await worker.videos.get(studio.principal(), video.id)
        seen.append(video.progress)
    assert seen == [0, 33, 66, 100]
    assert video.status is VideoStatus.COMPLETED
    assert video.billing == VideoBilling("settled", PRICE, PRICE)
    assert video.usage is not None
    assert video.usage.units == {"video_seconds": 8}
    assert (video.started_at, video.completed_at) == (video.created_at + 10, video.created_at + 30)
    async with await worker.videos.content(studio.principal(), video.id) as content:
        assert (content.status, content.headers["content-length"]) == (200, "200000")
        assert b"".join([chunk async for chunk in content.chunks()]) == media_bytes(200_000)
    async with await worker.videos.content(studio.principal(), video.id, byte_range="bytes=5-9") as content:
        assert (content.status, content.headers["content-range"]) == (206, "bytes 5-9/200000")
        assert b"".join([chunk async for chunk in content.chunks()]) == media_bytes(200_000)[5:10]
    [record] = await rows(studio.database, generations)
    assert (record["suffix"], record["endpoint"], record["provider"]) == (call.suffix, "video", "first")
    assert (record["success"], record["cost_nanos"]) == (True, PRICE)


async def test_one_in_the_making_has_no_record_yet_and_its_team_is_told_why(studio: Studio) -> None:
    worker, other = studio.worker("one"), studio.call("other")
    video = await worker.videos.create(studio.call(), film())
    records = SqlRecords(studio.database, worker.commits, studio.clock)
    reads = Generations(records, worker.store)

    async def refusal(call: Call, generation_id: str) -> tuple[Reason, str]:
        with pytest.raises(GatewayError) as caught:
            await reads.get(call, generation_id)
        return caught.value.reason, caught.value.description

    for name in (video.id, video.suffix, f"gen_{video.suffix}"):
        told = await refusal(studio.call(), name)
        assert told == (Reason.RESOURCE_NOT_FOUND, "The video is queued: it has a record once it has ended.")
    nothing = (Reason.RESOURCE_NOT_FOUND, "There is no such generation.")
    assert await refusal(other, video.id) == await refusal(studio.call(), f"video_{'0' * 32}") == nothing
    await studio.wait(worker, video)
    assert (await reads.get(studio.call(), video.id)).record.suffix == video.suffix


async def test_a_free_one_holds_and_costs_nothing(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film("a/b:free")))
    assert video.billing == VideoBilling("settled", 0, 0)
    assert (await studio.wallet(), await studio.entries()) == ((CREDIT, 0), [])
    assert len(await rows(studio.database, generations)) == 1


async def test_what_is_refused_was_never_a_job(studio: Studio) -> None:
    worker = studio.worker("one")
    studio.upstreams[0].plan = Plan(submit=error(400, "no cats", code="invalid_value"))
    with pytest.raises(GatewayError) as caught:
        await worker.videos.create(studio.call(), film())
    assert caught.value.reason is Reason.UPSTREAM_REJECTED_REQUEST
    assert (await worker.videos.list(studio.principal())).data == []
    assert studio.upstreams[1].requests == []
    assert await studio.wallet() == (CREDIT, 0)
    assert await studio.entries() == ["reserve", "void"]
    [record] = await rows(studio.database, generations)
    assert (record["status_code"], record["success"]) == (400, False)


async def test_the_next_provider_gets_what_the_first_has_surely_not_taken(studio: Studio) -> None:
    worker, [first, second] = studio.worker("one"), studio.upstreams
    first.plan = Plan(submit=rate_limited("3"))
    video = await worker.videos.create(studio.call(), film())
    assert (video.provider, len(first.requests)) == ("second", 1)
    assert (await studio.wait(worker, video)).billing.state == "settled"
    assert paths(second)[1:] == [("GET", "/videos/native_1")] * 2
    assert len(first.requests) == 1
    with pytest.raises(GatewayError) as caught:
        await worker.videos.create(studio.call(), film(only=("first",)))
    assert caught.value.reason is Reason.UPSTREAM_RATE_LIMITED


async def test_without_credit_nobody_is_asked(studio: Studio) -> None:
    worker = studio.worker("one")
    with pytest.raises(GatewayError) as caught:
        await worker.videos.create(studio.call(), film(seconds=200))
    assert caught.value.reason is Reason.INSUFFICIENT_FUNDS
    assert [upstream.requests for upstream in studio.upstreams] == [[], []]
    assert (await worker.videos.list(studio.principal())).data == []


async def test_k5_k6_nobody_sees_anothers_nor_what_the_provider_calls_it(studio: Studio) -> None:
    worker, [upstream, _] = studio.worker("one"), studio.upstreams
    video = await worker.videos.create(studio.call(), film())
    [native] = upstream.jobs
    asked = len(upstream.requests)
    for team, id_ in (("other", video.id), ("other", native), ("team", native), ("team", "video_" + "0" * 32)):
        who, videos = studio.principal(team), worker.videos
        for attempt in (videos.get, videos.cancel, videos.delete, videos.content):
            with pytest.raises(GatewayError) as caught:
                await attempt(who, id_)
            assert (caught.value.reason, caught.value.description) == (
                Reason.RESOURCE_NOT_FOUND, "There is no such video.",
            )  # fmt: skip
        with pytest.raises(GatewayError):
            await videos.create(studio.call(team), film(remix_of=id_))
    assert (await worker.videos.list(studio.principal("other"))).data == []
    assert len(upstream.requests) == asked
    for id_ in (video.id, video.suffix):
        assert (await worker.videos.get(studio.principal(), id_)).id == video.id


async def test_a_list_has_pages(studio: Studio) -> None:
    worker, who = studio.worker("one"), studio.principal()
    ids = [(await worker.videos.create(studio.call(), film("a/b:free"))).id for _ in range(3)]
    page = await worker.videos.list(who, limit=2)
    assert ([video.id for video in page.data], page.next_cursor) == (ids[:0:-1], ids[1])
    page = await worker.videos.list(who, limit=2, after=page.next_cursor)
    assert ([video.id for video in page.data], page.next_cursor) == (ids[:1], None)
    assert [video.id for video in (await worker.videos.list(who, order="asc", after=ids[0])).data] == ids[1:]
    for wrong in ({"after": "native_1"}, {"order": "up"}, {"limit": 0}):
        with pytest.raises(GatewayError) as caught:
            await worker.videos.list(who, **wrong)
        assert caught.value.reason is Reason.INVALID_VALUE


async def test_who_watches_is_told_of_each_change(studio: Studio) -> None:
    worker = studio.worker("one")
    studio.upstreams[0].plan = Plan(polls=1)
    video = await worker.videos.create(studio.call(), film())
    seen = []
    async with asyncio.timeout(20), aclosing(worker.videos.watch(studio.principal(), video.id)) as news:
        async for one in news:
            seen.append((one.status.value, one.progress))
            studio.clock.advance(10)
            await worker.look()
    assert seen == [("queued", 0), ("in_progress", 50), ("completed", 100)]


async def test_what_is_deleted_is_gone_and_its_money_is_not(studio: Studio) -> None:
    worker, [upstream, _] = studio.worker("one"), studio.upstreams
    made = await studio.wait(worker, await worker.videos.create(studio.call(), film()))
    making = await worker.videos.create(studio.call(), film())
    assert (await worker.videos.delete(studio.principal(), made.id)).billing.state == "settled"
    assert (await worker.videos.delete(studio.principal(), making.id)).status is VideoStatus.CANCELLED
    assert upstream.jobs == {}
    assert paths(upstream)[-2:] == [("POST", "/videos/native_2/cancel"), ("DELETE", "/videos/native_2")]
    for video in (made, making):
        with pytest.raises(GatewayError):
            await worker.videos.get(studio.principal(), video.id)
    assert (await worker.videos.list(studio.principal())).data == []
    assert await studio.wallet() == (CREDIT - PRICE, 0)
    assert sorted(await studio.entries()) == ["reserve", "reserve", "settle", "void"]


async def test_a_remix_goes_to_whoever_has_the_video(studio: Studio) -> None:
    worker, [first, second] = studio.worker("one"), studio.upstreams
    source = await worker.videos.create(studio.call(), film(only=("second",), size="1280x720"))
    with pytest.raises(GatewayError) as caught:
        await worker.videos.create(studio.call(), film(model="", remix_of=source.id, seconds=None))
    assert caught.value.reason is Reason.NOT_READY
    await studio.wait(worker, source)
    remix = await worker.videos.create(
        studio.call(), film(model="", remix_of=source.id, prompt="at night", seconds=None)
    )
    assert paths(second)[-1] == ("POST", "/videos/native_1/remix")
    assert first.requests == []
    assert (remix.remixed_from, remix.model, remix.provider) == (source.id, "a/b", "second")
    assert remix.billing.reserved_nanos == PRICE
    remix = await studio.wait(worker, remix)
    assert (remix.seconds, remix.billing.total_nanos) == (4, PRICE // 2)  # as its provider says
