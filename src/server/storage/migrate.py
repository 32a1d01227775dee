"""The schema of a database: bring it up to date, take it back, or say what is wrong with it.

A change of schema is one transaction that first takes a lock: of any number of processes that start at once, one
migrates and the others find the work done. Where a migration fails the database is as it was before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from server.storage.database import Database, DatabaseUnusable

__all__ = [
    "VERSION_TABLE",
    "SchemaMismatch",
    "check",
    "downgrade",
    "require_current_schema",
    "upgrade",
    "upgrade_if_empty",
]

VERSION_TABLE: Final = "aistats_schema_version"
"""Not Alembic's usual name: another application in the same database may have taken that."""

TIMEOUT_S: Final = 3600.0
"""Of each statement, and of the wait while another process migrates. Large tables take their time."""

_LOCK_KEY: Final = 0x61697374617473
"""Of the PostgreSQL advisory lock under which the schema changes: `aistats` in ASCII."""


class SchemaMismatch(DatabaseUnusable):
    """The schema is not the one that this release works with. The text says which is behind, and what to do."""


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
    await _change(url, lambda connection: command.downgrade(_config(connection), revision))


async def check(url: str) -> None:
    """Return where the schema is this release's. Raises SchemaMismatch, GatewayError (`database_unavailable`)."""
    database = Database.open(url, pool_size=2, quiet=True)
    try:
        await database.read(require_current_schema)
    finally:
        await database.close()


async def require_current_schema(connection: AsyncConnection) -> None:
    """The check itself, for `Database.open(first=…)`. Raises SchemaMismatch."""
    await connection.run_sync(_check)


def current_revision() -> str:
    """The revision that this release works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


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
    revision = _revision(connection)
    if revision is not None and not _is_known(revision):
        _check(connection)
    if revision != current_revision():
        command.upgrade(_config(connection), "head")


def _upgrade_if_empty(connection: Connection) -> None:
    if _revision(connection) is None:
        _upgrade(connection)
    else:
        _check(connection)


def _check(connection: Connection) -> None:
    revision, wanted = _revision(connection), current_revision()
    if revision == wanted:
        return
    if revision is None:
        raise SchemaMismatch(
            f"The database has no schema yet and this gateway needs revision {wanted}: start it with"
            " `aistats-gateway up`, which makes it."
        )
    if _is_known(revision):
        raise SchemaMismatch(
            f"The database's schema is behind: it is at revision {revision} and this gateway needs {wanted}."
            " Start it with `aistats-gateway up`, which migrates it."
        )
    raise SchemaMismatch(
        f"The database's schema is ahead: it is at revision {revision}, and this gateway knows nothing newer than"
        f" {wanted}. A newer gateway has migrated it: upgrade this one as well."
    )


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _is_known(revision: str) -> bool:
    scripts = ScriptDirectory.from_config(_config())
    return any(script.revision == revision for script in scripts.walk_revisions())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
