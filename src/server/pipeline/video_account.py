"""What a video job comes to: how it goes on, how it ends, what that costs, and how its team sees it. All of it pure."""

from __future__ import annotations

import math
from typing import Final

from msgspec.structs import replace

from server.domain.errors import HINTS, AttemptFailure
from server.domain.ledger import Settlement
from server.domain.record import MAX_ID_BYTES, GenerationRecord, bounded
from server.domain.usage import Usage
from server.domain.video import JobReport, Video, VideoBilling, VideoFault, VideoStatus
from server.domain.video_jobs import VideoJob
from server.pipeline.charge import charge

__all__ = ["CANCELLED", "EXPIRED", "NO_VIDEO", "OUTCOME_UNKNOWN", "ended", "fault_of", "moved_on", "seen"]

POLL_AFTER_S: Final = 5.0
"""How often a job is looked at where its provider says nothing of it."""
OUTCOME_UNKNOWN: Final = VideoFault(
    "submit_outcome_unknown",
    "The provider did not say whether it took this job, and it is not sent twice. Nothing was charged; create another.",
)
CANCELLED: Final = VideoFault("cancelled", "The video was cancelled before it was complete. Nothing was charged.")
EXPIRED: Final = VideoFault("expired", "The video was not complete in time. Nothing was charged.")
NO_VIDEO: Final = VideoFault("no_video", "The provider ended this job without a video. Nothing was charged.")

_FAULTS: Final = {VideoStatus.CANCELLED: CANCELLED, VideoStatus.EXPIRED: EXPIRED}


def fault_of(failure: AttemptFailure) -> VideoFault:
    """What a team is told of a provider's failure, in its own words where it has any."""
    code = failure.upstream.code or failure.category.value
    return VideoFault(bounded(code, MAX_ID_BYTES), failure.upstream.message or HINTS[failure.category])


def moved_on(job: VideoJob, report: JobReport, now: float) -> VideoJob:
    """A job that goes on, or has just been taken. It never goes back: neither its status nor its progress."""
    has_begun = job.status is VideoStatus.IN_PROGRESS or report.status is VideoStatus.IN_PROGRESS
    started_at = job.started_at
    if has_begun and started_at is None:
        started_at = int(now)
    return replace(
        job,
        native_id=job.native_id or report.native_id,
        handle=report.handle or job.handle,
        status=VideoStatus.IN_PROGRESS if has_begun else VideoStatus.QUEUED,
        progress=max(job.progress, min(99, report.progress or 0)),
        seconds=report.seconds or job.seconds,
        size=report.size or job.size,
        expires_at=report.expires_at or job.expires_at,
        started_at=started_at,
        poll_after_s=report.poll_after_s,
        errors=0,
        kept=None,
    )


def ended(
    job: VideoJob, status: VideoStatus, now: float, *, report: JobReport | None = None, fault: VideoFault | None = None
) -> tuple[VideoJob, Settlement]:
    """A job at its end, and how that settles. `fault` says why there is no video; with none, `report` may."""
    if report is not None:
        job = moved_on(job, report, now)
    job = replace(job, kept=None)
    if status is not VideoStatus.COMPLETED:
        failure = None if report is None else report.failure
        fault = fault or (_FAULTS.get(status, NO_VIDEO) if failure is None else fault_of(failure))
        job = replace(job, status=status, fault=fault, completed_at=int(now), poll_after_s=None)
        return job, Settlement(_failed(job, fault, failure), job.held_nanos is not None)
    seconds = _seconds(job)
    told = None if report is None else report.usage
    usage = told or Usage(source="counted" if job.seconds is None else "provider")
    of_video = {"output_video_tokens": usage.output_tokens} if "output_video_tokens" in job.prices.rates else {}
    usage = replace(usage, units={"video_seconds": seconds, **of_video, **usage.units})
    pricing = charge(usage, job.prices, generation=job.opening.id, by=job.provider)
    usage = replace(usage, pricing=pricing)
    job = replace(
        job,
        status=status,
        progress=100,
        seconds=job.seconds or seconds,
        started_at=job.opening.created_at if job.started_at is None else job.started_at,
        completed_at=int(now),
        charged_nanos=None if job.held_nanos is None else pricing.total_nanos,
        usage=usage,
        poll_after_s=None,
    )
    return job, Settlement(_completed(job, usage, now), job.held_nanos is not None, job.charged_nanos)


def seen(job: VideoJob) -> Video:
    """The job as its team sees it."""
    facts, remixed_from = job.facts, job.facts.remixed_from
    return Video(
        suffix=job.suffix,
        model=job.model,
        status=job.status,
        prompt=facts.prompt,
        created_at=job.opening.created_at,
        billing=_billing(job),
        progress=job.progress,
        started_at=job.started_at,
        completed_at=job.completed_at,
        expires_at=job.kept_until or job.expires_at,
        seconds=job.seconds or job.expected_seconds,
        size=job.size or facts.size,
        poll_after_seconds=None if job.has_ended else math.ceil(job.poll_after_s or POLL_AFTER_S),
        provider=job.provider,
        usage=job.usage,
        error=job.fault,
        remixed_from=None if remixed_from is None else f"video_{remixed_from}",
    )


def _billing(job: VideoJob) -> VideoBilling:
    held = job.held_nanos or 0
    if job.status is VideoStatus.COMPLETED:
        return VideoBilling("settled", held, job.charged_nanos or 0)
    return VideoBilling("void" if job.has_ended else "reserved", held, 0)


def _seconds(job: VideoJob) -> int:
    """What is charged for: a frame more or less than was expected makes no second."""
    made = job.seconds
    if made is None or abs(made - job.expected_seconds) < 1:
        return job.expected_seconds
    return math.ceil(made)


def _completed(job: VideoJob, usage: Usage, now: float) -> GenerationRecord:
    cost = 0 if usage.pricing is None else usage.pricing.total_nanos
    attempts = job.opening.attempts
    if attempts:
        attempts = (*attempts[:-1], replace(attempts[-1], billed=True, cost_nanos=cost))
    return replace(
        job.opening,
        provider=job.provider,
        native_response_id=None if job.native_id is None else bounded(job.native_id, MAX_ID_BYTES),
        generation_ms=_since_created(job, now),
        usage=usage,
        cost_nanos=cost,
        attempts=attempts,
    )


def _failed(job: VideoJob, fault: VideoFault, failure: AttemptFailure | None) -> GenerationRecord:
    """A provider's own words may quote the prompt, so the record has them not."""
    return replace(
        job.opening,
        provider=job.provider if job.native_id or job.opening.attempts else None,
        native_response_id=None if job.native_id is None else bounded(job.native_id, MAX_ID_BYTES),
        success=False,
        error_code=fault.code if failure is None else failure.category.value,
        error_message=fault.message if failure is None else HINTS[failure.category],
        generation_ms=None if job.completed_at is None else _since_created(job, job.completed_at),
    )


def _since_created(job: VideoJob, now: float) -> float:
    return round(max(0.0, now - job.opening.created_at) * 1000.0, 3)
