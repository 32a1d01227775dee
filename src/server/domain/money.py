"""Money: whole nano-dollars, everywhere. No amount is ever a float."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

CURRENCY: Final = "USD"
NANOS_PER_USD: Final = 1_000_000_000
UNIT_SIZE: Final = 1_000_000
"""Units of a dimension that a unit price is for."""

_DECIMALS: Final = 9


class InexactAmount(ValueError):
    """The text is not an amount that whole nano-dollars can hold. The message says what can."""


class PricingLine(msgspec.Struct, frozen=True):
    """What one dimension of usage cost: `quantity` units at `unit_price_nanos` nano-dollars a million of them."""

    dimension: str
    quantity: int
    unit_price_nanos: int
    line_nanos: int


class Pricing(msgspec.Struct, frozen=True):
    """What a generation cost; `total_nanos` is the sum of the lines."""

    lines: tuple[PricingLine, ...] = ()
    total_nanos: int = 0


def usd(nanos: int, *, decimals: int = 0) -> str:
    """Dollars as the shortest plain decimal with at least so many decimals: 4200 is `0.0000042`."""
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, fraction = divmod(nanos, NANOS_PER_USD)
    digits = f"{fraction:09d}".rstrip("0").ljust(decimals, "0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def nanos(dollars: str | int | Decimal) -> int:
    """Exactly as many nano-dollars as a decimal of dollars says. Raises InexactAmount."""
    try:
        amount = Decimal(dollars)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise InexactAmount('must be dollars as a plain decimal, such as "5.00"')
    scaled = amount.scaleb(_DECIMALS)
    if scaled != (exact := int(scaled)):
        raise InexactAmount(f"{dollars} has more than nine decimals, the smallest amount is 0.000000001")
    return exact
