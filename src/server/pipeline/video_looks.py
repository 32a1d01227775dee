"""What is done with a job once its provider has said something of it; whoever asked, and however many did at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog
from msgspec.structs import replace

from server.domain.catalog import Catalog, Dialect, Offer
from server.domain.errors import GatewayError, ProviderFailure
from server.domain.ledger import Settlement
from server.domain.ports import CatalogSource, Clock
from server.domain.request import Endpoint
from server.domain.video import TERMINAL, JobReport, VideoAdapter, VideoFault, VideoStatus
from server.domain.video_jobs import Verb, VideoJob, VideoJobStore
from server.pipeline.video_account import POLL_AFTER_S, ended, moved_on

__all__ = ["Looks", "offer_of"]

LEAST_POLL_S: Final = 0.2
MOST_POLL_S: Final = 60.0
"""However long a provider wants to be left alone, or keeps failing."""
JITTER: Final = 0.2
"""By so much of the wait a look may be later, so that jobs that began together are not asked for together."""
GOODBYE_S: Final = 10.0
"""How long a provider may take to cancel or delete what nobody wants any longer."""

_log: Final = structlog.get_logger(__name__)

Draw = Callable[[], float]
Observer = Callable[[Settlement], None]


class Looks:
    """Takes in reports. `draw` is a source of numbers from 0 up to 1; `observe` is told of each settlement, once."""

    def __init__(
        self,
        store: VideoJobStore,
        adapters: Mapping[Dialect, VideoAdapter],
        catalog: CatalogSource,
        clock: Clock,
        draw: Draw,
        observe: Observer = lambda _: None,
    ) -> None:
        self._store = store
        self._adapters = adapters
        self._catalog = catalog
        self._clock = clock
        self._draw = draw
        self._observe = observe

    def way(self, job: VideoJob) -> tuple[VideoAdapter, Offer] | None:
        """How to reach the account that the job was submitted to; None while the catalogue does not have it."""
        offer = offer_of(self._catalog.current, job)
        adapter = None if offer is None else self._adapters.get(offer.provider.dialect)
        return None if offer is None or adapter is None else (adapter, offer)

    def can_ask_again(self, job: VideoJob) -> bool:
        """Whether a job may be submitted again: its provider knows the key, and the request is still there."""
        way = self.way(job)
        return job.kept is not None and way is not None and way[1].videos.idempotent

    async def take(self, job: VideoJob, report: JobReport) -> VideoJob | None:
        """Write what `report` says of a job whose lease is ours; None where it has ended already, or is another's.

        Raises GatewayError (`database_unavailable`).
        """
        if report.status in TERMINAL:
            return await self.end(job, report.status, report=report)
        was, job = job.status, moved_on(job, report, self._clock.now())
        job = replace(job, due_at=self._due(job, report.poll_after_s or POLL_AFTER_S))
        return job if await self._store.save(job, began=job.status is not was) else None

    async def failed(self, job: VideoJob, retry_after_s: float | None = None) -> bool:
        """Its provider could not be asked: look again later, and each time later still. Raises as `take`."""
        usual_s = max(job.poll_after_s or POLL_AFTER_S, retry_after_s or 0.0)
        wait_s = min(MOST_POLL_S, usual_s * 2.0 ** min(job.errors, 8))
        job = replace(job, errors=job.errors + 1, due_at=self._due(job, wait_s))
        return await self._store.save(job)

    async def end(
        self,
        job: VideoJob,
        status: VideoStatus,
        *,
        report: JobReport | None = None,
        fault: VideoFault | None = None,
        unsubmitted: bool = False,
        goodbye: Verb | None = None,
    ) -> VideoJob | None:
        """End it, charged where it is complete and else not; None where somebody was first. Raises as `take`.

        `unsubmitted`: only as long as no provider has taken it. `goodbye`: what its provider is to be told then.
        """
        job, settlement = ended(job, status, self._clock.now(), report=report, fault=fault)
        if not await self._store.finish(job, settlement, unsubmitted=unsubmitted, goodbye=goodbye):
            return None
        self._observe(settlement)
        _log.info("video_ended", id=f"video_{job.suffix}", status=status.value, provider=job.provider)
        return job

    async def let_go(self, job: VideoJob, native_id: str) -> None:
        """Of what a provider has taken and could not be kept: it need not go on, unless somebody else has kept it,
        or is going to.

        Raises as `take`.
        """
        current = await self._store.get(job.team_id, job.suffix)
        is_to_be_adopted = current is not None and not current.has_ended and self.can_ask_again(current)
        if not is_to_be_adopted and (current is None or current.native_id != native_id):
            job = replace(job, native_id=native_id)
            await self._store.goodbyes.note(job)
            await self.cancel(job)

    async def cancel(self, job: VideoJob) -> None:
        """Have its provider stop, if it can: what becomes of the job has been decided, and noted, already."""
        await self._say_goodbye(job, "cancel")

    async def delete(self, job: VideoJob) -> None:
        """Have its provider forget it, if it can."""
        await self._say_goodbye(job, "delete")

    async def told(self, job: VideoJob, verb: Verb) -> bool:
        """Whether its provider has done it, or cannot do such a thing; False where it has to be asked again."""
        if job.native_id is None:
            return True
        way = self.way(job)
        if way is None:
            return False
        adapter, offer = way
        try:
            async with asyncio.timeout(GOODBYE_S):
                await (adapter.cancel if verb == "cancel" else adapter.delete)(offer, job.native_id)
        except (ProviderFailure, TimeoutError) as failure:
            category = failure.category.value if isinstance(failure, ProviderFailure) else "timeout"
            _log.warning("video_not_let_go", verb=verb, provider=job.provider, category=category)
            return False
        return True

    async def _say_goodbye(self, job: VideoJob, verb: Verb) -> None:
        """What cannot be said, or forgotten, now is said again by `server.pipeline.video_goodbyes`."""
        if job.native_id is not None and await self.told(job, verb):
            with suppress(GatewayError):
                await self._store.goodbyes.said(job.suffix, verb)

    def _due(self, job: VideoJob, wait_s: float) -> float:
        """After so long and a little more, but never beyond the deadline."""
        now, wait_s = self._clock.now(), min(MOST_POLL_S, max(LEAST_POLL_S, wait_s))
        return min(now + wait_s * (1.0 + JITTER * self._draw()), max(now, job.deadline_at))


def offer_of(catalog: Catalog, job: VideoJob) -> Offer | None:
    """The offer that a job was submitted to, as it is now: under whichever model, or of a provider that is still known.

    None where its provider is gone, or cannot be called.
    """
    provider = catalog.providers.get(job.provider)
    if provider is None or not provider.is_configured:
        return None
    its_own = catalog.find(job.model)
    models = [] if its_own is None else [its_own]
    models += catalog.models.values()
    for model in models:
        for offer in model.offers:
            if offer.provider.id == job.provider and offer.provider_model == job.provider_model:
                return offer
    return Offer(provider, job.provider_model, frozenset({Endpoint.VIDEO}))
