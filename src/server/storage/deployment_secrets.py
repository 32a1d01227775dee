"""What all gateways on one database know and nobody else: made by whoever needs it first, the same for ever."""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.tables import deployment_secrets

__all__ = ["SqlSecrets"]

SECRET_BYTES: Final = 32


class SqlSecrets:
    """Implements `server.domain.video_links.Secrets`; asks the database once for each."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, bytes] = {}

    async def get(self, name: str) -> bytes:
        if name not in self._known:
            self._known[name] = await self._found(name) or await self._made(name)
        return self._known[name]

    async def _found(self, name: str) -> bytes | None:
        async def work(connection: AsyncConnection) -> bytes | None:
            return await _selected(connection, name)

        return await self._database.read(work)

    async def _made(self, name: str) -> bytes:
        """Ours, or that of whoever was quicker."""
        values = {"name": name, "secret": secrets.token_bytes(SECRET_BYTES), "created_at": int(self._clock.now())}

        async def work(connection: AsyncConnection) -> bytes:
            await connection.execute(_INSERT_ONCE[connection.dialect.name], values)
            made = await _selected(connection, name)
            assert made is not None, "it was there, or is now"
            return made

        return await self._database.write(work)


async def _selected(connection: AsyncConnection, name: str) -> bytes | None:
    query = select(deployment_secrets.c.secret).where(deployment_secrets.c.name == name)
    secret: bytes | None = await connection.scalar(query)
    return secret


_INSERT_ONCE: Final = {
    "sqlite": sqlite.insert(deployment_secrets).on_conflict_do_nothing(index_elements=["name"]),
    "postgresql": postgresql.insert(deployment_secrets).on_conflict_do_nothing(index_elements=["name"]),
}
