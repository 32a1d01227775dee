"""What is charged by kind of token, length of the input and service tier, unary and streaming alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from server.domain.errors import GatewayError, Reason
from server.domain.money import nanos
from server.domain.pricing import PriceList, PriceTier
from server.storage.database import Database
from tests.fakes.chat_wire import chat_chunks, chat_unary, finish_chunk, role_chunk, text_chunk, usage, usage_chunk
from tests.integration.money import Till, till

IN, OUT, READ, WRITE, REASON, SPOKEN = (
    "input_text_tokens", "output_text_tokens", "cached_read_text_tokens", "cached_write_text_tokens",
    "reasoning_text_tokens", "output_audio_tokens",
)  # fmt: skip
PLAIN = {IN: nanos("0.15"), OUT: nanos("0.60")}
TIERED = PriceList(
    PLAIN,
    (
        PriceTier({IN: nanos("0.30")}, input_tokens_above=200_000),
        PriceTier({IN: nanos("0.075"), OUT: nanos("0.30")}, service_tier="flex"),
        PriceTier({IN: nanos("0.30"), OUT: nanos("1.20")}, service_tier="priority"),
    ),
)


def parts(prompt: int, completion: int, **details: int) -> dict[str, Any]:
    """A usage object; `details` may be of either side."""
    counted = usage(prompt, completion)
    for name, count in details.items():
        side = (
            "completion_tokens_details"
            if name in ("reasoning_tokens", "output_audio_tokens")
            else "prompt_tokens_details"
        )
        counted[side][name.removeprefix("output_")] = count
    return counted


@pytest.fixture
async def counter(database: Database) -> AsyncIterator[Till]:
    async with till(database) as counter:
        yield counter


async def charged(
    counter: Till, prices: PriceList, counted: dict[str, Any], stream: bool, **said: Any
) -> dict[str, int]:
    """By dimension the quantities that were charged, once what they cost has left the wallet."""
    counter.current = counter.catalog(prices)
    if stream:
        chunks = [role_chunk(), text_chunk("Hello"), finish_chunk(), usage_chunk(counted, **said)]
        counter.first.script(chat_chunks(chunks))
    else:
        counter.first.script(chat_unary(usage_=counted, **said))
    call = counter.call()
    await counter.run(call, counter.request(stream=stream))
    record = await counter.settled(call)
    assert record.usage is not None
    assert record.usage.pricing is not None
    pricing = record.usage.pricing
    assert await counter.spent() == record.cost_nanos == pricing.total_nanos
    assert sum(line.line_nanos for line in pricing.lines) == pricing.total_nanos
    return {line.dimension: line.quantity for line in pricing.lines} | {"nanos": pricing.total_nanos}


both_ways = pytest.mark.parametrize("stream", [True, False])


@both_ways
async def test_u6_cached_tokens_have_one_line(counter: Till, stream: bool) -> None:
    prices = PriceList({IN: nanos("2"), READ: nanos("0.50"), OUT: nanos("8")})
    got = await charged(counter, prices, parts(262_960, 1_744, cached_tokens=257_955), stream)
    assert got == {IN: 5_005, READ: 257_955, OUT: 1_744, "nanos": 152_939_500}


@both_ways
async def test_u7_written_tokens_have_one_line(counter: Till, stream: bool) -> None:
    prices = PriceList({IN: nanos("5"), WRITE: nanos("6.25"), OUT: nanos("25")})
    got = await charged(counter, prices, parts(159_223, 2_745, cache_write_tokens=159_217), stream)
    assert got == {IN: 6, WRITE: 159_217, OUT: 2_745, "nanos": 1_063_761_250}


@both_ways
@pytest.mark.parametrize(
    ("tier", "cost"), [("default", 13_500), ("flex", 6_750), ("priority", 27_000), ("scale", 13_500), (None, 13_500)]
)
async def test_u10_the_tier_that_served_is_charged(counter: Till, stream: bool, tier: str | None, cost: int) -> None:
    got = await charged(counter, TIERED, parts(10, 20), stream, service_tier=tier)
    assert got["nanos"] == cost


async def test_u10_a_tier_without_a_price_is_not_asked_for(counter: Till) -> None:
    counter.current = counter.catalog(TIERED)
    asked = msgspec.structs.replace(
        counter.request(),
        parameters={"service_tier": "service_tier"},
        passthrough={"service_tier": msgspec.Raw(b'"scale"')},
    )
    with pytest.raises(GatewayError) as refused:
        await counter.run(counter.call(), asked)
    assert (refused.value.reason, refused.value.param) == (Reason.UNSUPPORTED_PARAMETER, "service_tier")
    assert not counter.first.requests
    assert await counter.spent() == 0


@both_ways
@pytest.mark.parametrize(("prompt", "cost"), [(200_000, 30_000_000), (200_001, 60_000_300)])
async def test_u11_the_rate_changes_exactly_at_the_length(counter: Till, stream: bool, prompt: int, cost: int) -> None:
    got = await charged(counter, TIERED, parts(prompt, 0, cached_tokens=1000), stream)
    assert got == {IN: prompt, "nanos": cost}


@both_ways
async def test_u12_parts_of_the_output_are_charged_once(counter: Till, stream: bool) -> None:
    prices = PriceList({**PLAIN, REASON: nanos("1"), SPOKEN: nanos("20")})
    got = await charged(counter, prices, parts(0, 85, reasoning_tokens=38, output_audio_tokens=47), stream)
    assert got == {REASON: 38, SPOKEN: 47, "nanos": 38_000 + 940_000}
