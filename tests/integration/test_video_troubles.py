"""Videos while something else goes wrong: a client that leaves, a database that is away, content that breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import chain, repeat
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from rest_bridge.app import RestApp
from rest_bridge.idempotency import IdempotentRunner
from rest_bridge.videos import VideosRest
from server.domain.errors import GatewayError, Reason
from server.domain.idempotency import Claim
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.ledger import Outcome
from server.domain.video import VideoStatus
from server.pipeline import video_relay
from server.pipeline.refusals import RecordRefusals
from server.spool import Spool
from server.storage.database import Work
from server.storage.idempotency import SqlIdempotencyStore
from server.storage.tables import daily_usage, generations, idempotency_keys
from tests.fakes.replies import rate_limited
from tests.fakes.rest import OpenDoor, Reply, read, rest_request
from tests.fakes.video_upstream import BLOCK, Media, Plan
from tests.fakes.wire import Hang
from tests.integration.databases import ManualClock, make_schema
from tests.integration.ledger_world import Fate, Forgetful, rows, stalled
from tests.integration.video_rows import LEASE_S
from tests.integration.video_world import CREDIT, PRICE, Studio, Worker, film, paths, studio_with

T = TypeVar("T")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(3000)


class Unreliable(Forgetful):
    """A database that is away for the next so many reads and small writes, too."""

    unread = unwritten = 0

    async def read(self, work: Work[T]) -> T:
        if self.unread:
            self.unread -= 1
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose")
        return await super().read(work)

    async def write(self, work: Work[T]) -> T:
        if self.unwritten:
            self.unwritten -= 1
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "on purpose")
        return await super().write(work)


class Door(OpenDoor):
    """Whoever comes is of the team."""

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        return Call(arrival, Principal("team", "key-team", frozenset({scope})))


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
    database = Unreliable.open(sqlite_url, slot_wait_s=1.0, statement_timeout_s=1.0, quiet=True)
    try:
        async with studio_with(database, clock, 2) as opened:
            yield opened
    finally:
        await database.close()


def database(studio: Studio) -> Unreliable:
    assert isinstance(studio.database, Unreliable)
    return studio.database


def lose(studio: Studio, *fates: Fate) -> None:
    """What becomes of the answers to the next transactions of many statements."""
    coming: Iterator[Fate] = chain(fates, repeat("answered"))
    database(studio).fate = coming.__next__


def gated(studio: Studio) -> Gate:
    """The first provider takes the next job, and says so later."""
    [upstream, _], gate = studio.upstreams, Gate()
    usual = upstream.answer
    upstream.default = lambda request: [gate, *usual(request)]
    return gate


async def post(studio: Studio, worker: Worker, key: str | None = None) -> Reply:
    """What a client of the worker is answered who asks for a video."""
    routes = VideosRest(worker.videos, None, None).routes()  # type: ignore[arg-type]  # it is asked for nothing else
    keys = SqlIdempotencyStore(studio.database, worker.commits, studio.clock, "one")
    runner = IdempotentRunner(keys, worker.ledger, studio.clock)
    app = RestApp(Door(), routes, RecordRefusals(worker.ledger), runner)
    body: dict[str, Any] = {"model": "a/b", "prompt": "a cat on the moon", "seconds": 8}
    request = replace(rest_request(body, path="/v1/videos"), arrival=studio.call().arrival)
    if key is not None:
        request = replace(request, headers={**request.headers, "idempotency-key": key})
    reply = await read(await app(request))
    await runner.close(10)
    return reply


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


@pytest.mark.parametrize("changes", [{"prompt": "a dog on the moon"}, {"seconds": 4}, {"size": "1280x720"}])
async def test_but_another_request_with_a_key_that_was_let_go_of_begins_its_own(
    studio: Studio, changes: dict[str, Any]
) -> None:
    worker, first, second = studio.worker("one"), studio.call(), studio.call()
    first.progress.key = second.progress.key = "key-1"
    lose(studio, "lost after")
    with pytest.raises(GatewayError):
        await worker.videos.create(first, film())
    video = await worker.videos.create(second, film(**changes))
    assert video.id == f"video_{second.suffix}"
    assert {name: getattr(video, name) for name in changes} == changes


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


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_job_that_cannot_be_read_at_once_is_answered_all_the_same(studio: Studio, key: str | None) -> None:
    worker, gate = studio.worker("one"), gated(studio)
    posting = asyncio.create_task(post(studio, worker, key))
    await gate.reached.wait()
    studio.upstreams[0].default = studio.upstreams[0].answer
    database(studio).unread = 1
    gate.opened.set()
    reply = await posting
    assert (reply.status, database(studio).unread) == (202, 0)
    video = await worker.videos.get(studio.principal(), reply.json["id"])
    assert (await studio.wait(worker, video)).billing.state == "settled"
    assert studio.upstreams[0].submits.total() == 1
    assert await studio.wallet() == (CREDIT - PRICE, 0)
    [record], [used] = await rows(studio.database, generations), await rows(studio.database, daily_usage)
    assert (record["success"], record["cost_nanos"]) == (True, PRICE)
    assert (used["requests"], used["cost_nanos"]) == (1, PRICE)


async def test_the_next_provider_is_asked_once_the_database_is_back(studio: Studio) -> None:
    worker, gate, [first, second] = studio.worker("one"), Gate(), studio.upstreams
    first.default = lambda request: [gate, *rate_limited()]
    posting = asyncio.create_task(post(studio, worker))
    await gate.reached.wait()
    database(studio).unwritten = 1
    gate.opened.set()
    reply = await posting
    assert (reply.status, reply.json["provider"], database(studio).unwritten) == (202, "second", 0)
    assert (len(first.requests), second.submits.total()) == (1, 1)
    video = await worker.videos.get(studio.principal(), reply.json["id"])
    assert (await studio.wait(worker, video)).billing.state == "settled"


async def test_a_database_that_stays_away_is_no_reason_to_have_it_made_once_more(studio: Studio) -> None:
    """What its provider took cannot be written down: the client has the job, which another worker ends."""
    worker, gate, other = studio.worker("one"), gated(studio), studio.worker("other")
    posting = asyncio.create_task(post(studio, worker))
    await gate.reached.wait()
    studio.upstreams[0].default = studio.upstreams[0].answer
    database(studio).unwritten = 1_000_000
    gate.opened.set()
    async with asyncio.timeout(30):
        while database(studio).unwritten == 1_000_000:  # noqa: ASYNC110 - the database tells no more
            await asyncio.sleep(0.01)
    studio.clock.advance(3600)
    reply = await posting
    assert (reply.status, reply.json["status"]) == (202, "queued")
    assert paths(studio.upstreams[0])[-1] == ("POST", "/videos/native_1/cancel")
    database(studio).unwritten = 0
    await other.look()
    video = await other.videos.get(studio.principal(), reply.json["id"])
    assert (video.status, video.billing.state) == (VideoStatus.FAILED, "void")
    assert await studio.wallet() == (CREDIT, 0)
    [record] = await rows(studio.database, generations)
    assert record["suffix"] == video.suffix


async def test_what_was_kept_though_nobody_heard_of_it_is_made_by_nobody(studio: Studio) -> None:
    worker, other, [upstream, _] = studio.worker("one"), studio.worker("other"), studio.upstreams
    studio.current = studio.catalog(idempotent=True)
    lose(studio, "lost after")
    assert (await post(studio, worker)).status == 503
    await worker.videos.close(10)
    assert await studio.wallet() == (CREDIT, 0)
    studio.clock.advance(LEASE_S)
    await other.look()
    assert upstream.requests == []
    assert (await other.videos.list(studio.principal())).data == []


async def test_but_it_is_there_for_who_comes_again_with_its_key(studio: Studio) -> None:
    worker, other, [upstream, _] = studio.worker("one"), studio.worker("other"), studio.upstreams
    studio.current = studio.catalog(idempotent=True)
    lose(studio, "lost after")
    assert (await post(studio, worker, "key-1")).status == 503
    reply = await post(studio, worker, "key-1")
    assert reply.status == 202
    studio.clock.advance(LEASE_S)
    await other.look()
    video = await other.videos.get(studio.principal(), reply.json["id"])
    assert (await studio.wait(other, video)).billing.state == "settled"
    assert upstream.submits.total() == 1
    assert await studio.wallet() == (CREDIT - PRICE, 0)
    [record] = await rows(studio.database, generations)
    assert (record["suffix"], record["cost_nanos"]) == (video.suffix, PRICE)


async def test_what_is_deleted_while_it_is_submitted_is_answered_and_its_key_says_so_again(studio: Studio) -> None:
    worker, gate = studio.worker("one"), gated(studio)
    posting = asyncio.create_task(post(studio, worker, "key-1"))
    await gate.reached.wait()
    [video] = (await worker.videos.list(studio.principal())).data
    await worker.videos.delete(studio.principal(), video.id)
    studio.upstreams[0].default = studio.upstreams[0].answer
    gate.opened.set()
    assert (await posting).status == 404
    [kept] = await rows(studio.database, idempotency_keys)
    assert kept["status"] == 404
    assert (await post(studio, worker, "key-1")).status == 404
    assert studio.upstreams[0].submits.total() == 1
    assert await studio.wallet() == (CREDIT, 0)
    [record] = await rows(studio.database, generations)
    assert record["suffix"] == video.suffix


async def test_a_worker_that_must_stop_leaves_what_hangs_to_the_others(studio: Studio) -> None:
    worker = studio.worker("one")
    studio.upstreams[0].default = lambda request: [Hang()]
    posting = asyncio.create_task(post(studio, worker))
    async with asyncio.timeout(20):
        while not studio.upstreams[0].requests:  # noqa: ASYNC110 - the stand-in tells no more
            await asyncio.sleep(0.01)
    await worker.videos.close(0)
    reply = await posting
    assert (reply.status, reply.json["status"]) == (202, "queued")
    studio.clock.advance(LEASE_S)
    other = studio.worker("other")
    await other.look()
    video = await other.videos.get(studio.principal(), reply.json["id"])
    assert (video.status, video.billing.state) == (VideoStatus.FAILED, "void")
    assert await studio.wallet() == (CREDIT, 0)
    [record] = await rows(studio.database, generations)
    assert b"submit_outcome_unknown" in record["record_json"]


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


async def test_content_that_falls_silent_is_told_in_our_words(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, [upstream, _] = studio.worker("one"), studio.upstreams
    upstream.plan = Plan(polls=0, media=Media(size=4 * len(BLOCK), gate=Hang()))
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film()))
    monkeypatch.setattr(video_relay, "STALL_S", 1.0)
    async with await worker.videos.content(studio.principal(), video.id) as content:
        with pytest.raises(GatewayError) as caught:
            async with asyncio.timeout(30):
                assert [chunk async for chunk in content.chunks()]
    assert caught.value.reason is Reason.UPSTREAM_TIMEOUT
    await upstream.wait_disconnect(timeout=30)
