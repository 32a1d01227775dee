"""Whether something between the gateway and PostgreSQL lends a session out for one transaction at a time.

The gateway prepares its statements once for each session, and such a pooler carries out the next transaction in
another, where nobody knows them. That would fail at some time under load, and never in a trial; so it is tried here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["REFUSAL", "forgets_statements", "is_forgotten_statement"]

REFUSAL: Final = (
    "Between the gateway and PostgreSQL is a connection pooler in transaction mode (such as PgBouncer with"
    " pool_mode = transaction), which forgets the gateway's prepared statements between two transactions. Point"
    " AISTATS_DATABASE_URL at PostgreSQL itself, or set the pooler to pool_mode = session, or give PgBouncer 1.21 or"
    " later a max_prepared_statements of at least 200."
)
WAIT_S: Final = 3.0
"""For a session: a pooler that has only one to lend makes the other wait for it."""

_FORGOTTEN: Final = frozenset({"26000", "42P05"})
"""SQLSTATEs: a prepared statement is not there, or another client's of the same name is."""


async def forgets_statements(engine: AsyncEngine) -> bool:
    """Whether a statement that one session has prepared is lost while another is in a transaction.

    One query where no pooler is. Raises what the driver does.
    """
    try:
        async with engine.connect() as connection:
            first = await _driver(connection)
            if await first.fetchval("SELECT pg_backend_pid()") == first.get_server_pid():
                return False
            statement = await first.prepare("SELECT 1")
            await statement.fetchval()
            async with engine.connect() as other:
                second = await _driver(other)
                async with second.transaction():
                    await second.fetchval("SELECT 1")
                    asked = asyncio.ensure_future(statement.fetchval())
                    # Not cancelled: that would wait for the session as well.
                    _, waiting = await asyncio.wait([asked], timeout=WAIT_S)
            await asked
            if waiting:
                return True
            for _ in range(3):  # a pooler that takes its sessions in turn
                await statement.fetchval()
    except Exception as error:
        if is_forgotten_statement(error):
            return True
        raise
    return False


def is_forgotten_statement(error: Exception) -> bool:
    """Whether this is what a pooler in transaction mode makes of a statement."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    return getattr(cause, "sqlstate", None) in _FORGOTTEN


async def _driver(connection: AsyncConnection) -> Any:
    """The asyncpg connection behind it."""
    return (await connection.get_raw_connection()).driver_connection
