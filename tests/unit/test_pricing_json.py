"""What something cost, as JSON and as a message."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.pricing_json import pricing_json, usage_pricing
from server.domain.money import Pricing, PricingLine, usd
from server.domain.usage import Usage
from server.rpc.convert import encode_usage
from tests.fakes.rest import PRICING, PRICING_JSON

FREE = {"currency": "USD", "total_nanos": 0, "total_usd": "0", "lines": []}


def test_the_documented_shape() -> None:
    assert msgspec.json.decode(msgspec.json.encode(pricing_json(PRICING))) == PRICING_JSON


def test_where_nobody_reckoned_everything_is_zero() -> None:
    assert msgspec.json.decode(msgspec.json.encode(usage_pricing(Usage(1, 2)))) == FREE
    message = encode_usage(Usage(1, 2)).pricing
    assert (message.currency, message.total_nanos, len(message.lines)) == ("USD", 0, 0)


@pytest.mark.parametrize(
    ("nanos", "price", "amount"),
    [
        (0, "0.00", "0"),
        (1, "0.000000001", "0.000000001"),
        (200_000_000, "0.20", "0.2"),
        (150_000_000, "0.15", "0.15"),
        (75_000_000, "0.075", "0.075"),
        (5_000_000_000, "5.00", "5"),
        (12_345_678_901, "12.345678901", "12.345678901"),
    ],
)
def test_unit_prices_have_two_decimals_at_least_and_amounts_the_fewest(nanos: int, price: str, amount: str) -> None:
    told = pricing_json(Pricing((PricingLine("requests", 1, nanos, nanos),), nanos))
    assert (told.lines[0].unit_price_usd, told.lines[0].line_usd, told.total_usd) == (price, amount, amount)


@given(nanos=st.integers(-(2**63), 2**63), decimals=st.integers(0, 9))
def test_dollars_are_exact_however_they_are_written(nanos: int, decimals: int) -> None:
    text = usd(nanos, decimals=decimals)
    assert text.startswith("-") == (nanos < 0)
    whole, _, fraction = text.lstrip("-").partition(".")
    assert int(whole) * 10**9 + int(fraction.ljust(9, "0")) == abs(nanos)
    assert len(fraction) == decimals or (len(fraction) > decimals and not fraction.endswith("0"))
