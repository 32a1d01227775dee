"""API keys as records: made, listed, revoked. `keys.py` decides from them who may call."""

from __future__ import annotations

import msgspec
from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.identity import Scope
from server.domain.ports import Clock
from server.storage import api_key
from server.storage.database import Database
from server.storage.tables import api_keys, teams
from server.storage.teams import find_team

__all__ = ["CreatedKey", "KeyInfo", "KeyRecord", "KeyRecords", "UnknownTeam", "insert_key", "select_key"]


class UnknownTeam(LookupError):
    """No team has that name."""


class KeyRecord(msgspec.Struct, frozen=True):
    """What is stored of a key. Times are seconds since 1970."""

    id: str
    team_id: str
    name: str
    format: str
    secret_hash: bytes
    scopes: frozenset[Scope]
    created_at: int
    expires_at: int | None = None
    disabled: bool = False
    revoked_at: int | None = None

    def is_valid(self, now: float) -> bool:
        return not (
            self.disabled or self.revoked_at is not None or (self.expires_at is not None and now >= self.expires_at)
        )

    def __repr__(self) -> str:
        return f"KeyRecord(id={self.id!r})"


class KeyInfo(msgspec.Struct, frozen=True):
    """A key as it is shown to people: nothing in it helps to call."""

    id: str
    team: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    status: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key, the only time that its text is known."""

    id: str
    key: str
    team: str
    name: str
    scopes: tuple[Scope, ...]
    expires_at: int | None

    def __repr__(self) -> str:
        return f"CreatedKey(id={self.id!r})"


class KeyRecords:
    """The keys of all teams, for management."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, *, team: str, name: str, scopes: frozenset[Scope], expires_at: int | None = None
    ) -> CreatedKey:
        """Make a key for the team of that name. `expires_at` in seconds since 1970. Raises UnknownTeam."""
        now = int(self._clock.now())

        async def work(connection: AsyncConnection) -> CreatedKey:
            owner = await find_team(connection, team)
            if owner is None:
                raise UnknownTeam(team)
            token = await insert_key(
                connection, team_id=owner.id, name=name, scopes=scopes, created_at=now, expires_at=expires_at
            )
            return CreatedKey(
                id=token.kid,
                key=str(token),
                team=team,
                name=name,
                scopes=tuple(sorted(scopes)),
                expires_at=expires_at,
            )

        return await self._database.write(work)

    async def list(self, *, team: str | None = None) -> list[KeyInfo]:
        """The keys of one team, or of all, oldest first. Raises UnknownTeam."""
        now = self._clock.now()
        query = select(api_keys, teams.c.name.label("team")).join(teams)
        query = query.order_by(api_keys.c.created_at, api_keys.c.id)

        async def work(connection: AsyncConnection) -> list[KeyInfo]:
            wanted = query
            if team is not None:
                owner = await find_team(connection, team)
                if owner is None:
                    raise UnknownTeam(team)
                wanted = query.where(api_keys.c.team_id == owner.id)
            return [_info(_record(row), row.team, now) for row in await connection.execute(wanted)]

        return await self._database.read(work)

    async def revoke(self, kid: str) -> bool:
        """End a key for good: whether there is one of that id. To revoke twice changes nothing."""
        now = int(self._clock.now())

        async def work(connection: AsyncConnection) -> bool:
            await connection.execute(
                update(api_keys).where(api_keys.c.id == kid, api_keys.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            found = await connection.execute(select(api_keys.c.id).where(api_keys.c.id == kid))
            return found.one_or_none() is not None

        return await self._database.write(work)


async def insert_key(
    connection: AsyncConnection,
    *,
    team_id: str,
    name: str,
    scopes: frozenset[Scope],
    created_at: int,
    expires_at: int | None = None,
) -> api_key.Token:
    """Make a key within a transaction of the caller's."""
    token = api_key.mint()
    await connection.execute(
        insert(api_keys).values(
            id=token.kid,
            team_id=team_id,
            name=name,
            format=token.format,
            secret_hash=api_key.hash_secret(token.secret),
            scopes=" ".join(sorted(scopes)),
            created_at=created_at,
            expires_at=expires_at,
        )
    )
    return token


async def select_key(connection: AsyncConnection, kid: str) -> KeyRecord | None:
    """The record of a key, valid or not."""
    row = (await connection.execute(select(api_keys).where(api_keys.c.id == kid))).one_or_none()
    return None if row is None else _record(row)


def _record(row: Row[tuple[object, ...]]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        team_id=row.team_id,
        name=row.name,
        format=row.format,
        secret_hash=row.secret_hash,
        scopes=frozenset(Scope(scope) for scope in row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        disabled=row.disabled,
        revoked_at=row.revoked_at,
    )


def _info(record: KeyRecord, team: str, now: float) -> KeyInfo:
    return KeyInfo(
        id=record.id,
        team=team,
        name=record.name,
        prefix=f"{record.format}_{record.id}",
        scopes=tuple(sorted(record.scopes)),
        status=_status(record, now),
        created_at=record.created_at,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
    )


def _status(record: KeyRecord, now: float) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.disabled:
        return "disabled"
    return "active" if record.is_valid(now) else "expired"
