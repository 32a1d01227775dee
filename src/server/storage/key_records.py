"""API keys for whoever holds the database: the commands, which know teams by name and may do everything."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.identity import Scope
from server.domain.keys import Actor, IssuedKey, KeyChanges, KeyInfo, NewKey
from server.domain.ledger import SpendLimit
from server.domain.ports import Clock
from server.domain.restrictions import Restrictions
from server.storage.api_keys import SqlApiKeys
from server.storage.database import Database
from server.storage.tables import api_keys
from server.storage.teams import find_team

__all__ = ["CreatedKey", "KeyRecords", "UnknownTeam"]

_OPERATOR = Actor()


class UnknownTeam(LookupError):
    """No team has that name."""


class CreatedKey(msgspec.Struct, frozen=True):
    """A key with a new secret, the only time that its text is known."""

    id: str
    key: str
    info: KeyInfo

    def __repr__(self) -> str:
        return f"CreatedKey(id={self.id!r})"


class KeyRecords:
    """The keys of all teams. What is done here is in the audit log as done by `cli`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._keys = SqlApiKeys(database, clock)

    async def create(
        self,
        *,
        team: str,
        name: str,
        scopes: frozenset[Scope],
        expires_at: int | None = None,
        disabled: bool = False,
        spend_limit: SpendLimit | None = None,
        restrictions: Restrictions = Restrictions(),  # noqa: B008 - frozen
    ) -> CreatedKey:
        """Make a key for the team of that name. `expires_at` in seconds since 1970. Raises UnknownTeam."""
        new = NewKey(name, scopes, expires_at, disabled, spend_limit, restrictions)
        return _created(await self._keys.create(Actor(team_id=await self._team(team)), new))

    async def list(self, *, team: str | None = None) -> Sequence[KeyInfo]:
        """The keys of one team, or of all, oldest first, those revoked too. Raises UnknownTeam."""
        return await self._keys.list(None if team is None else await self._team(team))

    async def change(self, kid: str, changes: KeyChanges) -> KeyInfo | None:
        """The key as it is then; None where there is none that could be changed. Raises NoLimit."""
        return await self._keys.change(_OPERATOR, kid, changes)

    async def rotate(self, kid: str, *, overlap_s: int) -> CreatedKey | None:
        """Give a key a new secret; None where there is none that could be."""
        issued = await self._keys.rotate(_OPERATOR, kid, overlap_s)
        return None if issued is None else _created(issued)

    async def revoke(self, kid: str) -> bool:
        """End a key for good: whether there is one of that id. To revoke twice changes nothing."""

        async def is_known(connection: AsyncConnection) -> bool:
            found = await connection.execute(select(api_keys.c.id).where(api_keys.c.id == kid))
            return found.one_or_none() is not None

        return await self._keys.revoke(_OPERATOR, kid) or await self._database.read(is_known)

    async def _team(self, name: str) -> str:
        team = await self._database.read(lambda connection: find_team(connection, name))
        if team is None:
            raise UnknownTeam(name)
        return team.id


def _created(issued: IssuedKey) -> CreatedKey:
    return CreatedKey(issued.info.id, issued.text, issued.info)
