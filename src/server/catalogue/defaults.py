"""Prices that come with the gateway, for offers whose file says none: a copy of the data of `genai-prices`.

`scripts/import_prices.py` writes the file. It is read once a process, and only where an offer needs it.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Final

import msgspec

FILE: Final = "default_prices.json"
REGEX: Final = "re:"

_COMPACT_DATE: Final = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


class DefaultPrice(msgspec.Struct, frozen=True):
    """The prices of one model; `price` and `price_tiers` are what an offer's keys in the catalogue's files would be.

    `match`: which of the provider's names of models mean it, all in lower case: a whole name, `start*`, `*end`,
    `*inside*` or `re:regular expression`; a list within holds where all of its patterns do. Without `price` there is
    none that could be told, and none that holds instead.
    """

    match: tuple[str | tuple[str, ...], ...]
    price: dict[str, str] = {}
    price_tiers: tuple[dict[str, Any], ...] = ()

    def means(self, name: str) -> bool:
        return any(
            _fits(name, pattern) if isinstance(pattern, str) else all(_fits(name, one) for one in pattern)
            for pattern in self.match
        )


class DefaultProvider(msgspec.Struct, frozen=True, dict=True):
    """`fallback`: providers whose prices hold where this one has none of its own."""

    models: tuple[DefaultPrice, ...]
    fallback: tuple[str, ...] = ()

    def first(self, name: str) -> DefaultPrice | None:
        """The first model that the name means."""
        end = self._named.get(name, len(self.models))
        number = next((number for number in self._described if number >= end or self.models[number].means(name)), end)
        number = min(number, end)
        return self.models[number] if number < len(self.models) else None

    @cached_property
    def _named(self) -> dict[str, int]:
        """By a whole name, the first model that has it."""
        named: dict[str, int] = {}
        for number, model in enumerate(self.models):
            for pattern in model.match:
                if isinstance(pattern, str) and _is_name(pattern):
                    named.setdefault(pattern, number)
        return named

    @cached_property
    def _described(self) -> tuple[int, ...]:
        """Models that other patterns than whole names mean too."""
        return tuple(
            number
            for number, model in enumerate(self.models)
            if any(not isinstance(pattern, str) or not _is_name(pattern) for pattern in model.match)
        )


class DefaultPrices(msgspec.Struct, frozen=True):
    """`as_of` is the day, ISO 8601, whose prices these are."""

    source: str
    as_of: str
    providers: dict[str, DefaultProvider]

    def find(self, provider_id: str, provider_model: str) -> DefaultPrice | None:
        """The prices of a provider's model: the first that fits, if it has any."""
        name = provider_model.lower()
        dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
        for spelling in dict.fromkeys((name, dashed)):
            found = self._match(provider_id, spelling)
            if found is not None:
                return found if found.price else None
        return None

    def _match(self, provider_id: str, name: str) -> DefaultPrice | None:
        provider = self.providers.get(provider_id)
        if provider is None:
            return None
        for other_id in (provider_id, *provider.fallback):
            other = self.providers.get(other_id)
            found = None if other is None else other.first(name)
            if found is not None:
                return found
        return None


@cache
def default_prices() -> DefaultPrices:
    return msgspec.json.decode(files("server.catalogue").joinpath(FILE).read_bytes(), type=DefaultPrices)


def _is_name(pattern: str) -> bool:
    return "*" not in pattern and not pattern.startswith(REGEX)


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith(REGEX):
        return re.search(pattern.removeprefix(REGEX), name) is not None
    start, end = pattern.startswith("*"), pattern.endswith("*")
    if start and end:
        return pattern[1:-1] in name
    if start:
        return name.endswith(pattern[1:])
    if end:
        return name.startswith(pattern[:-1])
    return name == pattern
