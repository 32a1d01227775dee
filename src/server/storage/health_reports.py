"""What workers tell each other of the health of providers: the newest report of each, for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.health import SharedReport
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import health_reports

__all__ = ["SqlHealthExchange"]

KEPT_S: Final = 1800
"""Longer than any breaker stays open without another word about it."""
MAX_REPORTS: Final = 256


class SqlHealthExchange:
    """Implements `server.domain.health.HealthExchange`."""

    def __init__(self, database: Database, commits: GroupCommit, clock: Clock, worker_id: str) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._worker_id = worker_id

    async def publish(self, number: int, report: bytes) -> None:
        values = {
            "worker_id": self._worker_id,
            "reported_at": int(self._clock.now()),
            "number": number,
            "report_json": report,
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_PUBLISH[connection.dialect.name], values)

        await self._commits.submit(work)

    async def others(self, known: Mapping[str, int]) -> list[SharedReport]:
        values = {"own": self._worker_id, "since": int(self._clock.now()) - KEPT_S, "most": MAX_REPORTS}

        async def numbers(connection: AsyncConnection) -> list[str]:
            rows = await connection.execute(_NUMBERS, values)
            return [worker_id for worker_id, number in rows if known.get(worker_id) != number]

        async def reports(connection: AsyncConnection) -> list[SharedReport]:
            rows = await connection.execute(_REPORTS, {"ids": changed})
            return [SharedReport(*row) for row in rows]

        changed = await self._database.read(numbers)
        return await self._database.read(reports) if changed else []

    async def purge(self) -> int:
        """Forget the reports of workers that have been silent for long; always 0, there are few."""
        before = int(self._clock.now()) - KEPT_S

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(health_reports).where(health_reports.c.reported_at < before))

        await self._commits.submit(work)
        return 0


_NUMBERS: Final = (
    select(health_reports.c.worker_id, health_reports.c.number)
    .where(health_reports.c.worker_id != bindparam("own"), health_reports.c.reported_at >= bindparam("since"))
    .order_by(health_reports.c.reported_at.desc())
    .limit(bindparam("most"))
)
_REPORTS: Final = select(health_reports.c.worker_id, health_reports.c.number, health_reports.c.report_json).where(
    health_reports.c.worker_id.in_(bindparam("ids", expanding=True))
)
_CHANGES: Final = ("reported_at", "number", "report_json")
_PUBLISH: Final = {
    name: statement.on_conflict_do_update(
        index_elements=["worker_id"], set_={column: statement.excluded[column] for column in _CHANGES}
    )
    for name, statement in (
        ("sqlite", sqlite.insert(health_reports)),
        ("postgresql", postgresql.insert(health_reports)),
    )
}
