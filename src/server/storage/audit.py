"""The log of who changed what. An entry is written in the transaction of its change: there is never one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.keys import Actor, AuditAction, AuditEntry, AuditFilter
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import audit_log

__all__ = ["RETENTION_S", "purge_audit", "read_audit", "write_audit"]

RETENTION_S: Final = 730 * 86_400
"""How long an entry is kept."""
PURGE_BATCH: Final = 500

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


async def write_audit(
    connection: AsyncConnection,
    actor: Actor,
    action: AuditAction,
    *,
    team_id: str,
    target: str,
    at: int,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """Within the transaction of the change."""
    await connection.execute(
        insert(audit_log).values(
            team_id=team_id,
            created_at=at,
            actor=actor.name,
            action=action,
            target=target,
            request_id=actor.request_id,
            before_json=None if before is None else _encode(before),
            after_json=None if after is None else _encode(after),
        )
    )


async def read_audit(
    database: Database, team_id: str | None, wanted: AuditFilter, *, before: int | None, limit: int
) -> Sequence[AuditEntry]:
    """Entries of one team, or of all, the newest first; `before` skips those from that id on."""
    query = select(audit_log).where(*_conditions(wanted)).order_by(audit_log.c.id.desc()).limit(limit)
    if team_id is not None:
        query = query.where(audit_log.c.team_id == team_id)
    if before is not None:
        query = query.where(audit_log.c.id < before)

    async def work(connection: AsyncConnection) -> list[AuditEntry]:
        return [_entry(row) for row in await connection.execute(query)]

    return await database.read(work)


async def purge_audit(commits: GroupCommit, clock: Clock, limit: int = PURGE_BATCH) -> int:
    """Delete up to `limit` entries that are too old, the oldest first; how many. Call it again until it says 0."""
    old = (
        select(audit_log.c.id)
        .where(audit_log.c.created_at <= int(clock.now()) - RETENTION_S)
        .order_by(audit_log.c.created_at)
        .limit(limit)
    )

    async def work(connection: AsyncConnection) -> int:
        return (await connection.execute(delete(audit_log).where(audit_log.c.id.in_(old)))).rowcount

    return await commits.submit(work)


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    columns = {
        audit_log.c.actor: wanted.actor,
        audit_log.c.action: wanted.action,
        audit_log.c.target: wanted.target,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in columns.items() if value is not None]
    if wanted.since is not None:
        conditions.append(audit_log.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(audit_log.c.created_at < wanted.until)
    return conditions


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        team_id=row.team_id,
        at=row.created_at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        request_id=row.request_id,
        before=None if row.before_json is None else _decode(row.before_json),
        after=None if row.after_json is None else _decode(row.after_json),
    )
