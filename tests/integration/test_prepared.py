"""Statements that are put into words once: any number of rows, and what becomes of a transaction that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, exc, insert, select

from server.storage.database import Database
from server.storage.prepared import MAX_ROWS, Prepared, PreparedForIds
from server.storage.tables import workers

INSERT = Prepared(insert(workers).inline())
FIND = PreparedForIds(lambda ids: select(workers.c.id, workers.c.seen_at).where(workers.c.id.in_(ids)))


def seen(count: int) -> list[dict[str, Any]]:
    return [{"id": f"worker-{number:03}", "seen_at": number} for number in range(count)]


async def find(database: Database, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    return sorted(map(tuple, await database.transact(lambda connection: FIND.execute(connection, ids))))


@pytest.mark.parametrize("count", [1, 2, 3, 7, MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS - 1])
async def test_every_row_is_written_as_it_is(database: Database, count: int) -> None:
    rows = seen(count)
    await database.transact(lambda connection: INSERT.execute(connection, rows))
    assert await find(database, [row["id"] for row in rows]) == [(row["id"], row["seen_at"]) for row in rows]
    assert await find(database, ["somebody else"]) == []


async def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_works(database: Database) -> None:
    def twice(connection: Connection) -> None:
        INSERT.execute(connection, seen(3))
        INSERT.execute(connection, seen(1))

    def mistaken(connection: Connection) -> None:
        INSERT.execute(connection, seen(3))
        raise LookupError

    for work, error in ((twice, exc.IntegrityError), (mistaken, LookupError)):
        with pytest.raises(error):
            await database.transact(work)
        assert await find(database, ["worker-000", "worker-002"]) == []
    await database.transact(lambda connection: INSERT.execute(connection, seen(1)))
    assert await find(database, ["worker-000"]) == [("worker-000", 0)]


async def test_statements_of_sqlalchemy_are_part_of_the_same_transaction(database: Database) -> None:
    def work(connection: Connection) -> int:
        INSERT.execute(connection, seen(2))
        return len(connection.execute(select(workers)).all())

    def fails(connection: Connection) -> None:
        connection.execute(insert(workers).values(id="late", seen_at=1))
        raise LookupError

    assert await database.transact(work) == 2
    with pytest.raises(LookupError):
        await database.transact(fails)
    assert await find(database, ["late", "worker-001"]) == [("worker-001", 1)]
