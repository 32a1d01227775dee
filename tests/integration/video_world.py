"""Videos from end to end but for the surfaces: real database and ledger, real adapter and transport, stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from server.clock import UuidV7
from server.domain.catalog import Catalog, Model, Offer, Provider, Routing, VideoFacts
from server.domain.identity import Arrival, Call, Principal
from server.domain.pricing import PriceList
from server.domain.request import Endpoint, RoutingPreferences
from server.domain.video import Video, VideoRequest
from server.domain.video_contents import ObjectStore
from server.pipeline.shutdown import Shutdown
from server.pipeline.video_contents import KeptContents
from server.pipeline.video_jobs import VideoRunner
from server.pipeline.video_keeping import ContentKeeper, KeepLimits
from server.pipeline.video_looks import Looks
from server.pipeline.videos import Videos
from server.providers.openai_videos import OpenAIVideos
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.ledger import SqlLedger
from server.storage.tables import ledger_entries
from server.storage.video_contents import SqlVideoContents
from server.storage.video_jobs import SqlVideoJobs
from server.transport import Transport
from tests.fakes.health import middle, steady
from tests.fakes.video_upstream import VideoUpstream
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import USD, make_teams, problems, rows, wallet
from tests.integration.video_rows import LEASE_S, NANOS_PER_SECOND, PRICES

CREDIT = 10 * USD
PRICE = 8 * NANOS_PER_SECOND
KEEP_S = 7 * 86_400
LOOK_S = 10.0
"""After so long every job that goes on is due, failed looks aside."""


class Worker:
    """One worker's part in videos."""

    def __init__(self, studio: Studio, name: str) -> None:
        self.ledger = SqlLedger(studio.database, studio.clock, name)
        self.commits = GroupCommit(studio.database)
        keep_s = None if studio.objects is None else studio.keep_limits.max_age_s
        self.store = SqlVideoJobs(studio.database, self.commits, studio.clock, name, keep_s=keep_s)
        adapters = {"openai": OpenAIVideos(studio.transport, studio.clock)}
        self.looks = Looks(self.store, adapters, studio, studio.clock, middle)  # type: ignore[arg-type]
        health = steady(studio.clock)
        self.keeper = contents = None
        if studio.objects is not None:
            rows = SqlVideoContents(studio.database, self.commits, studio.clock, name)
            contents = KeptContents(rows, studio.objects)
            self.keeper = ContentKeeper(
                rows, studio.objects, self.looks, studio.clock, studio.keep_limits, middle, lease_s=LEASE_S
            )
        self.videos = Videos(
            *(studio, adapters, self.store, self.ledger, self.looks, studio.clock, studio.shutdown, health),  # type: ignore[arg-type]
            lease_s=LEASE_S,
            contents=contents,
        )
        self.runner = VideoRunner(self.store, self.looks, studio.clock, lease_s=LEASE_S)

    async def look(self) -> None:
        """Look at whatever is due, and wait for that."""
        while True:
            await self.runner.round()
            if not self.runner.under_way:
                return
            await self.runner.idle()

    async def keep(self) -> None:
        """Copy and delete whatever is due, and wait for that."""
        assert self.keeper is not None, "the studio has no store"
        while True:
            await self.keeper.round()
            if not self.keeper.under_way:
                return
            await self.keeper.idle()

    async def close(self) -> None:
        await self.videos.close(10)
        await self.runner.close()
        if self.keeper is not None:
            await self.keeper.close()
        await self.ledger.close()
        await self.commits.close()


class Studio:
    """A team with credit, workers, and providers that offer the paid model `a/b` and the free one `a/b:free`.

    Workers that are made while there are `objects` keep content there.
    """

    def __init__(
        self, database: Database, clock: ManualClock, transport: Transport, upstreams: Sequence[VideoUpstream]
    ) -> None:
        self.database, self.clock, self.transport = database, clock, transport
        self.upstreams = upstreams
        self.shutdown = Shutdown()
        self.ids = UuidV7()
        self.workers: list[Worker] = []
        self.objects: ObjectStore | None = None
        self.keep_limits = KeepLimits(max_bytes=1 << 20, max_age_s=KEEP_S, max_total_bytes=None)
        self.current = self.catalog()

    def catalog(
        self, prices: PriceList = PRICES, *, names: Sequence[str] = ("first", "second", "third"), **facts: Any
    ) -> Catalog:
        """Providers in this order, as far as there are upstreams for them."""
        where = dict(zip(("first", "second", "third"), self.upstreams, strict=False))
        providers = {
            name: Provider(name, "openai", where[name].base_url, where[name].key) for name in names if name in where
        }
        offers = tuple(
            Offer(
                provider, "film-1", frozenset({Endpoint.VIDEO}), prices=prices, videos=VideoFacts(cancel=True, **facts)
            )
            for provider in providers.values()
        )
        free = tuple(replace(offer, prices=PriceList()) for offer in offers)
        models = {"a/b": Model("a/b", offers), "a/b:free": Model("a/b:free", free)}
        return Catalog(providers, models, routing=Routing(timeout_s=5.0))

    def worker(self, name: str) -> Worker:
        worker = Worker(self, name)
        self.workers.append(worker)
        return worker

    def call(self, team: str = "team") -> Call:
        arrival = Arrival(self.ids.new(), "request", self.clock.monotonic(), int(self.clock.now()))
        return Call(arrival, self.principal(team))

    def principal(self, team: str = "team") -> Principal:
        return Principal(team, f"key-{team}", frozenset())

    async def wait(self, worker: Worker, video: Video, *, looks: int = 20, team: str = "team") -> Video:
        """The video when it has ended; each look is some time after the last."""
        for _ in range(looks):
            video = await worker.videos.get(self.principal(team), video.id)
            if video.has_ended:
                break
            self.clock.advance(LOOK_S)
            await worker.look()
        return video

    async def wallet(self) -> tuple[int, int]:
        """Balance and what is reserved, after an audit."""
        assert await problems(self.database) == []
        return await wallet(self.database)

    async def entries(self) -> list[str]:
        return [entry["kind"] for entry in await rows(self.database, ledger_entries) if entry["reservation_id"]]


@asynccontextmanager
async def studio_with(database: Database, clock: ManualClock, count: int = 1) -> AsyncIterator[Studio]:
    await make_teams(database, clock, CREDIT, ("team", "other"))
    upstreams = [VideoUpstream("openai") for _ in range(count)]
    for upstream in upstreams:
        await upstream.__aenter__()
    try:
        async with Transport() as transport:
            studio = Studio(database, clock, transport, upstreams)
            try:
                yield studio
            finally:
                await asyncio.gather(*(worker.close() for worker in studio.workers))
    finally:
        for upstream in upstreams:
            await upstream.__aexit__(None, None, None)


def film(model: str = "a/b", **changes: Any) -> VideoRequest:
    wishes = {name: changes.pop(name) for name in ("only", "allow_fallbacks", "order") if name in changes}
    asked: dict[str, Any] = {"prompt": "a cat on the moon", "seconds": 8} | changes
    return VideoRequest(endpoint=Endpoint.VIDEO, model=model, routing=RoutingPreferences(**wishes), **asked)


def paths(upstream: VideoUpstream) -> list[tuple[str, str]]:
    return [(request.method, request.path.removeprefix("/v1")) for request in upstream.requests]
