"""The rules that `Database` keeps on both kinds of database, and SQLite's own."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, func, insert, select, text
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from server.domain.errors import GatewayError, Reason
from server.storage import migrate, schema
from server.storage.database import Database, DatabaseUnusable
from server.storage.tables import teams
from tests.integration.databases import PostgresServer, migrated, run_at_once, run_python


async def count_teams(connection: AsyncConnection) -> int:
    return (await connection.execute(select(func.count()).select_from(teams))).scalar_one()


class Gate:
    """A place in the middle of a transaction, where it waits."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()


def add_team(name: str, until: Gate | None = None):
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(insert(teams).values(id=name, name=name, created_at=0))
        if until is not None:
            until.reached.set()
            await until.opened.wait()

    return work


async def test_write_commits_and_a_failing_write_leaves_nothing(database: Database) -> None:
    async def add_then_fail(connection: AsyncConnection) -> None:
        await add_team("lost")(connection)
        raise LookupError("on purpose")

    await database.write(add_team("kept"))
    with pytest.raises(LookupError):
        await database.write(add_then_fail)
    assert await database.read(count_teams) == 1


async def test_a_violated_constraint_reaches_the_caller_as_such(database: Database) -> None:
    await database.write(add_team("a"))
    with pytest.raises(IntegrityError):
        await database.write(add_team("a"))


async def test_500_cancelled_calls_leave_no_connection_behind(database_url: str, postgres: PostgresServer) -> None:
    chance = random.Random(7)
    async with migrated(database_url) as database:

        async def select_now(connection: AsyncConnection) -> int:
            return await count_teams(connection)

        async def one(number: int) -> None:
            if number % 2:
                await database.write(add_team(f"t{number}"))
            else:
                await database.read(select_now)

        for start in range(0, 500, 50):
            tasks = [asyncio.create_task(one(number)) for number in range(start, start + 50)]
            for task in tasks:
                await asyncio.sleep(chance.random() * 0.002)
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await nothing_checked_out(database)
        await database.read(select_now)
        if database_url.startswith("postgresql"):
            rows = await postgres.execute(
                "postgres",
                f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database.engine.url.database}'",
            )
            assert rows[0][0] <= 5


async def nothing_checked_out(database: Database) -> None:
    """Return when the pool has all of its connections back."""
    for _ in range(500):
        if database.engine.pool.checkedout() == 0:  # type: ignore[attr-defined]
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a connection was leaked")


async def test_a_cancelled_caller_leaves_at_once_and_its_write_is_whole(database: Database) -> None:
    gate = Gate()
    task = asyncio.create_task(database.write(add_team("whole", gate)))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.read(count_teams) == 0
    gate.opened.set()
    await nothing_checked_out(database)
    assert await database.read(count_teams) == 1


async def test_close_waits_for_the_work_under_way(database_url: str) -> None:
    await migrate.upgrade(database_url)
    database = Database.open(database_url)
    gate = Gate()
    task = asyncio.create_task(database.write(add_team("late", gate)))
    await gate.reached.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    gate.opened.set()
    await closing
    await task
    async with migrated(database_url) as again:
        assert await again.read(count_teams) == 1


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    await database.read(count_teams)
    gate = Gate()
    writing = asyncio.create_task(database.write(add_team("slow", gate)))
    await gate.reached.wait()
    assert await database.read(count_teams) == 0
    gate.opened.set()
    await writing


async def test_readers_of_another_process_do_not_wait_either(database_url: str) -> None:
    async with migrated(database_url) as writer, migrated(database_url) as reader:
        await reader.read(count_teams)
        gate = Gate()
        writing = asyncio.create_task(writer.write(add_team("slow", gate)))
        await gate.reached.wait()
        assert await reader.read(count_teams) == 0
        gate.opened.set()
        await writing


async def test_every_write_transaction_of_sqlite_begins_immediate(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as database:
        statements: list[str] = []

        def trace(_: object, __: object, statement: str, *___: object) -> None:
            statements.append(statement)

        event.listen(database.engine.sync_engine, "before_cursor_execute", trace)
        await database.write(add_team("a"))
        await database.read(count_teams)
        assert [statement.split()[0] for statement in statements] == ["BEGIN", "INSERT", "SELECT"]
        assert statements[0] == "BEGIN IMMEDIATE"


async def test_processes_that_read_and_then_write_never_find_sqlite_locked(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as database:
        await database.write(add_team("counter"))
        job = ("tests.integration.storage_process", "count_up", sqlite_url, "64")
        await run_at_once(4, *job)

        async def read(connection: AsyncConnection) -> int:
            return (await connection.execute(select(teams.c.created_at))).scalar_one()

        assert await database.read(read) == 4 * 64 * 2


async def test_sqlite_is_set_up_to_lose_nothing(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as database:

        async def pragmas(connection: AsyncConnection) -> list[object]:
            names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            return [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in names]

        assert await database.write(pragmas) == ["wal", 2, 1, 15_000]


async def test_only_a_transaction_that_says_so_is_not_flushed(sqlite_url: str) -> None:
    def synchronous(connection: Connection) -> object:
        return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    async with migrated(sqlite_url) as database:
        said = [await database.transact(synchronous, flush=flush) for flush in (True, False, True, True, False, False)]
        assert said == [2, 1, 2, 2, 1, 1]
        assert await database.transact(synchronous) == 2


async def test_a_file_that_cannot_be_switched_to_wal_is_refused_in_words(tmp_path: Path) -> None:
    # This way of access has no shared memory, like a network share: SQLite answers 'delete' without an error.
    url = f"sqlite+aiosqlite:///file:{tmp_path / 'x.db'}?vfs=unix-none&uri=true"
    with pytest.raises(DatabaseUnusable, match=r"journal mode 'delete'.*local disk"):
        await migrate.upgrade(url)


async def test_the_file_and_its_directory_are_their_owners_alone(sqlite_url: str, tmp_path: Path) -> None:
    async with migrated(sqlite_url) as database:
        await database.write(add_team("a"))
        directory = tmp_path / "data"
        assert directory.stat().st_mode & 0o777 == 0o700
        assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
            "gateway.db": 0o600,
            "gateway.db-wal": 0o600,
            "gateway.db-shm": 0o600,
        }


async def test_no_thread_is_left_and_the_process_ends(sqlite_url: str) -> None:
    await migrate.upgrade(sqlite_url)
    assert await run_python("tests.integration.storage_process", "threads_left", sqlite_url) == "0\n"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://localhost/x", "'mysql' databases are not supported"),
        ("nonsense", "can't be read"),
        ("sqlite+aiosqlite://", "must be given a file"),
        ("sqlite+aiosqlite:///:memory:", "must be given a file"),
        ("sqlite+aiosqlite:////proc/none/gateway.db", "can't be opened for writing"),
    ],
)
async def test_a_wrong_url_is_explained(url: str, says: str) -> None:
    with pytest.raises(DatabaseUnusable, match=says):
        Database.open(url)


async def test_common_spellings_of_a_url_get_the_right_driver(tmp_path: Path) -> None:
    for url, driver in [
        (f"sqlite:///{tmp_path}/x.db", "sqlite+aiosqlite"),
        ("postgres://u@h/d", "postgresql+asyncpg"),
    ]:
        database = Database.open(url)
        assert database.engine.url.drivername == driver
        await database.close()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


async def test_a_database_that_is_down_is_unavailable_and_comes_back_by_itself(
    own_postgres: PostgresServer,
) -> None:
    database = Database.open(own_postgres.url("postgres"), first=schema.require_current_schema)
    try:
        with capture_logs() as logs:
            for _ in range(3):
                await assert_unavailable(database)
            own_postgres.start()
            await assert_unavailable(database)  # it is up, and has no schema
            await migrate.upgrade(own_postgres.url("postgres"))
            await answers_again(database)
            own_postgres.stop()
            while logs[-1]["event"] != "database_unavailable":  # at most one a second says so
                await assert_unavailable(database)
            await assert_unavailable(database)
            own_postgres.start()
            await answers_again(database)
        assert [(entry["event"], entry.get("cause")) for entry in logs] == [
            ("database_unavailable", "FileNotFoundError"),
            ("database_unavailable", "SchemaMismatch"),
            ("database_available_again", None),
            ("database_unavailable", "FileNotFoundError"),
            ("database_available_again", None),
        ]
    finally:
        await database.close()


async def test_a_connection_that_dies_in_a_transaction_is_an_outage_of_that_call_only(postgres_url: str) -> None:
    async def die(connection: AsyncConnection) -> None:
        await add_team("lost")(connection)
        await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with migrated(postgres_url) as database:
        for _ in range(10):
            with pytest.raises(GatewayError) as caught:
                await database.write(die)
            assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
            assert await database.read(count_teams) == 0
        await nothing_checked_out(database)


async def test_a_mistake_in_our_own_code_is_no_outage(database: Database) -> None:
    async def mistaken(connection: AsyncConnection) -> None:
        (await connection.execute(select(teams))).scalar_one()

    with pytest.raises(NoResultFound):
        await database.read(mistaken)


async def test_whose_turn_never_comes_does_not_wait_for_the_lock_of_another_process(sqlite_url: str) -> None:
    """A process that sits on SQLite's write lock is an outage for writers, and none for readers."""
    async with migrated(sqlite_url) as holder:
        gate = Gate()
        holding = asyncio.create_task(holder.write(add_team("held", gate)))
        await gate.reached.wait()
        database = Database.open(sqlite_url, statement_timeout_s=1.0)
        try:
            with pytest.raises(GatewayError) as caught:
                await database.write(add_team("a"))
            assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
            assert await database.read(count_teams) == 0
            gate.opened.set()
            await holding
            await database.write(add_team("a"))
        finally:
            await database.close()


async def assert_unavailable(database: Database) -> None:
    with pytest.raises(GatewayError) as caught:
        await database.read(count_teams)
    assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
    assert caught.value.retry_after_s == 1.0
    assert str(caught.value) == "The gateway's database does not answer at the moment. Try again shortly."


async def answers_again(database: Database) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        try:
            assert await database.read(count_teams) == 0
            return
        except GatewayError:
            await asyncio.sleep(0.1)
    raise AssertionError("the database is back and is not used")


async def test_a_database_that_is_no_database_is_unavailable(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gateway.db").write_bytes(os.urandom(8192))
    database = Database.open(sqlite_url)
    try:
        await assert_unavailable(database)
    finally:
        await database.close()


async def test_more_work_than_connections_waits_its_turn(database: Database) -> None:
    async def slow(connection: AsyncConnection) -> int:
        await asyncio.sleep(0.02)
        return await count_teams(connection)

    assert await asyncio.gather(*(database.read(slow) for _ in range(60))) == [0] * 60


@pytest.fixture
async def crowded(sqlite_url: str) -> AsyncIterator[Database]:
    async with migrated(sqlite_url, pool_size=2, slot_wait_s=1.0) as database:
        yield database


async def test_who_waits_too_long_for_a_turn_is_told_so(crowded: Database) -> None:
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(connection: AsyncConnection) -> None:
        held.set()
        await release.wait()

    holding = asyncio.create_task(crowded.read(hold))
    await held.wait()
    await assert_unavailable(crowded)
    release.set()
    await holding
    assert await crowded.read(count_teams) == 0
