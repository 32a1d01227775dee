"""The keeper: copies what providers have made into the store, and deletes what is not to be kept any longer.

Each worker has one. A video whose content cannot be kept is none the worse: it is relayed from its provider.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final, get_args

import msgspec
import structlog
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason
from server.domain.ports import Clock
from server.domain.video import VARIANTS, Variant
from server.domain.video_contents import ContentRows, ContentState, KeptContent, ObjectStore, StoreFailure
from server.domain.video_jobs import VideoJob
from server.pipeline.leased import LeasedRunner
from server.pipeline.video_looks import Looks
from server.pipeline.video_relay import relayed

__all__ = ["ContentKeeper", "KeepLimits"]

MAX_OF_STATE: Final = 2
"""Copies of one worker at once, which bounds the memory for them; as much again of what is to be deleted, which waits
for no copy.
"""
KEEPS_IN_LEASE: Final = 3
COPY_S: Final = 3600.0
"""How long one attempt at copying may take."""
GIVE_UP_S: Final = 6 * 3600
"""How long it is tried to copy."""
MAX_DELETIONS: Final = 400
"""How often it is tried to delete: at most an hour apart, for some two weeks. After that age is what deletes."""
FIRST_RETRY_S: Final = 5.0
MOST_RETRY_S: Final = 600.0
MOST_DELETION_RETRY_S: Final = 3600.0
MOST_AGE_S: Final = 30 * 86_400
"""The longest that AISTATS_CONTENT_MAX_AGE_S can be. What is kept was promised for as long as it was then."""
GRACE_S: Final = 86_400
"""How much older than anything that is kept an object is before it is deleted for its age."""

_log: Final = structlog.get_logger(__name__)


class KeepLimits(msgspec.Struct, frozen=True):
    """`max_bytes` is of one content, `max_total_bytes` of all that are kept, None for no limit."""

    max_bytes: int
    max_age_s: int
    max_total_bytes: int | None


class ContentKeeper(LeasedRunner[KeptContent]):
    """`draw` is a source of numbers from 0 up to 1."""

    def __init__(
        self,
        rows: ContentRows,
        objects: ObjectStore,
        looks: Looks,
        clock: Clock,
        limits: KeepLimits,
        draw: Callable[[], float],
        *,
        lease_s: float,
    ) -> None:
        most = MAX_OF_STATE * len(get_args(ContentState))
        super().__init__("video_content", clock, lease_s=lease_s, max_at_once=most, batch=1, max_of_one=MAX_OF_STATE)
        self._rows = rows
        self._objects = objects
        self._looks = looks
        self._limits = limits
        self._draw = draw

    async def _next_due(self, but_of: Collection[str]) -> float | None:
        return await self._rows.next_due(but_of)

    async def _claim(self, until: float, limit: int, but_of: Collection[str]) -> Sequence[KeptContent]:
        return await self._rows.claim(until, limit, but_of)

    def _owner(self, row: KeptContent) -> str:
        return row.state

    def _about(self, row: KeptContent) -> dict[str, str]:
        return {"id": f"video_{row.suffix}", "variant": row.variant}

    async def _look_after(self, row: KeptContent) -> None:
        async with self._kept(row):
            await (self._copy(row) if row.state == "wanted" else self._delete(row))

    async def purge(self) -> int:
        """Delete objects that no row can know any more, for their age; how many. Call it again until it says 0."""
        try:
            return await self._objects.purge(MOST_AGE_S + GRACE_S)
        except StoreFailure as failure:
            _log.warning("video_content_not_purged", problem=failure.cause)
            return 0

    async def _copy(self, content: KeptContent) -> None:
        job = await self._rows.job_of(content)
        if job is None or (job.kept_until is not None and job.kept_until <= self._clock.now()):
            await self._rows.drop(content)
            return
        try:
            async with asyncio.timeout(COPY_S):
                await self._check_room()
                stored = await self._stored(content, job)
        except (StoreFailure, TimeoutError, GatewayError) as failure:
            if isinstance(failure, GatewayError) and failure.reason is Reason.DATABASE_UNAVAILABLE:
                raise
            await self._failed(content, failure)
            return
        if not await self._rows.store(stored, self._others(job) if content.variant == VARIANTS[0] else ()):
            with suppress(StoreFailure):
                await self._objects.delete(content.keys[-1])
            return
        _log.info("video_content_kept", **self._about(content), size=stored.size)
        with suppress(StoreFailure):  # what an attempt that was killed has left; its end does the same again
            for key in content.keys[:-1]:
                await self._objects.delete(key)

    async def _stored(self, content: KeptContent, job: VideoJob) -> KeptContent:
        """What it is once its object is there. Raises StoreFailure, GatewayError, TimeoutError."""
        key = content.keys[-1]
        async with await relayed(self._looks, job, content.variant, None) as reply:
            length = reply.headers.get("content-length")
            told = None if length is None else int(length)
            read = _Read(self._limits.max_bytes, told)
            read.check(told or 0)
            async with aclosing(reply.chunks()) as chunks:
                await self._objects.put(key, read.through(chunks))
        return replace(
            content,
            object_key=key,
            size=read.size,
            content_type=reply.headers.get("content-type", "application/octet-stream"),
            etag=f'"{read.digest.hexdigest()[:32]}"',
            expires_at=job.kept_until or int(self._clock.now()) + self._limits.max_age_s,
        )

    async def _failed(self, content: KeptContent, failure: Exception) -> None:
        told = {**self._about(content), "problem": _problem(failure)}
        if isinstance(failure, _TooLarge) or self._clock.now() >= content.created_at + GIVE_UP_S:
            _log.warning("video_content_not_kept", **told)
            await self._rows.give_up(content)
            return
        _log.info("video_content_put_off", **told)
        await self._rows.postpone(content, self._clock.now() + self._wait_s(content, MOST_RETRY_S))

    async def _delete(self, content: KeptContent) -> None:
        """What has expired, and what its team has deleted: every object that there may be of it."""
        try:
            for key in content.keys:
                await self._objects.delete(key)
        except StoreFailure as failure:
            told = {**self._about(content), "problem": failure.cause}
            if content.failures < MAX_DELETIONS:
                _log.info("video_content_not_deleted_yet", **told)
                await self._rows.postpone(content, self._clock.now() + self._wait_s(content, MOST_DELETION_RETRY_S))
                return
            _log.warning("video_content_not_deleted", **told)
        await self._rows.drop(content)

    async def _check_room(self) -> None:
        most = self._limits.max_total_bytes
        if most is not None and await self._rows.kept_bytes() >= most:
            raise StoreFailure("as much is kept as may be")

    def _others(self, job: VideoJob) -> list[Variant]:
        way = self._looks.way(job)
        return [] if way is None else [one for one in way[1].videos.variants if one != VARIANTS[0]]

    def _wait_s(self, content: KeptContent, most_s: float) -> float:
        return min(most_s, FIRST_RETRY_S * 2.0 ** min(content.failures, 16)) * (1.0 + 0.2 * self._draw())

    @asynccontextmanager
    async def _kept(self, content: KeptContent) -> AsyncGenerator[None, None]:
        """Keep the lease for as long as it takes."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self._lease_s / KEEPS_IN_LEASE)
                with suppress(GatewayError):
                    await self._rows.keep(content, self._clock.now() + self._lease_s)

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()


class _TooLarge(StoreFailure):
    """It is larger than what is kept."""


class _Read:
    """What has gone by: its length and digest. `told` is the length that the provider has said."""

    def __init__(self, max_bytes: int, told: int | None) -> None:
        self._max_bytes = max_bytes
        self._told = told
        self.size = 0
        self.digest = hashlib.sha256()

    def check(self, size: int) -> None:
        if size > self._max_bytes:
            raise _TooLarge("it is larger than what is kept")

    async def through(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same; raises _TooLarge, and StoreFailure where it ends too early."""
        async for chunk in chunks:
            self.size += len(chunk)
            self.check(self.size)
            self.digest.update(chunk)
            yield chunk
        if self.size == 0 or self._told not in (None, self.size):
            raise StoreFailure("the provider's content is not whole")


def _problem(failure: Exception) -> str:
    if isinstance(failure, GatewayError):
        return failure.reason.value
    return failure.cause if isinstance(failure, StoreFailure) else type(failure).__name__
