"""What usage costs: one pure function from usage and prices to lines of whole nano-dollars.

The one rounding rule: each line is rounded up to a whole nano-dollar, and the total is the sum of the lines.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "reasoning_text_tokens": "output_text_tokens",
    "output_audio_tokens": "output_text_tokens",
}
"""Where a kind of token has no rate of its own, it is counted and charged as this one."""

_INPUT: Final = ("input_text_tokens", "cached_read_text_tokens", "cached_write_text_tokens", "input_audio_tokens")
_OUTPUT: Final = ("output_text_tokens", "reasoning_text_tokens", "output_audio_tokens")


class PriceTier(msgspec.Struct, frozen=True):
    """Rates that replace the base rates of the same dimensions under conditions, all of which must hold.

    `input_tokens_above`: the whole input, cached tokens included, is longer than so many tokens; the rates then hold
    for the whole request. `service_tier`: the provider says that it served the request in this tier.
    """

    rates: Rates
    input_tokens_above: int = 0
    service_tier: str | None = None


class PriceList(msgspec.Struct, frozen=True):
    """All prices of one offer: base rates, and tiers with conditions."""

    rates: Rates = {}
    tiers: tuple[PriceTier, ...] = ()

    @property
    def service_tiers(self) -> frozenset[str]:
        """The tiers beside the standard one that have a price."""
        return frozenset(tier.service_tier for tier in self.tiers if tier.service_tier is not None)

    def rates_for(self, input_tokens: int, service_tier: str | None = None) -> Rates:
        """The rates of a request: base, then length (the greatest exceeded wins), then service tier over both."""
        if not self.tiers:
            return self.rates
        wanted = None if service_tier is None or service_tier in STANDARD_TIERS else service_tier
        if wanted not in self.service_tiers:
            wanted = None
        rates = dict(self.rates)
        holding = [
            tier
            for tier in self.tiers
            if tier.service_tier in (None, wanted)
            and (not tier.input_tokens_above or input_tokens > tier.input_tokens_above)
        ]
        for tier in sorted(holding, key=lambda tier: (tier.service_tier is not None, tier.input_tokens_above)):
            rates.update(tier.rates)
        return rates


def price(usage: Usage, prices: PriceList, service_tier: str | None = None) -> Pricing:
    """What `usage` costs. No token appears in two lines; what has a rate of 0 has a line all the same."""
    rates = prices.rates_for(usage.input_tokens, service_tier)
    return price_quantities(quantities(usage, rates), rates)


def price_quantities(used: Mapping[str, int], rates: Rates) -> Pricing:
    """Lines for the dimensions that were used and have a rate."""
    lines = tuple(
        PricingLine(dimension, quantity, rates[dimension], -(-quantity * rates[dimension] // UNIT_SIZE))
        for dimension, quantity in used.items()
        if quantity and dimension in rates
    )
    return Pricing(lines, sum(line.line_nanos for line in lines))


def quantities(usage: Usage, rates: Rates) -> dict[str, int]:
    """Usage split over dimensions: each token is in exactly one of them, the dearest kind that it is known to be."""
    input_audio = min(usage.input_audio_tokens, usage.input_tokens)
    cached = min(usage.cached_input_tokens, usage.input_tokens - input_audio)
    written = min(usage.cache_write_tokens, usage.input_tokens - input_audio - cached)
    output_audio = min(usage.output_audio_tokens, usage.output_tokens)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens - output_audio)
    split = {
        "input_text_tokens": usage.input_tokens - input_audio - cached - written,
        "cached_read_text_tokens": cached,
        "cached_write_text_tokens": written,
        "input_audio_tokens": input_audio,
        "output_text_tokens": usage.output_tokens - output_audio - reasoning,
        "reasoning_text_tokens": reasoning,
        "output_audio_tokens": output_audio,
        "requests": 1 if usage.input_tokens or usage.output_tokens else 0,
    }
    return with_fallbacks(split, rates)


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


def upper_bound(prices: PriceList, input_tokens: int, output_tokens: int) -> int:
    """The most that so many tokens, or fewer, can cost in nano-dollars, of whatever kind and in whatever tier.

    Each is taken at the dearest rate that may apply to it. Where a side has one rate the bound is its exact price.
    """
    if not prices.tiers:
        return _bound(prices.rates, input_tokens, output_tokens)
    # Rates change only beyond a tier's length: the dearest input of each stretch is the longest one.
    lengths = {tier.input_tokens_above for tier in prices.tiers if 0 < tier.input_tokens_above < input_tokens}
    return max(
        _bound(prices.rates_for(length, tier), length, output_tokens)
        for length in (*lengths, input_tokens)
        for tier in (None, *prices.service_tiers)
    )


def _bound(rates: Rates, input_tokens: int, output_tokens: int) -> int:
    request = -(-rates.get("requests", 0) // UNIT_SIZE)
    return request + _side(rates, _INPUT, input_tokens) + _side(rates, _OUTPUT, output_tokens)


def _side(rates: Rates, dimensions: tuple[str, ...], tokens: int) -> int:
    """Each line of the side may be rounded up, so every line beyond the first adds one."""
    priced = [rates[dimension] for dimension in dimensions if dimension in rates]
    if not priced or not tokens:
        return 0
    return -(-tokens * max(priced) // UNIT_SIZE) + min(len(priced), tokens) - 1
