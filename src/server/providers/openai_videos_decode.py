"""What providers say of a video job: in OpenAI's shape, and in xAI's, which has an address where the video is."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.video import JobReport, VideoStatus
from server.providers.http_port import ResponseHeaders
from server.providers.openai_errors import failure_in_band, protocol_failure
from server.providers.openai_usage import read_usage
from server.providers.scrub import scrubbed
from server.providers.video_calls import Answer, attempt_failure

__all__ = ["begun", "report"]

_S: Final = VideoStatus
_WORDS: Final[dict[VideoStatus, tuple[str, ...]]] = {
    _S.QUEUED: ("queued", "in_queue", "pending", "submitted", "created", "not_started", "scheduled", "waiting"),
    _S.IN_PROGRESS: ("in_progress", "processing", "running", "generating", "started", "starting", "preprocessing"),
    _S.COMPLETED: ("completed", "complete", "succeeded", "success", "done", "finished", "ready"),
    _S.FAILED: ("failed", "failure", "error", "rejected", "moderated"),
    _S.CANCELLED: ("cancelled", "canceled", "aborted"),
    _S.EXPIRED: ("expired", "timed_out", "timeout"),
}
STATUSES: Final = {word: status for status, words in _WORDS.items() for word in words}

_ID: Final = re.compile(r"(?!\.{1,2}$)[!-~]{1,512}")
_SIZE: Final = re.compile(r"\d{1,5}x\d{1,5}")
_TICKS_PER_NANO: Final = 10
"""xAI counts in ticks, of which a dollar has 10^10."""
_MAX_POLL_AFTER_S: Final = 300.0


def begun(answer: Answer, offer: Offer) -> JobReport:
    """What a submit was answered. Raises ProviderFailure."""
    told = _object(answer, offer.provider)
    native_id = told.get("request_id") or told.get("id")
    if not isinstance(native_id, str) or not _ID.fullmatch(native_id):
        _raise_error(told, offer.provider)
        raise protocol_failure("The provider took the job and gave it no id.")
    return report(answer, offer, native_id)


def report(answer: Answer, offer: Offer, native_id: str) -> JobReport:
    """What a job's provider says of it. Raises ProviderFailure where it says nothing of it."""
    poll_after_s = _poll_after_s(answer.headers)
    if answer.value is None and answer.status == 202:
        return JobReport(native_id, _S.IN_PROGRESS, poll_after_s=poll_after_s)
    told = _object(answer, offer.provider)
    video = told.get("video")
    video = video if isinstance(video, dict) else {}
    handle = url if isinstance(url := video.get("url"), str) and url else None
    status = _status(told, handle, answer)
    if status is None:
        _raise_error(told, offer.provider)
        status = _S.IN_PROGRESS
    failure = _failure(told, video, handle, status, offer)
    if failure is not None and status is _S.COMPLETED:
        status = _S.FAILED
    progress = _progress(told.get("progress"))
    if progress and status is _S.QUEUED:
        status = _S.IN_PROGRESS
    usage = told.get("usage")
    return JobReport(
        native_id,
        status,
        progress=progress,
        poll_after_s=poll_after_s,
        seconds=_positive(told.get("seconds") or video.get("duration")),
        size=size if isinstance(size := told.get("size"), str) and _SIZE.fullmatch(size) else None,
        handle=handle,
        expires_at=int(at) if (at := _positive(told.get("expires_at"))) is not None else None,
        failure=attempt_failure(failure, offer.provider) if failure is not None else None,
        usage=read_usage(usage),
        cost_nanos=_cost_nanos(usage),
    )


def _object(answer: Answer, provider: Provider) -> dict[str, Any]:
    if not isinstance(answer.value, dict):
        raise protocol_failure("The provider sent something that is no video job.")
    if "status" not in answer.value and "id" not in answer.value:
        _raise_error(answer.value, provider)
    return answer.value


def _raise_error(told: dict[str, Any], provider: Provider) -> None:
    if told.get("error"):
        raise failure_in_band(told, provider)


def _status(told: dict[str, Any], handle: str | None, answer: Answer) -> VideoStatus | None:
    """None where it is not told; a word that is not known is work that goes on."""
    word = told.get("status")
    if isinstance(word, str) and word.strip():
        return STATUSES.get(word.strip().lower().replace("-", "_").replace(" ", "_"), _S.IN_PROGRESS)
    if handle is not None:
        return _S.COMPLETED
    return _S.IN_PROGRESS if answer.status == 202 or not told.get("error") else None


def _failure(
    told: dict[str, Any], video: dict[str, Any], handle: str | None, status: VideoStatus, offer: Offer
) -> ProviderFailure | None:
    """Why there is no video, where there is none."""
    if status is _S.COMPLETED:
        if video.get("respect_moderation") is False:
            kept = UpstreamError("moderation_blocked", "The provider's moderation keeps this video back.")
            return ProviderFailure(FailureCategory.CONTENT_POLICY, upstream=kept)
        if handle is None and offer.videos.api == "generations":
            return protocol_failure("The provider says that the video is done, and not where it is.")
        return None
    if status not in (_S.FAILED, _S.EXPIRED):
        return None
    if told.get("error"):
        return failure_in_band({"error": told["error"]}, offer.provider)
    reason = told.get("failure_reason") or told.get("status_message")
    said = UpstreamError(code=status.value, message=reason if isinstance(reason, str) else None)
    if said.message is None:
        said = UpstreamError(status.value, f"The provider says that the job has {_ENDINGS[status]}, and not why.")
    return ProviderFailure(FailureCategory.SERVER_ERROR, upstream=scrubbed(said, offer.provider))


_ENDINGS: Final = {_S.FAILED: "failed", _S.EXPIRED: "expired"}


def _progress(told: Any) -> int | None:
    number = _number(told)
    return None if number is None else max(0, min(100, int(number)))


def _positive(told: Any) -> float | None:
    number = _number(told)
    return number if number is not None and number > 0 else None


def _number(told: Any) -> float | None:
    if isinstance(told, bool) or not isinstance(told, int | float | str):
        return None
    try:
        number = float(told.strip().removesuffix("%").removesuffix("s") if isinstance(told, str) else told)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 2**53 else None


def _cost_nanos(usage: Any) -> int | None:
    ticks = usage.get("cost_in_usd_ticks") if isinstance(usage, dict) else None
    if isinstance(ticks, bool) or not isinstance(ticks, int) or not 0 <= ticks < 2**63:
        return None
    return -(-ticks // _TICKS_PER_NANO)


def _poll_after_s(headers: ResponseHeaders) -> float | None:
    milliseconds = _positive(headers.get("openai-poll-after-ms"))
    seconds = milliseconds / 1000.0 if milliseconds is not None else _positive(headers.get("retry-after"))
    return None if seconds is None else min(seconds, _MAX_POLL_AFTER_S)
