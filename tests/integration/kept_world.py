"""Videos whose content is kept, in a directory of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from server.domain.errors import GatewayError
from server.domain.video import Video, VideoStatus
from server.storage.objects import Objects
from server.storage.tables import video_contents
from tests.fakes.video_upstream import Media, Plan
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import rows
from tests.integration.video_world import Studio, Worker, film, studio_with

SIZE = 200_001


class WatchedObjects(Objects):
    """`after` is awaited when an object is there, before anybody knows."""

    after: Callable[[str], Awaitable[None]] | None = None

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        await super().put(key, chunks)
        if self.after is not None:
            await self.after(key)


@asynccontextmanager
async def kept_studio(url: str, clock: ManualClock, objects: WatchedObjects) -> AsyncIterator[Studio]:
    """One whose provider is done at once, and whose videos are kept in `objects`."""
    async with migrated(url) as database, studio_with(database, clock) as opened:
        opened.objects = objects
        opened.upstreams[0].plan = Plan(polls=0, media=Media(size=SIZE))
        yield opened


async def made(studio: Studio, worker: Worker) -> Video:
    """A video that is complete, and not kept yet."""
    video = await worker.videos.create(studio.call(), film())
    video = await studio.wait(worker, video)
    assert video.status is VideoStatus.COMPLETED
    return video


async def kept(studio: Studio, worker: Worker) -> Video:
    """A video whose content is kept, and its provider knows no more of it."""
    video = await made(studio, worker)
    await worker.keep()
    studio.upstreams[0].jobs.clear()
    studio.upstreams[0].forget()
    return await worker.videos.get(studio.principal(), video.id)


async def download(studio: Studio, worker: Worker, video: Video, **options: Any) -> tuple[int, dict[str, str], bytes]:
    found = await worker.videos.content(studio.principal(), video.id, **options)
    async with found as content, aclosing(content.chunks()) as chunks:
        return content.status, dict(content.headers), b"".join([chunk async for chunk in chunks])


async def refused(studio: Studio, worker: Worker, video: Video, **options: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await download(studio, worker, video, **options)
    return caught.value


async def states(studio: Studio) -> list[tuple[str, str, int]]:
    found = await rows(studio.database, video_contents)
    return [(row["variant"], row["state"], row["attempts"]) for row in found]
