"""The schema of a database: bring it up to date, take it back, or say what is wrong with it.

A change of schema is one transaction that first takes a lock: of any number of processes that start at once, one
migrates and the others find the work done. Where a migration fails the database is as it was before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from server.storage import schema
from server.storage.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["downgrade", "upgrade", "upgrade_if_empty"]

TIMEOUT_S: Final = 3600.0
"""Of each statement, and of the wait while another process migrates. Large tables take their time."""

_LOCK_KEY: Final = 0x61697374617473
"""Of the PostgreSQL advisory lock under which the schema changes: `aistats` in ASCII."""


async def upgrade(url: str) -> None:
    """Bring the schema to this release's. Raises SchemaMismatch where a newer release has been there, GatewayError
    (`database_unavailable`) where the database is down.
    """
    await _change(url, _upgrade)


async def upgrade_if_empty(url: str) -> None:
    """Make the schema where there is none yet; otherwise only check it. For commands beside a running gateway."""
    await _change(url, _upgrade_if_empty)


async def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`; `base` removes all of the gateway's tables, with what is in them."""

    def change(connection: Connection) -> None:
        command, config = _alembic(connection)
        command.downgrade(config, revision)

    await _change(url, change)


async def _change(url: str, change: Callable[[Connection], None]) -> None:
    async def work(connection: AsyncConnection) -> None:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        # SQLite has its one write lock already: every write begins with it.
        await connection.run_sync(change)

    database = Database.open(url, pool_size=2, statement_timeout_s=TIMEOUT_S, quiet=True)
    try:
        await database.write(work)
    finally:
        await database.close()


def _upgrade(connection: Connection) -> None:
    revision = schema.revision_of(connection)
    if revision is not None and revision > schema.REVISION:
        schema.check(connection)
    if revision != schema.REVISION:
        command, config = _alembic(connection)
        command.upgrade(config, "head")


def _upgrade_if_empty(connection: Connection) -> None:
    if schema.revision_of(connection) is None:
        _upgrade(connection)
    else:
        schema.check(connection)


def _alembic(connection: Connection) -> tuple[ModuleType, Config]:
    """Its commands, and what they are to work on. Who changes no schema does not load it: it is a tenth of what a
    command takes to start.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return command, config
