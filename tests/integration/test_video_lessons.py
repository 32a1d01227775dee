"""What went wrong with other gateways' jobs, group J."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from server.domain.errors import GatewayError
from server.domain.pricing import PriceList
from server.domain.video import Video, VideoBilling, VideoStatus
from server.storage.database import Database
from server.storage.tables import generations, video_jobs
from server.storage.video_jobs import _changing
from tests.fakes.replies import error
from tests.fakes.video_upstream import Outcome, Plan
from tests.fakes.wire import Hang
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import rows
from tests.integration.video_rows import LEASE_S, hold_of, new_job
from tests.integration.video_world import CREDIT, PRICE, Studio, film, paths, studio_with

VOID = VideoBilling("void", PRICE, 0)

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where it makes no difference which database it is."""


@pytest.fixture
async def studio(database: Database, clock: ManualClock) -> AsyncIterator[Studio]:
    async with studio_with(database, clock, 2) as opened:
        yield opened


@on_sqlite
async def test_j1_looking_at_what_has_ended_touches_no_money(studio: Studio) -> None:
    worker, who = studio.worker("one"), studio.principal()
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film()))
    for _ in range(100):
        assert await worker.videos.get(who, video.id) == video
    for _ in range(5):
        async with await worker.videos.content(who, video.id) as content:
            assert [chunk async for chunk in content.chunks()]
    await worker.look()
    await worker.videos.delete(who, video.id)
    assert await studio.entries() == ["reserve", "settle"]
    assert await studio.wallet() == (CREDIT - PRICE, 0)


async def test_j2_overlapping_looks_give_back_once(studio: Studio) -> None:
    """A look so slow that its lease runs out, one by the next worker, and a cancel, all at once."""
    slow, quick, [upstream, _] = studio.worker("slow"), studio.worker("quick"), studio.upstreams
    upstream.plan = Plan(polls=0, outcome="failed", slow_s=0.3)
    video = await slow.videos.create(studio.call(), film())
    studio.clock.advance(10)
    await slow.runner.round()
    studio.clock.advance(LEASE_S + 1)
    await quick.runner.round()
    assert (slow.runner.under_way, quick.runner.under_way) == (1, 1)
    await asyncio.gather(slow.runner.idle(), quick.runner.idle(), slow.videos.cancel(studio.principal(), video.id))
    assert await studio.entries() == ["reserve", "void"]
    assert await studio.wallet() == (CREDIT, 0)
    assert len(await rows(studio.database, generations)) == 1


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("completed", "completed"), ("failed", "failed"), ("filtered", "failed"), ("cancelled", "cancelled"),
     ("expired", "failed"), ("gone", "failed")],
)  # fmt: skip
async def test_j3_only_what_was_made_is_charged_at_the_price_of_its_beginning(
    studio: Studio, outcome: Outcome, status: str
) -> None:
    worker = studio.worker("one")
    studio.upstreams[0].plan = Plan(outcome=outcome)
    video = await worker.videos.create(studio.call(), film())
    studio.current = studio.catalog(PriceList({"video_seconds": 900_000_000_000_000}))
    video = await studio.wait(worker, video)
    has_made = status == "completed"
    assert video.status in (status, outcome)
    assert (video.error is None) == has_made
    assert video.billing == (VideoBilling("settled", PRICE, PRICE) if has_made else VOID)
    assert await studio.wallet() == (CREDIT - PRICE * has_made, 0)
    [record] = await rows(studio.database, generations)
    assert (record["success"], record["cost_nanos"]) == (has_made, PRICE * has_made)


@on_sqlite
@pytest.mark.parametrize("submit", ["lost", "reset"])
async def test_j4_a_lost_reply_is_not_asked_for_again(studio: Studio, submit: str) -> None:
    worker, [first, second] = studio.worker("one"), studio.upstreams
    first.plan = Plan(submit=submit)  # type: ignore[arg-type]
    video = await worker.videos.create(studio.call(), film())
    assert (video.status, video.billing) == (VideoStatus.FAILED, VOID)
    assert video.error is not None
    assert video.error.code == "submit_outcome_unknown"
    studio.clock.advance(4000)
    await worker.look()
    assert (first.submits.total(), second.submits.total()) == (1, 0)
    assert await studio.wallet() == (CREDIT, 0)


@on_sqlite
async def test_j4_who_knows_the_key_of_a_job_is_asked_for_it_again(studio: Studio) -> None:
    worker, first = studio.worker("one"), studio.upstreams[0]
    studio.current = studio.catalog(idempotent=True)
    first.honours_keys = True
    first.plan = Plan(submit="lost")
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film()))
    assert (video.billing.state, len(first.jobs), list(first.submits.values())) == ("settled", 1, [2])


@on_sqlite
async def test_j4_a_refused_connection_is_no_submit(studio: Studio) -> None:
    worker, [first, second] = studio.worker("one"), studio.upstreams
    await first.__aexit__(None, None, None)
    try:
        video = await worker.videos.create(studio.call(), film())
    finally:
        await first.__aenter__()
    assert video.provider == "second"
    assert second.submits.total() == 1


async def test_j5_stuck_providers_delay_nobody(sqlite_url: str, clock: ManualClock) -> None:
    """1,000 jobs, and ten providers that never answer with 64 each: one round of looks sees all that are complete."""
    async with migrated(sqlite_url) as database, studio_with(database, clock) as studio:
        worker, [upstream] = studio.worker("one"), studio.upstreams
        upstream.plan = Plan(polls=0)
        [model] = [studio.current.models["a/b:free"]]
        provider = model.offers[0].provider
        stuck = [f"stuck{number}" for number in range(10)]
        providers = {name: replace(provider, id=name, base_url=f"{upstream.origin}/{name}/v1") for name in stuck}
        studio.current = replace(studio.current, providers={**studio.current.providers, **providers})
        job = await worker.videos.create(studio.call(), film("a/b:free"))
        [native_id] = upstream.jobs
        begun = await worker.store.get("team", job.suffix)
        assert begun is not None

        def another(name: str) -> dict[str, object]:
            one = replace(new_job(clock, held=None), provider=name, native_id=native_id, due_at=clock.now())
            return {
                **{"suffix": one.suffix, "team_id": "team", "key_id": "key", "created_at": 0},
                **{"deadline_at": one.deadline_at, **_changing(one, None)},
            }

        made = [another(name) for name in stuck for _ in range(64)] + [another("first") for _ in range(999)]

        async def fill(connection: AsyncConnection) -> None:
            await connection.execute(insert(video_jobs), made)

        await database.write(fill)
        usual = upstream.answer
        upstream.default = lambda request: [Hang()] if "/stuck" in request.path else usual(request)
        clock.advance(10)
        ended = 0
        async with asyncio.timeout(60):
            while ended < 1000:
                await worker.runner.round()
                await asyncio.sleep(0.01)
                states = [row["status"] for row in await rows(database, video_jobs)]
                ended = states.count("completed")
        assert states.count("queued") == 640
        assert {path.split("/")[1] for _, path in paths(upstream) if path.startswith("/stuck")} == set(stuck)
        assert len(await rows(database, generations)) == 1000


async def test_j6_what_was_never_submitted_is_not_cancelled_elsewhere(studio: Studio) -> None:
    worker = studio.worker("one")
    job = new_job(studio.clock)
    await studio.worker("dead").store.open(job, hold_of(job))
    video = await worker.videos.cancel(studio.principal(), f"video_{job.suffix}")
    assert (video.status, video.billing) == (VideoStatus.CANCELLED, VOID)
    assert [upstream.requests for upstream in studio.upstreams] == [[], []]
    assert await studio.wallet() == (CREDIT, 0)


async def test_j6_what_is_cancelled_while_it_is_submitted_is_cancelled_under_its_own_id(studio: Studio) -> None:
    worker, [upstream, _] = studio.worker("one"), studio.upstreams
    await worker.videos.create(studio.call(), film("a/b:free"))
    usual, arrived, released = upstream.answer, asyncio.Event(), asyncio.Event()

    class Gate:
        async def play(self, wire: object) -> None:
            arrived.set()
            await released.wait()

    upstream.default = lambda request: [Gate(), *usual(request)]
    call = studio.call()
    creating = asyncio.create_task(worker.videos.create(call, film()))
    await arrived.wait()
    upstream.default = usual
    video = await worker.videos.cancel(studio.principal(), f"video_{call.suffix}")
    assert ("POST", "/videos/native_1/cancel") not in paths(upstream)
    assert await studio.wallet() == (CREDIT, 0)
    released.set()
    assert await creating == video
    assert paths(upstream)[-1] == ("POST", "/videos/native_2/cancel")
    assert await studio.entries() == ["reserve", "void"]


@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_j6_a_cancel_that_races_the_end_is_one_or_the_other(studio: Studio, outcome: Outcome) -> None:
    worker, who = studio.worker("one"), studio.principal()
    studio.upstreams[0].plan = Plan(polls=0, outcome=outcome)
    begun = [await worker.videos.create(studio.call(), film()) for _ in range(8)]
    studio.clock.advance(10)
    cancels = [asyncio.create_task(worker.videos.cancel(who, video.id)) for video in begun]
    await worker.look()
    told = await asyncio.gather(*cancels)
    videos = [await worker.videos.get(who, video.id) for video in begun]
    assert told == videos
    charged = [video for video in videos if video.status is VideoStatus.COMPLETED]
    assert all(
        video.billing == (VideoBilling("settled", PRICE, PRICE) if video in charged else VOID) for video in videos
    )
    assert await studio.wallet() == (CREDIT - PRICE * len(charged), 0)


@on_sqlite
async def test_j7_a_state_that_no_table_knows_ends_with_the_deadline(studio: Studio) -> None:
    worker = studio.worker("one")
    studio.upstreams[0].plan = Plan(polls=10_000, word="pondering")
    video = await worker.videos.create(studio.call(), film())
    studio.clock.advance(3590)
    await worker.look()
    assert (await worker.videos.get(studio.principal(), video.id)).status is VideoStatus.IN_PROGRESS
    studio.clock.advance(10)
    await worker.look()
    video = await worker.videos.get(studio.principal(), video.id)
    assert (video.status, video.billing) == (VideoStatus.EXPIRED, VOID)
    assert paths(studio.upstreams[0])[-1] == ("POST", "/videos/native_1/cancel")
    assert await studio.wallet() == (CREDIT, 0)


@on_sqlite
async def test_j7_what_is_complete_at_the_deadline_is_not_thrown_away(studio: Studio) -> None:
    worker = studio.worker("one")
    studio.upstreams[0].plan = Plan(polls=0)
    video = await worker.videos.create(studio.call(), film())
    studio.clock.advance(7200)
    assert (await studio.wait(worker, video)).billing.state == "settled"


@on_sqlite
async def test_j7_another_worker_takes_over_within_a_lease(studio: Studio) -> None:
    first, upstream = studio.worker("first"), studio.upstreams[0]
    upstream.plan = Plan(polls=1)
    video = await first.videos.create(studio.call(), film())
    upstream.default = lambda request: [Hang()]
    studio.clock.advance(10)
    await first.runner.round()
    await first.runner.close()
    upstream.default = upstream.answer
    other = studio.worker("other")
    await other.look()
    assert (await other.videos.get(studio.principal(), video.id)).progress == 0
    studio.clock.advance(LEASE_S)
    await other.look()
    assert (await other.videos.get(studio.principal(), video.id)).progress == 50
    assert (await studio.wait(other, video)).status is VideoStatus.COMPLETED
    assert upstream.submits.total() == 1


@on_sqlite
async def test_j7_a_worker_that_died_in_the_middle_of_a_submit_leaves_no_reservation(studio: Studio) -> None:
    job, other = new_job(studio.clock), studio.worker("other")
    await studio.worker("dead").store.open(job, hold_of(job))
    await other.look()
    studio.clock.advance(LEASE_S)
    await other.look()
    video = await other.videos.get(studio.principal(), f"video_{job.suffix}")
    assert (video.status, video.billing) == (VideoStatus.FAILED, VOID)
    assert video.error is not None
    assert video.error.code == "submit_outcome_unknown"
    assert [upstream.requests for upstream in studio.upstreams] == [[], []]
    assert await studio.wallet() == (CREDIT, 0)


@on_sqlite
async def test_j7_trouble_with_looks_ends_no_job(studio: Studio) -> None:
    worker = studio.worker("one")
    broken = error(500, "broken", code=None)
    studio.upstreams[0].plan = Plan(polls=0, trouble=(broken, error(401, "no", code="invalid_api_key"), broken, broken))
    video = await studio.wait(worker, await worker.videos.create(studio.call(), film()), looks=100)
    assert video.billing == VideoBilling("settled", PRICE, PRICE)


@on_sqlite
async def test_j8_a_job_stays_with_the_account_that_began_it(studio: Studio) -> None:
    worker, who, [first, second] = studio.worker("one"), studio.principal(), studio.upstreams
    second.plan = Plan(polls=1)
    video = await worker.videos.create(studio.call(), film(order=("second",)))
    studio.current = studio.catalog()
    await studio.wait(worker, video)
    studio.current = studio.catalog(names=("second", "first"))
    async with await worker.videos.content(who, video.id, byte_range="bytes=0-9") as content:
        assert content.status == 206
    await worker.videos.cancel(who, (await worker.videos.create(studio.call(), film(order=("second",)))).id)
    assert first.requests == []
    assert {request.header("authorization") for request in second.requests} == {f"Bearer {second.key}"}
    assert paths(second)[-1] == ("POST", "/videos/native_2/cancel")


@on_sqlite
async def test_j8_a_job_waits_for_a_provider_that_is_gone_from_the_catalogue(studio: Studio) -> None:
    worker, [first, second] = studio.worker("one"), studio.upstreams
    video: Video = await worker.videos.create(studio.call(), film(only=("second",)))
    asked = len(second.requests)
    studio.current = studio.catalog(names=("first",))
    with capture_logs() as logs:
        for _ in range(3):
            studio.clock.advance(100)
            await worker.look()
    assert [line["provider"] for line in logs if line["event"] == "video_provider_missing"] == ["second"]
    assert (len(first.requests), len(second.requests)) == (0, asked)
    assert (await worker.videos.get(studio.principal(), video.id)).billing.state == "reserved"
    studio.current = studio.catalog()
    assert (await studio.wait(worker, video)).billing.state == "settled"
    studio.current = studio.catalog(names=("first",))
    with pytest.raises(GatewayError, match="not in use here"):
        await worker.videos.content(studio.principal(), video.id)
