"""The first start's team and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.clock import UuidV7
from server.domain.identity import Scope
from server.domain.keys import AuditFilter
from server.storage.audit import read_audit
from server.storage.database import Database, DatabaseUnusable
from server.storage.first_start import ensure_default_team
from server.storage.keys import SqlKeyStore
from server.storage.teams import Teams
from tests.integration.databases import ManualClock, migrated


async def test_the_first_start_makes_a_team_and_a_key_that_only_its_owner_can_read(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    made = await ensure_default_team(database, clock, UuidV7(), tmp_path / "d")
    assert made is not None
    assert made.path == tmp_path / "d" / "bootstrap-key"
    assert made.path.read_text() == f"{made.key}\n"
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.key not in repr(made)
    principal = await SqlKeyStore(database, clock).authenticate(made.key)
    assert principal is not None
    assert principal.scopes == frozenset(Scope)
    [team] = await Teams(database, clock, UuidV7()).list()
    assert team.name == "default"
    told = await read_audit(database, team.id, AuditFilter(), before=None, limit=9)
    assert [(one.action, one.target) for one in told] == [("key.create", principal.key_id), ("team.create", team.id)]
    assert (told[1].actor, told[1].before, told[1].after) == ("cli", None, {"name": "default"})


async def test_the_second_start_makes_nothing_and_shows_nothing(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    made = await ensure_default_team(database, clock, UuidV7(), tmp_path)
    assert made is not None
    assert await ensure_default_team(database, clock, UuidV7(), tmp_path) is None
    assert made.path.read_text() == f"{made.key}\n"


async def test_every_installation_gets_another_key(
    database: Database, clock: ManualClock, tmp_path: Path, sqlite_url: str
) -> None:
    made = await ensure_default_team(database, clock, UuidV7(), tmp_path / "one")
    other = await ensure_default_team_elsewhere(tmp_path / "elsewhere.db", clock, tmp_path / "two")
    assert made is not None
    assert made.key != other
    assert await SqlKeyStore(database, clock).authenticate(other) is None


async def ensure_default_team_elsewhere(file: Path, clock: ManualClock, data_dir: Path) -> str:
    async with migrated(f"sqlite+aiosqlite:///{file}") as database:
        made = await ensure_default_team(database, clock, UuidV7(), data_dir)
    assert made is not None
    return made.key


async def test_a_start_that_cannot_write_the_file_leaves_no_team_and_the_next_one_does_it_all(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "occupied"
    in_the_way.write_text("not a directory")
    with pytest.raises(DatabaseUnusable, match="AISTATS_DATA_DIR"):
        await ensure_default_team(database, clock, UuidV7(), in_the_way)
    assert await Teams(database, clock, UuidV7()).list() == []
    in_the_way.unlink()
    assert await ensure_default_team(database, clock, UuidV7(), in_the_way) is not None
    assert [path.name for path in in_the_way.iterdir()] == ["bootstrap-key"]
