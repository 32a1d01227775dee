"""Idempotency keys: who works on a request that came with one, and what was answered to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Insert,
    Row,
    Select,
    Update,
    bindparam,
    delete,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.idempotency import Claim, Earlier
from server.domain.ledger import Outcome
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import idempotency_keys, workers

__all__ = ["OutcomeRow", "SqlIdempotencyStore", "write_outcomes"]

RETENTION_S: Final = 86_400
"""How long the first outcome is told again, from when its request came."""
LEASE_S: Final = 30
"""A worker that has not been seen for so long is dead."""
PURGE_BATCH: Final = 500

_encode = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


class OutcomeRow(msgspec.Struct, frozen=True):
    """An outcome, and the request whose it is: the suffix keeps apart those that had the same key one after another."""

    team_id: str
    suffix: str
    outcome: Outcome


def write_outcomes(connection: Connection, rows: Sequence[OutcomeRow]) -> None:
    """Keep outcomes, within the caller's transaction. A second time changes nothing, and so does a row that is gone."""
    if rows:
        connection.execute(_FINISH, [_values(row) for row in rows])


class SqlIdempotencyStore:
    """Implements `server.domain.idempotency.IdempotencyStore` for one worker.

    `can_judge`: whether others that have not been seen are dead, and not only cut off from the database as we were.
    """

    def __init__(
        self,
        database: Database,
        commits: GroupCommit,
        clock: Clock,
        worker_id: str,
        *,
        lease_s: float = LEASE_S,
        can_judge: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._can_judge = can_judge
        self._is_known = False

    async def begin(self, claim: Claim) -> Earlier | None:
        now = int(self._clock.now())
        row = {
            "team_id": claim.team_id,
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "suffix": claim.suffix,
            "worker_id": self._worker_id,
            "expires_at": now + RETENTION_S,
        }

        async def work(connection: AsyncConnection) -> Earlier | None:
            if not self._is_known:
                # Before its first heartbeat a worker would pass for dead, and what it works on for free.
                seen = {"id": self._worker_id, "seen_at": now}
                await connection.execute(_SEEN[connection.dialect.name], seen)
            while True:
                if (await connection.execute(_INSERT[connection.dialect.name], row)).rowcount:
                    return None
                found = (await connection.execute(_find(claim))).one_or_none()
                if found is None:  # forgotten in between
                    continue
                if not self._is_free(found, claim, now):
                    return _earlier(found)
                if (await connection.execute(_take_over(found).values(**row, **_NO_OUTCOME))).rowcount:
                    return None

        earlier = await self._commits.submit(work)
        self._is_known = True
        return earlier

    async def look(self, claim: Claim) -> Earlier | None:
        now = int(self._clock.now())

        async def work(connection: AsyncConnection) -> Earlier | None:
            found = (await connection.execute(_find(claim))).one_or_none()
            return None if found is None or self._is_free(found, claim, now) else _earlier(found)

        return await self._database.read(work)

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        row = _values(OutcomeRow(claim.team_id, claim.suffix, outcome))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_FINISH, row)

        await self._commits.submit(work)

    async def forget(self, claim: Claim) -> None:
        statement = delete(idempotency_keys).where(
            *_is_at(claim.team_id, claim.key),
            idempotency_keys.c.suffix == claim.suffix,
            idempotency_keys.c.status.is_(None),
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._commits.submit(work)

    async def purge(self, limit: int = PURGE_BATCH) -> int:
        """Delete up to `limit` expired keys, the oldest first; how many. Call it again until it says 0."""
        expired = (
            select(idempotency_keys.c.team_id, idempotency_keys.c.key)
            .where(idempotency_keys.c.expires_at <= int(self._clock.now()))
            .order_by(idempotency_keys.c.expires_at)
            .limit(limit)
        )
        statement = delete(idempotency_keys).where(
            tuple_(idempotency_keys.c.team_id, idempotency_keys.c.key).in_(expired)
        )

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._commits.submit(work)

    def _is_free(self, found: Row[Any], claim: Claim, now: int) -> bool:
        if found.expires_at <= now:
            return True
        if found.status is not None or found.fingerprint != claim.fingerprint:
            return False
        if found.worker_id == self._worker_id:
            return True
        return self._can_judge() and (found.seen_at is None or found.seen_at <= now - self._lease_s)


def _is_at(
    team_id: str | BindParameter[Any], key: str | BindParameter[Any]
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return idempotency_keys.c.team_id == team_id, idempotency_keys.c.key == key


def _find(claim: Claim) -> Select[Any]:
    """The key's row, and when its worker was last seen."""
    worker = idempotency_keys.outerjoin(workers, workers.c.id == idempotency_keys.c.worker_id)
    return select(idempotency_keys, workers.c.seen_at).select_from(worker).where(*_is_at(claim.team_id, claim.key))


def _take_over(found: Row[Any]) -> Update:
    """An update of the row as it was found, and of none that has changed since."""
    status = idempotency_keys.c.status
    return update(idempotency_keys).where(
        *_is_at(found.team_id, found.key),
        idempotency_keys.c.suffix == found.suffix,
        idempotency_keys.c.worker_id == found.worker_id,
        status.is_(None) if found.status is None else status == found.status,
    )


def _earlier(found: Row[Any]) -> Earlier:
    outcome = None
    if found.status is not None:
        outcome = Outcome(found.key, found.status, _decode_headers(found.headers_json), found.body)
    return Earlier(found.fingerprint, found.suffix, outcome)


def _values(row: OutcomeRow) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "its_team": row.team_id,
        "its_key": outcome.key,
        "its_suffix": row.suffix,
        "status": outcome.status,
        "headers_json": _encode(outcome.headers),
        "body": outcome.body,
    }


_NO_OUTCOME: Final = {"status": None, "headers_json": None, "body": None}

_FINISH: Final = (
    update(idempotency_keys)
    .where(
        *_is_at(bindparam("its_team"), bindparam("its_key")),
        idempotency_keys.c.suffix == bindparam("its_suffix"),
        idempotency_keys.c.status.is_(None),
    )
    .values(status=bindparam("status"), headers_json=bindparam("headers_json"), body=bindparam("body"))
)

_INSERT: Final[dict[str, Insert]] = {
    "sqlite": sqlite.insert(idempotency_keys).on_conflict_do_nothing(index_elements=["team_id", "key"]),
    "postgresql": postgresql.insert(idempotency_keys).on_conflict_do_nothing(index_elements=["team_id", "key"]),
}

_SEEN: Final[dict[str, Insert]] = {
    "sqlite": sqlite.insert(workers).on_conflict_do_nothing(index_elements=["id"]),
    "postgresql": postgresql.insert(workers).on_conflict_do_nothing(index_elements=["id"]),
}
