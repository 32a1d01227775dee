"""Teams: who owns keys, responses and, later, money."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Row, exc, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.guardrail import Guardrail
from server.domain.identity import TeamPolicy
from server.domain.keys import Actor, AuditAction
from server.domain.ports import Clock, IdSource
from server.storage.audit import write_audit
from server.storage.database import Database
from server.storage.tables import teams

__all__ = ["DEFAULT_TEAM", "POLICY_COLUMNS", "InvalidName", "NameTaken", "Team", "Teams", "find_team", "policy_of"]

DEFAULT_TEAM: Final = "default"
MAX_NAME_LENGTH: Final = 64
POLICY_COLUMNS: Final = (
    "store_content",
    "content_days",
    "on_disconnect",
    "sort",
    "regions",
    "moderation_input",
    "moderation_output",
    "moderation_model",
)
"""What `policy_of` reads."""

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")


class InvalidName(ValueError):
    """The name can't be a team's. The text says what can."""


class NameTaken(ValueError):
    """There is a team of that name."""


class Team(msgspec.Struct, frozen=True):
    """`created_at` is in seconds since 1970."""

    id: str
    name: str
    created_at: int
    policy: TeamPolicy = TeamPolicy()


class Teams:
    """The teams of this gateway."""

    def __init__(self, database: Database, clock: Clock, ids: IdSource) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids

    async def create(self, name: str) -> Team:
        """Add a team. Raises InvalidName, NameTaken."""
        if _NAME.fullmatch(name) is None:
            raise InvalidName(
                f"a team's name has 1 to {MAX_NAME_LENGTH} letters, digits, dots, dashes and underscores,"
                " and begins with a letter or digit"
            )
        team = Team(id=self._ids.new(), name=name, created_at=int(self._clock.now()))

        async def work(connection: AsyncConnection) -> None:
            values = {"id": team.id, "name": team.name, "created_at": team.created_at}
            await connection.execute(insert(teams).values(values))
            await _note(connection, "team.create", team, team.created_at, None, {"name": team.name})

        try:
            await self._database.write(work)
        except exc.IntegrityError as error:
            raise NameTaken(f"there is a team {name!r} already") from error
        return team

    async def change(self, name: str, changes: Mapping[str, Any]) -> Team | None:
        """Change fields of a team's policy; the team as it is then, None where there is none of that name."""

        async def work(connection: AsyncConnection) -> Team | None:
            row = (await connection.execute(select(teams).where(teams.c.name == name).with_for_update())).one_or_none()
            if row is None:
                return None
            await connection.execute(update(teams).where(teams.c.id == row.id).values(**changes))
            team = await find_team(connection, name)
            was = {field: getattr(row, field) for field in changes if getattr(row, field) != changes[field]}
            if team is not None and was:
                now = int(self._clock.now())
                await _note(connection, "team.update", team, now, was, {field: changes[field] for field in was})
            return team

        return await self._database.write(work)

    async def list(self) -> list[Team]:
        """All teams, oldest first."""

        async def work(connection: AsyncConnection) -> list[Team]:
            rows = await connection.execute(select(teams).order_by(teams.c.created_at, teams.c.id))
            return [_team(row) for row in rows]

        return await self._database.read(work)


async def find_team(connection: AsyncConnection, name: str) -> Team | None:
    """The team of that name."""
    row = (await connection.execute(select(teams).where(teams.c.name == name))).one_or_none()
    return None if row is None else _team(row)


async def _note(
    connection: AsyncConnection,
    action: AuditAction,
    team: Team,
    at: int,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
) -> None:
    await write_audit(connection, Actor(), action, team_id=team.id, target=team.id, at=at, before=before, after=after)


def policy_of(row: Row[Any]) -> TeamPolicy:
    """What a team has chosen, of a row that has its columns."""
    return TeamPolicy(
        store_content=row.store_content,
        content_days=row.content_days,
        on_disconnect=row.on_disconnect,
        sort=row.sort,
        regions=None if row.regions is None else tuple(row.regions.split()),
        guardrail=_guardrail(row),
    )


def _guardrail(row: Row[Any]) -> Guardrail | None:
    """None where nothing is judged, whoever would judge it."""
    if row.moderation_input is None and row.moderation_output is None:
        return None
    return Guardrail(row.moderation_input, row.moderation_output, row.moderation_model)


def _team(row: Row[Any]) -> Team:
    return Team(id=row.id, name=row.name, created_at=row.created_at, policy=policy_of(row))
