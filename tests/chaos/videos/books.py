"""The rows of the jobs, read beside the gateways."""

from __future__ import annotations

import msgspec

from tests.chaos.books import Database
from tests.chaos.videos.receiver import Event


class JobRow(msgspec.Struct, frozen=True):
    suffix: str
    status: str
    provider: str
    native_id: str | None
    held: int | None
    charged: int | None
    has_ended: bool
    key: str | None


_JOBS = """
    SELECT suffix, status, provider, native_id, held_nanos, charged_nanos, ended_at, idempotency_key
    FROM video_jobs ORDER BY suffix"""


async def jobs(database: Database) -> tuple[JobRow, ...]:
    return tuple(
        JobRow(
            row["suffix"],
            row["status"],
            row["provider"],
            row["native_id"],
            row["held_nanos"],
            row["charged_nanos"],
            row["ended_at"] is not None,
            row["idempotency_key"],
        )
        for row in await database.fetch(_JOBS)
    )


async def events(database: Database) -> tuple[Event, ...]:
    """What was to be told, in the order in which it happened."""
    rows = await database.fetch("SELECT suffix, type, subject FROM webhook_events ORDER BY suffix")
    return tuple(Event(row["suffix"], row["type"], row["subject"]) for row in rows)


async def untold(database: Database) -> int:
    rows = await database.fetch("SELECT COUNT(*) AS held FROM webhook_deliveries WHERE state = 'pending'")
    return int(rows[0]["held"])


async def open_jobs(database: Database) -> int:
    rows = await database.fetch("SELECT COUNT(*) AS held FROM video_jobs WHERE ended_at IS NULL")
    return int(rows[0]["held"])
