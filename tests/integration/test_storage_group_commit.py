"""Group commit: fewer transactions than writes, each write's own outcome, nothing dropped."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.storage.database import Database, Work
from server.storage.group_commit import GroupCommit
from server.storage.tables import teams
from tests.integration.databases import PostgresServer, migrated


def add(name: str) -> Work[str]:
    async def work(connection: AsyncConnection) -> str:
        await connection.execute(insert(teams).values(id=name, name=name, created_at=0))
        return name.upper()

    return work


async def names(database: Database) -> list[str]:
    async def work(connection: AsyncConnection) -> list[str]:
        rows = await connection.execute(select(teams.c.name).order_by(teams.c.created_at, teams.c.name))
        return list(rows.scalars())

    return await database.read(work)


def count_commits(database: Database) -> list[int]:
    commits = [0]

    def count(_: object) -> None:
        commits[0] += 1

    event.listen(database.engine.sync_engine, "commit", count)
    return commits


async def test_a_write_returns_its_result_when_it_is_committed(database: Database) -> None:
    group = GroupCommit(database)
    assert await group.submit(add("a")) == "A"
    assert await names(database) == ["a"]
    await group.close()


async def test_writes_that_come_together_share_transactions(database: Database) -> None:
    group = GroupCommit(database)
    commits = count_commits(database)
    wanted = [f"t{number:03}" for number in range(300)]
    results = await asyncio.gather(*(group.submit(add(name)) for name in wanted))
    assert results == [name.upper() for name in wanted]
    assert await names(database) == wanted
    assert commits[0] <= 3
    await group.close()


async def test_no_transaction_is_larger_than_its_limit(database: Database) -> None:
    group = GroupCommit(database, max_batch=10)
    commits = count_commits(database)
    await asyncio.gather(*(group.submit(add(f"t{number}")) for number in range(100)))
    assert commits[0] == 10
    await group.close()


async def test_a_write_that_fails_fails_alone(database: Database) -> None:
    group = GroupCommit(database)

    async def refuse(connection: AsyncConnection) -> None:
        await add("half")(connection)
        raise GatewayError(Reason.INSUFFICIENT_FUNDS, "no")

    async def broken(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("SELECT no_such_column FROM teams")

    outcomes = await asyncio.gather(
        group.submit(add("first")),
        group.submit(add("same")),
        group.submit(add("same")),
        group.submit(refuse),
        group.submit(broken),
        group.submit(add("last")),
        return_exceptions=True,
    )
    assert outcomes[:2] == ["FIRST", "SAME"]
    assert isinstance(outcomes[2], IntegrityError)
    assert isinstance(outcomes[3], GatewayError)
    assert outcomes[3].reason is Reason.INSUFFICIENT_FUNDS
    assert isinstance(outcomes[4], Exception)
    assert outcomes[5] == "LAST"
    assert await names(database) == ["first", "last", "same"]
    await group.close()


async def test_a_failing_write_on_its_own_says_why(database: Database) -> None:
    group = GroupCommit(database)
    await group.submit(add("same"))
    with pytest.raises(IntegrityError):
        await group.submit(add("same"))
    assert await names(database) == ["same"]
    await group.close()


async def test_a_cancelled_caller_does_not_cancel_its_write_or_its_neighbours(database: Database) -> None:
    group = GroupCommit(database)
    tasks = [asyncio.create_task(group.submit(add(f"t{number:02}"))) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await group.close()
    assert await names(database) == [f"t{number:02}" for number in range(20)]


async def test_close_commits_what_is_queued_and_refuses_what_comes_after(database: Database) -> None:
    group = GroupCommit(database, max_batch=4)
    tasks = [asyncio.create_task(group.submit(add(f"t{number:02}"))) for number in range(20)]
    await asyncio.sleep(0)
    await group.close()
    assert len(await names(database)) == 20
    assert all(task.done() for task in tasks)
    with pytest.raises(GatewayError) as caught:
        await group.submit(add("late"))
    assert caught.value.reason is Reason.SHUTTING_DOWN


async def test_a_full_queue_makes_wait_and_then_refuses_and_drops_nothing(database: Database) -> None:
    group = GroupCommit(database, max_queued=2, queue_wait_s=1.0)
    release = asyncio.Event()

    async def slow(connection: AsyncConnection) -> str:
        await release.wait()
        return "slow"

    accepted = [asyncio.create_task(group.submit(slow)), asyncio.create_task(group.submit(add("second")))]
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(GatewayError) as caught:
        await group.submit(add("third"))
    assert time.monotonic() - began > 0.9
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.retry_after_s == 1.0
    waiting = asyncio.create_task(group.submit(add("fourth")))
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*accepted, waiting) == ["slow", "SECOND", "FOURTH"]
    assert await names(database) == ["fourth", "second"]
    await group.close()


async def test_what_was_reported_as_written_survives_kill_9(database: Database, database_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.storage_process",
        "write_until_killed",
        database_url,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    reported = set()
    try:
        async with asyncio.timeout(30):
            while len(reported) < 500:
                reported.add((await process.stdout.readline()).decode().strip())
    finally:
        process.kill()
        rest, _ = await process.communicate()
    # The last line may have been cut.
    reported |= set(rest.decode().splitlines()[:-1])
    assert "" not in reported
    assert reported <= set(await names(database))


async def test_a_database_that_goes_down_fails_each_write_and_the_next_ones_pass_when_it_is_back() -> None:
    server = PostgresServer()
    try:
        server.start()
        async with migrated(server.url("postgres")) as database:
            group = GroupCommit(database)
            await group.submit(add("before"))
            server.stop()
            outcomes = await asyncio.gather(
                *(group.submit(add(f"t{number}")) for number in range(10)), return_exceptions=True
            )
            assert [getattr(outcome, "reason", outcome) for outcome in outcomes] == [Reason.DATABASE_UNAVAILABLE] * 10
            server.start()
            assert await group.submit(add("zafter")) == "ZAFTER"
            assert await names(database) == ["before", "zafter"]
            await group.close()
    finally:
        server.remove()
