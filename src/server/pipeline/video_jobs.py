"""The runner: looks after video jobs until they end, whoever began them.

Each worker has one. Jobs that are due are leased from the store and their providers asked, all at once. One that does
not answer holds up nobody else's: a provider that has its share of looks under way gets no more until some are over.
What a dead worker had leased is due again when its lease is over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from server.domain.catalog import Offer
from server.domain.errors import HINTS, GatewayError, ProviderFailure
from server.domain.ports import Clock
from server.domain.video import TERMINAL, JobReport, VideoAdapter, VideoFault, VideoStatus, may_have_begun
from server.domain.video_jobs import VideoJob, VideoJobStore
from server.pipeline.video_account import EXPIRED, OUTCOME_UNKNOWN
from server.pipeline.video_looks import Looks
from server.pipeline.video_submit import submit_again

__all__ = ["VideoRunner"]

INTERVAL_S: Final = 1.0
"""How often it is looked whether a job is due: one query, where none is."""
LEAST_WAIT_S: Final = 0.05
MAX_AT_ONCE: Final = 1024
MAX_OF_PROVIDER: Final = 32
BATCH: Final = 32
LOOK_S: Final = 15.0
"""How long a provider may take to say how a job is; less where leases are shorter than two of these."""

_log: Final = structlog.get_logger(__name__)


class VideoRunner:
    """`run` it; `close` it before the store. `lease_s`: how long after its death a worker's jobs are another's."""

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
        self._store = store
        self._looks = looks
        self._clock = clock
        self._lease_s = lease_s
        self._look_s = min(LOOK_S, lease_s / 2)
        self._max_at_once = max_at_once
        self._max_of_provider = max_of_provider
        self._batch = batch
        self._under_way: dict[asyncio.Task[None], VideoJob] = {}
        self._missed: set[str] = set()

    @property
    def under_way(self) -> int:
        """How many jobs are being looked at."""
        return len(self._under_way)

    async def run(self) -> None:
        """Look after jobs for ever; an outage of the database is waited for."""
        while True:
            try:
                wait_s = await self.round()
            except GatewayError:
                wait_s = INTERVAL_S  # the database is away, which `Database` has logged
            except Exception as error:  # the boundary: no job may keep the others from being looked after
                _log.error("video_round_failed", cause=type(error).__name__)
                wait_s = INTERVAL_S
            await asyncio.sleep(wait_s)

    async def round(self) -> float:
        """Begin to look at what is due; how many seconds until there may be more. Raises GatewayError."""
        room = min(self._batch, self._max_at_once - len(self._under_way))
        if room <= 0:
            return LEAST_WAIT_S
        of_provider = Counter(job.provider for job in self._under_way.values())
        busy = [provider for provider, count in of_provider.items() if count >= self._max_of_provider]
        due_at, now = await self._store.next_due(busy), self._clock.now()
        if due_at is None or due_at > now:
            return INTERVAL_S if due_at is None else min(INTERVAL_S, max(LEAST_WAIT_S, due_at - now))
        for job in await self._store.claim(now + self._lease_s, room, busy):
            task = asyncio.create_task(self._look(job))
            self._under_way[task] = job
            task.add_done_callback(self._under_way.pop)
        return LEAST_WAIT_S

    async def idle(self) -> None:
        """Return once all looks that were begun are over."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """End what is under way; others take it over when the leases are over."""
        for task in self._under_way:
            task.cancel()
        await self.idle()

    async def _look(self, job: VideoJob) -> None:
        try:
            if job.native_id is None:  # whoever was about to submit it is gone, or was not answered
                await self._submit_again(job)
            else:
                await self._ask(job, job.native_id)
        except GatewayError:
            pass  # the database is away; the job is due again when the lease is over
        except Exception:
            _log.exception("video_look_failed", id=f"video_{job.suffix}", provider=job.provider)

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
