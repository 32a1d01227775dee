"""When keys were last used: noted in memory, and written in batches, so that no request waits for it."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from sqlalchemy import bindparam, func, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.tables import api_keys

__all__ = ["LastUsed"]

INTERVAL_S: Final = 30.0
"""How old what the database says may be of a key that is in use."""
MAX_NOTED: Final = 10_000
"""Keys between two writes; of more, those that come first are noted."""

_log: Final = structlog.get_logger(__name__)


class LastUsed:
    """One worker's notes. Run `run` as long as the worker serves, and `flush` at its end."""

    def __init__(self, database: Database, clock: Clock, *, max_noted: int = MAX_NOTED) -> None:
        self._database = database
        self._clock = clock
        self._max_noted = max_noted
        self._used: dict[str, int] = {}

    def note(self, key_id: str) -> None:
        """The key has let somebody in, now."""
        if key_id in self._used or len(self._used) < self._max_noted:
            self._used[key_id] = int(self._clock.now())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted. Without a database that waits for the next time."""
        if not self._used:
            return
        used, self._used = self._used, {}
        rows = [{"its_id": id_, "at": at} for id_, at in sorted(used.items())]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_WRITE, rows)

        try:
            await self._database.write(work)
        except GatewayError as error:
            _log.warning("last_used_not_written", reason=error.reason.value)
            self._used = used | self._used


_WRITE: Final = (
    update(api_keys)
    .where(api_keys.c.id == bindparam("its_id"), func.coalesce(api_keys.c.last_used_at, 0) < bindparam("at"))
    .values(last_used_at=bindparam("at"))
)
