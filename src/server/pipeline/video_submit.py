"""Submitting a video job: to one provider after another, until one takes it or may have taken it.

A job that is sent twice is paid for twice. So the next provider is only asked where the last one surely has no job, and
where that is not known the job ends there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from server.domain.catalog import Dialect, Offer, Routing
from server.domain.errors import AttemptFailure, FailureCategory, GatewayError, ProviderFailure
from server.domain.ports import Clock
from server.domain.record import AttemptRecord
from server.domain.routing import Candidate, Route
from server.domain.upload import HeldUpload
from server.domain.video import JobReport, VideoAdapter, VideoRequest, may_have_begun
from server.domain.video_jobs import KeptRequest, VideoJob
from server.pipeline.failures import exhausted, unavailable
from server.pipeline.health.offers import Health, Watch
from server.pipeline.health.router import choices, route_key
from server.pipeline.units import USUAL_VIDEO_SECONDS

__all__ = ["Lost", "Refused", "Submissions", "Superseded", "Taken", "expected_seconds", "kept", "submit_again"]

MAX_ID_CHARS: Final = 1024
"""Of a provider's id of a job; Veo's are the longest, and have no more than a few hundred."""
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
"""Of a picture that is kept with its job until a provider has taken that."""

_log: Final = structlog.get_logger(__name__)


class Taken(msgspec.Struct, frozen=True):
    """A provider has it: what it says of it, and the job with the offer that it went to."""

    job: VideoJob
    report: JobReport


class Lost(msgspec.Struct, frozen=True):
    """A provider may have it; only one that heeds the job's key can be asked again."""

    job: VideoJob


class Refused(msgspec.Struct, frozen=True):
    """No provider has it, and `error` says why; `job` has the attempts."""

    job: VideoJob
    error: GatewayError


class Superseded(msgspec.Struct, frozen=True):
    """It ended before a provider had it: cancelled, or taken over by another worker."""


def expected_seconds(offer: Offer, request: VideoRequest) -> int:
    """How long a video it makes of the request."""
    return request.seconds or offer.videos.default_seconds or USUAL_VIDEO_SECONDS


async def kept(request: VideoRequest, route: Route) -> KeptRequest | None:
    """What has to be kept of a request that may be submitted again; None where it may not, or is too large."""
    if not any(candidate.offer.videos.idempotent for candidate in route.candidates):
        return None
    picture = request.reference
    if picture is None:
        return KeptRequest(request)
    if picture.size > MAX_KEPT_BYTES:
        return None
    data = b"".join([piece async for piece in picture.pieces()])
    return KeptRequest(replace(request, reference=None), data, picture.media_type, picture.filename)


async def submit_again(
    adapter: VideoAdapter, offer: Offer, job: VideoJob, kept: KeptRequest, clock: Clock, limit_s: float
) -> Taken:
    """Submit a job that its provider may have, with the same key: it begins what it does not have.

    Raises ProviderFailure.
    """
    request = kept.request
    if kept.picture is not None:
        request = replace(request, reference=HeldUpload(kept.picture, kept.media_type, kept.filename))
    began_s = clock.monotonic()
    report = await _submit_once(adapter, job, offer, request, limit_s)
    return Taken(_tried(job, offer, _ms_since(clock, began_s), None), report)


class Submissions:
    """Submits the jobs of one worker. `save` keeps one that goes to another provider; False where it is not ours."""

    def __init__(
        self,
        save: Callable[[VideoJob], Awaitable[bool]],
        adapters: Mapping[Dialect, VideoAdapter],
        clock: Clock,
        health: Health,
    ) -> None:
        self._save = save
        self._adapters = adapters
        self._clock = clock
        self._health = health

    async def __call__(
        self, job: VideoJob, request: VideoRequest, route: Route, routing: Routing
    ) -> Taken | Lost | Refused | Superseded:
        """What becomes of a job that is open and leased. Raises GatewayError (`database_unavailable`)."""
        limit = routing.max_attempts if request.routing.allow_fallbacks else 1
        failures: list[AttemptFailure] = []
        for candidate, last_resort in choices(route, failures.__len__):
            key = route_key(candidate, request.endpoint)
            watch = self._health.start(key, last_resort=last_resort, is_only=route.is_only)
            if watch is None:
                continue
            try:
                if not _is_with(job, candidate.offer):
                    job = _with(job, candidate, request)
                    if not await self._save(job):
                        return Superseded()
                began_s = self._clock.monotonic()
                try:
                    report = await self._submit(job, candidate.offer, request, routing.timeout_s)
                except ProviderFailure as failure:
                    job = _tried(job, candidate.offer, _ms_since(self._clock, began_s), failure)
                    failures.append(_recorded(candidate.offer, failure))
                    watch.told(failure.headroom)
                    watch.failed(failure.category, failure.retry_after_s, of_model=failure.is_of_model)
                    _log.info("submit_failed", provider=job.provider, category=failure.category.value)
                    if may_have_begun(failure):
                        return Lost(job)
                    if failure.is_final or len(failures) >= limit:
                        break
                else:
                    took_ms = _ms_since(self._clock, began_s)
                    _succeeded(watch, took_ms)
                    return Taken(_tried(job, candidate.offer, took_ms, None), report)
            finally:
                watch.dropped()
        if not failures:
            keys = (route_key(candidate, request.endpoint) for candidate in route.candidates)
            return Refused(job, unavailable(self._health.retry_after_s(keys)))
        return Refused(job, exhausted(tuple(failures)))

    async def _submit(self, job: VideoJob, offer: Offer, request: VideoRequest, limit_s: float) -> JobReport:
        """Raises ProviderFailure. Whoever knows the key of a job is asked again where his answer was lost."""
        adapter = self._adapters[offer.provider.dialect]
        try:
            return await _submit_once(adapter, job, offer, request, limit_s)
        except ProviderFailure as failure:
            if not (offer.videos.idempotent and may_have_begun(failure)):
                raise
            lost = failure
        try:
            return await _submit_once(adapter, job, offer, request, limit_s)
        except ProviderFailure as failure:
            raise lost from failure  # whatever is said now, there may be a job


async def _submit_once(
    adapter: VideoAdapter, job: VideoJob, offer: Offer, request: VideoRequest, limit_s: float
) -> JobReport:
    try:
        async with asyncio.timeout(limit_s):
            report = await adapter.submit(offer, request, f"video_{job.suffix}")
    except TimeoutError:
        raise ProviderFailure(FailureCategory.TIMEOUT) from None
    except ProviderFailure:
        raise
    except Exception as error:  # the file that was being sent is gone, say: what was sent is not known
        _log.exception("submit_broke", provider=offer.provider.id)
        raise ProviderFailure(FailureCategory.PROTOCOL) from error
    if not (0 < len(report.native_id) <= MAX_ID_CHARS and report.native_id.isprintable()):
        raise ProviderFailure(FailureCategory.PROTOCOL)
    return report


def _ms_since(clock: Clock, began_s: float) -> float:
    return round((clock.monotonic() - began_s) * 1000.0, 3)


def _succeeded(watch: Watch, took_ms: float) -> None:
    watch.succeeded(streamed=False, latency_ms=took_ms, tokens=0, took_s=took_ms / 1000.0)


def _is_with(job: VideoJob, offer: Offer) -> bool:
    return (job.provider, job.provider_model) == (offer.provider.id, offer.provider_model)


def _with(job: VideoJob, candidate: Candidate, request: VideoRequest) -> VideoJob:
    """The job as another offer's."""
    offer = candidate.offer
    return replace(
        job,
        model=candidate.model.id,
        provider=offer.provider.id,
        provider_model=offer.provider_model,
        prices=offer.prices,
        expected_seconds=expected_seconds(offer, request),
    )


def _tried(job: VideoJob, offer: Offer, took_ms: float, failure: ProviderFailure | None) -> VideoJob:
    attempt = AttemptRecord(
        provider=offer.provider.id,
        provider_model=offer.provider_model,
        status=200 if failure is None else failure.status or None,
        error_code=None if failure is None else failure.category.value,
        latency_ms=took_ms,
        billed=False,
        provider_request_id=None if failure is None else failure.request_id,
    )
    opening = replace(
        job.opening, attempts=(*job.opening.attempts, attempt), provider=offer.provider.id, latency_ms=took_ms
    )
    return replace(job, opening=opening)


def _recorded(offer: Offer, failure: ProviderFailure) -> AttemptFailure:
    return AttemptFailure(
        provider=offer.provider.id,
        category=failure.category,
        status=failure.status,
        upstream=failure.upstream,
        retry_after_s=failure.retry_after_s,
        request_id=failure.request_id,
    )
