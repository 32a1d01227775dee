"""What usage costs: one pure function from usage and prices to lines of whole nano-dollars.

The one rounding rule: each line is rounded up to a whole nano-dollar, and the total is the sum of the lines.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import cached_property
from typing import Final, TypeAlias

import msgspec

from server.domain.money import UNIT_SIZE, Pricing, PricingLine
from server.domain.usage import Usage

Rates: TypeAlias = Mapping[str, int]
"""By dimension, nano-dollars for a million units."""

DIMENSIONS: Final = frozenset(
    {
        "input_text_tokens",
        "output_text_tokens",
        "cached_read_text_tokens",
        "cached_write_text_tokens",
        "reasoning_text_tokens",
        "input_audio_tokens",
        "output_audio_tokens",
        "cached_read_audio_tokens",
        "input_image_tokens",
        "output_image_tokens",
        "cached_read_image_tokens",
        "input_video_tokens",
        "output_video_tokens",
        "embedding_tokens",
        "input_image",
        "output_image",
        "input_audio_seconds",
        "output_audio_seconds",
        "input_characters",
        "video_seconds",
        "requests",
        "web_searches",
    }
)
"""What usage can be counted in. The unit of a price is always a million of it."""

STANDARD_TIERS: Final = frozenset({"", "auto", "default", "standard", "on_demand"})
"""What providers call the service tier that the base rates are for."""

_FALLBACK: Final[Mapping[str, str]] = {
    "cached_read_text_tokens": "input_text_tokens",
    "cached_write_text_tokens": "input_text_tokens",
    "input_audio_tokens": "input_text_tokens",
    "input_image_tokens": "input_text_tokens",
    "reasoning_text_tokens": "output_text_tokens",
    "output_audio_tokens": "output_text_tokens",
    "output_image_tokens": "output_text_tokens",
}
"""Where a kind of token has no rate of its own, it is counted and charged as this one."""

_INPUT: Final = (
    "input_text_tokens",
    "cached_read_text_tokens",
    "cached_write_text_tokens",
    "input_audio_tokens",
    "input_image_tokens",
)
_OUTPUT: Final = ("output_text_tokens", "reasoning_text_tokens", "output_audio_tokens", "output_image_tokens")


_NOTHING: Final[Mapping[str, int]] = {}


class PriceTier(msgspec.Struct, frozen=True):
    """Rates that replace the base rates of the same dimensions under conditions, all of which must hold.

    `input_tokens_above`: the whole input, cached tokens included, is longer than so many tokens; the rates then hold
    for the whole request. `service_tier`: the provider says that it served the request in this tier.
    """

    rates: Rates
    input_tokens_above: int = 0
    service_tier: str | None = None


class PriceList(msgspec.Struct, frozen=True, dict=True):
    """All prices of one offer: base rates, and tiers with conditions. What follows from them is worked out once."""

    rates: Rates = {}
    tiers: tuple[PriceTier, ...] = ()

    @cached_property
    def compared(self) -> int:
        """What offers are compared by: plain input and plain output together, or else all rates."""
        plain = [self.rates[name] for name in ("input_text_tokens", "output_text_tokens") if name in self.rates]
        return sum(plain or self.rates.values())

    @cached_property
    def dearest_of_units(self) -> Rates:
        """By dimension that is no token, its greatest rate in any tier."""
        found: dict[str, int] = {}
        for rates in (self.rates, *(tier.rates for tier in self.tiers)):
            for dimension, rate in rates.items():
                if not dimension.endswith("_tokens") and dimension != "requests":
                    found[dimension] = max(rate, found.get(dimension, 0))
        return found

    @cached_property
    def service_tiers(self) -> frozenset[str]:
        """The tiers beside the standard one that have a price."""
        return frozenset(tier.service_tier for tier in self.tiers if tier.service_tier is not None)

    def rates_for(self, input_tokens: int, service_tier: str | None = None) -> Rates:
        """The rates of a request: base, then length (the greatest exceeded wins), then service tier over both."""
        if not self.tiers:
            return self.rates
        wanted = service_tier if service_tier in self.service_tiers else None
        stretch = bisect_left(self._lengths, input_tokens) - 1
        return self._stretches[max(stretch, 0)].rates[wanted]

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        """Lengths of the input beyond which other rates hold, ascending from 0."""
        return tuple(sorted({0, *(tier.input_tokens_above for tier in self.tiers)}))

    @cached_property
    def _stretches(self) -> tuple[_Stretch, ...]:
        """What holds beyond each of the lengths."""
        ordered = sorted(self.tiers, key=lambda tier: (tier.service_tier is not None, tier.input_tokens_above))
        stretches: list[_Stretch] = []
        for length in self._lengths:
            by_tier: dict[str | None, Rates] = {}
            for service_tier in (None, *self.service_tiers):
                rates = dict(self.rates)
                for tier in ordered:
                    if tier.input_tokens_above <= length and tier.service_tier in (None, service_tier):
                        rates.update(tier.rates)
                by_tier[service_tier] = rates
            stretches.append(_Stretch(by_tier, tuple(map(_ceiling, by_tier.values()))))
        return tuple(stretches)


class _Ceiling(msgspec.Struct, frozen=True):
    """The dearest rate of a side, and how many rates it has; `request` is nano-dollars for one request."""

    of_input: int
    input_rates: int
    of_output: int
    output_rates: int
    request: int

    def bound(self, input_tokens: int, output_tokens: int) -> int:
        input_nanos = _side(self.of_input, self.input_rates, input_tokens)
        return self.request + input_nanos + _side(self.of_output, self.output_rates, output_tokens)


class _Stretch(msgspec.Struct, frozen=True):
    """Rates by service tier, None for the standard one, and the ceiling of each."""

    rates: Mapping[str | None, Rates]
    ceilings: tuple[_Ceiling, ...]


def price(usage: Usage, prices: PriceList, service_tier: str | None = None) -> Pricing:
    """What `usage` costs. No token appears in two lines; what has a rate of 0 has a line all the same."""
    rates = prices.rates_for(usage.input_tokens, service_tier)
    return price_quantities(quantities(usage, rates), rates)


def price_quantities(used: Mapping[str, int], rates: Rates) -> Pricing:
    """Lines for the dimensions that were used and have a rate."""
    lines: list[PricingLine] = []
    total = 0
    for dimension, quantity in used.items():
        if quantity and (rate := rates.get(dimension)) is not None:
            cost = -(-quantity * rate // UNIT_SIZE)
            lines.append(PricingLine(dimension, quantity, rate, cost))
            total += cost
    return Pricing(tuple(lines), total)


def quantities(usage: Usage, rates: Rates) -> dict[str, int]:
    """Usage split over dimensions that have a rate: each token is in exactly one of them.

    Tokens are plain text unless they are known as a kind with a rate of its own. What is of two such kinds counts as
    the first of them: audio, picture, cached, written; audio, picture, video, reasoning. Parts beyond their whole do
    not count. Units that are no tokens count where they have a rate.
    """
    split: dict[str, int] = {"input_text_tokens": 0}
    rest = usage.input_tokens
    for dimension, part in (
        ("input_audio_tokens", usage.input_audio_tokens),
        ("input_image_tokens", usage.input_image_tokens),
        ("cached_read_text_tokens", usage.cached_input_tokens),
        ("cached_write_text_tokens", usage.cache_write_tokens),
    ):
        if part and dimension in rates:
            split[dimension] = part = min(part, rest)
            rest -= part
    split["input_text_tokens"] = rest
    split["output_text_tokens"] = 0
    rest = usage.output_tokens
    for dimension, part in (
        ("output_audio_tokens", usage.output_audio_tokens),
        ("output_image_tokens", usage.output_image_tokens),
        ("output_video_tokens", usage.units.get("output_video_tokens", 0)),
        ("reasoning_text_tokens", usage.reasoning_tokens),
    ):
        if part and dimension in rates:
            split[dimension] = part = min(part, rest)
            rest -= part
    split["output_text_tokens"] = rest
    split.update((dimension, count) for dimension, count in usage.units.items() if dimension in rates)
    if usage.input_tokens or usage.output_tokens or usage.units:
        split["requests"] = 1
    return split


def upper_bound(prices: PriceList, input_tokens: int, output_tokens: int, units: Mapping[str, int] = _NOTHING) -> int:
    """The most that so many tokens and units, or fewer, can cost in nano-dollars, of whatever kind and in any tier.

    Each is taken at the dearest rate that may apply to it. Where a side has one rate the bound is its exact price.
    """
    dearest = prices.dearest_of_units if units else _NOTHING
    extra = sum(
        -(-count * dearest[dimension] // UNIT_SIZE) for dimension, count in units.items() if dimension in dearest
    )
    return extra + _bound_of_tokens(prices, input_tokens, output_tokens)


def _bound_of_tokens(prices: PriceList, input_tokens: int, output_tokens: int) -> int:
    bound = 0
    lengths = prices._lengths
    for index, stretch in enumerate(prices._stretches):
        if index and lengths[index] >= input_tokens:
            break
        # Within a stretch the longest input is the dearest; only then do the next rates hold.
        longest = min(input_tokens, lengths[index + 1]) if index + 1 < len(lengths) else input_tokens
        for ceiling in stretch.ceilings:
            bound = max(bound, ceiling.bound(longest, output_tokens))
    return bound


def _ceiling(rates: Rates) -> _Ceiling:
    of_input = [rates[dimension] for dimension in _INPUT if dimension in rates]
    of_output = [rates[dimension] for dimension in _OUTPUT if dimension in rates]
    request = -(-rates.get("requests", 0) // UNIT_SIZE)
    return _Ceiling(max(of_input, default=0), len(of_input), max(of_output, default=0), len(of_output), request)


def _side(dearest: int, rates: int, tokens: int) -> int:
    """Each line of the side may be rounded up, so every line beyond the first adds one."""
    return -(-tokens * dearest // UNIT_SIZE) + min(rates, tokens) - 1 if rates and tokens else 0


def is_input(dimension: str) -> bool:
    """Whether its units are tokens of the input, whose sum is the length that tiers go by."""
    return dimension.endswith("_tokens") and dimension.startswith(("input_", "cached_"))


def with_fallbacks(used: Mapping[str, int], rates: Rates) -> dict[str, int]:
    """Quantities with the kinds of token that have no rate counted as the kind whose rate holds for them."""
    counted = dict(used)
    for dimension, instead in _FALLBACK.items():
        if dimension in counted and dimension not in rates:
            counted[instead] = counted.get(instead, 0) + counted.pop(dimension)
    return counted
