"""Errors of the Gemini API: `google.rpc.Status` as JSON, in replies and inside streams, and what each one means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.providers.gemini_wire import decode_any, objects, words
from server.providers.http_port import ResponseHeaders
from server.providers.openai_error_tables import category_of
from server.providers.retry_after import MAX_RETRY_AFTER_S, retry_after_s, retry_info_s
from server.providers.scrub import scrubbed

_C: Final = FailureCategory
_QUOTED_CHARS: Final = 200
"""How much is quoted of a body that is not an error in any known shape."""

_LOCATION_TEXT: Final = re.compile(r"location is not supported|not available in your (?:country|region)", re.I)
_FILE_TEXT: Final = re.compile(r"access the File .{0,400} or it may not exist", re.I)
"""Of a 403 that is about a file which the caller named, and not about our key."""
_RETRY_TEXT: Final = re.compile(r"retry in (\d+(?:\.\d+)?) ?(ms|s)\b", re.I)
_REASONS: Final = {
    "BILLING_DISABLED": _C.QUOTA_EXHAUSTED,
    "SERVICE_DISABLED": _C.CREDENTIALS,
    "CONSUMER_INVALID": _C.CREDENTIALS,
    "CONSUMER_SUSPENDED": _C.CREDENTIALS,
    "CREDENTIALS_MISSING": _C.CREDENTIALS,
    "ACCESS_TOKEN_EXPIRED": _C.CREDENTIALS,
}
"""Reasons of `google.rpc.ErrorInfo` beside those that all dialects share."""


class WireStatus(msgspec.Struct, frozen=True):
    """One error. `code` is the HTTP status, 0 where none is told; `status` Google's word for it.

    `reasons` are those of its details; `is_daily`: a quota of the day is used up; `is_of_model`: that of one model.
    """

    message: str = ""
    code: int = 0
    status: str = ""
    reasons: tuple[str, ...] = ()
    is_daily: bool = False
    is_of_model: bool = False
    raw: Any = None


def failure_of_reply(
    status: int, headers: ResponseHeaders, body: bytes, provider: Provider, now: float
) -> ProviderFailure:
    """What a reply outside 2xx means. `now` is in seconds since 1970."""
    error = read_status(_parsed(body)) or WireStatus(message=_quote(body))
    failure = _failure(error, status, provider)
    failure.retry_after_s = retry_after_s(headers, error.raw, now) or _retry_text_s(error.message)
    return failure


def failure_in_band(value: Any, provider: Provider) -> ProviderFailure:
    """What an error inside a 200 means (parsed), as if it were the HTTP status that it names."""
    error = read_status(value) or WireStatus()
    failure = _failure(error, error.code, provider)
    delay = retry_info_s(error.raw) or _retry_text_s(error.message)
    failure.retry_after_s = min(delay, MAX_RETRY_AFTER_S) if delay is not None and delay > 0 else None
    return failure


def cut_failure() -> ProviderFailure:
    return ProviderFailure(
        _C.CONNECTION, upstream=UpstreamError(message="The provider's stream was cut before it was complete.")
    )


def protocol_failure(message: str) -> ProviderFailure:
    """`message` is ours, a sentence on what the provider did wrong."""
    return ProviderFailure(_C.PROTOCOL, upstream=UpstreamError(message=message))


def blocked_failure(feedback: dict[str, Any], provider: Provider) -> ProviderFailure:
    """A prompt that was refused before anything was generated (`promptFeedback`)."""
    reason = words(feedback.get("blockReason"))
    message = words(feedback.get("blockReasonMessage")) or f"The prompt was blocked ({reason})."
    return ProviderFailure(_C.CONTENT_POLICY, upstream=scrubbed(UpstreamError(reason, message), provider))


def read_status(value: Any) -> WireStatus | None:
    """The error in a parsed body, chunk or one-element array of either; None where there is none."""
    if isinstance(value, list):
        return read_status(value[0]) if value else None
    inner = value.get("error") if isinstance(value, dict) else None
    if isinstance(inner, str) and inner:
        return WireStatus(message=inner)
    if not isinstance(inner, dict):
        return None
    code = inner.get("code")
    details = objects(inner.get("details"))
    daily = [quota for detail in details for quota in _quota_ids(detail) if "PerDay" in quota]
    return WireStatus(
        message=words(inner.get("message")),
        code=code if isinstance(code, int) and 400 <= code <= 599 else 0,
        status=words(inner.get("status")),
        reasons=tuple(filter(None, (words(detail.get("reason")) for detail in details))),
        is_daily=bool(daily),
        is_of_model=bool(daily) and all("PerModel" in quota for quota in daily),
        raw=inner,
    )


def bare_error(text: bytes) -> Any:
    """The error that stands in an event stream as plain JSON, without `data:`; None where there is none."""
    for block in re.split(rb"\n\n+", text.replace(b"\r\n", b"\n")):
        if block.lstrip().startswith((b"{", b"[")):
            value = _parsed(block)
            if read_status(value) is not None:
                return value
    return None


def _failure(error: WireStatus, status: int, provider: Provider) -> ProviderFailure:
    code = next(iter(error.reasons), None) or error.status or None
    upstream = scrubbed(UpstreamError(code, error.message or None), provider)
    is_of_model = True if error.is_of_model else False if _refusal(error) else None
    return ProviderFailure(_category(error, status), status=status, upstream=upstream, is_of_model=is_of_model)


def _refusal(error: WireStatus) -> FailureCategory | None:
    """How our account is refused, where a reason says that it is."""
    for reason in error.reasons:
        if known := _REASONS.get(reason) or (_C.CREDENTIALS if reason.startswith("API_KEY_") else None):
            return known
    return None


def _category(error: WireStatus, status: int) -> FailureCategory:
    if error.is_daily:
        return _C.QUOTA_EXHAUSTED
    if refusal := _refusal(error):
        return refusal
    if error.status == "FAILED_PRECONDITION" and _LOCATION_TEXT.search(error.message):
        return _C.CREDENTIALS
    if not error.reasons and _FILE_TEXT.search(error.message):
        return _C.CALLER_ERROR
    # Google gives this one reason for whatever has run out: the message tells a pace from an empty account.
    labels = (*(reason for reason in error.reasons if reason != "RATE_LIMIT_EXCEEDED"), error.status)
    return category_of(status, [label for label in labels if label], error.message)


def _quota_ids(detail: dict[str, Any]) -> Iterator[str]:
    for violation in objects(detail.get("violations")):
        yield words(violation.get("quotaId"))


def _retry_text_s(message: str) -> float | None:
    found = _RETRY_TEXT.search(message)
    if found is None:
        return None
    seconds = float(found[1]) * (0.001 if found[2].lower() == "ms" else 1.0)
    return min(seconds, MAX_RETRY_AFTER_S) if seconds > 0 else None


def _parsed(body: bytes) -> Any:
    try:
        return decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _quote(body: bytes) -> str:
    text = body[: 4 * _QUOTED_CHARS].decode("utf-8", "replace")
    return " ".join(text.split())[:_QUOTED_CHARS]
