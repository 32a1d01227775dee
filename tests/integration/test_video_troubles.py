"""Videos while something else goes wrong: a client that leaves, a database that is away, content that breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import chain, repeat

import pytest
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason
from server.domain.idempotency import Claim
from server.domain.ledger import Outcome
from server.domain.video import VideoStatus
from server.spool import Spool
from server.storage.idempotency import SqlIdempotencyStore
from server.storage.tables import generations
from tests.fakes.replies import rate_limited
from tests.fakes.video_upstream import BLOCK, Media, Plan
from tests.fakes.wire import Hang
from tests.integration.databases import ManualClock, make_schema
from tests.integration.ledger_world import Fate, Forgetful, rows, stalled
from tests.integration.video_rows import LEASE_S
from tests.integration.video_world import CREDIT, PRICE, Studio, film, paths, studio_with

PNG = b"\x89PNG\r\n\x1a\n" + bytes(3000)


class Gate:
    """A step of a reply that waits."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def play(self, wire: object) -> None:
        self.reached.set()
        await self.opened.wait()


@pytest.fixture
async def studio(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Studio]:
    await make_schema(sqlite_url)
    database = Forgetful.open(sqlite_url, slot_wait_s=1.0, statement_timeout_s=1.0, quiet=True)
    try:
        async with studio_with(database, clock, 2) as opened:
            yield opened
    finally:
        await database.close()


def lose(studio: Studio, *fates: Fate) -> None:
    """What becomes of the answers to the next transactions of many statements."""
    assert isinstance(studio.database, Forgetful)
    coming: Iterator[Fate] = chain(fates, repeat("answered"))
    studio.database.fate = coming.__next__


def gated(studio: Studio) -> Gate:
    """The first provider takes the next job, and says so later."""
    [upstream, _], gate = studio.upstreams, Gate()
    usual = upstream.answer
    upstream.default = lambda request: [gate, *usual(request)]
    return gate


async def test_it_goes_on_without_the_client_that_asked_for_it(studio: Studio) -> None:
    worker, gate, call = studio.worker("one"), gated(studio), studio.call()
    creating = asyncio.create_task(worker.videos.create(call, film()))
    await gate.reached.wait()
    creating.cancel()
    await asyncio.wait([creating])
    studio.upstreams[0].default = studio.upstreams[0].answer
    gate.opened.set()
    await worker.videos.close(10)
    video = await worker.videos.get(studio.principal(), f"video_{call.suffix}")
    assert (await studio.wait(worker, video)).billing.state == "settled"
    assert studio.upstreams[0].submits.total() == 1


async def test_its_picture_outlives_the_request_that_brought_it(studio: Studio) -> None:
    """The client leaves while the first provider thinks; it refuses then, and the second one wants the picture too."""
    worker, gate, spool = studio.worker("one"), Gate(), Spool()
    picture = spool.begin(filename="cat.png", media_type="image/png")
    await picture.write(PNG)
    studio.upstreams[0].default = lambda request: [gate, *rate_limited()]
    call = studio.call()
    creating = asyncio.create_task(worker.videos.create(call, film(reference=picture)))
    await gate.reached.wait()
    creating.cancel()
    await asyncio.wait([creating])
    picture.close()
    assert spool.held_bytes == len(PNG)
    gate.opened.set()
    await worker.videos.close(10)
    video = await worker.videos.get(studio.principal(), f"video_{call.suffix}")
    assert (video.status, video.provider) == (VideoStatus.QUEUED, "second")
    assert [job.files for job in studio.upstreams[1].jobs.values()] == [{"input_reference": PNG}]
    assert spool.held_bytes == 0


async def test_a_database_that_is_away_costs_no_job(studio: Studio) -> None:
    """It goes when a provider has just taken the job."""
    worker, gate = studio.worker("one"), gated(studio)
    creating = asyncio.create_task(worker.videos.create(studio.call(), film()))
    await gate.reached.wait()
    async with stalled(studio.database):
        studio.upstreams[0].default = studio.upstreams[0].answer
        gate.opened.set()
        done, _ = await asyncio.wait([creating], timeout=1.5)
        assert not done
    async with asyncio.timeout(20):
        video = await creating
    assert video.status is VideoStatus.QUEUED
    studio.clock.advance(10)
    async with stalled(studio.database):
        with pytest.raises(GatewayError):
            await worker.look()
    studio.clock.advance(LEASE_S)
    assert (await studio.wait(worker, video)).billing.state == "settled"
    assert await studio.wallet() == (CREDIT - PRICE, 0)
    assert studio.upstreams[0].submits.total() == 1


@pytest.mark.parametrize("defers", [False, True])
async def test_what_no_provider_took_holds_nothing_where_nobody_heard_that_it_was_withdrawn(
    studio: Studio, defers: bool
) -> None:
    worker, call, outcome = studio.worker("one"), studio.call(), Outcome("key", 429, (), b"no")
    keys = SqlIdempotencyStore(studio.database, worker.commits, studio.clock, "one")
    claim = Claim("team", "key", b"the same", call.suffix)
    await keys.begin(claim)
    call.progress.defers = defers
    for upstream in studio.upstreams:
        upstream.plan = Plan(submit=rate_limited())
    lose(studio, "answered", "lost after")
    with pytest.raises(GatewayError) as caught:
        await worker.videos.create(call, film())
    assert await studio.wallet() == (CREDIT, 0)
    assert caught.value.reason is Reason.UPSTREAM_RATE_LIMITED
    if defers:
        assert call.progress.settlement is not None
        await worker.ledger.settle(replace(call.progress.settlement, outcome=outcome))
        earlier = await keys.look(claim)
        assert earlier is not None
        assert earlier.outcome == outcome
    assert (await worker.videos.list(studio.principal())).data == []
    assert await studio.entries() == ["reserve", "void"]
    [record] = await rows(studio.database, generations)
    assert (record["status_code"], record["success"]) == (429, False)


async def test_an_idempotency_key_begins_one_job_whoever_dies(studio: Studio) -> None:
    """Nobody could write down what was answered to the first; the next is the same request, as the key says."""
    first, second = studio.call(), studio.call()
    for call in (first, second):
        call.progress.key = "key-1"
    video = await studio.worker("dies").videos.create(first, film())
    worker = studio.worker("lives")
    assert await worker.videos.create(second, film()) == video
    other = studio.call("other")
    other.progress.key = "key-1"
    assert (await worker.videos.create(other, film())).id != video.id
    assert studio.upstreams[0].submits.total() == 2
    studio.clock.advance(86_401)
    late = studio.call()
    late.progress.key = "key-1"
    assert (await worker.videos.create(late, film())).id != video.id


async def test_who_was_thought_dead_lets_go_of_what_another_has_ended(studio: Studio) -> None:
    worker, other, gate, call = studio.worker("slow"), studio.worker("other"), gated(studio), studio.call()
    creating = asyncio.create_task(worker.videos.create(call, film()))
    await gate.reached.wait()
    studio.clock.advance(LEASE_S)
    await other.look()
    ended = await other.videos.get(studio.principal(), f"video_{call.suffix}")
    assert (ended.status, ended.billing.state) == (VideoStatus.FAILED, "void")
    studio.upstreams[0].default = studio.upstreams[0].answer
    gate.opened.set()
    assert await creating == ended
    assert paths(studio.upstreams[0])[-1] == ("POST", "/videos/native_1/cancel")
    assert await studio.wallet() == (CREDIT, 0)


async def test_a_worker_that_must_stop_leaves_what_hangs_to_the_others(studio: Studio) -> None:
    worker, call = studio.worker("one"), studio.call()
    studio.upstreams[0].default = lambda request: [Hang()]
    creating = asyncio.create_task(worker.videos.create(call, film()))
    async with asyncio.timeout(20):
        while not studio.upstreams[0].requests:  # noqa: ASYNC110 - the stand-in tells no more
            await asyncio.sleep(0.01)
    await worker.videos.close(0)
    with pytest.raises(GatewayError) as caught:
        await creating
    assert caught.value.reason is Reason.SHUTTING_DOWN
    studio.clock.advance(LEASE_S)
    other = studio.worker("other")
    await other.look()
    video = await other.videos.get(studio.principal(), f"video_{call.suffix}")
    assert (video.status, video.billing.state) == (VideoStatus.FAILED, "void")
    assert await studio.wallet() == (CREDIT, 0)


async def test_content_that_breaks_off_or_is_gone_is_told_in_our_words(studio: Studio) -> None:
    worker, who, [upstream, _] = studio.worker("one"), studio.principal(), studio.upstreams
    upstream.plan = Plan(polls=0, media=Media(size=4 * len(BLOCK), cut_at=2 * len(BLOCK)))
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film()))
    async with await worker.videos.content(who, video.id) as content:
        with pytest.raises(GatewayError) as caught:
            assert [chunk async for chunk in content.chunks()]
    assert caught.value.reason is Reason.STREAM_INTERRUPTED
    upstream.jobs.clear()
    with pytest.raises(GatewayError) as caught:
        await worker.videos.content(who, video.id)
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
    failed = await worker.videos.cancel(who, (await worker.videos.create(studio.call(), film())).id)
    with pytest.raises(GatewayError) as caught:
        await worker.videos.content(who, failed.id)
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
