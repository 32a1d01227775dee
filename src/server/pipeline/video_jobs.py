"""The runner: looks after video jobs until they end, whoever began them.

Each worker has one. Providers are asked all at once, and one that does not answer holds up nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

import structlog

from server.domain.catalog import Offer
from server.domain.errors import HINTS, ProviderFailure
from server.domain.ports import Clock
from server.domain.video import TERMINAL, JobReport, VideoAdapter, VideoFault, VideoStatus, may_have_begun
from server.domain.video_jobs import VideoJob, VideoJobStore
from server.pipeline.leased import LeasedRunner
from server.pipeline.video_account import EXPIRED, OUTCOME_UNKNOWN
from server.pipeline.video_looks import Looks
from server.pipeline.video_submit import submit_again

__all__ = ["VideoRunner"]

MAX_AT_ONCE: Final = 1024
MAX_OF_PROVIDER: Final = 32
BATCH: Final = 32
LOOK_S: Final = 15.0
"""How long a provider may take to say how a job is; less where leases are shorter than two of these."""

_log: Final = structlog.get_logger(__name__)


class VideoRunner(LeasedRunner[VideoJob]):
    def __init__(
        self,
        store: VideoJobStore,
        looks: Looks,
        clock: Clock,
        *,
        lease_s: float,
        max_at_once: int = MAX_AT_ONCE,
        max_of_provider: int = MAX_OF_PROVIDER,
        batch: int = BATCH,
    ) -> None:
        super().__init__(
            "video_look", clock, lease_s=lease_s, max_at_once=max_at_once, batch=batch, max_of_one=max_of_provider
        )
        self._store = store
        self._looks = looks
        self._look_s = min(LOOK_S, lease_s / 2)
        self._missed: set[str] = set()

    async def _next_due(self, but_of: Collection[str]) -> float | None:
        return await self._store.next_due(but_of)

    async def _claim(self, until: float, limit: int, but_of: Collection[str]) -> Sequence[VideoJob]:
        return await self._store.claim(until, limit, but_of)

    def _owner(self, row: VideoJob) -> str:
        return row.provider

    def _about(self, row: VideoJob) -> dict[str, str]:
        return {"id": f"video_{row.suffix}", "provider": row.provider}

    async def _look_after(self, row: VideoJob) -> None:
        if row.native_id is None:  # whoever was about to submit it is gone, or was not answered
            await self._submit_again(row)
        else:
            await self._ask(row, row.native_id)

    async def _submit_again(self, job: VideoJob) -> None:
        """Only a provider that heeds the job's key knows whether it has it. Its refusal says that it has not."""
        way, is_late = self._way(job), self._clock.now() >= job.deadline_at
        if job.kept is None or is_late or (way is not None and not way[1].videos.idempotent):
            await self._looks.end(job, VideoStatus.FAILED, fault=OUTCOME_UNKNOWN, unsubmitted=True)
            return
        if way is None:
            await self._looks.failed(job)
            return
        try:
            taken = await submit_again(*way, job, job.kept, self._clock, self._look_s)
        except ProviderFailure as failure:
            category = failure.category
            _log.info("submit_failed", provider=job.provider, category=category.value)
            if failure.is_final and not may_have_begun(failure):
                fault = VideoFault(category.value, HINTS[category])
                await self._looks.end(job, VideoStatus.FAILED, fault=fault, unsubmitted=True)
            else:
                await self._looks.failed(job, failure.retry_after_s)
            return
        if await self._looks.take(taken.job, taken.report) is None:
            await self._looks.let_go(taken.job, taken.report.native_id)

    async def _ask(self, job: VideoJob, native_id: str) -> None:
        """Ask its provider, even past the deadline: what is complete by then is not thrown away."""
        report, retry_after_s = None, None
        try:
            report = await self._report(job, native_id)
        except ProviderFailure as failure:
            retry_after_s = failure.retry_after_s
            _log.info(
                "video_poll_failed", id=f"video_{job.suffix}", provider=job.provider, category=failure.category.value
            )
        except TimeoutError:
            _log.info("video_poll_failed", id=f"video_{job.suffix}", provider=job.provider, category="timeout")
        if report is not None and report.status in TERMINAL:
            await self._looks.end(job, report.status, report=report)
        elif self._clock.now() >= job.deadline_at:
            if await self._looks.end(job, VideoStatus.EXPIRED, fault=EXPIRED, goodbye="cancel") is not None:
                await self._looks.cancel(job)
        elif report is not None:
            await self._looks.take(job, report)
        else:
            await self._looks.failed(job, retry_after_s)

    async def _report(self, job: VideoJob, native_id: str) -> JobReport | None:
        """None while the catalogue does not have its provider. Raises ProviderFailure, TimeoutError."""
        way = self._way(job)
        if way is None:
            return None
        adapter, offer = way
        async with asyncio.timeout(self._look_s):
            return await adapter.poll(offer, native_id)

    def _way(self, job: VideoJob) -> tuple[VideoAdapter, Offer] | None:
        way = self._looks.way(job)
        if way is not None:
            self._missed.discard(job.provider)
        elif job.provider not in self._missed:
            self._missed.add(job.provider)
            _log.warning("video_provider_missing", provider=job.provider, remedy="put it back into the catalogue")
        return way
