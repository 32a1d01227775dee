"""The months of the records: made ahead by any number of gateways, looked into as few as needed, dropped whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from sqlalchemy import Select, insert, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.ledger import Settlement
from server.domain.record import AttemptRecord, GenerationRecord, StoredContent
from server.domain.records import RecordFilter
from server.storage import migrate
from server.storage.database import Database
from server.storage.generations import DAY_S, SqlRecords
from server.storage.group_commit import GroupCommit
from server.storage.ledger import SqlLedger
from server.storage.ledger_verify import verify_ledger
from server.storage.months import Months, Partition, partitions
from server.storage.tables import daily_usage, generation_contents, generations, ledger_entries, teams
from server.storage.teams import Teams
from server.storage.wallets import Wallets
from tests.integration.databases import ManualClock, PostgresServer, migrated

ANY = RecordFilter()
DAYS = 60
"""How long records are kept."""


def seconds(year: int, month: int, day: int = 1) -> float:
    return datetime(year, month, day, tzinfo=UTC).timestamp()


def suffix(at_s: float, number: int = 0) -> str:
    """The key of a record made at that time."""
    return f"{int(at_s * 1000):012x}7{number:019x}"


def record(team_id: str, at_s: float, number: int = 0, **fields: Any) -> GenerationRecord:
    made = GenerationRecord(
        suffix=suffix(at_s, number),
        request_id="request",
        created_at=int(at_s),
        team_id=team_id,
        key_id="key",
        endpoint="chat",
        model_id="a/b",
    )
    return msgspec.structs.replace(made, **fields)


class Stage:
    """A team with credit, its records, and a clock that begins in March 2027."""

    def __init__(self, database: Database, commits: GroupCommit, clock: ManualClock, team_id: str) -> None:
        self.database, self.clock, self.team_id = database, clock, team_id
        self.ledger, self.commits = SqlLedger(database, clock, "worker"), commits
        self.records = SqlRecords(database, commits, clock, record_days=DAYS)
        self.months = Months(database, clock)

    async def close(self) -> None:
        await self.ledger.close()
        await self.commits.close()

    async def put(self, *at_s: float, days: int = 365) -> list[str]:
        """Paid records with content, one for each time; their keys."""
        attempts = (AttemptRecord("acme", "test-1", 200, None, 1.5, True, 1),)
        made = [record(self.team_id, at, number, cost_nanos=1, attempts=attempts) for number, at in enumerate(at_s)]
        content = StoredContent("/", b"{}", b"{}", days=days)
        for one in made:
            await self.ledger.settle(Settlement(one, held=False, charge_nanos=1, content=content))
        return [one.suffix for one in made]

    async def partitions(self) -> Sequence[Partition]:
        return await self.database.read(partitions)

    async def rows(self, statement: Select[Any]) -> list[Any]:
        async def work(connection: AsyncConnection) -> list[Any]:
            return list((await connection.execute(statement)).all())

        return await self.database.read(work)

    async def keys(self) -> list[str]:
        return [row.suffix for row in await self.rows(select(generations.c.suffix).order_by(generations.c.suffix))]

    async def where(self) -> dict[str, str]:
        """In which partition each record lies."""

        async def work(connection: AsyncConnection) -> dict[str, str]:
            rows = await connection.execute(text("SELECT suffix, tableoid::regclass::text AS name FROM generations"))
            return {row.suffix: row.name for row in rows}

        return await self.database.read(work)

    async def purge(self) -> int:
        """All that workers forget in an hour; how many records."""
        while await self.records.purge_contents():
            pass
        total = 0
        while count := await self.records.purge_records():
            total += count
        return total


async def make(database: Database, clock: ManualClock) -> Stage:
    clock.seconds = seconds(2027, 3, 10)
    team = await Teams(database, clock, UuidV7()).create("a")
    await Wallets(database, clock).top_up("a", 1_000_000)
    return Stage(database, GroupCommit(database), clock, team.id)


@pytest.fixture
async def stage(database: Database, clock: ManualClock) -> AsyncIterator[Stage]:
    """On both databases."""
    stage = await make(database, clock)
    await stage.months.prepare()
    yield stage
    await stage.close()


@pytest.fixture
async def parted(postgres_url: str, clock: ManualClock) -> AsyncIterator[Stage]:
    """On PostgreSQL, before anybody has made months."""
    async with migrated(postgres_url) as database:
        stage = await make(database, clock)
        yield stage
        await stage.close()


async def test_a_new_database_has_a_place_for_every_key(parted: Stage) -> None:
    before, rest = await parted.partitions()
    assert (before.name, before.start, rest.name, rest.end) == ("generations_before", None, "generations_rest", None)
    assert before.end == rest.start
    keys = ["", "0" * 32, suffix(seconds(2027, 3, 10)), "f" * 32, "resp"]
    for key in keys:
        await parted.ledger.settle(Settlement(record(parted.team_id, 0, suffix=key, created_at=1), held=False))
    assert set(await parted.keys()) == set(keys)


async def test_the_running_month_and_two_more_are_made_once_by_any_number_of_gateways(
    parted: Stage, postgres_url: str
) -> None:
    [late] = await parted.put(seconds(2027, 2, 28))
    [now] = await parted.put(seconds(2027, 3, 1))
    assert set((await parted.where()).values()) == {"generations_rest"}
    databases = [Database.open(postgres_url) for _ in range(3)]
    try:
        await asyncio.gather(*(Months(database, parted.clock).prepare() for database in databases))
    finally:
        await asyncio.gather(*(database.close() for database in databases))
    await parted.months.prepare()
    parts = await parted.partitions()
    assert [part.name for part in parts[-5:]] == [
        "generations_2027_02", "generations_2027_03", "generations_2027_04", "generations_2027_05", "generations_rest",
    ]  # fmt: skip
    assert all(first.end == second.start for first, second in pairwise(parts))
    assert parts[-1].start == suffix(seconds(2027, 6))[:12]
    assert await parted.where() == {late: "generations_2027_02", now: "generations_2027_03"}

    parted.clock.seconds = seconds(2027, 12, 31)
    await parted.months.prepare()
    assert (await parted.partitions())[-2].name == "generations_2028_02"


async def test_who_uses_the_records_for_long_keeps_nobody_waiting(parted: Stage) -> None:
    let_go, holds = asyncio.Event(), asyncio.Event()

    async def read_for_long(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1 FROM generations"))
        holds.set()
        await let_go.wait()

    reader = asyncio.create_task(parted.database.write(read_for_long))
    await holds.wait()
    await parted.months.prepare()
    assert len(await parted.partitions()) == 2
    assert (parted.database.is_up, parted.database.failures) == (True, 0)
    await parted.put(seconds(2027, 3, 10))
    let_go.set()
    await reader
    await parted.months.prepare()
    assert len(await parted.partitions()) > 4


async def test_records_are_written_while_months_are_made_and_dropped(parted: Stage) -> None:
    start = seconds(2027, 3)
    written: list[str] = []
    is_over, has_written = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        while not is_over.is_set():
            written.extend(await parted.put(start + len(written)))
            has_written.set()

    writing = asyncio.create_task(write())
    for month in (3, 6, 9):
        parted.clock.seconds = seconds(2027, month, 10)
        for _ in range(20):
            await parted.months.prepare()
            if (await parted.partitions())[-2].name == f"generations_2027_{month + 2:02}":
                break
        else:
            raise AssertionError("the months could not be made")
        has_written.clear()
        async with asyncio.timeout(30):
            await has_written.wait()
    is_over.set()
    await writing
    assert await parted.keys() == written
    assert parted.database.failures == 0


async def touched(stage: Stage, query: Select[Any]) -> set[str]:
    """The partitions that PostgreSQL looks into to answer it."""
    sql = str(query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))

    async def work(connection: AsyncConnection) -> Any:
        return await connection.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}".replace(":", "\\:")))

    [plan] = await stage.database.read(work)
    found: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if "Relation Name" in node and node["Actual Loops"]:
            found.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(plan["Plan"])
    return found - {"generation_contents"}


async def test_a_record_and_a_page_are_found_in_few_months(parted: Stage) -> None:
    months = [(2027, month) for month in range(3, 13)]
    parted.clock.seconds = seconds(*months[-1], 20)
    await parted.months.prepare()
    encoded = msgspec.json.encode(record(parted.team_id, 0))
    rows = [
        {
            "suffix": suffix(seconds(*month, 2) + number, number), "team_id": parted.team_id, "key_id": "key",
            "created_at": int(seconds(*month, 2)) + number, "endpoint": "chat", "model_id": "a/b", "status_code": 200,
            "success": True, "cost_nanos": 0, "record_json": encoded,
        }
        for month in months for number in range(400)
    ]  # fmt: skip

    async def fill(connection: AsyncConnection) -> None:
        await connection.execute(insert(generations), rows)
        await connection.execute(text("ANALYZE generations"))

    await parted.database.write(fill)
    keeping = SqlRecords(parted.database, parted.commits, parted.clock)
    one = rows[1000]["suffix"]
    assert await touched(parted, keeping.finding(parted.team_id, one)) == {"generations_2027_05"}
    newest = await touched(parted, keeping.listing(parted.team_id, ANY, after=None, limit=50))
    assert "generations_2027_12" in newest
    assert len(newest - {"generations_rest", "generations_2028_01", "generations_2028_02"}) == 1, "and empty ones"
    middle = await touched(parted, keeping.listing(parted.team_id, ANY, after=one, limit=50))
    assert middle == {"generations_2027_05"}
    across = await touched(parted, keeping.listing(parted.team_id, ANY, after=rows[810]["suffix"], limit=50))
    assert across == {"generations_2027_04", "generations_2027_05"}


async def test_old_records_go_and_what_counts_money_stays(stage: Stage) -> None:
    """The same on both databases: months as a whole where there are months, or else records."""
    old = [seconds(2027, 3, day) for day in (1, 2, 31)]
    kept = [seconds(2027, 4, 30), seconds(2027, 5, 20)]
    await stage.put(*old, *kept)
    entries, sums = await stage.rows(select(ledger_entries)), await stage.rows(select(daily_usage))
    stage.clock.seconds = seconds(2027, 3, 31) + DAYS * DAY_S - 1
    await stage.months.prepare()
    seen = await stage.records.page(stage.team_id, ANY, after=None, limit=10)
    assert [found.record.created_at for found in seen] == [*map(int, reversed(kept)), int(old[-1])]
    assert await stage.records.get(stage.team_id, suffix(old[0])) is None, "too old, deleted or not"

    stage.clock.seconds = seconds(2027, 4, 1) + DAYS * DAY_S
    assert await stage.purge() == 3
    assert await stage.purge() == 0
    assert await stage.keys() == [suffix(at, number) for number, at in enumerate(kept, len(old))]
    assert len(await stage.rows(select(generation_contents))) == 2
    assert await stage.rows(select(ledger_entries)) == entries
    assert await stage.rows(select(daily_usage)) == sums
    problems: list[Any] = []
    verification = await verify_ledger(stage.database, problems.append)
    assert problems == []
    assert (verification.generations, verification.entries) == (2, 6)
    names = {part.name for part in await stage.partitions()}
    assert "generations_2027_03" not in names
    assert not names or {"generations_before", "generations_2027_04"} <= names


async def test_a_record_of_a_month_that_is_gone_has_a_place_and_goes_too(stage: Stage) -> None:
    """As of a video that ends long after it began."""
    await stage.put(seconds(2027, 3, 1))
    stage.clock.seconds = seconds(2027, 7, 1)
    await stage.months.prepare()
    assert await stage.purge() == 1
    [late] = await stage.put(seconds(2027, 3, 2))
    await stage.put(seconds(2027, 6, 20))
    assert late in await stage.keys()
    stage.clock.seconds = seconds(2027, 8, 1)
    assert await stage.purge() == 1
    assert await stage.keys() == [suffix(seconds(2027, 6, 20))]
    stage.clock.seconds = seconds(2027, 9, 15)
    assert await stage.purge() == 1
    assert await stage.keys() == []


async def test_a_month_with_a_record_that_is_not_old_stays(parted: Stage) -> None:
    await parted.months.prepare()
    await parted.put(seconds(2027, 3, 1))
    young = record(parted.team_id, seconds(2027, 3, 2), created_at=int(seconds(2027, 6, 30)))
    await parted.ledger.settle(Settlement(young, held=False))
    parted.clock.seconds = seconds(2027, 7, 1)
    assert await parted.purge() == 0
    assert len(await parted.keys()) == 2
    parted.clock.seconds = seconds(2027, 9, 15)
    assert await parted.purge() == 2


async def test_workers_that_drop_at_the_same_time_drop_once(parted: Stage) -> None:
    await parted.months.prepare()
    await parted.put(*(seconds(2027, 3, day) for day in range(1, 20)), days=1)
    parted.clock.seconds = seconds(2027, 7, 1)
    while await parted.records.purge_contents():
        pass
    counts = await asyncio.gather(*(parted.records.purge_records() for _ in range(3)))
    assert sorted(counts) == [0, 0, 19]
    assert await parted.keys() == []


async def test_where_keys_are_not_sorted_by_time_there_are_no_months(
    postgres: PostgresServer, clock: ManualClock
) -> None:
    """Danish sorts `aa` after `z`."""
    await postgres.execute(
        "postgres", "CREATE DATABASE danish TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'da' LOCALE 'C'"
    )
    url = postgres.url("danish")
    await migrate.upgrade(url)
    database = Database.open(url)
    stage = await make(database, clock)
    try:
        await stage.months.prepare()
        assert await stage.partitions() == []
        await stage.put(seconds(2027, 3, 1), seconds(2027, 4, 30))
        clock.seconds = seconds(2027, 5, 15)
        assert await stage.purge() == 1
        assert len(await stage.keys()) == 1
    finally:
        await stage.close()
        await database.close()
    await migrate.downgrade(url, "base")
    await migrate.upgrade(url)


async def test_what_a_database_holds_is_there_after_the_migration_and_after_its_undoing(database_url: str) -> None:
    await migrate.upgrade(database_url)
    await migrate.downgrade(database_url, "0012")
    now_s = seconds(2026, 11, 22)
    keys = ["0" * 32, suffix(now_s), suffix(now_s + 400 * DAY_S), "f" * 32]
    values = {
        "team_id": "team", "key_id": "key", "created_at": 1, "endpoint": "chat", "model_id": "a/b", "status_code": 200,
        "success": True, "cost_nanos": 0, "record_json": b"{}",
    }  # fmt: skip

    async def fill(connection: AsyncConnection) -> None:
        await connection.execute(insert(teams), {"id": "team", "name": "a", "created_at": 1})
        await connection.execute(insert(generations), [{"suffix": key, **values} for key in keys])
        content = {"team_id": "team", "expires_at": 1, "path": "/", "reply_json": b"{}"}
        await connection.execute(insert(generation_contents), [{"suffix": key, **content} for key in keys])

    async def read(connection: AsyncConnection) -> list[tuple[str, ...]]:
        tables = generations, generation_contents
        return [tuple(await connection.scalars(select(one.c.suffix).order_by(one.c.suffix))) for one in tables]

    for step in (fill, migrate.upgrade, lambda url: migrate.downgrade(url, "0012"), migrate.upgrade):
        database = Database.open(database_url)
        try:
            if step is fill:
                await database.write(fill)
            else:
                await step(database_url)  # type: ignore[arg-type, misc]
            assert await database.read(read) == [tuple(keys)] * 2
        finally:
            await database.close()
