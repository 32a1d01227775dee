"""When a provider wants to be asked again: the spellings of Retry-After, in headers and in bodies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from server.providers.http_port import ResponseHeaders

MAX_RETRY_AFTER_S: Final = 3600.0
"""The longest wait that is believed, seconds."""
_EPOCH_S: Final = 1e9
_EPOCH_MS: Final = 1e11
"""More than this is no wait but a time since 1970, as OpenRouter tells it."""


def retry_after_s(headers: ResponseHeaders, body: object, now: float) -> float | None:
    """Seconds to wait, or None where the reply does not say. `now` is in seconds since 1970.

    The first positive value of: `retry-after-ms`, `retry-after` (seconds or a date), `x-ratelimit-reset` (seconds
    or a time), and `google.rpc.RetryInfo` in the parsed `body`.
    """
    candidates = (
        _scaled(_number(headers.get("retry-after-ms")), 0.001),
        _number(headers.get("retry-after")),
        _until(headers.get("retry-after"), now),
        _until_reset(_number(headers.get("x-ratelimit-reset")), now),
        retry_info_s(body),
    )
    found = next((value for value in candidates if value is not None and value > 0), None)
    return None if found is None else min(found, MAX_RETRY_AFTER_S)


def retry_info_s(error: object) -> float | None:
    """The `retryDelay` ("39s") among the `details` of an error object in Google's shape."""
    details = error.get("details") if isinstance(error, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return _number(delay[:-1])
    return None


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _until_reset(value: float | None, now: float) -> float | None:
    if value is None or value <= _EPOCH_S:
        return value
    return (value * 0.001 if value > _EPOCH_MS else value) - now


def _until(text: str | None, now: float) -> float | None:
    if not text or not any(character.isalpha() for character in text):
        return None
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return None
