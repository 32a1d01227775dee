"""What the Gemini API says of a video: an operation that is done or not, and then a result or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.video import JobReport, VideoStatus
from server.providers.gemini_errors import failure_in_band, protocol_failure, read_status
from server.providers.gemini_wire import counted, objects, words
from server.providers.scrub import scrubbed
from server.providers.video_calls import Answer, attempt_failure

__all__ = ["begun", "report"]

POLL_AFTER_S: Final = 10.0
"""How often Google asks to be asked."""
KEPT_S: Final = 2 * 24 * 3600
"""How long Google keeps what was made."""

_OPERATION: Final = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9_.~-]+(?:/[A-Za-z0-9_.~-]+)*")
_MAX_NAME_CHARS: Final = 512
_MAX_HANDLE_CHARS: Final = 4096
_CANCELLED: Final = 1
_RPC: Final[Mapping[int, tuple[str, int]]] = {
    2: ("UNKNOWN", 500), 3: ("INVALID_ARGUMENT", 400), 4: ("DEADLINE_EXCEEDED", 504), 5: ("NOT_FOUND", 404),
    6: ("ALREADY_EXISTS", 409), 7: ("PERMISSION_DENIED", 403), 8: ("RESOURCE_EXHAUSTED", 429),
    9: ("FAILED_PRECONDITION", 400), 10: ("ABORTED", 409), 11: ("OUT_OF_RANGE", 400), 12: ("UNIMPLEMENTED", 501),
    13: ("INTERNAL", 500), 14: ("UNAVAILABLE", 503), 15: ("DATA_LOSS", 500), 16: ("UNAUTHENTICATED", 401),
}  # fmt: skip
"""`google.rpc.Code`: its name, and the HTTP status that Google gives it."""
_MAY_BE_POLICY: Final = frozenset({3, 9, 400})
_POLICY_TEXT: Final = re.compile(
    r"usage guidelines|responsible ai|safety (?:filter|polic|setting|reason)|sensitive words|prohibited use|blocked by",
    re.IGNORECASE,
)
_MAX_REASONS: Final = 8


def begun(answer: Answer, offer: Offer, now: float) -> JobReport:
    """What a submit was answered. Raises ProviderFailure."""
    told = _object(answer)
    name = told.get("name")
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS or not _OPERATION.fullmatch(name):
        if read_status(told) is not None:
            raise failure_in_band(told, offer.provider)
        raise protocol_failure("The provider took the job and gave it no name.")
    return report(answer, offer, name, now)


def report(answer: Answer, offer: Offer, native_id: str, now: float) -> JobReport:
    """What an operation has come to. Raises ProviderFailure where nothing is said of it. `now`: since 1970."""
    told = _object(answer)
    if told.get("done") is not True:
        if "name" not in told and read_status(told) is not None:
            raise failure_in_band(told, offer.provider)
        return JobReport(native_id, VideoStatus.IN_PROGRESS, poll_after_s=POLL_AFTER_S)
    error = told.get("error")
    if isinstance(error, dict) and error.get("code") == _CANCELLED:
        return JobReport(native_id, VideoStatus.CANCELLED)
    if error:
        return _failed(native_id, _failure(error, offer.provider), offer)
    response = told.get("response")
    made = response.get("generateVideoResponse") if isinstance(response, dict) else None
    made = made if isinstance(made, dict) else {}
    for sample in objects(made.get("generatedSamples")):
        video = sample.get("video")
        uri = words(video.get("uri")) if isinstance(video, dict) else ""
        if uri and len(uri) <= _MAX_HANDLE_CHARS:
            return JobReport(native_id, VideoStatus.COMPLETED, progress=100, handle=uri, expires_at=int(now) + KEPT_S)
    return _failed(native_id, _filtered(made, offer.provider), offer)


def _object(answer: Answer) -> dict[str, Any]:
    if not isinstance(answer.value, dict):
        raise protocol_failure("The provider sent something that is no operation.")
    return answer.value


def _failed(native_id: str, failure: ProviderFailure, offer: Offer) -> JobReport:
    return JobReport(native_id, VideoStatus.FAILED, failure=attempt_failure(failure, offer.provider))


def _failure(error: Any, provider: Provider) -> ProviderFailure:
    """What an operation's `google.rpc.Status` means, whose code is not yet one of HTTP."""
    if not isinstance(error, dict):
        return failure_in_band({"error": words(error) or "The operation failed."}, provider)
    code = told if isinstance(told := error.get("code"), int) else 0
    name, status = _RPC.get(code, ("", code))
    told = {**error, "code": status, "status": words(error.get("status")) or name}
    failure = failure_in_band({"error": told}, provider)
    if code in _MAY_BE_POLICY and _POLICY_TEXT.search(words(error.get("message"))):
        failure.category = FailureCategory.CONTENT_POLICY
    return failure


def _filtered(made: dict[str, Any], provider: Provider) -> ProviderFailure:
    """Of an operation that is done and has made nothing."""
    told = made.get("raiMediaFilteredReasons")
    reasons = [reason for reason in told if isinstance(reason, str)] if isinstance(told, list) else []
    if not reasons and not counted(made.get("raiMediaFilteredCount")):
        return protocol_failure("The provider says that the video is done, and not where it is.")
    message = " ".join(reasons[:_MAX_REASONS]) or "The provider's content filter keeps this video back."
    said = scrubbed(UpstreamError("content_filter", message), provider)
    return ProviderFailure(FailureCategory.CONTENT_POLICY, upstream=said)
