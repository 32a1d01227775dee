"""What usage costs, in whole nano-dollars. The numbers are those that other gateways got wrong."""

from __future__ import annotations

import pytest

from server.domain.money import nanos
from server.domain.pricing import PriceList, PriceTier, price, price_quantities, quantities, upper_bound, with_fallbacks
from server.domain.usage import Usage

KINDS = {
    "in": "input_text_tokens",
    "read": "cached_read_text_tokens",
    "write": "cached_write_text_tokens",
    "audio": "input_audio_tokens",
    "out": "output_text_tokens",
    "reason": "reasoning_text_tokens",
    "spoken": "output_audio_tokens",
    "requests": "requests",
}


def rates(**usd: str) -> dict[str, int]:
    """Nano-dollars a million, from USD a million by short names."""
    return {KINDS[kind]: nanos(dollars) for kind, dollars in usd.items()}


def prices(**usd: str) -> PriceList:
    return PriceList(rates(**usd))


def lines(usage: Usage, costs: PriceList, service_tier: str | None = None) -> dict[str, tuple[int, int]]:
    """By short name, the quantity and the nano-dollars of each line."""
    short = {dimension: kind for kind, dimension in KINDS.items()}
    pricing = price(usage, costs, service_tier)
    assert pricing.total_nanos == sum(line.line_nanos for line in pricing.lines)
    assert [line.unit_price_nanos >= 0 for line in pricing.lines]
    return {short[line.dimension]: (line.quantity, line.line_nanos) for line in pricing.lines}


CACHED = Usage(262_960, 1_744, cached_input_tokens=257_955)
TIERED = PriceList(
    rates(**{"in": "2.50", "out": "15", "read": "0.25"}),
    (
        PriceTier(rates(**{"in": "5", "out": "22.50"}), input_tokens_above=200_000),
        PriceTier(rates(**{"in": "7"}), input_tokens_above=500_000),
        PriceTier(rates(**{"in": "1.25", "out": "7.50"}), service_tier="flex"),
        PriceTier(rates(**{"in": "2", "out": "9"}), input_tokens_above=200_000, service_tier="flex"),
        PriceTier(rates(**{"in": "5", "out": "30", "read": "0.50"}), service_tier="priority"),
    ),
)


def test_u6_cached_tokens_are_charged_once_at_the_rate_of_the_cache() -> None:
    got = lines(CACHED, prices(**{"in": "2", "out": "8", "read": "0.50"}))
    assert got == {"in": (5_005, 10_010_000), "read": (257_955, 128_977_500), "out": (1_744, 13_952_000)}
    assert sum(cost for _, cost in got.values()) == 152_939_500


def test_u7_tokens_written_to_the_cache_are_no_plain_input_as_well() -> None:
    usage = Usage(6 + 159_217, 2_745, cache_write_tokens=159_217)
    pricing = price(usage, prices(**{"in": "5", "write": "6.25", "out": "25"}))
    assert pricing.total_nanos == 1_063_761_250
    assert [line.quantity for line in pricing.lines] == [6, 159_217, 2_745]


def test_u9_a_price_of_nothing_is_a_price() -> None:
    pricing = price(Usage(10, 20), prices(**{"in": "0", "out": "0"}))
    assert pricing.total_nanos == 0
    assert [(line.dimension, line.quantity, line.line_nanos) for line in pricing.lines] == [
        ("input_text_tokens", 10, 0),
        ("output_text_tokens", 20, 0),
    ]


@pytest.mark.parametrize(
    ("service_tier", "expected"),
    [
        (None, {"in": (1000, 2_500_000), "out": (100, 1_500_000)}),
        ("default", {"in": (1000, 2_500_000), "out": (100, 1_500_000)}),
        ("on_demand", {"in": (1000, 2_500_000), "out": (100, 1_500_000)}),
        ("flex", {"in": (1000, 1_250_000), "out": (100, 750_000)}),
        ("priority", {"in": (1000, 5_000_000), "out": (100, 3_000_000)}),
        ("scale", {"in": (1000, 2_500_000), "out": (100, 1_500_000)}),
    ],
)
def test_u10_the_tier_that_served_is_the_tier_that_is_charged(
    service_tier: str | None, expected: dict[str, tuple[int, int]]
) -> None:
    assert lines(Usage(1000, 100), TIERED, service_tier) == expected


@pytest.mark.parametrize(
    ("input_tokens", "service_tier", "of_input", "of_output"),
    [
        (200_000, None, "2.50", "15"),
        (200_001, None, "5", "22.50"),
        (500_000, None, "5", "22.50"),
        (500_001, None, "7", "22.50"),
        (200_000, "flex", "1.25", "7.50"),
        (200_001, "flex", "2", "9"),
        (500_001, "flex", "2", "9"),
        (200_001, "priority", "5", "30"),
        (500_001, "priority", "5", "30"),
    ],
)
def test_u11_the_length_of_the_whole_input_decides_for_the_whole_request(
    input_tokens: int, service_tier: str | None, of_input: str, of_output: str
) -> None:
    expected = {
        "in": (input_tokens, input_tokens * nanos(of_input) // 10**6),
        "out": (10, 10 * nanos(of_output) // 10**6),
    }
    assert lines(Usage(input_tokens, 10), TIERED, service_tier) == expected


def test_u11_cached_tokens_are_part_of_the_length() -> None:
    got = lines(Usage(200_001, 0, cached_input_tokens=200_000), TIERED)
    assert got == {"in": (1, 5_000), "read": (200_000, 50_000_000)}


def test_u11_a_reservation_knows_of_length_too() -> None:
    costs = PriceList(TIERED.rates, TIERED.tiers[:1])
    assert upper_bound(prices(**{"in": "2.50", "out": "15"}), 200_000, 10) == 500_150_000
    at, beyond = upper_bound(costs, 200_000, 10), upper_bound(costs, 200_001, 10)
    assert at == 500_150_001  # two rates on the side of the input: the bound of two lines' rounding
    assert beyond == 1_000_005_000 + 225_000 + 1


def test_u12_audio_and_reasoning_are_parts_and_not_beside_the_output() -> None:
    usage = Usage(0, 85, reasoning_tokens=38, output_audio_tokens=47)
    costs = prices(**{"in": "1", "out": "2", "reason": "3", "spoken": "20"})
    assert lines(usage, costs) == {"reason": (38, 114_000), "spoken": (47, 940_000)}
    assert lines(usage, prices(**{"in": "1", "out": "2"})) == {"out": (85, 170_000)}
    assert lines(usage, prices(**{"in": "1", "out": "2", "spoken": "20"})) == {
        "out": (38, 76_000),
        "spoken": (47, 940_000),
    }


@pytest.mark.parametrize(
    ("quantity", "price_usd", "expected"),
    [
        (1, "0.000000001", 1),
        (1, "1", 1000),
        (3, "0.0003", 1),
        (9, "0.20", 1800),
        (10**6, "0.15", 150_000_000),
        (0, "1", 0),
    ],
)
def test_every_line_is_rounded_up_to_a_whole_nano_dollar(quantity: int, price_usd: str, expected: int) -> None:
    assert price(Usage(quantity, 0), prices(**{"in": price_usd, "out": "1"})).total_nanos == expected


def test_lines_are_rounded_one_by_one() -> None:
    pricing = price(Usage(1, 1), prices(**{"in": "0.0001", "out": "0.0001", "requests": "1"}))
    assert [(line.dimension, line.line_nanos) for line in pricing.lines] == [
        ("input_text_tokens", 1),
        ("output_text_tokens", 1),
        ("requests", 1000),
    ]


@pytest.mark.parametrize(
    "usage",
    [Usage(10, 5, cached_input_tokens=99),
     Usage(10, 5, input_audio_tokens=8, cached_input_tokens=8, cache_write_tokens=8),
     Usage(10, 5, reasoning_tokens=9, output_audio_tokens=9)],
)  # fmt: skip
def test_parts_beyond_the_whole_are_not_charged(usage: Usage) -> None:
    split = quantities(usage, rates(**dict.fromkeys(KINDS, "1")))
    assert sum(split.get(KINDS[kind], 0) for kind in ("in", "read", "write", "audio")) == 10
    assert sum(split.get(KINDS[kind], 0) for kind in ("out", "reason", "spoken")) == 5


def test_nothing_used_and_nothing_priced_cost_nothing() -> None:
    assert price(Usage(0, 0), prices(**{"in": "1", "out": "1", "requests": "1"})).lines == ()
    assert price(Usage(5, 5), PriceList()).total_nanos == 0
    assert upper_bound(PriceList(), 10**6, 10**6) == 0


def test_quantities_without_a_rate_of_their_own_count_as_what_they_are_a_kind_of() -> None:
    used = {"cached_read_text_tokens": 4, "reasoning_text_tokens": 2, "web_searches": 3}
    known = rates(**{"in": "1", "out": "2"}) | {"web_searches": nanos("10000")}
    counted = with_fallbacks(used, known)
    assert counted == {"input_text_tokens": 4, "output_text_tokens": 2, "web_searches": 3}
    assert price_quantities(counted, known).total_nanos == 4_000 + 4_000 + 30_000_000


def test_the_bound_is_the_price_where_each_side_has_one_rate() -> None:
    costs = prices(**{"in": "0.15", "out": "0.60", "requests": "5"})
    assert upper_bound(costs, 7, 3) == price(Usage(7, 3), costs).total_nanos


def test_the_bound_holds_where_a_long_input_is_cheaper() -> None:
    costs = PriceList(rates(**{"in": "4", "out": "1"}), (PriceTier(rates(**{"in": "1"}), input_tokens_above=100),))
    assert price(Usage(100, 0), costs).total_nanos == 400_000
    assert price(Usage(150, 0), costs).total_nanos == 150_000
    assert upper_bound(costs, 150, 0) == 400_000
