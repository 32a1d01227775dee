"""What one call of a provider is charged: the price of what it used, within reason."""

from __future__ import annotations

from typing import Final

import structlog
from msgspec.structs import replace

from server.domain.money import NANOS_PER_USD, Pricing
from server.domain.pricing import PriceList, price
from server.domain.usage import Usage

MAX_CHARGE_NANOS: Final = 1_000_000 * NANOS_PER_USD
"""No call can have cost so much: a provider that reports more is mistaken. The ledger holds thousands of these."""

_log: Final = structlog.get_logger(__name__)


def charge(usage: Usage, prices: PriceList, service_tier: str | None = None, *, generation: str, by: str) -> Pricing:
    """What `usage` costs, cut off at MAX_CHARGE_NANOS with a warning; the lines still add up to the total.

    `generation` and `by`, the provider, are for the warning.
    """
    pricing = price(usage, prices, service_tier)
    if pricing.total_nanos <= MAX_CHARGE_NANOS:
        return pricing
    _log.warning(
        "charge_beyond_reason",
        generation=generation,
        provider=by,
        reported_nanos=pricing.total_nanos,
        charged_nanos=MAX_CHARGE_NANOS,
    )
    left, lines = MAX_CHARGE_NANOS, []
    for line in pricing.lines:
        lines.append(replace(line, line_nanos=min(line.line_nanos, left)))
        left -= lines[-1].line_nanos
    return Pricing(tuple(lines), MAX_CHARGE_NANOS)
