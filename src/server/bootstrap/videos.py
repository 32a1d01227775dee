"""Video jobs: who makes them, looks after them when their worker is gone, and keeps what they made."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import msgspec

from rest_bridge.videos_encode import encode_video
from server.bootstrap.background import purging, running
from server.bootstrap.base import GOODBYE_S, Base
from server.domain.catalog import Dialect
from server.domain.video import VideoAdapter
from server.picture_fetch import PictureFetch
from server.pipeline.health.offers import Health
from server.pipeline.video_account import seen
from server.pipeline.video_contents import KeptContents
from server.pipeline.video_goodbyes import Goodbyes
from server.pipeline.video_jobs import VideoRunner
from server.pipeline.video_keeping import ContentKeeper, KeepLimits
from server.pipeline.video_links import VideoLinks
from server.pipeline.video_looks import Looks
from server.pipeline.video_models import VideoModels
from server.pipeline.videos import Videos
from server.providers.gemini_videos import GeminiVideos
from server.providers.openai_videos import OpenAIVideos
from server.storage.deployment_secrets import SqlSecrets
from server.storage.objects import Objects
from server.storage.video_contents import SqlVideoContents
from server.storage.video_jobs import SqlVideoJobs
from server.storage.webhook_events import Outbox
from server.transport import OwnLookups, Transport

__all__ = ["VideoParts", "make_videos"]


class VideoParts(msgspec.Struct, frozen=True):
    videos: Videos
    models: VideoModels
    links: VideoLinks
    jobs: SqlVideoJobs


async def make_videos(stack: AsyncExitStack, base: Base, health: Health) -> VideoParts:
    """Jobs are looked after until `stack` ends."""
    settings, clock, catalog = base.settings, base.clock, base.catalog
    adapters: dict[Dialect, VideoAdapter] = {
        "openai": OpenAIVideos(base.transport, clock, base.deadlines),
        "gemini": GeminiVideos(base.transport, clock, base.deadlines),
    }
    outbox = Outbox(base.ids, clock, lambda job: encode_video(seen(job)))
    keep_s = None if settings.content_address is None else settings.content_max_age_s
    jobs = SqlVideoJobs(*base.rows, keep_s=keep_s, outbox=outbox)
    observers = () if base.meter is None else (base.meter.settled,)
    looks = Looks(jobs, adapters, catalog, clock, random.random, *observers)
    videos = Videos(
        *(catalog, adapters, jobs, base.accounts, looks, clock, base.shutdown, health),
        lease_s=settings.worker_lease_s,
        deadline_s=settings.video_deadline_s,
        contents=await _contents(stack, base, looks),
        pictures=PictureFetch(
            await stack.enter_async_context(Transport(lookup=OwnLookups())),
            base.spool,
            allow_http=settings.picture_urls_allow_http,
            allow_private=settings.picture_urls_allow_private,
        ),
    )
    runner = VideoRunner(jobs, looks, clock, lease_s=settings.worker_lease_s)
    stack.push_async_callback(runner.close)
    stack.push_async_callback(videos.close, GOODBYE_S)
    goodbyes = Goodbyes(jobs.goodbyes, looks, clock)
    await stack.enter_async_context(running(runner.run(), goodbyes.run(), purging(jobs.purge)))
    secrets, public_url = SqlSecrets(base.stores.database, clock), settings.public_url
    links = VideoLinks(videos, jobs, secrets, clock, public_url=public_url, local_url=settings.http_url)
    return VideoParts(videos, VideoModels(catalog, adapters), links, jobs)


async def _contents(stack: AsyncExitStack, base: Base, looks: Looks) -> KeptContents | None:
    """What is kept of videos, with the keeper at work; None where nothing is."""
    settings = base.settings
    if settings.content_address is None:
        return None
    rows, objects = SqlVideoContents(*base.rows), Objects(settings.content_address, base.clock)
    limits = KeepLimits(settings.content_max_bytes, settings.content_max_age_s, settings.content_total_bytes)
    lease_s = settings.worker_lease_s
    keeper = ContentKeeper(rows, objects, looks, base.clock, limits, random.random, lease_s=lease_s)
    stack.push_async_callback(keeper.close)
    await stack.enter_async_context(running(keeper.run(), purging(keeper.purge)))
    return KeptContents(rows, objects)
