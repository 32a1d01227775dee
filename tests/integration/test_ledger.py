"""The ledger on both databases: what is held, how it ends, and that it ends once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import LimitReset, Outcome, SpendLimit
from server.domain.money import Pricing, PricingLine
from server.domain.record import AttemptRecord, GenerationRecord, StoredContent
from server.domain.usage import Usage
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.ledger_apply import Operation, apply
from server.storage.sweeper import Sweeper
from server.storage.tables import daily_usage, generation_contents, generations, idempotency_keys, reservations
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

DAY_S = 86_400


@pytest.fixture
async def ledger(database: Database, clock: ManualClock) -> AsyncIterator[SqlLedger]:
    """Of a team with 5 USD."""
    await make_teams(database, clock, 5 * USD)
    async with opened(database, clock) as ledger:
        yield ledger


async def refused(ledger: SqlLedger, request: Request, nanos: int, limit: SpendLimit | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await ledger.reserve(request.hold(nanos, limit))
    return caught.value


async def test_a_hold_is_on_disk_before_the_request_goes_on(ledger: SqlLedger, database: Database) -> None:
    request = Request()
    await ledger.reserve(request.hold(40 * CENT))
    assert await wallet(database) == (5 * USD, 40 * CENT)
    assert await entries(database, request) == [("reserve", 0, 40 * CENT, None)]
    [open_one] = await rows(database, reservations)
    assert (open_one["id"], open_one["worker_id"]) == (request.suffix, "worker")
    assert msgspec.json.decode(open_one["opening_json"], type=GenerationRecord) == request.opening


@pytest.mark.parametrize(
    ("charge", "balance", "ends"),
    [
        (None, 5 * USD, [("void", 0, -40 * CENT, None)]),
        (0, 5 * USD, [("settle", 0, -40 * CENT, None)]),
        (1, 5 * USD - 1, [("settle", -1, -40 * CENT, None)]),
        (40 * CENT, 460 * CENT, [("settle", -40 * CENT, -40 * CENT, None)]),
        (
            41 * CENT,
            459 * CENT,
            [("settle", -40 * CENT, -40 * CENT, None), ("adjust", -1 * CENT, 0, "overage")],
        ),
    ],
)
async def test_it_ends_once_and_the_second_time_changes_nothing(
    ledger: SqlLedger, database: Database, charge: int | None, balance: int, ends: list[Any]
) -> None:
    request = Request()
    await ledger.reserve(request.hold(40 * CENT))
    for _ in range(3):
        await ledger.settle(request.settlement(charge))
        assert await entries(database, request) == [("reserve", 0, 40 * CENT, None), *ends]
        assert await wallet(database) == (balance, 0)
    assert await open_reservations(database) == 0
    [used] = await rows(database, daily_usage)
    assert (used["requests"], used["cost_nanos"]) == (1, charge or 0)
    assert await problems(database) == []


async def test_a_settlement_handed_in_twice_at_once_counts_once(ledger: SqlLedger, database: Database) -> None:
    request = Request()
    await ledger.reserve(request.hold(40 * CENT))
    await asyncio.gather(*(ledger.settle(request.settlement(CENT)) for _ in range(10)))
    assert await wallet(database) == (499 * CENT, 0)
    assert (await rows(database, daily_usage))[0]["requests"] == 1


async def test_u5_a_request_with_two_billed_attempts_is_one_settlement(ledger: SqlLedger, database: Database) -> None:
    """What both attempts cost stands in one pricing; a second settle of the same changes nothing."""
    request = Request()
    lines = (PricingLine("input_text_tokens", 15, 100_000, 2), PricingLine("output_text_tokens", 30, 100_000, 3))
    attempts = tuple(
        AttemptRecord(provider, "test-1", status, None, 1.0, billed=True, cost_nanos=cost)
        for provider, status, cost in (("first", 500, 2), ("second", 200, 3))
    )
    usage = Usage(15, 30, pricing=Pricing(lines, 5))
    await ledger.reserve(request.hold(CENT))
    for _ in range(2):
        await ledger.settle(request.settlement(5, usage=usage, attempts=attempts, provider="second"))
    [row] = await rows(database, generations)
    kept = msgspec.json.decode(row["record_json"], type=GenerationRecord)
    assert (kept.usage, kept.attempts) == (usage, attempts)
    assert await wallet(database) == (5 * USD - 5, 0)
    [used] = await rows(database, daily_usage)
    assert (used["requests"], used["cost_nanos"], used["provider"]) == (1, 5, "second")
    assert await problems(database) == []


async def test_a_generation_without_a_hold_is_recorded_once(ledger: SqlLedger, database: Database) -> None:
    request, refused_one = Request(), Request()
    for charge in (None, 0, None):
        await ledger.settle(request.settlement(charge, held=False))
        await ledger.settle(refused_one.settlement(None, held=False, attempts=(), success=False, provider=None))
    assert [row["suffix"] for row in await rows(database, generations)] == [request.suffix, refused_one.suffix]
    [used] = await rows(database, daily_usage)
    assert used == {
        "team_id": "team",
        "day": 1_800_000_000 // DAY_S,
        "key_id": "key",
        "model_id": "a/b",
        "endpoint": "chat.completions",
        "provider": "first",
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "cost_nanos": 0,
    }
    assert await wallet(database) == (5 * USD, 0)


async def test_a_settlement_after_its_reservation_expired(
    ledger: SqlLedger, database: Database, clock: ManualClock
) -> None:
    """The cost counts, once; the record of the sweeper gives way to the real one."""
    costly, void, empty = Request(), Request(), Request()
    for request in (costly, void, empty):
        await ledger.reserve(request.hold(40 * CENT))
    clock.advance(31)
    assert await Sweeper(database, clock, "other", lease_s=30).sweep() == 3
    assert await wallet(database) == (5 * USD, 0)
    kept = [msgspec.json.decode(row["record_json"], type=GenerationRecord) for row in await rows(database, generations)]
    assert {(one.status_code, one.success, one.error_code, one.cost_nanos) for one in kept} == {
        (500, False, "gateway_restarted", 0)
    }
    for _ in range(2):
        await ledger.settle(costly.settlement(50 * CENT))
        await ledger.settle(void.settlement(None))
        await ledger.settle(empty.settlement(0))
    assert await entries(database, costly) == [
        ("reserve", 0, 40 * CENT, None),
        ("expire", 0, -40 * CENT, None),
        ("adjust", -50 * CENT, 0, "late settlement"),
    ]
    assert await wallet(database) == (450 * CENT, 0)
    assert all(row["success"] for row in await rows(database, generations))
    [used] = await rows(database, daily_usage)
    assert (used["requests"], used["cost_nanos"]) == (3, 50 * CENT)
    assert await problems(database) == []


async def test_what_belongs_to_a_settlement_is_written_with_it(ledger: SqlLedger, database: Database) -> None:
    request = Request()

    async def begin(connection: AsyncConnection) -> None:
        values = {"team_id": "team", "key": "once", "fingerprint": b"", "suffix": request.suffix, "worker_id": "w"}
        await connection.execute(insert(idempotency_keys).values(**values, expires_at=2**40))

    await database.write(begin)
    await ledger.reserve(request.hold(CENT))
    content = StoredContent("/v1/chat/completions", b'{"model":"a/b"}', b"{}", days=7)
    outcome = Outcome("once", 200, (("content-type", "application/json"),), b"{}")
    await ledger.settle(request.settlement(1, content=content, outcome=outcome))
    [kept] = await rows(database, generation_contents)
    assert kept["expires_at"] == 1_800_000_000 + 7 * DAY_S
    assert (kept["path"], kept["request_json"], kept["reply_json"]) == (content.path, content.request, content.reply)
    [answered] = await rows(database, idempotency_keys)
    assert (answered["status"], answered["body"]) == (200, b"{}")


@pytest.mark.parametrize(
    ("credit", "nanos", "passes"),
    [
        (0, 0, False),
        (USD - 1, 0, False),
        (USD - 1, 1, False),
        (USD, 0, True),
        (USD, USD, True),
        (USD, USD + 1, False),
        (3 * USD, 3 * USD, True),
        (3 * USD, 3 * USD + 1, False),
    ],
)
async def test_what_must_be_available(
    database: Database, clock: ManualClock, credit: int, nanos: int, passes: bool
) -> None:
    await make_teams(database, clock, credit)
    async with opened(database, clock) as ledger:
        if passes:
            await ledger.reserve(Request().hold(nanos))
            assert await wallet(database) == (credit, nanos)
            return
        error = await refused(ledger, Request(), nanos)
    assert error.reason is Reason.INSUFFICIENT_FUNDS
    assert "wallet top-up" in error.description
    assert ":free" in error.description
    assert await wallet(database) == (credit, 0)
    assert await open_reservations(database) == 0


async def test_a_refusal_says_what_there_is_and_what_is_needed(ledger: SqlLedger) -> None:
    error = await refused(ledger, Request(), 7 * USD + 1)
    assert "has 5 USD available" in error.description
    assert "needs 7.000000001 USD" in error.description


async def test_b2_the_rich_reserve_too(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 10_000 * USD)
    async with opened(database, clock) as ledger:
        request = Request()
        await ledger.reserve(request.hold(CENT))
    assert await entries(database, request) == [("reserve", 0, CENT, None)]


@pytest.mark.parametrize("reset", [None, "daily", "weekly", "monthly"])
async def test_a_key_spends_no_more_than_its_limit(
    ledger: SqlLedger, database: Database, clock: ManualClock, reset: LimitReset | None
) -> None:
    limit = SpendLimit(50 * CENT, reset)
    spent, open_one = Request(), Request()
    await ledger.reserve(spent.hold(40 * CENT, limit))
    await ledger.settle(spent.settlement(20 * CENT))
    await ledger.reserve(open_one.hold(20 * CENT, limit))
    error = await refused(ledger, Request(), 10 * CENT + 1, limit)
    assert error.reason is Reason.KEY_LIMIT_REACHED
    assert "may spend 0.5 USD" in error.description
    assert "0.4 USD is spent or reserved" in error.description
    await ledger.reserve(Request().hold(10 * CENT, limit))
    await ledger.reserve(Request(key="other").hold(USD))
    if reset is not None:
        clock.advance(32 * DAY_S)
        await ledger.reserve(Request().hold(20 * CENT, limit))
    await refused(ledger, Request(), 1, limit)


async def test_requests_of_one_group_count_against_the_same_limit(ledger: SqlLedger, database: Database) -> None:
    limit = SpendLimit(50 * CENT, "daily")
    outcomes = await asyncio.gather(
        *(ledger.reserve(Request().hold(20 * CENT, limit)) for _ in range(20)), return_exceptions=True
    )
    assert outcomes.count(None) == 2
    assert await wallet(database) == (5 * USD, 40 * CENT)


@pytest.mark.parametrize(
    ("held", "charge", "passes"),
    [(True, None, True), (True, 20 * CENT, True), (True, 20 * CENT + 1, False), (False, 40 * CENT, False)],
    ids=["void", "charged", "charged too much", "without a hold"],
)
async def test_what_ends_in_a_group_is_given_back_to_its_key_at_once(
    ledger: SqlLedger, database: Database, clock: ManualClock, held: bool, charge: int | None, passes: bool
) -> None:
    limit, first, second = SpendLimit(50 * CENT), Request(), Request()
    if held:
        await ledger.reserve(first.hold(40 * CENT, limit))
    operations: list[Operation] = [first.settlement(charge, held=held), second.hold(30 * CENT, limit)]
    _, refusal = await database.transact(partial(apply, operations=operations, worker_id="worker", now=clock.now()))
    assert (refusal is None) is passes
    assert await open_reservations(database) == passes
    assert await problems(database) == []


async def test_b3_a_team_without_a_wallet_has_nothing(database: Database, clock: ManualClock) -> None:
    await make_teams(database, clock, 0)
    async with opened(database, clock) as ledger:
        errors = await asyncio.gather(*(refused(ledger, Request(), CENT) for _ in range(8)))
        assert {error.reason for error in errors} == {Reason.INSUFFICIENT_FUNDS}
        await ledger.settle(Request().settlement(None, held=False))
        request = Request()
        await ledger.settle(request.settlement(7))
    assert await entries(database, request) == [("adjust", -7, 0, "settlement without a reservation")]
    assert await wallet(database) == (-7, 0)
    assert await problems(database) == []


async def test_texts_that_only_one_database_would_take(ledger: SqlLedger, database: Database) -> None:
    request = Request()
    await ledger.reserve(request.hold(CENT))
    await ledger.settle(request.settlement(1, model_id="a/b\0c", error_message="\0"))
    [row] = await rows(database, generations)
    assert row["model_id"] == "a/b\ufffdc"
    assert msgspec.json.decode(row["record_json"], type=GenerationRecord).model_id == "a/b\0c"


async def test_many_teams_at_once(database: Database, clock: ManualClock) -> None:
    names = [f"team{number:02}" for number in range(40)]
    await make_teams(database, clock, 2 * USD, names)

    async def spend(ledger: SqlLedger, team: str) -> None:
        for _ in range(5):
            request = Request(team)
            await ledger.reserve(request.hold(10 * CENT))
            await ledger.settle(request.settlement(CENT))

    async with opened(database, clock, "a") as one, opened(database, clock, "b") as two:
        await asyncio.gather(*(spend(ledger, team) for team in names for ledger in (one, two)))
    assert {await wallet(database, name) for name in names} == {(190 * CENT, 0)}
    assert await problems(database) == []
