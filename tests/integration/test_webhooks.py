"""Webhooks over real sockets: each event once by its id, in order, signed; whoever fails, whichever worker dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from phaseo import verify_async_webhook_signature
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from rest_bridge.videos_encode import encode_video
from server.clock import SystemClock
from server.domain.catalog import Catalog
from server.domain.keys import Actor
from server.domain.video import JobReport, VideoStatus
from server.domain.webhooks import Reply
from server.pipeline import webhook_delivery
from server.pipeline.video_account import seen
from server.pipeline.video_looks import Looks
from server.pipeline.webhook_delivery import (
    BATCH,
    FAILING_S,
    GIVE_UP_S,
    MAX_AT_ONCE,
    MAX_OF_ENDPOINT,
    MAX_OF_TEAM,
    WebhookRunner,
)
from server.storage.database import Database
from server.storage.tables import webhook_deliveries, webhook_events
from server.storage.webhook_events import RETENTION_S, purge_events
from server.transport import OwnLookups, Transport
from server.webhook_post import WebhookPost
from tests.fakes.health import middle
from tests.fakes.openapi import Checker, document
from tests.fakes.replies import whole
from tests.fakes.wire import Call, Cut, Hang, Request, Send, WireServer
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import rows
from tests.integration.video_rows import new_job
from tests.integration.webhook_world import ACTOR, LEASE_S, Receiver, Worker, World, taken, world_with

HOUR_S = 3600.0
PATIENCE_S = 60.0


@pytest.fixture
def clock() -> ManualClock:
    """Signatures are valid for minutes, by the clock of who verifies them."""
    return ManualClock(float(int(SystemClock().now())))


@pytest.fixture
async def world(database: Database, clock: ManualClock) -> AsyncIterator[World]:
    async with world_with(database, clock) as world:
        yield world


async def until_delivered(world: World, worker: Worker | None = None, *, step_s: float = 5.0, rounds: int = 12) -> None:
    for _ in range(rounds):
        await (worker or world.one).deliver()
        world.clock.advance(step_s)


def as_described(name: str, request: Request) -> list[str]:
    """What there is in an event that its description does not say."""
    content = document()["webhooks"][name]["post"]["requestBody"]["content"]
    return Checker(document(), strict=True).problems(content["application/json"]["schema"], request.json)


def headers(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers}


# What is sent.


async def test_every_event_is_told_once_by_its_id_in_order_and_signed(world: World) -> None:
    """Each is refused three times; one more is taken, and the answer lost."""
    async with Receiver(refusals=3) as receiver:
        hook = await world.hook(receiver.url)
        jobs = [await world.made() for _ in range(3)]
        receiver.script(lambda _: [Cut()])
        await until_delivered(world, rounds=30)
        assert {delivery.state for delivery in await world.deliveries(hook)} == {"delivered"}
        by_id = {request.header("webhook-id"): request for request in receiver.requests}
        assert len(by_id) == 2 * len(jobs)
        assert len(receiver.requests) == 4 * len(by_id) + 1
        assert world.one.runner.attempts == {"delivered": len(by_id), "pending": 3 * len(by_id) + 1}
        for job in jobs:
            events = [one.json for one in by_id.values() if one.json["data"]["id"] == f"video_{job.suffix}"]
            assert [event["type"] for event in events] == ["video.in_progress", "video.completed"]
            assert events[1]["id"] in by_id
        for request in receiver.requests:
            told = headers(request)
            assert Webhook(hook.secret).verify(request.body, told) == request.json
            assert verify_async_webhook_signature(secret=hook.secret, body=request.body, headers=told)
            assert told["webhook-id"] == request.json["id"]


async def test_the_payload_is_the_video_as_its_team_saw_it_then(world: World, clock: ManualClock) -> None:
    async with Receiver() as receiver:
        await world.hook(receiver.url)
        job = await world.begin()
        at = int(clock.now())
        clock.advance(3)
        done = await world.end(job, VideoStatus.FAILED)
        await until_delivered(world, rounds=2)
        first, last = receiver.requests
        for request, video in ((first, job), (last, done)):
            assert encode_video(seen(video)) in request.body
            assert headers(request)["content-type"] == "application/json"
            assert as_described("video", request) == []
        assert {**first.json, "data": None} == {
            "id": first.header("webhook-id"), "object": "event", "type": "video.in_progress", "created_at": at,
            "data": None,
        }  # fmt: skip
        assert last.json["data"]["error"]["code"] == "no_video"


async def test_a_test_says_nothing_of_videos(world: World) -> None:
    async with Receiver() as receiver:
        hook = await world.hook(receiver.url, events=("video.failed",))
        assert await world.hooks.test("team", hook.webhook.suffix) is not None
        await world.one.deliver()
    [request] = receiver.requests
    assert (request.json["type"], request.json["data"]) == ("webhook.test", {"webhook_id": hook.webhook.id})
    assert as_described("webhook.test", request) == []


async def test_what_is_forged_fails(world: World) -> None:
    async with Receiver() as receiver:
        hook = await world.hook(receiver.url)
        await world.begin()
        await world.one.deliver()
    [request] = receiver.requests
    told, other = headers(request), await world.hook("https://other.example")
    forgeries = (
        (hook.secret, request.body.replace(b"in_progress", b"completed"), told),
        (other.secret, request.body, told),
        (hook.secret, request.body, told | {"webhook-id": "evt_0"}),
        (hook.secret, request.body, told | {"webhook-timestamp": str(int(told["webhook-timestamp"]) + 1)}),
        (hook.secret, request.body, told | {"webhook-timestamp": str(int(told["webhook-timestamp"]) - 600)}),
    )
    for secret, body, sent in forgeries:
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, sent)
    assert not verify_async_webhook_signature(secret=other.secret, body=request.body, headers=told)
    assert not verify_async_webhook_signature(secret=hook.secret, body=request.body + b" ", headers=told)


async def test_both_secrets_sign_for_a_while_after_a_rotation(world: World, clock: ManualClock) -> None:
    async with Receiver() as receiver:
        old = await world.hook(receiver.url)
        new = await world.hooks.rotate(ACTOR, old.webhook.suffix, 60)
        assert new is not None
        assert new.secret != old.secret
        await world.begin()
        await world.one.deliver()
        clock.advance(61)
        await world.begin()
        await world.one.deliver()
        first, last = receiver.requests
        for issued in (old, new):
            assert Webhook(issued.secret).verify(first.body, headers(first))
        assert Webhook(new.secret).verify(last.body, headers(last))
        with pytest.raises(WebhookVerificationError):
            Webhook(old.secret).verify(last.body, headers(last))


async def test_only_what_is_wanted_is_sent_and_nothing_is_written_for_nobody(database: Database, world: World) -> None:
    await world.made()
    async with Receiver() as some, Receiver() as off:
        await world.hook(some.url, events=("video.completed",))
        await world.hook(off.url, disabled=True)
        await world.made("other")
        assert await rows(database, webhook_events) == await rows(database, webhook_deliveries) == []
        await world.end(await world.begin(), VideoStatus.FAILED)
        assert await rows(database, webhook_events) == []
        await world.made()
        await until_delivered(world, rounds=2)
        assert (some.types, off.types) == (["video.completed"], [])


async def test_a_video_is_told_of_when_it_begins_and_ends_and_at_no_other_look(
    world: World, clock: ManualClock
) -> None:
    class Nothing:
        current = Catalog({}, {})

    jobs, looks = world.one.jobs, Looks(world.one.jobs, {}, Nothing(), clock, middle)
    hook = await world.hook("https://hooks.invalid/")
    job = new_job(clock, held=None, native_id="native")
    await jobs.open(job, None)
    for status, count in (
        (VideoStatus.QUEUED, 0), (VideoStatus.IN_PROGRESS, 1), (VideoStatus.IN_PROGRESS, 1), (VideoStatus.QUEUED, 1),
    ):  # fmt: skip
        assert await looks.take(job, JobReport("native", status)) is not None
        assert len(await world.deliveries(hook)) == count
        clock.advance(LEASE_S)
        [job] = await jobs.claim(clock.now() + LEASE_S, 1)
    report = JobReport("native", VideoStatus.COMPLETED)
    others = [Looks(world.worker(name).jobs, {}, Nothing(), clock, middle) for name in ("two", "three")]
    ended = await asyncio.gather(*(one.end(job, report.status, report=report) for one in (looks, *others)))
    assert [one is None for one in ended].count(True) == 2
    assert [one.event_type for one in await world.deliveries(hook)] == ["video.in_progress", "video.completed"]


# Whoever receives it.


async def test_a_slow_receiver_delays_no_other(world: World) -> None:
    async with WireServer(default=[Hang()]) as slow, Receiver() as quick:
        await world.hook(slow.origin)
        hook = await world.hook(quick.url)
        jobs = [await world.begin() for _ in range(3 * MAX_OF_ENDPOINT)]
        running = asyncio.create_task(world.one.runner.run())
        await quick.wait_request(len(jobs), timeout=PATIENCE_S)
        assert len(slow.requests) < 2 * MAX_OF_ENDPOINT
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await world.deliveries(hook, "dead") == []


async def test_nor_do_all_the_slow_receivers_of_a_team(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_delivery, "ATTEMPT_S", 2 * PATIENCE_S)
    runner = WebhookRunner(world.one.queue, world.one.post, world.clock, middle, lease_s=4 * PATIENCE_S)
    async with WireServer(default=[Hang()]) as slow, Receiver() as quick:
        for _ in range(MAX_AT_ONCE // MAX_OF_ENDPOINT):
            await world.hook(slow.origin, Actor("key", "other", "req-2"))
        for _ in range(MAX_OF_ENDPOINT):
            await world.begin("other")
        running = asyncio.create_task(runner.run())
        await slow.wait_request(MAX_OF_TEAM, timeout=PATIENCE_S)
        await world.hook(quick.url)
        await world.begin()
        await quick.wait_request(timeout=PATIENCE_S)
        assert len(slow.requests) < MAX_OF_TEAM + BATCH
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runner.close()


async def test_one_event_that_is_refused_holds_up_its_own_video_alone(world: World) -> None:
    async with Receiver() as receiver:
        hook = await world.hook(receiver.url)
        receiver.script(whole(b"", status=503))
        first, second = await world.made(), await world.made()
        await world.one.deliver()
        sent = [(request.json["data"]["id"], request.json["type"]) for request in receiver.requests]
        assert (f"video_{second.suffix}", "video.completed") in sent
        assert (f"video_{first.suffix}", "video.completed") not in sent
        [waiting, behind] = await world.deliveries(hook, "pending")
        assert (waiting.status, waiting.error, waiting.attempts, behind.attempts) == (503, "refused", 1, 0)
        assert behind.due_at == waiting.due_at
        await until_delivered(world)
        assert receiver.types[-2:] == [
            "video.in_progress", "video.completed",
        ]  # fmt: skip


async def test_what_is_refused_for_a_day_is_dead_and_can_be_replayed(world: World, clock: ManualClock) -> None:
    async with Receiver(refusals=1000) as receiver:
        hook = await world.hook(receiver.url)
        queued, _ = clock.now(), await world.made()
        while await world.deliveries(hook, "pending") and clock.now() < queued + 3 * GIVE_UP_S:
            due = await world.one.queue.next_due()
            assert due is not None
            clock.seconds = max(clock.seconds, due)
            await world.one.deliver()
        first, second = await world.deliveries(hook)
        assert (first.state, first.status, first.event_type) == ("dead", 500, "video.in_progress")
        assert first.ended_at is not None
        assert GIVE_UP_S <= first.ended_at - queued <= GIVE_UP_S + 2
        assert second.state == "dead"
        tried = [request for request in receiver.requests if request.json["type"] == "video.in_progress"]
        assert 25 <= len(tried) == first.attempts <= 45
        receiver.refusals = 0
        replayed = await world.hooks.replay("team", hook.webhook.suffix, first.event_suffix)
        assert replayed is not None
        assert (replayed.state, replayed.attempts) == ("pending", 0)
        assert await world.hooks.replay_dead("team", hook.webhook.suffix, 0, 10) == 1
        await world.one.deliver()
        assert [one.state for one in await world.deliveries(hook)] == ["delivered", "delivered"]
        assert receiver.requests[-2].body == tried[0].body
        assert receiver.types[-2:] == ["video.in_progress", "video.completed"]


async def test_it_comes_back_when_the_receiver_says(world: World, clock: ManualClock) -> None:
    async with Receiver(refusals=1, status=429, headers={"retry-after": "600"}) as receiver:
        hook = await world.hook(receiver.url)
        await world.begin()
        await world.one.deliver()
        [waiting] = await world.deliveries(hook)
        assert waiting.due_at is not None
        assert 600 <= waiting.due_at - clock.now() <= 600 * 1.2
        receiver.headers = {"retry-after": "1000000"}
        await world.begin()
        await world.one.deliver()
        [_, waiting] = await world.deliveries(hook)
        assert waiting.due_at is not None
        assert waiting.due_at - clock.now() <= HOUR_S * 1.2


async def test_a_receiver_that_is_gone_is_asked_no_more(world: World) -> None:
    async with Receiver(refusals=1, status=410) as receiver:
        hook = await world.hook(receiver.url)
        await world.made()
        await world.one.deliver()
        found = await world.hooks.get("team", hook.webhook.suffix)
        assert found is not None
        assert (found.disabled, found.disabled_reason) == (True, "gone")
        first, second = await world.deliveries(hook)
        assert (first.state, first.status, second.state, second.error) == ("dead", 410, "dead", "disabled")
        await world.made()
        assert len(await world.deliveries(hook)) == 2
        await world.change(hook, disabled=False)
        assert await world.hooks.replay_dead("team", hook.webhook.suffix, 0, 10) == 2
        await world.one.deliver()
        assert receiver.types[1:] == ["video.in_progress", "video.completed"]


async def test_what_an_address_says_that_is_no_longer_the_webhooks_is_not_said_of_it(world: World) -> None:
    async with Receiver() as old, Receiver() as new:
        hook = await world.hook(old.url)

        async def move(_: Request) -> None:
            await world.change(hook, url=new.url)

        old.script([Call(move), *whole(b"", status=410)])
        await world.made()
        await until_delivered(world, rounds=2)
        found = await world.hooks.get("team", hook.webhook.suffix)
        assert found is not None
        assert (found.disabled, found.disabled_reason) == (False, None)
        assert (old.types, new.types) == (["video.in_progress"], ["video.completed"])


async def test_a_receiver_that_fails_for_days_is_disabled(world: World, clock: ManualClock) -> None:
    hook = await world.hook("http://127.0.0.1:1/")
    for _ in range(3):
        await world.begin()
        await world.one.deliver()
        clock.advance(FAILING_S / 2)
        await world.one.deliver()
    found = await world.hooks.get("team", hook.webhook.suffix)
    assert found is not None
    assert (found.disabled, found.disabled_reason) == (True, "failing")
    assert found.failing_since is not None
    assert {one.error for one in await world.deliveries(hook)} == {"connection_refused"}
    await world.change(hook, disabled=False)
    found = await world.hooks.get("team", hook.webhook.suffix)
    assert found is not None
    assert (found.disabled, found.disabled_reason, found.failing_since) == (False, None, None)


@pytest.mark.parametrize("status", [302, 307])
async def test_no_redirect_is_followed(world: World, status: int) -> None:
    async with Receiver() as elsewhere:
        for target in ("http://169.254.169.254/latest/meta-data/", elsewhere.url):
            async with Receiver(refusals=1, status=status, headers={"location": target}) as receiver:
                hook = await world.hook(receiver.url)
                await world.begin()
                await world.one.deliver()
                [delivery] = await world.deliveries(hook)
                assert (delivery.state, delivery.status, delivery.error) == ("pending", status, "redirect")
                await world.hooks.delete(ACTOR, hook.webhook.suffix)
        assert elsewhere.requests == []


async def test_an_answer_is_not_read(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"
    async with WireServer(default=[Send(head + bytes(1000)), Hang()]) as receiver:
        hook = await world.hook(receiver.origin)
        await world.begin()
        await world.one.deliver()
        assert [one.state for one in await world.deliveries(hook)] == ["delivered"]
        await receiver.wait_open_sockets()


# Whichever worker dies.


async def test_another_worker_delivers_what_a_dead_one_had_begun(world: World, clock: ManualClock) -> None:
    """And if it was not quite dead, what it says then counts no more."""
    async with Receiver() as receiver:
        hook = await world.hook(receiver.url)
        await world.made()
        receiver.script([Hang()])
        await world.one.runner.round()
        await receiver.wait_request(timeout=PATIENCE_S)
        other = world.worker("two")
        await other.deliver()
        assert receiver.types == ["video.in_progress"]
        clock.advance(LEASE_S + 1)
        await other.deliver()
        assert receiver.types == ["video.in_progress", "video.in_progress", "video.completed"]
        assert len(receiver.tries) == 2
        await receiver.stop()
        await world.one.runner.idle()
        assert {(one.state, one.attempts) for one in await world.deliveries(hook)} == {("delivered", 1)}


async def test_two_workers_share_what_there_is(world: World) -> None:
    async with Receiver() as receiver:
        hook = await world.hook(receiver.url)
        for _ in range(10):
            await world.made()
        workers = (world.one, world.worker("two"))
        while await world.deliveries(hook, "pending"):
            await asyncio.gather(*(worker.deliver() for worker in workers))
        assert receiver.tries.total() == len(receiver.tries) == 20


async def test_whoever_is_disabled_while_much_is_sent_to_it_holds_up_nobody(world: World) -> None:
    async with Receiver() as receiver:
        hook = await world.hook(receiver.url)
        for _ in range(10):
            await world.made()
        workers = (world.one, world.worker("two"))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(
                *(worker.deliver() for worker in workers),
                *(world.change(hook, disabled=disabled) for disabled in (True, False, True, False, True)),
            )
        assert {one.state for one in await world.deliveries(hook)} <= {"delivered", "dead"}
        assert receiver.tries.total() == len(receiver.tries)


async def test_a_worker_that_leaves_gives_back_what_it_has_begun(world: World) -> None:
    async with WireServer(default=[Hang()]) as receiver:
        await world.hook(receiver.origin)
        await world.begin()
        await world.one.runner.round()
        await receiver.wait_request()
        await world.one.runner.close()
        receiver.default = taken
        await world.worker("two").deliver()
        assert len(receiver.requests) == 2


async def test_what_is_old_is_forgotten(database: Database, world: World, clock: ManualClock) -> None:
    await world.hook("https://hooks.invalid/")
    await world.made()
    clock.advance(RETENTION_S - 1)
    await world.begin()
    assert await purge_events(world.one.commits, clock) == 0
    clock.advance(1)
    assert await purge_events(world.one.commits, clock, limit=1) == 1
    assert await purge_events(world.one.commits, clock) == 1
    assert len(await rows(database, webhook_events)) == len(await rows(database, webhook_deliveries)) == 1


# Where it goes.


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433"])
async def test_by_default_nothing_goes_to_this_machine(clock: ManualClock, host: str) -> None:
    """Judged by what a name resolves to when it is sent, whatever was allowed when it was made."""
    async with Transport() as transport, Receiver() as receiver:
        url = f"http://{host}:{receiver.port}/"
        reply = await WebhookPost(transport, clock, allow_private=False)(url, {}, b"{}")
        assert reply == Reply(None, error="forbidden_address")
        assert receiver.connections_accepted == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1"])
async def test_nor_by_a_name_that_has_changed_its_mind(clock: ManualClock, address: str) -> None:
    """It was somebody's when the webhook was made. What it resolves to counts, whenever that is connected to."""
    now_at = OwnLookups(look_up=lambda *_: [address])
    async with Transport(lookup=now_at) as transport, Receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/"
        reply = await WebhookPost(transport, clock, allow_private=False)(url, {}, b"{}")
        assert reply == Reply(None, error="forbidden_address")
        assert receiver.connections_accepted == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "0.0.0.0"])
async def test_nothing_ever_goes_to_metadata(clock: ManualClock, host: str) -> None:
    async with Transport() as transport:
        reply = await WebhookPost(transport, clock, allow_private=True)(f"http://{host}/", {}, b"{}")
    assert reply == Reply(None, error="forbidden_address")
