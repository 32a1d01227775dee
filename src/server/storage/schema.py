"""Which schema this release works with, and whether a database has it. Changing a schema is `migrate.py`'s work."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

from server.storage.database import Database, DatabaseUnusable

__all__ = ["REVISION", "VERSION_TABLE", "SchemaMismatch", "require_current_schema", "revision_of", "verify"]

REVISION: Final = "0014"
"""The newest of `migrations/versions`; revisions are numbered, so that the greater one is the newer."""

VERSION_TABLE: Final = "aistats_schema_version"
"""Not Alembic's usual name: another application in the same database may have taken that."""


class SchemaMismatch(DatabaseUnusable):
    """The schema is not the one that this release works with. The text says which is behind, and what to do."""


async def verify(url: str) -> None:
    """Return where the schema is this release's. Raises SchemaMismatch, GatewayError (`database_unavailable`)."""
    database = Database.open(url, pool_size=2, quiet=True)
    try:
        await database.read(require_current_schema)
    finally:
        await database.close()


async def require_current_schema(connection: AsyncConnection) -> None:
    """Return where the schema is this release's. Raises SchemaMismatch."""
    await connection.run_sync(check)


def check(connection: Connection) -> None:
    """As `require_current_schema`."""
    revision = revision_of(connection)
    if revision == REVISION:
        return
    if revision is None:
        raise SchemaMismatch(
            f"The database has no schema yet and this gateway needs revision {REVISION}: start it with"
            " `aistats-gateway up`, which makes it."
        )
    if revision < REVISION:
        raise SchemaMismatch(
            f"The database's schema is behind: it is at revision {revision} and this gateway needs {REVISION}."
            " Start it with `aistats-gateway up`, which migrates it."
        )
    raise SchemaMismatch(
        f"The database's schema is ahead: it is at revision {revision}, and this gateway knows nothing newer than"
        f" {REVISION}. A newer gateway has migrated it: upgrade this one as well."
    )


def revision_of(connection: Connection) -> str | None:
    """The revision that a database is at; None where it has no schema of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
