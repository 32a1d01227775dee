"""What holds of every price, whatever the rates and however the tokens are split."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from server.domain.money import UNIT_SIZE
from server.domain.pricing import PriceList, PriceTier, price, quantities, upper_bound
from server.domain.usage import Usage

KINDS = (
    "input_text_tokens", "output_text_tokens", "cached_read_text_tokens", "cached_write_text_tokens",
    "reasoning_text_tokens", "input_audio_tokens", "output_audio_tokens", "requests",
)  # fmt: skip
TIERS = ("flex", "priority")

counts = st.integers(0, 400_000)
rate = st.integers(0, 10**13)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """What a provider may say, the impossible included: parts may overlap, or exceed their whole."""
    given_counts = draw(st.tuples(*[counts] * 7))
    return Usage(*given_counts)


@st.composite
def price_lists(draw: st.DrawFn) -> PriceList:
    base = draw(st.fixed_dictionaries(dict.fromkeys(KINDS[:2], rate), optional=dict.fromkeys(KINDS[2:], rate)))
    changes = st.dictionaries(st.sampled_from(sorted(base)), rate)
    tier = st.builds(PriceTier, changes, st.sampled_from((0, 1, 1000, 200_000)), st.sampled_from((None, *TIERS)))
    return PriceList(base, tuple(draw(st.lists(tier, max_size=4))))


tiers = st.sampled_from((None, "default", "unheard-of", *TIERS))


@given(usages(), price_lists(), tiers)
def test_every_token_is_in_exactly_one_line(usage: Usage, prices: PriceList, tier: str | None) -> None:
    split = quantities(usage, prices.rates)
    of_requests = split.pop("requests", 0)
    assert sum(split.values()) == usage.total_tokens
    assert all(quantity >= 0 for quantity in split.values())
    assert of_requests == (1 if usage.total_tokens else 0)
    pricing = price(usage, prices, tier)
    priced = [line for line in pricing.lines if line.dimension != "requests"]
    assert sum(line.quantity for line in priced) == usage.total_tokens
    assert len({line.dimension for line in pricing.lines}) == len(pricing.lines)


@given(usages(), price_lists(), tiers)
def test_each_line_is_rounded_up_by_less_than_one(usage: Usage, prices: PriceList, tier: str | None) -> None:
    pricing = price(usage, prices, tier)
    for line in pricing.lines:
        exact = Fraction(line.quantity * line.unit_price_nanos, UNIT_SIZE)
        assert exact <= line.line_nanos < exact + 1
    assert pricing.total_nanos == sum(line.line_nanos for line in pricing.lines)


@given(usages(), price_lists(), tiers, counts, counts)
def test_no_split_within_the_bound_costs_more(
    usage: Usage, prices: PriceList, tier: str | None, more_input: int, more_output: int
) -> None:
    bound = upper_bound(prices, usage.input_tokens + more_input, usage.output_tokens + more_output)
    assert price(usage, prices, tier).total_nanos <= bound


@given(price_lists(), counts, counts, counts, counts)
def test_a_bound_of_more_tokens_is_not_less(
    prices: PriceList, input_tokens: int, output_tokens: int, more_input: int, more_output: int
) -> None:
    less = upper_bound(prices, input_tokens, output_tokens)
    assert less <= upper_bound(prices, input_tokens + more_input, output_tokens + more_output)


@given(usages(), price_lists(), counts)
def test_more_output_never_costs_less(usage: Usage, prices: PriceList, more: int) -> None:
    text = Usage(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_tokens)
    longer = Usage(usage.input_tokens, usage.output_tokens + more, usage.cached_input_tokens, usage.cache_write_tokens)
    assert price(text, prices).total_nanos <= price(longer, prices).total_nanos
