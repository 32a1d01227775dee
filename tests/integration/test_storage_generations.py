"""Records: found by their team only, page by page, and forgotten in batches without a trace in what counts money."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import UuidV7
from server.domain.ledger import Settlement
from server.domain.money import Pricing, PricingLine
from server.domain.record import AttemptRecord, GenerationRecord, StoredContent
from server.domain.records import Found, RecordFilter
from server.domain.usage import Usage
from server.storage.database import Database
from server.storage.generations import DAY_S, PURGE_RECORDS, SqlRecords
from server.storage.group_commit import GroupCommit
from server.storage.ledger import SqlLedger
from server.storage.tables import daily_usage, generation_contents, generations, ledger_entries
from server.storage.teams import Teams
from tests.integration.databases import ManualClock

ANY = RecordFilter()
BODY = b'{"model": "a/b",  "messages": [{"content": "\\u4f60 \xf0\x9f\x99\x82"}]}'
REPLY = b'{"text": "\\u0000"}'


class Stage:
    """Records of two teams, and the ledger that writes them."""

    def __init__(self, database: Database, commits: GroupCommit, clock: ManualClock, a: str, b: str) -> None:
        self.database, self.clock = database, clock
        self.ledger = SqlLedger(database, clock, "worker")
        self.records = SqlRecords(database, commits, clock, record_days=90)
        self.keeping = SqlRecords(database, commits, clock)
        self.team_a, self.team_b = a, b

    def record(self, number: int, team_id: str | None = None, **fields: Any) -> GenerationRecord:
        made = GenerationRecord(
            suffix=f"{number:032x}",
            request_id=f"request-{number}",
            created_at=int(self.clock.now()),
            team_id=team_id or self.team_a,
            key_id="key",
            endpoint="chat",
            model_id="a/b",
        )
        return msgspec.structs.replace(made, **fields)

    async def put(self, *records: GenerationRecord, content: StoredContent | None = None) -> None:
        settled = [self.ledger.settle(Settlement(record, held=False, content=content)) for record in records]
        await asyncio.gather(*settled)

    async def page(self, wanted: RecordFilter = ANY, *, after: int | None = None, limit: int = 100) -> list[int]:
        """The numbers of the records on a page."""
        suffix = None if after is None else f"{after:032x}"
        rows = await self.records.page(self.team_a, wanted, after=suffix, limit=limit)
        return [int(found.record.suffix, 16) for found in rows]

    async def count(self, table: Table) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(select(func.count()).select_from(table))).scalar_one()

        return await self.database.read(work)

    async def rows(self, table: Table) -> Sequence[Any]:
        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(select(table))).all()

        return await self.database.read(work)


@pytest.fixture
async def stage(database: Database, clock: ManualClock) -> AsyncIterator[Stage]:
    teams = Teams(database, clock, UuidV7())
    commits = GroupCommit(database)
    stage = Stage(database, commits, clock, (await teams.create("a")).id, (await teams.create("b")).id)
    yield stage
    await stage.ledger.close()
    await commits.close()


async def test_a_record_is_read_back_as_it_was_written(stage: Stage) -> None:
    pricing = Pricing((PricingLine("input_text_tokens", 9, 200_000_000, 1800),), 1800)
    record = stage.record(
        1,
        provider="acme",
        native_response_id="native",
        status_code=499,
        success=False,
        error_code="client_gone",
        error_message="你好 \x00",
        finish_reason="stop",
        latency_ms=1.5,
        generation_ms=2.25,
        gateway_ms=0.125,
        throughput=61.2,
        usage=Usage(9, 3, source="counted", pricing=pricing),
        cost_nanos=1800,
        attempts=(AttemptRecord("acme", "test-1", 200, None, 1.5, True, 1800),),
        disconnect="drained",
    )
    await stage.put(record)
    found = await stage.records.get(stage.team_a, record.suffix)
    assert found == Found(record)


async def test_content_is_there_byte_for_byte_until_it_expires(stage: Stage) -> None:
    content = StoredContent("/v1/chat/completions", BODY, REPLY, days=2)
    await stage.put(stage.record(1), content=content)
    found = await stage.records.get(stage.team_a, f"{1:032x}")
    assert found is not None
    assert found.content is not None
    assert (found.content.path, found.content.request, found.content.reply) == (content.path, BODY, REPLY)
    assert found.replayable
    (listed,) = await stage.records.page(stage.team_a, ANY, after=None, limit=1)
    assert (listed.content, listed.replayable) == (None, True)

    stage.clock.advance(2 * DAY_S)
    assert await stage.records.get(stage.team_a, f"{1:032x}") == Found(found.record)
    (listed,) = await stage.records.page(stage.team_a, ANY, after=None, limit=1)
    assert not listed.replayable
    assert await stage.count(generation_contents) == 1


async def test_a_typed_calls_reply_is_kept_without_a_request(stage: Stage) -> None:
    await stage.put(stage.record(1), content=StoredContent("", None, REPLY))
    found = await stage.records.get(stage.team_a, f"{1:032x}")
    assert found is not None
    assert found.content is not None
    assert (found.content.request, found.content.reply, found.replayable) == (None, REPLY, False)


async def test_another_teams_record_does_not_exist(stage: Stage) -> None:
    await stage.put(stage.record(1), content=StoredContent("/", BODY, REPLY))
    await stage.put(stage.record(2, stage.team_b))
    for suffix in (f"{1:032x}", "%", "' OR 1=1 --", ""):
        assert await stage.records.get(stage.team_b, suffix) is None
    assert [found.record.team_id for found in await stage.records.page(stage.team_b, ANY, after=None, limit=10)] == [
        stage.team_b
    ]
    assert await stage.page() == [1]


async def test_pages_put_together_are_the_whole_newest_first(stage: Stage) -> None:
    await stage.put(*(stage.record(number) for number in range(25)))
    for limit in (1, 7, 25, 100):
        seen: list[int] = []
        while page := await stage.page(after=seen[-1] if seen else None, limit=limit):
            seen += page
        assert seen == list(range(24, -1, -1))
    # What comes meanwhile does not shift the pages.
    first = await stage.page(limit=10)
    await stage.put(stage.record(100))
    assert await stage.page(after=first[-1], limit=100) == list(range(14, -1, -1))


async def test_each_filter_finds_what_it_names(stage: Stage) -> None:
    now = int(stage.clock.now())
    await stage.put(
        stage.record(0),
        stage.record(1, model_id="c/d"),
        stage.record(2, provider="acme"),
        stage.record(3, endpoint="responses"),
        stage.record(4, key_id="other"),
        stage.record(5, status_code=404),
        stage.record(6, success=False),
        stage.record(7, created_at=now - 10),
    )
    for wanted, expected in (
        (RecordFilter(model="c/d"), [1]),
        (RecordFilter(provider="acme"), [2]),
        (RecordFilter(endpoint="responses"), [3]),
        (RecordFilter(key_id="other"), [4]),
        (RecordFilter(status_code=404), [5]),
        (RecordFilter(success=False), [6]),
        (RecordFilter(success=True, model="a/b", endpoint="chat", key_id="key", status_code=200), [7, 2, 0]),
        (RecordFilter(until=now), [7]),
        (RecordFilter(since=now - 10, until=now), [7]),
        (RecordFilter(since=now - 9), [6, 5, 4, 3, 2, 1, 0]),
        (RecordFilter(model="a/%"), []),
    ):
        assert await stage.page(wanted) == expected, wanted


async def test_a_purge_of_contents_leaves_the_records(stage: Stage) -> None:
    await stage.put(*map(stage.record, range(25)), content=StoredContent("/", BODY, REPLY, days=1))
    await stage.put(stage.record(100), content=StoredContent("/", BODY, REPLY, days=2))
    assert await stage.records.purge_contents() == 0
    stage.clock.advance(DAY_S)
    assert [await stage.records.purge_contents(10) for _ in range(4)] == [10, 10, 5, 0]
    assert await stage.count(generation_contents) == 1
    assert await stage.count(generations) == 26


async def test_l10_a_purge_of_records_leaves_no_orphan_and_no_trace_in_the_accounts(stage: Stage) -> None:
    attempts = (AttemptRecord("acme", "test-1", 200, None, 1.5, True, 1),)
    for number in range(20):
        record = stage.record(number, usage=Usage(9, 3), cost_nanos=1, attempts=attempts)
        content = StoredContent("/", BODY, REPLY, days=365)
        await stage.ledger.settle(Settlement(record, held=False, charge_nanos=1, content=content))
    entries, sums = await stage.rows(ledger_entries), await stage.rows(daily_usage)
    assert len(entries) == 20
    assert len(sums) == 1
    stage.clock.advance(90 * DAY_S - 1)
    await stage.put(stage.record(100), content=StoredContent("/", BODY, REPLY))
    assert await stage.records.purge_records() == 0
    stage.clock.advance(1)
    assert await stage.keeping.purge_records() == 0
    assert [await stage.records.purge_records(15) for _ in range(3)] == [15, 5, 0]
    assert await stage.page() == [100]
    kept = {row.suffix for row in await stage.rows(generation_contents)}
    assert kept == {f"{100:032x}"}
    assert await stage.rows(ledger_entries) == entries
    assert await stage.rows(daily_usage) == sums


async def test_workers_that_purge_at_the_same_time_purge_once(stage: Stage) -> None:
    await stage.put(*map(stage.record, range(60)), content=StoredContent("/", BODY, REPLY))
    stage.clock.advance(90 * DAY_S)
    purged = 0
    while counts := [
        count for count in await asyncio.gather(*(stage.records.purge_records(10) for _ in range(3))) if count
    ]:
        assert max(counts) <= 10
        purged += sum(counts)
    assert purged == 60
    assert await stage.count(generations) == await stage.count(generation_contents) == 0


async def test_l9_a_purge_of_many_records_stays_small(stage: Stage) -> None:
    many, batch = 40_000, PURGE_RECORDS
    encoded = msgspec.json.encode(stage.record(0, error_message="x" * 500))
    created_at = int(stage.clock.now())

    async def fill(connection: AsyncConnection, start: int) -> None:
        rows = [
            {
                "suffix": f"{number:032x}", "team_id": stage.team_a, "key_id": "key", "created_at": created_at,
                "endpoint": "chat", "model_id": "a/b", "status_code": 200, "success": True, "cost_nanos": 0,
                "record_json": encoded,
            }
            for number in range(start, start + batch)
        ]  # fmt: skip
        await connection.execute(insert(generations), rows)

    for start in range(0, many, batch):
        await stage.database.write(partial(fill, start=start))
    stage.clock.advance(90 * DAY_S)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = []
    while purged := await stage.records.purge_records():
        batches.append(purged)
    assert batches == [PURGE_RECORDS] * (many // PURGE_RECORDS)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 16, "mebibytes"
    assert await stage.count(generations) == 0
