"""What a provider says is left of its rate limits: the spellings of x-ratelimit headers."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Final

from server.domain.events import Headroom
from server.providers.http_port import ResponseHeaders

USUAL_RESET_S: Final = 60.0
"""Where the provider does not say when its limit is whole again."""
MAX_RESET_S: Final = 3600.0
"""What was said is not believed for longer: a limit of the day may have been raised."""

_WINDOWS: Final = tuple(f"{of}-{per}" for of in ("requests", "tokens") for per in ("minute", "hour", "day", "month"))
_OPENAI: Final = ("requests", "tokens", *_WINDOWS, "req-minute")
_ANTHROPIC: Final = ("requests", "tokens", "input-tokens", "output-tokens")
_NAMES: Final = (
    *((f"x-ratelimit-remaining-{of}", f"x-ratelimit-limit-{of}", f"x-ratelimit-reset-{of}") for of in _OPENAI),
    *(tuple(f"anthropic-ratelimit-{of}-{what}" for what in ("remaining", "limit", "reset")) for of in _ANTHROPIC),
)
"""Of each limit the headers for what is left, for all of it, and for when it is whole again."""
_DURATION: Final = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_UNITS_S: Final = (86_400.0, 3600.0, 60.0, 1.0, 0.001)


def headroom_of(headers: ResponseHeaders, now: float) -> Headroom | None:
    """What is left of the tightest limit that a reply tells of, None where it tells of none. `now`: since 1970."""
    share, reset = 2.0, ""
    for remaining_name, limit_name, reset_name in _NAMES:
        remaining = headers.get(remaining_name)
        if remaining is None:
            continue
        left, limit = _count(remaining), _count(headers.get(limit_name))
        if left < 0 or limit <= 0 or left / limit >= share:  # some write -1 or 0 where they know of no limit
            continue
        share, reset = min(1.0, left / limit), headers.get(reset_name) or ""
    return None if share > 1 else Headroom(share, min(_seconds_until(reset, now), MAX_RESET_S))


def _count(text: str | None) -> float:
    try:
        value = float(text or "-1")
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


def _seconds_until(reset: str, now: float) -> float:
    """Of seconds ("7.5"), a duration ("6m0s", "12ms") or a time (RFC 3339)."""
    if (seconds := _count(reset)) >= 0:
        return seconds
    found = _DURATION.fullmatch(reset)
    if reset and found:
        return sum(float(value) * unit for value, unit in zip(found.groups(), _UNITS_S, strict=True) if value)
    try:
        return max(0.0, datetime.fromisoformat(reset).timestamp() - now)
    except (ValueError, OverflowError):
        return USUAL_RESET_S
