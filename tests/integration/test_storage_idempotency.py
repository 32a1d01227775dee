"""Idempotency keys: one request has a key at a time, and what was answered to it is read back as it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.idempotency import Claim, Earlier
from server.domain.ledger import Outcome
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.idempotency import LEASE_S, RETENTION_S, OutcomeRow, SqlIdempotencyStore, write_outcomes
from server.storage.sweeper import Sweeper
from server.storage.tables import idempotency_keys, teams, workers
from tests.integration.databases import ManualClock

CLAIM = Claim("team-1", "key-1", b"f" * 32, "1" * 32)
OUTCOME = Outcome("key-1", 200, (("content-type", "text/event-stream"),), b"data: \xe2\x80\n\n\x00")


@asynccontextmanager
async def store_of(
    database: Database, clock: ManualClock, worker_id: str = "worker-1", **options: Any
) -> AsyncIterator[SqlIdempotencyStore]:
    commits = GroupCommit(database)
    try:
        yield SqlIdempotencyStore(database, commits, clock, worker_id, **options)
    finally:
        await commits.close()


@pytest.fixture
async def teams_made(database: Database) -> None:
    async def work(connection: AsyncConnection) -> None:
        rows = [{"id": name, "name": name, "created_at": 1} for name in ("team-1", "team-2")]
        await connection.execute(insert(teams), rows)

    await database.write(work)


@pytest.fixture
async def store(database: Database, clock: ManualClock, teams_made: None) -> AsyncIterator[SqlIdempotencyStore]:
    async with store_of(database, clock) as opened:
        yield opened


def again(claim: Claim = CLAIM) -> Claim:
    """The same request, sent once more."""
    return replace(claim, suffix=UuidV7().new())


async def heartbeat(database: Database, clock: ManualClock, worker_id: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(update(workers).where(workers.c.id == worker_id).values(seen_at=int(clock.now())))

    await database.write(work)


async def test_an_outcome_is_told_byte_for_byte(store: SqlIdempotencyStore) -> None:
    assert await store.begin(CLAIM) is None
    await store.finish(CLAIM, OUTCOME)
    assert await store.begin(again()) == Earlier(CLAIM.fingerprint, CLAIM.suffix, OUTCOME)
    assert await store.look(again()) == Earlier(CLAIM.fingerprint, CLAIM.suffix, OUTCOME)


async def test_an_outcome_that_was_too_large_has_no_body(store: SqlIdempotencyStore) -> None:
    await store.begin(CLAIM)
    await store.finish(CLAIM, replace(OUTCOME, body=None))
    assert await store.begin(again()) == Earlier(CLAIM.fingerprint, CLAIM.suffix, replace(OUTCOME, body=None))


async def test_outcomes_go_with_the_transaction_that_they_are_written_in(
    store: SqlIdempotencyStore, database: Database
) -> None:
    second = Claim("team-2", "key-1", b"g" * 32, "2" * 32)
    await store.begin(CLAIM)
    await store.begin(second)
    rows = [
        OutcomeRow(claim.team_id, claim.suffix, replace(OUTCOME, body=claim.fingerprint)) for claim in (CLAIM, second)
    ]

    async def undone(connection: AsyncConnection) -> None:
        await connection.run_sync(write_outcomes, rows)
        raise LookupError

    async def done(connection: AsyncConnection) -> None:
        await connection.run_sync(write_outcomes, [])
        await connection.run_sync(write_outcomes, rows)
        await connection.run_sync(write_outcomes, [replace(rows[0], outcome=replace(OUTCOME, body=b"later"))])

    with pytest.raises(LookupError):
        await database.write(undone)
    assert await store.look(second) is None
    await database.write(done)
    for claim in (CLAIM, second):
        earlier = await store.begin(again(claim))
        assert earlier is not None
        assert earlier.outcome is not None
        assert earlier.outcome.body == claim.fingerprint


async def test_another_request_does_not_get_the_key(store: SqlIdempotencyStore) -> None:
    await store.begin(CLAIM)
    other = replace(again(), fingerprint=b"o" * 32)
    assert await store.begin(other) == Earlier(CLAIM.fingerprint, CLAIM.suffix)
    await store.finish(CLAIM, OUTCOME)
    assert await store.begin(other) == Earlier(CLAIM.fingerprint, CLAIM.suffix, OUTCOME)


async def test_another_teams_key_is_another_key(store: SqlIdempotencyStore) -> None:
    await store.begin(CLAIM)
    await store.finish(CLAIM, OUTCOME)
    assert await store.begin(replace(again(), team_id="team-2")) is None


async def test_what_was_forgotten_is_free_and_an_outcome_is_not_forgotten(store: SqlIdempotencyStore) -> None:
    await store.begin(CLAIM)
    await store.forget(again())
    other = replace(again(), fingerprint=b"o" * 32)
    assert await store.begin(other) is not None
    await store.forget(CLAIM)
    assert await store.begin(other) is None
    await store.finish(other, OUTCOME)
    await store.forget(other)
    assert await store.look(other) is not None


async def test_the_work_of_a_living_worker_is_waited_for(
    store: SqlIdempotencyStore, database: Database, clock: ManualClock
) -> None:
    await store.begin(CLAIM)
    async with store_of(database, clock, "worker-2") as elsewhere:
        assert await elsewhere.begin(again()) == Earlier(CLAIM.fingerprint, CLAIM.suffix)
        assert await elsewhere.look(again()) == Earlier(CLAIM.fingerprint, CLAIM.suffix)
        clock.advance(LEASE_S - 1)
        await heartbeat(database, clock, "worker-1")
        clock.advance(LEASE_S - 1)
        assert await elsewhere.begin(again()) is not None


async def test_the_work_of_a_dead_worker_is_taken_over_once(
    store: SqlIdempotencyStore, database: Database, clock: ManualClock
) -> None:
    await store.begin(CLAIM)
    clock.advance(LEASE_S)
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(store_of(database, clock, f"worker-{n}")) for n in (2, 3)]
        claims = [again() for _ in others]
        other = replace(again(), fingerprint=b"o" * 32)
        assert await others[0].begin(other) is not None, "a dead worker's key is free for the same request only"
        assert await others[0].look(claims[0]) is None
        found = await asyncio.gather(*(other.begin(claim) for other, claim in zip(others, claims, strict=True)))
        winners = [claim for claim, earlier in zip(claims, found, strict=True) if earlier is None]
        assert len(winners) == 1
        await store.finish(CLAIM, replace(OUTCOME, body=b"of the dead"))
        await others[0].finish(winners[0], OUTCOME)
        assert await others[1].begin(again()) == Earlier(CLAIM.fingerprint, winners[0].suffix, OUTCOME)


async def test_who_could_not_see_others_does_not_take_them_for_dead(
    store: SqlIdempotencyStore, database: Database, clock: ManualClock
) -> None:
    """An outage keeps all workers from showing that they live."""
    await store.begin(CLAIM)
    sweeper = Sweeper(database, clock, "worker-2", lease_s=LEASE_S)
    async with store_of(database, clock, "worker-2", can_judge=lambda: sweeper.can_judge) as elsewhere:
        clock.advance(LEASE_S)
        assert await elsewhere.begin(again()) is not None
        await sweeper.beat()
        assert await elsewhere.begin(again()) is not None
        for _ in range(3):
            clock.advance(LEASE_S / 3)
            await sweeper.beat()
        assert await elsewhere.begin(again()) is None


async def test_what_this_worker_has_left_behind_is_free(store: SqlIdempotencyStore) -> None:
    await store.begin(CLAIM)
    assert await store.begin(again()) is None


async def test_a_key_is_free_again_after_its_time(
    store: SqlIdempotencyStore, database: Database, clock: ManualClock
) -> None:
    await store.begin(CLAIM)
    await store.finish(CLAIM, OUTCOME)
    clock.advance(RETENTION_S - 1)
    assert await store.begin(again()) is not None
    clock.advance(1)
    other = replace(again(), fingerprint=b"o" * 32)
    assert await store.look(other) is None
    assert await store.begin(other) is None
    await heartbeat(database, clock, "worker-1")
    async with store_of(database, clock, "worker-2") as elsewhere:
        assert await elsewhere.begin(again(other)) == Earlier(other.fingerprint, other.suffix), "no trace of the old"


async def test_of_many_at_once_one_has_the_key(database: Database, clock: ManualClock, teams_made: None) -> None:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(store_of(database, clock, f"worker-{n}")) for n in range(4)]
        found = await asyncio.gather(*(store.begin(again()) for store in stores))
    assert [earlier for earlier in found if earlier is None] == [None]


async def test_expired_keys_are_deleted_in_batches(
    store: SqlIdempotencyStore, database: Database, clock: ManualClock
) -> None:
    for number in range(5):
        await store.begin(replace(again(), key=f"old-{number}"))
    clock.advance(RETENTION_S)
    await store.begin(replace(again(), key="young"))
    assert [await store.purge(limit=3) for _ in range(3)] == [3, 2, 0]

    async def work(connection: AsyncConnection) -> list[str]:
        return list((await connection.execute(select(idempotency_keys.c.key))).scalars())

    assert await database.read(work) == ["young"]
