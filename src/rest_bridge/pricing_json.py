"""What something cost, as every JSON surface says it."""

from __future__ import annotations

from typing import Final

import msgspec

from server.domain.money import CURRENCY, UNIT_SIZE, Pricing, usd
from server.domain.pricing import Rates
from server.domain.usage import Usage


class PricingLineJson(msgspec.Struct, frozen=True):
    dimension: str
    quantity: int
    unit_size: int
    unit_price_usd: str
    line_nanos: int
    line_usd: str


class PricingJson(msgspec.Struct, frozen=True):
    currency: str
    total_nanos: int
    total_usd: str
    lines: tuple[PricingLineJson, ...]


FREE: Final = PricingJson(CURRENCY, 0, usd(0), ())
"""What nothing was charged for."""


def usage_pricing(usage: Usage) -> PricingJson:
    """What a generation cost; all zeros where nobody reckoned it."""
    return FREE if usage.pricing is None else pricing_json(usage.pricing)


def pricing_json(pricing: Pricing) -> PricingJson:
    """Amounts as whole nano-dollars, and as dollars in the shortest decimals; unit prices have two at least."""
    lines = tuple(
        PricingLineJson(
            line.dimension,
            line.quantity,
            UNIT_SIZE,
            usd(line.unit_price_nanos, decimals=2),
            line.line_nanos,
            usd(line.line_nanos),
        )
        for line in pricing.lines
    )
    return PricingJson(CURRENCY, pricing.total_nanos, usd(pricing.total_nanos), lines)


def rates_json(rates: Rates) -> dict[str, str]:
    """By dimension, USD for a million units."""
    return {dimension: usd(rate, decimals=2) for dimension, rate in rates.items()}
