"""Webhooks from end to end but for the surfaces: real database, transport and sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from rest_bridge.videos_encode import encode_video
from server.clock import UuidV7
from server.domain.keys import Actor
from server.domain.video import JobReport, VideoStatus
from server.domain.video_jobs import VideoJob
from server.domain.webhooks import Delivery, DeliveryState, IssuedWebhook, NewWebhook, WebhookChanges
from server.pipeline.video_account import ended, moved_on, seen
from server.pipeline.webhook_delivery import WebhookRunner
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.video_jobs import SqlVideoJobs
from server.storage.webhook_events import Outbox
from server.storage.webhook_queue import SqlWebhookQueue
from server.storage.webhooks import SqlWebhooks
from server.transport import Transport
from server.webhook_post import WebhookPost
from tests.fakes.health import middle
from tests.fakes.replies import whole
from tests.fakes.wire import Reply, Request, WireServer
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import make_teams
from tests.integration.video_rows import new_job

LEASE_S = 30.0
ACTOR = Actor("key", "team", "req-1")


def taken(_: Request) -> Reply:
    return whole(b"", status=204)


class Receiver(WireServer):
    """Takes what it is sent, but for the first `refusals` times of each event."""

    def __init__(self, refusals: int = 0, status: int = 500, headers: dict[str, str] | None = None) -> None:
        super().__init__(default=self.reply)
        self.refusals, self.status, self.headers = refusals, status, headers
        self.tries: Counter[str] = Counter()

    def reply(self, request: Request) -> Reply:
        event_id = request.header("webhook-id") or ""
        self.tries[event_id] += 1
        if self.tries[event_id] <= self.refusals:
            return whole(b"no", status=self.status, headers=self.headers)
        return taken(request)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    @property
    def url(self) -> str:
        return f"{self.origin}/hook"

    @property
    def types(self) -> list[str]:
        return [request.json["type"] for request in self.requests]


class Worker:
    """One worker's part in webhooks."""

    def __init__(self, world: World, name: str) -> None:
        self.commits = GroupCommit(world.database)
        outbox = Outbox(world.ids, world.clock, lambda job: encode_video(seen(job)))
        self.jobs = SqlVideoJobs(world.database, self.commits, world.clock, name, outbox=outbox)
        self.queue = SqlWebhookQueue(world.database, self.commits, world.clock, name)
        self.post = WebhookPost(world.transport, world.clock, allow_private=world.allow_private)
        self.runner = WebhookRunner(self.queue, self.post, world.clock, middle, lease_s=LEASE_S)

    async def deliver(self) -> None:
        """Send whatever is due, and wait for that."""
        while True:
            await self.runner.round()
            if not self.runner.under_way:
                return
            await self.runner.idle()

    async def close(self) -> None:
        await self.runner.close()
        await self.commits.close()


class World:
    def __init__(self, database: Database, clock: ManualClock, transport: Transport, *, allow_private: bool) -> None:
        self.database, self.clock, self.transport, self.allow_private = database, clock, transport, allow_private
        self.ids = UuidV7()
        self.hooks = SqlWebhooks(database, clock, self.ids)
        self.workers: list[Worker] = []
        self.one = self.worker("one")

    def worker(self, name: str) -> Worker:
        worker = Worker(self, name)
        self.workers.append(worker)
        return worker

    async def hook(self, url: str, actor: Actor = ACTOR, **changes: Any) -> IssuedWebhook:
        return await self.hooks.create(actor, NewWebhook(url, **changes))

    async def begin(self, team: str = "team") -> VideoJob:
        """A job that has come to be in progress."""
        job = new_job(self.clock, team, held=None)
        await self.one.jobs.open(job, None)
        job = moved_on(job, JobReport("native", VideoStatus.IN_PROGRESS), self.clock.now())
        assert await self.one.jobs.save(job, began=True)
        return job

    async def end(self, job: VideoJob, status: VideoStatus = VideoStatus.COMPLETED) -> VideoJob:
        job, settlement = ended(job, status, self.clock.now(), report=JobReport("native", status))
        assert await self.one.jobs.finish(job, settlement)
        return job

    async def made(self, team: str = "team") -> VideoJob:
        return await self.end(await self.begin(team))

    async def deliveries(self, issued: IssuedWebhook, state: DeliveryState | None = None) -> list[Delivery]:
        found = await self.hooks.deliveries("team", issued.webhook.suffix, state=state, after=None, limit=250)
        assert found is not None
        return list(reversed(found))

    async def change(self, issued: IssuedWebhook, **changes: Any) -> None:
        assert await self.hooks.change(ACTOR, issued.webhook.suffix, WebhookChanges(**changes)) is not None


@asynccontextmanager
async def world_with(database: Database, clock: ManualClock, *, allow_private: bool = True) -> AsyncIterator[World]:
    await make_teams(database, clock, 0, ("team", "other"))
    async with Transport() as transport:
        world = World(database, clock, transport, allow_private=allow_private)
        try:
            yield world
        finally:
            await asyncio.gather(*(worker.close() for worker in world.workers))
