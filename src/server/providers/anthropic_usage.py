"""Token counts of the Messages API, in the gateway's one convention."""

from __future__ import annotations

from typing import Any, Final

from server.domain.usage import Usage

_FIELDS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
_BESIDE: Final = frozenset({"compaction", "advisor_message", "fallback_message"})
"""Iterations that the counts at the top leave out, though they are billed."""
_TIERS: Final = {"standard": "default"}


class Counts:
    """What a message has used, by the reports about it: each field's last value that is not null holds."""

    __slots__ = ("_beside", "_fast", "_fields", "_thinking", "_tier")

    def __init__(self) -> None:
        self._fields: dict[str, int] = {}
        self._beside: dict[str, int] = {}
        self._thinking = 0
        self._tier: str | None = None
        self._fast = False

    @property
    def known(self) -> bool:
        """Whether anything was counted; zero counts."""
        return bool(self._fields)

    def take(self, reported: Any, *, final: bool = True) -> None:
        """Overwrite with what a usage object says. Not yet `final`, its count of output only holds a place."""
        if not isinstance(reported, dict):
            return
        found = {name: count for name in _FIELDS if (count := _count(reported.get(name))) is not None}
        if not final and "output_tokens" in found:
            found["output_tokens"] = 0
        self._fields.update(found)
        details = reported.get("output_tokens_details")
        if final and isinstance(details, dict):
            self._thinking = _count(details.get("thinking_tokens")) or self._thinking
        if isinstance(iterations := reported.get("iterations"), list):
            self._beside = _summed(iterations)
        tier = reported.get("service_tier")
        self._tier = tier if isinstance(tier, str) and tier else self._tier
        self._fast = self._fast or reported.get("speed") == "fast"

    @property
    def usage(self) -> Usage:
        """The API counts cached and written tokens beside its input; here they are within it."""
        fresh, cached, written, made = (self._fields.get(name, 0) + self._beside.get(name, 0) for name in _FIELDS)
        return Usage(
            input_tokens=fresh + cached + written,
            output_tokens=made,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=min(self._thinking, made),
        )

    @property
    def service_tier(self) -> str | None:
        """In the word of the other surfaces; a faster speed is a tier of its own."""
        if self._fast:
            return "fast"
        return None if self._tier is None else _TIERS.get(self._tier, self._tier)


def _summed(iterations: list[Any]) -> dict[str, int]:
    extra = [entry for entry in iterations if isinstance(entry, dict) and entry.get("type") in _BESIDE]
    return {name: sum(_count(entry.get(name)) or 0 for entry in extra) for name in _FIELDS}


def _count(value: Any) -> int | None:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 else None
