"""Figures that no column holds, and figures that nobody can have used: one bad one stops nobody else's money."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from server.domain.credits import ActivityQuery
from server.domain.errors import GatewayError, Reason
from server.domain.pricing import PriceList, price
from server.domain.usage import Usage
from server.pipeline.charge import MAX_CHARGE_NANOS, charge
from server.storage.credits import SqlCredits
from server.storage.database import Database
from server.storage.tables import daily_usage, generations
from tests.fakes.chat_wire import chat_chunks, chat_unary, text_chunks, usage
from tests.integration.databases import ManualClock
from tests.integration.ledger_world import (
    CENT,
    USD,
    Request,
    entries,
    make_teams,
    open_reservations,
    opened,
    problems,
    rows,
    wallet,
)
from tests.integration.money import CREDIT, till

ABSURD = 9 * 10**15
"""Tokens; as many as a provider's figure may say."""
PRICES = PriceList({"input_text_tokens": 150_000_000, "output_text_tokens": 10_000_000_000})
"""150 and 10,000 nano-dollars a token."""


@pytest.mark.parametrize("charge", [2**63 - 1, 2**63, 2**200])
async def test_a_charge_that_the_ledger_cannot_hold_ends_its_reservation_and_nobody_elses(
    database: Database, clock: ManualClock, charge: int
) -> None:
    await make_teams(database, clock, 1000 * USD)
    async with opened(database, clock) as ledger:
        good, bad = [Request() for _ in range(5)], Request()
        await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in (*good, bad)))
        with capture_logs() as logs:
            async with asyncio.timeout(30):
                outcomes = await asyncio.gather(
                    *(
                        ledger.settle(request.settlement(charge if request is bad else 7))
                        for request in (*good[:3], bad, *good[3:])
                    ),
                    return_exceptions=True,
                )
        assert [getattr(outcome, "reason", None) for outcome in outcomes] == [*[None] * 3, Reason.INTERNAL, None, None]
        assert {line["suffix"] for line in logs if line["log_level"] == "error"} == {bad.suffix}
        late = Request()
        await ledger.reserve(late.hold(CENT))
        await ledger.settle(late.settlement(7))
    assert await entries(database, bad) == [("reserve", 0, CENT, None), ("void", 0, -CENT, None)]
    assert await wallet(database) == (1000 * USD - 42, 0)
    assert await open_reservations(database) == 0
    assert {row["suffix"] for row in await rows(database, generations)} == {one.suffix for one in (*good, late)}
    assert await problems(database) == []


@pytest.mark.parametrize(
    ("figures", "is_recorded"), [({"usage": Usage(2**63, 20)}, True), ({"status_code": 2**63}, False)]
)
async def test_figures_that_no_column_holds_keep_no_money_from_being_settled(
    database: Database, clock: ManualClock, figures: dict[str, Any], is_recorded: bool
) -> None:
    await make_teams(database, clock, 1000 * USD)
    async with opened(database, clock) as ledger:
        good, bad = [Request() for _ in range(5)], Request()
        await asyncio.gather(*(ledger.reserve(request.hold(CENT)) for request in (*good, bad)))
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(
                *(
                    ledger.settle(request.settlement(7, **(figures if request is bad else {})))
                    for request in (*good[:3], bad, *good[3:])
                ),
                return_exceptions=True,
            )
        assert sum(outcome is None for outcome in outcomes) == 5 + is_recorded
        late = Request()
        await ledger.reserve(late.hold(CENT))
        await ledger.settle(late.settlement(None))
    assert await wallet(database) == (1000 * USD - 42, 0)
    assert await open_reservations(database) == 0
    recorded = {row["suffix"] for row in await rows(database, generations)}
    assert (bad.suffix in recorded) is is_recorded
    assert await problems(database) == []


async def test_a_day_adds_up_however_often_a_provider_is_mistaken(database: Database, clock: ManualClock) -> None:
    """`:free` models go on being used."""
    await make_teams(database, clock, 0)
    used = Usage(2**53 - 1, 2**53 - 1, reasoning_tokens=2**53 - 1)
    async with opened(database, clock) as ledger:
        settlements = [Request().settlement(None, held=False, usage=used) for _ in range(1100)]
        async with asyncio.timeout(60):
            await asyncio.gather(*map(ledger.settle, settlements))
    [day] = await rows(database, daily_usage)
    assert day["requests"] == 1100
    assert 0 < day["input_tokens"] == day["output_tokens"] == day["reasoning_tokens"] < 2**63
    assert all(isinstance(day[name], int) for name in ("input_tokens", "output_tokens", "reasoning_tokens"))


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT CAST(:number AS bigint)", {"number": 2**63}),
        ("SELECT CAST(:number AS bigint) * 2", {"number": 2**62}),
        ("SELECT 1 / CAST(:number AS bigint)", {"number": 0}),
        ("SELECT CAST(:text AS bigint)", {"text": "many"}),
        ("SELECT CAST(:text AS text)", {"text": "\0"}),
    ],
)
async def test_data_that_postgresql_does_not_take_is_no_outage(
    postgres_url: str, statement: str, values: dict[str, Any]
) -> None:
    opened = Database.open(postgres_url)

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(statement), values)

    try:
        with capture_logs() as logs:
            for use in (opened.read, opened.write):
                with pytest.raises(exc.DBAPIError):
                    await use(work)
        assert (logs, opened.is_up, opened.failures) == ([], True, 0)
    finally:
        await opened.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_provider_that_reports_absurd_usage_is_charged_within_reason(database: Database, stream: bool) -> None:
    async with till(database) as counter:
        counter.current = counter.catalog(PRICES)
        reported = usage(9, ABSURD)
        counter.first.script(chat_chunks(text_chunks("hi", usage_=reported)) if stream else chat_unary(usage_=reported))
        call = counter.call()
        with capture_logs() as logs:
            async with asyncio.timeout(60):
                await counter.run(call, counter.request(stream=stream))
                record = await counter.settled(call)
        assert record.usage is not None
        assert record.usage.output_tokens == ABSURD
        assert record.success
        pricing = record.usage.pricing
        assert pricing is not None
        assert sum(line.line_nanos for line in pricing.lines) == pricing.total_nanos == record.cost_nanos
        assert record.cost_nanos == MAX_CHARGE_NANOS == await counter.spent()
        assert await counter.kinds(call) == ["reserve", "settle", "adjust"]
        assert [
            (line["log_level"], line["generation"], line["provider"])
            for line in logs
            if line["event"] == "charge_beyond_reason"
        ] == [("warning", record.id, "first")]
        assert await counter.wallet() == (CREDIT - MAX_CHARGE_NANOS, 0)
        with pytest.raises(GatewayError) as refused:
            await counter.run(counter.call(), counter.request())
        assert refused.value.reason is Reason.INSUFFICIENT_FUNDS
        await counter.top_up(MAX_CHARGE_NANOS)
        counter.first.script(chat_unary())
        later = counter.call()
        await counter.run(later, counter.request(stream=False))
        assert (await counter.settled(later)).cost_nanos == 9 * 150 + 3 * 10_000
    assert await problems(database) == []


counts = st.integers(0, 2**53 - 1)


@given(st.builds(Usage, counts, counts, units=st.just({}) | st.builds(lambda n: {"video_seconds": n}, counts)), counts)
def test_a_charge_is_its_price_within_reason(used: Usage, rate: int) -> None:
    prices = PriceList({"input_text_tokens": rate, "output_text_tokens": 3, "video_seconds": rate})
    whole = price(used, prices)
    charged = charge(used, prices, generation="gen_x", by="first")
    assert charged.total_nanos == min(whole.total_nanos, MAX_CHARGE_NANOS)
    assert charged.total_nanos == sum(line.line_nanos for line in charged.lines)
    assert [line.quantity for line in charged.lines] == [line.quantity for line in whole.lines]
    assert all(0 <= line.line_nanos <= known.line_nanos for line, known in zip(charged.lines, whole.lines, strict=True))


async def test_a_filter_that_no_row_can_match_finds_none(database: Database) -> None:
    """PostgreSQL's texts have no NUL."""
    query = ActivityQuery(0, 30_000, models=frozenset({"a\0b"}), providers=frozenset({"first", "\0"}))
    assert (await SqlCredits(database).activity("team", query)).total == 0
    assert (await SqlCredits(database).activity("team", ActivityQuery(0, 30_000, offset=2**32 - 1))).total == 0
