"""What a `range` header asks for, of content whose length is known."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["OUTSIDE", "part_of", "plain"]

OUTSIDE: Final = (0, 0)
"""A part that begins where there is nothing any more."""

_ONE: Final = re.compile(r"\s*bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*", re.ASCII | re.IGNORECASE)


def plain(byte_range: str | None) -> str | None:
    """The same as everybody understands it. None stands for the whole: where nothing, several parts, other units, or
    nonsense is asked for (RFC 9110, 14.2).
    """
    match = None if byte_range is None else _ONE.fullmatch(byte_range)
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    return None if first and last and int(last) < int(first) else f"bytes={first}-{last}"


def part_of(size: int, byte_range: str | None) -> tuple[int, int] | None:
    """From and up to, the end not included; `OUTSIDE` where nothing of it is there. None stands for the whole."""
    asked = plain(byte_range)
    if asked is None:
        return None
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else OUTSIDE
    start, end = int(first), size if not last else min(size, int(last) + 1)
    return (start, end) if start < size else OUTSIDE
