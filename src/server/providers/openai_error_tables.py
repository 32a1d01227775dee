"""What an upstream's error means, by its code, then by its HTTP status, refined by its text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from server.domain.errors import FailureCategory

_C = FailureCategory

_LABELS: Final[dict[FailureCategory, tuple[str, ...]]] = {
    _C.CONTEXT_LENGTH: ("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"),
    _C.CONTENT_POLICY: (
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "moderation_blocked",
        "bio_policy",
        "cyber_policy",
        "invalid_prompt",
        "misalignment_policy_violation",
        "image_content_policy_violation",
    ),
    _C.QUOTA_EXHAUSTED: (
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "insufficient_balance",
        "quota_per_day",
    ),
    _C.RATE_LIMITED: (
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate_limited",
        "ramp_limit_exceeded",
        "slow_down",
        "too_many_requests",
        "resource_exhausted",
    ),
    _C.OVERLOADED: (
        "server_is_overloaded",
        "overloaded_error",
        "engine_overloaded",
        "engine_overloaded_error",
        "capacity_exceeded",
        "service_unavailable",
        "service_unavailable_error",
        "unavailable",
    ),
    _C.CREDENTIALS: (
        "invalid_api_key",
        "api_key_invalid",
        "authentication_error",
        "permission_error",
        "permission_denied",
        "account_deactivated",
        "unauthenticated",
    ),
    _C.MODEL_NOT_FOUND: ("model_not_found", "deploymentnotfound", "model_not_available", "unknown_model"),
    _C.TIMEOUT: ("timeout_error", "deadline_exceeded", "request_timeout"),
    # The model wrote a bad call, not the caller: asking again may mend it.
    _C.SERVER_ERROR: ("tool_use_failed", "server_error", "api_error", "internal_error", "internal"),
}
BY_LABEL: Final = {label: category for category, labels in _LABELS.items() for label in labels}

BY_STATUS: Final[dict[int, FailureCategory]] = {
    400: _C.CALLER_ERROR,
    401: _C.CREDENTIALS,
    402: _C.QUOTA_EXHAUSTED,
    403: _C.CREDENTIALS,
    404: _C.MODEL_NOT_FOUND,
    408: _C.TIMEOUT,
    409: _C.SERVER_ERROR,
    413: _C.CALLER_ERROR,
    415: _C.CALLER_ERROR,
    422: _C.CALLER_ERROR,
    424: _C.SERVER_ERROR,
    425: _C.SERVER_ERROR,
    429: _C.RATE_LIMITED,
    498: _C.OVERLOADED,
    499: _C.SERVER_ERROR,
    503: _C.OVERLOADED,
    504: _C.TIMEOUT,
    522: _C.TIMEOUT,
    524: _C.TIMEOUT,
    529: _C.OVERLOADED,
}

_GENERIC: Final = frozenset({"server_error", "api_error", "internal_error", "internal", "resource_exhausted"})
"""Labels that say no more than the status does, so that the text is asked first."""

_REQUEST_LABELS: Final = frozenset({"invalid_request_error", "invalid_argument", "invalid_value", "bad_request"})
"""In an error without a status these stand for a 400."""

_CONTEXT_TEXT: Final = re.compile(
    r"context[ _-]?(?:length|window|size)[^.]{0,80}exceed|exceed[^.]{0,80}context|maximum context length"
    r"|prompt is too long|input token count[^.]{0,80}exceed|maximum prompt length|longer than the maximum model length"
    r"|length of all messages is too long|maximum number of tokens allowed|input \(\d+ tokens\) is too large",
    re.IGNORECASE,
)
_QUOTA_TEXT: Final = re.compile(
    r"insufficient (?:balance|funds|credit|quota)|credits? (?:are |is )?(?:depleted|exhausted)"
    r"|(?:spend(?:ing)?|usage|billing) limit[^.]{0,40}(?:reached|exceed)"
    r"|credit balance is too low",
    re.IGNORECASE,
)
_CREDENTIAL_TEXT: Final = re.compile(
    r"api key[^.]{0,20}(?:not valid|invalid|expired)|(?:invalid|incorrect) api key", re.IGNORECASE
)
_TOKEN_TEXT: Final = re.compile(r"invalid token", re.IGNORECASE)
"""Cohere's word for a bad key, in a status of its own: in a 400 the tokens are the prompt's."""
_POLICY_TEXT: Final = re.compile(r"content management policy|flagged|safety system", re.IGNORECASE)
_IN_FLIGHT_TEXT: Final = re.compile(r"in[- ]flight", re.IGNORECASE)

_TEXTS: Final[tuple[tuple[frozenset[int], re.Pattern[str], FailureCategory], ...]] = (
    (frozenset({0, 400, 413, 422, 500}), _CONTEXT_TEXT, _C.CONTEXT_LENGTH),
    (frozenset({402}), _IN_FLIGHT_TEXT, _C.RATE_LIMITED),
    (frozenset({0, 400, 402, 403, 429}), _QUOTA_TEXT, _C.QUOTA_EXHAUSTED),
    (frozenset({0, 400, 498}), _CREDENTIAL_TEXT, _C.CREDENTIALS),
    (frozenset({498}), _TOKEN_TEXT, _C.CREDENTIALS),
    (frozenset({0, 400, 403}), _POLICY_TEXT, _C.CONTENT_POLICY),
)


def category_of(status: int, labels: Iterable[str], text: str) -> FailureCategory:
    """The category of an error. `status` is 0 where none is known; `labels` are codes and types, most telling first."""
    words = [label.lower() for label in labels]
    generic: FailureCategory | None = None
    for word in words:
        known = BY_LABEL.get(word)
        if known is not None and word not in _GENERIC:
            return known
        generic = generic or known
    for statuses, pattern, category in _TEXTS:
        if status in statuses and pattern.search(text):
            return category
    if status == 0:
        return generic or (_C.CALLER_ERROR if not _REQUEST_LABELS.isdisjoint(words) else _C.SERVER_ERROR)
    return _by_status(status, generic)


def _by_status(status: int, generic: FailureCategory | None) -> FailureCategory:
    known = BY_STATUS.get(status)
    if known is not None:
        return known
    if 400 <= status < 500:
        return _C.CALLER_ERROR
    return generic or _C.SERVER_ERROR if status >= 500 else _C.PROTOCOL
