"""The sweeper: shows that this worker lives, and ends the reservations of workers that do not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
from sqlalchemy import ColumnElement, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.ledger_apply import Expire, apply
from server.storage.tables import JOBS_WORKER, reservations, workers

__all__ = ["Sweeper"]

BEAT_INTERVAL_S: Final = 5.0
BEATS_IN_LEASE: Final = 3
"""A lease lasts this many beats at least, so that one that is late kills nobody."""
SWEEP_BATCH: Final = 200
"""Reservations ended in one transaction."""
FORGET_AFTER_LEASES: Final = 10

log = structlog.get_logger("server.storage")


class Sweeper:
    """One in each worker; any number of them may sweep at once.

    `lease_s`: how long after its last sign a worker is taken for dead. A worker that lives all the same, and was only
    kept from the database, settles late: its requests are charged, only their holds have ended.
    """

    def __init__(
        self, database: Database, clock: Clock, worker_id: str, *, lease_s: float, batch: int = SWEEP_BATCH
    ) -> None:
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._batch = batch
        self._interval_s = min(BEAT_INTERVAL_S, lease_s / BEATS_IN_LEASE)
        self._seen_s = clock.monotonic()
        self._sweeps_from_s = self._seen_s

    async def run(self) -> None:
        """Beat and sweep for ever; an outage of the database is waited for."""
        await self._forget_workers()
        while True:
            try:
                await self.beat()
                await self.sweep()
                await self._database.trim()
            except GatewayError:
                pass  # the database is away, which `Database` has logged
            await asyncio.sleep(self._interval_s)

    async def beat(self) -> None:
        """Show that this worker lives. Raises GatewayError (`database_unavailable`)."""
        values = {"id": self._worker_id, "seen_at": int(self._clock.now())}

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_BEAT[connection.dialect.name], values)

        await self._database.write(work)
        now_s = self._clock.monotonic()
        if now_s - self._seen_s > self._lease_s / 2:
            # What kept this worker from the database kept others from it too: let them show themselves first.
            self._sweeps_from_s = now_s + self._lease_s
        self._seen_s = now_s

    @property
    def can_judge(self) -> bool:
        """Whether workers that have not been seen are dead: not where nobody could be seen, this one included."""
        now_s = self._clock.monotonic()
        return now_s >= self._sweeps_from_s and now_s - self._seen_s <= self._lease_s / 2

    async def sweep(self) -> int:
        """End what belongs to the dead; how many reservations. Raises GatewayError (`database_unavailable`)."""
        if self._clock.monotonic() < self._sweeps_from_s:
            return 0
        before = int(self._clock.now() - self._lease_s)
        swept = 0
        while orphans := await self._database.read(partial(_find_orphans, before=before, limit=self._batch)):
            ended = await self._end(orphans)
            swept += ended
            if ended < self._batch:
                break
        if swept:
            log.warning("reservations_expired", count=swept)
        return swept

    async def _end(self, orphans: Sequence[Expire], *, again: bool = False) -> int:
        """How many have ended, by this or by another that was at it at the same moment."""
        try:
            await self._database.transact(
                partial(apply, operations=orphans, worker_id=self._worker_id, now=self._clock.now())
            )
        except GatewayError:
            raise
        except Exception as error:  # one that cannot be ended keeps no other from it
            if again:
                log.error("reservation_not_expired", suffix=orphans[0].suffix, cause=type(error).__name__)
                return 0
            return sum([await self._end([orphan], again=True) for orphan in orphans])
        return len(orphans)

    async def end(self) -> None:
        """Sign off: the worker has ended in good order, and nobody need wait for it."""
        await self._delete(workers.c.id == self._worker_id)

    async def _forget_workers(self) -> None:
        """Rows of workers that ended without a word, a good while after they did."""
        await self._delete(workers.c.seen_at < int(self._clock.now() - FORGET_AFTER_LEASES * self._lease_s))

    async def _delete(self, which: ColumnElement[bool]) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(workers).where(which))

        with contextlib.suppress(GatewayError):  # the next worker that begins does it
            await self._database.write(work)


async def _find_orphans(connection: AsyncConnection, *, before: int, limit: int) -> list[Expire]:
    rows = await connection.execute(_ORPHANS, {"before": before, "batch": limit})
    return [Expire(*row) for row in rows]


_LIVING: Final = select(workers.c.id).where(workers.c.seen_at > bindparam("before"))
_ORPHANS: Final = (
    select(reservations.c.id, reservations.c.team_id)
    # A worker that has just begun has yet to show itself, so no reservation is younger than the lease.
    .where(
        reservations.c.created_at <= bindparam("before"),
        reservations.c.worker_id != JOBS_WORKER,  # which end with their jobs
        reservations.c.worker_id.not_in(_LIVING),
    )
    .order_by(reservations.c.id)
    .limit(bindparam("batch"))
)
_BEAT: Final = {
    name: statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": statement.excluded.seen_at})
    for name, statement in (("sqlite", sqlite.insert(workers)), ("postgresql", postgresql.insert(workers)))
}
