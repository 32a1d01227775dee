"""The first start of a gateway: a team and a key, so that somebody can call it at all."""

from __future__ import annotations

import asyncio
import os
import secrets
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.identity import Scope
from server.domain.keys import Actor, NewKey, difference
from server.domain.ports import Clock, IdSource
from server.storage.audit import write_audit
from server.storage.database import Database, DatabaseUnusable
from server.storage.key_rows import insert_key, key_of, select_locked
from server.storage.tables import teams
from server.storage.teams import DEFAULT_TEAM, Team

__all__ = ["KEY_FILE", "BootstrapKey", "ensure_default_team"]

KEY_FILE: Final = "bootstrap-key"
KEY_NAME: Final = "bootstrap"


class BootstrapKey(msgspec.Struct, frozen=True):
    """The key of the first start, to be shown once, and the file that holds it."""

    key: str
    path: Path

    def __repr__(self) -> str:
        return f"BootstrapKey(path={self.path!r})"


async def ensure_default_team(database: Database, clock: Clock, ids: IdSource, data_dir: Path) -> BootstrapKey | None:
    """Make the team `default` and its key with every scope, unless there is such a team: then None.

    Of several processes that start at once one gets the key. The file is written before the commit: what is left of a
    crash between the two is a key that nobody accepts, which the next start replaces. Raises DatabaseUnusable where the
    file can't be written.
    """
    path = data_dir / KEY_FILE
    now = int(clock.now())
    team = Team(id=ids.new(), name=DEFAULT_TEAM, created_at=now)

    async def work(connection: AsyncConnection) -> BootstrapKey | None:
        insert_once = _INSERT_ONCE[connection.dialect.name]
        result = await connection.execute(insert_once, msgspec.structs.asdict(team))
        if result.rowcount == 0:
            return None
        note = partial(write_audit, connection, Actor(), team_id=team.id, at=now, before=None)
        await note("team.create", target=team.id, after={"name": team.name})
        token = await insert_key(connection, NewKey(KEY_NAME, frozenset(Scope)), team_id=team.id, created_at=now)
        [row] = (await select_locked(connection, [token.kid])).values()
        made = difference(None, key_of(row))[1]
        await note("key.create", target=token.kid, after=made)
        try:
            await asyncio.to_thread(_write_private, path, f"{token}\n")
        except OSError as error:
            raise DatabaseUnusable(
                f"The key of the first start can't be written to {path} ({error.strerror})."
                " AISTATS_DATA_DIR chooses another place."
            ) from error
        return BootstrapKey(key=str(token), path=path)

    return await database.write(work)


def _write_private(path: Path, text: str) -> None:
    """Replace the file as a whole by one that its owner alone can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


_INSERT_ONCE: Final = {
    "sqlite": sqlite.insert(teams).on_conflict_do_nothing(index_elements=["name"]),
    "postgresql": postgresql.insert(teams).on_conflict_do_nothing(index_elements=["name"]),
}
