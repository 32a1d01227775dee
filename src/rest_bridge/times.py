"""Times as JSON and queries write them; inside they are whole seconds since 1970."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["iso", "iso_if_any", "read_time"]

_SECONDS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)


def iso(seconds: int) -> str:
    """As RFC 3339 writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_if_any(seconds: int | None) -> str | None:
    """The same; None of None."""
    return None if seconds is None else iso(seconds)


def read_time(text: str) -> int | None:
    """Seconds since 1970 of a number, or of an ISO 8601 date or time, UTC where it names no zone; None of others.

    Fractions are rounded up, which suits both ends: a record's time is whole seconds.
    """
    if _SECONDS.fullmatch(text):
        return int(text)
    try:
        time = datetime.fromisoformat(text)
        return math.ceil((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
