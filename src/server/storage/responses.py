"""Stored responses: kept per team for a stated time, then deleted in small batches."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import Insert, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.domain.request import Turn
from server.domain.response import Response
from server.domain.stored import StoredResponse
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.tables import responses

__all__ = ["SqlResponseStore"]

DAY_S: Final = 86_400
RETENTION_S: Final = 30 * DAY_S
PURGE_BATCH: Final = 500

_decode_turns = msgspec.json.Decoder(tuple[Turn, ...]).decode
_decode_response = msgspec.json.Decoder(Response).decode
_encode = msgspec.json.Encoder().encode


class SqlResponseStore:
    """Implements `server.domain.ports.ResponseStore`. To a team, another team's response does not exist."""

    def __init__(
        self, database: Database, commits: GroupCommit, clock: Clock, *, retention_s: int = RETENTION_S
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._retention_s = retention_s

    async def put(self, response: StoredResponse) -> None:
        """Keep it until `created_at` plus the retention; durable when this returns. The first of a suffix stays."""
        values = {
            "suffix": response.suffix,
            "team_id": response.team_id,
            "created_at": response.created_at,
            "expires_at": response.created_at + self._retention_s,
            "turns_json": _encode(response.turns),
            "response_json": _encode(response.response),
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_INSERT[connection.dialect.name], values)

        await self._commits.submit(work)

    async def get(self, team_id: str, suffix: str) -> StoredResponse | None:
        query = select(responses).where(
            responses.c.suffix == suffix,
            responses.c.team_id == team_id,
            responses.c.expires_at > int(self._clock.now()),
        )

        async def work(connection: AsyncConnection) -> StoredResponse | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            return StoredResponse(
                suffix=row.suffix,
                team_id=row.team_id,
                created_at=row.created_at,
                turns=_decode_turns(row.turns_json),
                response=_decode_response(row.response_json),
            )

        return await self._database.read(work)

    async def delete(self, team_id: str, suffix: str) -> bool:
        """Whether there was one."""
        statement = delete(responses).where(
            responses.c.suffix == suffix,
            responses.c.team_id == team_id,
            responses.c.expires_at > int(self._clock.now()),
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement)).rowcount == 1

        return await self._commits.submit(work)

    async def purge(self, limit: int = PURGE_BATCH) -> int:
        """Delete up to `limit` expired responses, the oldest first; how many. Call it again until it says 0."""
        expired = (
            select(responses.c.suffix)
            .where(responses.c.expires_at <= int(self._clock.now()))
            .order_by(responses.c.expires_at)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> int:
            result = await connection.execute(delete(responses).where(responses.c.suffix.in_(expired)))
            return result.rowcount

        return await self._commits.submit(work)


_INSERT: Final[dict[str, Insert]] = {
    # A commit whose outcome was lost may be tried again: the same response twice is one row.
    "sqlite": sqlite.insert(responses).on_conflict_do_nothing(index_elements=["suffix"]),
    "postgresql": postgresql.insert(responses).on_conflict_do_nothing(index_elements=["suffix"]),
}
