"""What a team has and what it used, read from the real databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.credits import ActivityPage, ActivityQuery, ActivityRow, Credits
from server.storage.credits import SqlCredits
from server.storage.database import Database
from server.storage.tables import daily_usage, wallets
from server.storage.teams import Team, Teams
from tests.integration.databases import ManualClock

DAY = 20_779


@pytest.fixture
async def acme(database: Database, clock: ManualClock) -> Team:
    return await Teams(database, clock, UuidV7()).create("acme")


@pytest.fixture
async def other(database: Database, clock: ManualClock) -> Team:
    return await Teams(database, clock, UuidV7()).create("other")


def used(team: Team, cost: int, **fields: Any) -> dict[str, Any]:
    return {
        "team_id": team.id, "day": DAY, "key_id": "k1", "model_id": "a/m", "endpoint": "chat", "provider": "acme",
        "requests": 1, "input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 2, "cost_nanos": cost, **fields,
    }  # fmt: skip


async def store(database: Database, *rows: dict[str, Any], **wallet_of: Any) -> None:
    async def work(connection: AsyncConnection) -> None:
        if rows:
            await connection.execute(insert(daily_usage), list(rows))
        for values in wallet_of.values():
            await connection.execute(insert(wallets).values(values))

    await database.write(work)


async def test_credit_and_recent_use_of_one_team(database: Database, acme: Team, other: Team) -> None:
    await store(
        database,
        used(acme, 100),
        used(acme, 20, key_id="k2"),
        used(acme, 3, day=DAY - 29),
        used(acme, 10_000, day=DAY - 30),
        used(other, 500_000),
        wallet={"team_id": acme.id, "balance_nanos": 7_000_000_000, "reserved_nanos": 1_500_000_000},
    )
    reader = SqlCredits(database)
    assert await reader.credits(acme.id, since_day=DAY - 29) == Credits(7_000_000_000, 1_500_000_000, 123, 3)
    assert await reader.credits(other.id, since_day=DAY - 29) == Credits(0, 0, 500_000, 1)
    assert await reader.credits("nobody", since_day=0) == Credits(0, 0, 0, 0)


async def test_a_wallet_without_any_use(database: Database, acme: Team) -> None:
    await store(database, wallet={"team_id": acme.id, "balance_nanos": -5, "reserved_nanos": 0})
    assert await SqlCredits(database).credits(acme.id, since_day=DAY) == Credits(-5, 0, 0, 0)


async def test_rows_by_day_model_endpoint_and_provider(database: Database, acme: Team, other: Team) -> None:
    await store(
        database,
        used(acme, 1, key_id="k1"),
        used(acme, 2, key_id="k2", requests=4, input_tokens=1, output_tokens=1, reasoning_tokens=0),
        used(acme, 30, model_id="a/l"),
        used(acme, 400, endpoint="responses"),
        used(acme, 5000, provider=""),
        used(acme, 60_000, day=DAY - 1),
        used(acme, 700_000, day=DAY - 2),
        used(acme, 8_000_000, day=DAY + 1),
        used(other, 90_000_000),
    )
    page = await SqlCredits(database).activity(acme.id, ActivityQuery(DAY - 1, DAY))
    one = {"requests": 1, "input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 2}
    assert page == ActivityPage(
        rows=(
            ActivityRow(DAY, "a/l", "chat", "acme", **one, cost_nanos=30),
            ActivityRow(DAY, "a/m", "chat", "", **one, cost_nanos=5000),
            ActivityRow(DAY, "a/m", "chat", "acme", 5, 11, 6, 2, 3),
            ActivityRow(DAY, "a/m", "responses", "acme", **one, cost_nanos=400),
            ActivityRow(DAY - 1, "a/m", "chat", "acme", **one, cost_nanos=60_000),
        ),
        total=5,
        total_cost_nanos=65_433,
    )


@pytest.mark.parametrize(
    ("filters", "cost"),
    [
        ({}, 11_111),
        ({"models": {"a/l"}}, 10),
        ({"models": {"a/l", "a/m"}}, 11_111),
        ({"providers": {"backup"}}, 100),
        ({"endpoints": {"responses"}}, 1000),
        ({"key_ids": {"k2"}}, 10_000),
        ({"key_ids": {"k2"}, "providers": {"backup"}}, 0),
        ({"models": {"' OR 1=1 --"}}, 0),
    ],
)
async def test_filters(database: Database, acme: Team, filters: dict[str, set[str]], cost: int) -> None:
    await store(
        database,
        used(acme, 1),
        used(acme, 10, model_id="a/l"),
        used(acme, 100, provider="backup"),
        used(acme, 1000, endpoint="responses"),
        used(acme, 10_000, key_id="k2"),
    )
    query = ActivityQuery(DAY, DAY, **{name: frozenset(values) for name, values in filters.items()})  # type: ignore[arg-type]
    page = await SqlCredits(database).activity(acme.id, query)
    assert page.total_cost_nanos == cost == sum(row.cost_nanos for row in page.rows)
    assert page.total == len(page.rows)


async def test_pages_hold_each_row_once_and_totals_are_of_all(database: Database, acme: Team) -> None:
    await store(database, *(used(acme, 1, day=DAY - number // 3, model_id=f"a/m{number % 3}") for number in range(10)))
    reader, seen = SqlCredits(database), []
    for offset in (0, 4, 8, 12):
        page = await reader.activity(acme.id, ActivityQuery(DAY - 9, DAY, limit=4, offset=offset))
        assert (page.total, page.total_cost_nanos) == (10, 10)
        seen += [(row.day, row.model_id) for row in page.rows]
    assert seen == sorted(seen, key=lambda row: (-row[0], row[1]))
    assert len(set(seen)) == len(seen) == 10


async def test_nothing_used_is_an_empty_page(database: Database, acme: Team) -> None:
    page = await SqlCredits(database).activity(acme.id, ActivityQuery(DAY - 29, DAY, offset=2**32 - 1))
    assert page == ActivityPage((), 0, 0)
