"""Which providers the operator has taken out of service. Few rows, which every worker reads again and again."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.health import DrainedProvider
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.tables import drained_providers

__all__ = ["SqlDrained"]


class SqlDrained:
    """Implements `server.domain.health.DrainedProviders`. All raise GatewayError (`database_unavailable`)."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(self) -> list[DrainedProvider]:
        async def work(connection: AsyncConnection) -> list[DrainedProvider]:
            rows = await connection.execute(select(drained_providers).order_by(drained_providers.c.provider_id))
            return [DrainedProvider(*row) for row in rows]

        return await self._database.read(work)

    async def drain(self, provider_id: str, reason: str = "") -> bool:
        """Take it out of service; durable when this returns. False where it was drained already: then a reason, if
        one is given, takes the place of the former.
        """

        async def work(connection: AsyncConnection) -> bool:
            this = drained_providers.c.provider_id == provider_id
            if (await connection.execute(select(drained_providers).where(this))).one_or_none() is None:
                values = {"provider_id": provider_id, "drained_at": int(self._clock.now()), "reason": reason}
                await connection.execute(insert(drained_providers).values(values))
                return True
            if reason:
                await connection.execute(update(drained_providers).where(this).values(reason=reason))
            return False

        return await self._database.write(work)

    async def undrain(self, provider_id: str) -> bool:
        """Bring it back; durable when this returns. False where it was not drained."""

        async def work(connection: AsyncConnection) -> bool:
            this = drained_providers.c.provider_id == provider_id
            return (await connection.execute(delete(drained_providers).where(this))).rowcount > 0

        return await self._database.write(work)
