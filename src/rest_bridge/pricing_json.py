"""What something cost, as every JSON surface says it."""

from __future__ import annotations

import msgspec

from server.domain.money import CURRENCY, UNIT_SIZE, Pricing, usd


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


def pricing_json(pricing: Pricing) -> PricingJson:
    """Amounts as whole nano-dollars, and as dollars in the shortest decimals."""
    lines = tuple(
        PricingLineJson(
            line.dimension,
            line.quantity,
            UNIT_SIZE,
            usd(line.unit_price_nanos),
            line.line_nanos,
            usd(line.line_nanos),
        )
        for line in pricing.lines
    )
    return PricingJson(CURRENCY, pricing.total_nanos, usd(pricing.total_nanos), lines)
