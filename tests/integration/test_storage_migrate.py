"""The schema: made once however many start at once, checked before serving, taken back, and nobody else's touched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError
from server.storage import migrate, schema
from server.storage.database import Database
from server.storage.tables import metadata
from tests.integration.databases import run_at_once

OURS = {*metadata.tables, schema.VERSION_TABLE}
PARTITIONS = {"generations_before", "generations_rest"}
"""What PostgreSQL has besides; the months are made by who starts a gateway (test_storage_months.py)."""


async def on(url: str, *statements: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        for statement in statements:
            await connection.execute(text(statement))

    database = Database.open(url)
    try:
        await database.write(work)
    finally:
        await database.close()


async def table_names(url: str) -> set[str]:
    async def work(connection: AsyncConnection) -> set[str]:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names())) - PARTITIONS

    database = Database.open(url)
    try:
        return await database.write(work)
    finally:
        await database.close()


def differences(connection: Connection) -> list[object]:
    def is_compared(object_: object, name: str | None, type_: str, *_: object) -> bool:
        return type_ != "table" or name not in PARTITIONS

    context = MigrationContext.configure(
        connection,
        opts={"version_table": schema.VERSION_TABLE, "compare_type": True, "include_object": is_compared},
    )
    return list(compare_metadata(context, metadata))


async def test_the_migrations_make_exactly_the_tables_that_the_code_describes(database: Database) -> None:
    async def work(connection: AsyncConnection) -> list[object]:
        return await connection.run_sync(differences)

    assert await database.write(work) == []


async def test_upgrade_twice_and_check(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)
    await migrate.upgrade(empty_database_url)
    await schema.verify(empty_database_url)
    assert await table_names(empty_database_url) == OURS


async def test_every_migration_runs_both_ways(empty_database_url: str) -> None:
    revisions = [script.revision for script in scripts()]
    for revision in [*reversed(revisions[:-1]), "base"]:
        await migrate.upgrade(empty_database_url)
        await migrate.downgrade(empty_database_url, revision)
    assert await table_names(empty_database_url) == {schema.VERSION_TABLE}
    await migrate.upgrade(empty_database_url)
    await schema.verify(empty_database_url)


async def test_what_is_in_the_database_already_stays(empty_database_url: str) -> None:
    await on(
        empty_database_url,
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT)",
        "INSERT INTO notes VALUES (1, 'mine')",
        "CREATE TABLE alembic_version (version_num TEXT)",
        "INSERT INTO alembic_version VALUES ('of another application')",
    )
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, "base")
    await migrate.upgrade(empty_database_url)

    async def read(connection: AsyncConnection) -> list[tuple[object, ...]]:
        notes = await connection.execute(text("SELECT id, note FROM notes"))
        version = await connection.execute(text("SELECT version_num FROM alembic_version"))
        return [*map(tuple, notes), *map(tuple, version)]

    database = Database.open(empty_database_url)
    try:
        assert await database.read(read) == [(1, "mine"), ("of another application",)]
    finally:
        await database.close()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(empty_database_url: str) -> None:
    await on(empty_database_url, "CREATE TABLE responses (other TEXT)")  # in the way of the second migration
    with pytest.raises((SQLAlchemyError, GatewayError)):
        await migrate.upgrade(empty_database_url)
    assert await table_names(empty_database_url) == {"responses"}


async def test_a_schema_that_is_missing_behind_or_ahead_is_named(empty_database_url: str) -> None:
    with pytest.raises(schema.SchemaMismatch, match=r"no schema yet.*aistats-gateway up"):
        await schema.verify(empty_database_url)
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, "0001")
    with pytest.raises(schema.SchemaMismatch, match=f"behind: it is at revision 0001.*needs {schema.REVISION}"):
        await schema.verify(empty_database_url)
    with pytest.raises(schema.SchemaMismatch, match="behind"):
        await migrate.upgrade_if_empty(empty_database_url)
    await on(empty_database_url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    for attempt in (schema.verify, migrate.upgrade, migrate.upgrade_if_empty):
        with pytest.raises(schema.SchemaMismatch, match=r"ahead: it is at revision 9999.*upgrade this one"):
            await attempt(empty_database_url)


async def test_commands_make_the_schema_of_an_empty_database(empty_database_url: str) -> None:
    await migrate.upgrade_if_empty(empty_database_url)
    await migrate.upgrade_if_empty(empty_database_url)
    await schema.verify(empty_database_url)


async def test_five_cold_starts_at_once_make_one_schema_and_one_key(empty_database_url: str, tmp_path: Path) -> None:
    job = ("tests.integration.storage_process", "cold_start", empty_database_url, str(tmp_path / "data"))
    printed = await run_at_once(5, *job)
    keys = [text.strip() for text in printed if text.strip()]
    assert len(keys) == 1
    assert (tmp_path / "data" / "bootstrap-key").read_text() == keys[0] + "\n"
    await schema.verify(empty_database_url)
    assert await table_names(empty_database_url) == OURS


async def test_starts_at_once_in_one_process_agree_too(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate.upgrade(empty_database_url) for _ in range(5)))
    await schema.verify(empty_database_url)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_no_migration_drops_anything_unless_it_says_so(dialect: str) -> None:
    found = list(drops(dialect, scripts()))
    assert found == []


def test_a_drop_would_be_seen() -> None:
    assert DROP.search("ALTER TABLE teams DROP COLUMN name")
    assert DROP.search("drop table teams")
    assert not DROP.search("CREATE TABLE raindrops (id TEXT)")


DROP = re.compile(r"\b(drop|truncate)\b", re.IGNORECASE)


def drops(dialect: str, wanted: Iterable[object]) -> Iterable[str]:
    for script in wanted:
        if getattr(script.module, "destructive", False):  # type: ignore[attr-defined]
            continue
        below = script.down_revision or "base"  # type: ignore[attr-defined]
        sql = rendered(dialect, f"{below}:{script.revision}")  # type: ignore[attr-defined]
        assert "CREATE" in sql or "ALTER" in sql or "UPDATE" in sql
        if DROP.search(sql):
            yield script.revision  # type: ignore[attr-defined]


def rendered(dialect: str, revisions: str) -> str:
    """The SQL of a migration, as it would be sent."""
    config = configuration()
    config.output_buffer = StringIO()
    config.attributes["dialect"] = dialect
    command.upgrade(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def scripts() -> list[object]:
    """All migrations, the first one first."""
    return list(reversed(list(ScriptDirectory.from_config(configuration()).walk_revisions())))


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return config


def test_the_release_knows_its_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]
