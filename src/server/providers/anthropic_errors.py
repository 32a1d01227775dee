"""Errors of the Messages API: what each means, by its code, its type, its status, and only then by its text."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.providers.http_port import ResponseHeaders
from server.providers.openai_error_tables import category_of
from server.providers.openai_errors import WireError, parse_error
from server.providers.retry_after import retry_after_s
from server.providers.scrub import MAX_LABEL_CHARS, scrubbed

_C = FailureCategory

BY_CODE: Final[dict[str, FailureCategory]] = {
    "enforced_spend_limit_reached": _C.QUOTA_EXHAUSTED,
    "contract_spend_limit_reached": _C.QUOTA_EXHAUSTED,
    "linked_organization_spend_limit_reached": _C.QUOTA_EXHAUSTED,
    "linked_organization_billing_unavailable": _C.QUOTA_EXHAUSTED,
    "ramp_limit_exceeded": _C.RATE_LIMITED,
    "organization_on_hold": _C.CREDENTIALS,
    "organization_type_not_supported": _C.CREDENTIALS,
    "parent_organization_required": _C.CREDENTIALS,
}
"""By `error.details.error_code`."""

BY_TYPE: Final[dict[str, FailureCategory]] = {
    "invalid_request_error": _C.CALLER_ERROR,
    "request_too_large": _C.CALLER_ERROR,
    "authentication_error": _C.CREDENTIALS,
    "permission_error": _C.CREDENTIALS,
    "billing_error": _C.QUOTA_EXHAUSTED,
    "not_found_error": _C.MODEL_NOT_FOUND,
    "rate_limit_error": _C.RATE_LIMITED,
    "timeout_error": _C.TIMEOUT,
    "overloaded_error": _C.OVERLOADED,
    "api_error": _C.SERVER_ERROR,
    "conflict_error": _C.SERVER_ERROR,
}
"""By `error.type`."""

_CONTEXT: Final = re.compile(
    r"prompt is too long|exceeds? (?:the )?(?:model'?s )?context (?:limit|window)|input is too long", re.IGNORECASE
)
_QUOTA: Final = re.compile(
    r"credit balance is too low|(?:spend|usage) limits?[^.]{0,60}reached|reached your[^.]{0,40}usage limits?",
    re.IGNORECASE,
)
_TEXTS: Final = (
    ("invalid_request_error", _CONTEXT, _C.CONTEXT_LENGTH),
    ("request_too_large", _CONTEXT, _C.CONTEXT_LENGTH),
    ("invalid_request_error", _QUOTA, _C.QUOTA_EXHAUSTED),
    ("rate_limit_error", _QUOTA, _C.QUOTA_EXHAUSTED),
)
"""Where a type stands for several things, the text tells them apart."""


def failure_of_reply(
    status: int, headers: ResponseHeaders, body: bytes, provider: Provider, now: float
) -> ProviderFailure:
    """What a reply outside 2xx means. `now` is in seconds since 1970."""
    error = parse_error(body)
    failure = _failure(error, status, provider, headers.get("request-id"))
    failure.retry_after_s = retry_after_s(headers, error.raw, now)
    return failure


def failure_in_band(value: Any, provider: Provider) -> ProviderFailure:
    """What an error inside a 200 means (an event, or a whole body; parsed)."""
    request_id = value.get("request_id") if isinstance(value, dict) else None
    return _failure(parse_error(msgspec.json.encode(value)), 0, provider, request_id)


def _failure(error: WireError, status: int, provider: Provider, request_id: Any) -> ProviderFailure:
    return ProviderFailure(
        _category(error, status),
        status=status,
        upstream=scrubbed(UpstreamError(error.code, error.message, error.param), provider),
        request_id=request_id[:MAX_LABEL_CHARS] if isinstance(request_id, str) and request_id else None,
    )


def _category(error: WireError, status: int) -> FailureCategory:
    for label in error.labels:
        if label in BY_CODE:
            return BY_CODE[label]
    for kind, pattern, category in _TEXTS:
        if kind in error.labels and pattern.search(error.message or ""):
            return category
    for label in error.labels:
        if label in BY_TYPE:
            return BY_TYPE[label]
    return category_of(status, error.labels, error.message or "")
