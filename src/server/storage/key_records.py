"""API keys as records: made, listed, limited, revoked. `keys.py` decides from them who may call."""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec
from sqlalchemy import ColumnElement, Row, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.identity import Scope, TeamPolicy
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.periods import FIRST_DAY, period_start_day
from server.domain.ports import Clock
from server.storage import api_key
from server.storage.database import Database
from server.storage.tables import api_keys, daily_usage, teams
from server.storage.teams import find_team, policy_of

__all__ = ["CreatedKey", "KeyInfo", "KeyRecord", "KeyRecords", "NoLimit", "UnknownTeam", "insert_key", "select_key"]


class UnknownTeam(LookupError):
    """No team has that name."""


class NoLimit(ValueError):
    """The key has no limit that could be reset."""


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
    spend_limit: SpendLimit | None = None
    policy: TeamPolicy = TeamPolicy()

    def is_valid(self, now: float) -> bool:
        return not (
            self.disabled or self.revoked_at is not None or (self.expires_at is not None and now >= self.expires_at)
        )

    def __repr__(self) -> str:
        return f"KeyRecord(id={self.id!r})"


class KeyInfo(msgspec.Struct, frozen=True):
    """A key as it is shown to people: nothing in it helps to call.

    `spent_nanos`: what was charged to it in the period that its limit is for, and ever where there is none.
    """

    id: str
    team: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    status: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    spend_limit: SpendLimit | None
    spent_nanos: int


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key, the only time that its text is known."""

    id: str
    key: str
    team: str
    name: str
    scopes: tuple[Scope, ...]
    expires_at: int | None
    spend_limit: SpendLimit | None = None

    def __repr__(self) -> str:
        return f"CreatedKey(id={self.id!r})"


class KeyRecords:
    """The keys of all teams, for management."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        *,
        team: str,
        name: str,
        scopes: frozenset[Scope],
        expires_at: int | None = None,
        spend_limit: SpendLimit | None = None,
    ) -> CreatedKey:
        """Make a key for the team of that name. `expires_at` in seconds since 1970. Raises UnknownTeam."""
        now = int(self._clock.now())

        async def work(connection: AsyncConnection) -> CreatedKey:
            owner = await find_team(connection, team)
            if owner is None:
                raise UnknownTeam(team)
            token = await insert_key(
                connection,
                team_id=owner.id,
                name=name,
                scopes=scopes,
                created_at=now,
                expires_at=expires_at,
                spend_limit=spend_limit,
            )
            return CreatedKey(
                id=token.kid,
                key=str(token),
                team=team,
                name=name,
                scopes=tuple(sorted(scopes)),
                expires_at=expires_at,
                spend_limit=spend_limit,
            )

        return await self._database.write(work)

    async def list(self, *, team: str | None = None) -> list[KeyInfo]:
        """The keys of one team, or of all, oldest first. Raises UnknownTeam."""
        now = self._clock.now()
        spent = (
            select(daily_usage.c.key_id, func.sum(daily_usage.c.cost_nanos).label("nanos"))
            .join(api_keys, daily_usage.c.key_id == api_keys.c.id)
            .where(daily_usage.c.day >= _period_start(now))
            .group_by(daily_usage.c.key_id)
            .subquery()
        )
        query = select(*_COLUMNS, teams.c.name.label("team"), spent.c.nanos.label("spent_nanos"))
        query = query.select_from(api_keys.join(teams).outerjoin(spent, spent.c.key_id == api_keys.c.id))
        query = query.order_by(api_keys.c.created_at, api_keys.c.id)

        async def work(connection: AsyncConnection) -> list[KeyInfo]:
            wanted = query
            if team is not None:
                owner = await find_team(connection, team)
                if owner is None:
                    raise UnknownTeam(team)
                wanted = query.where(api_keys.c.team_id == owner.id)
            return [_info(row, now) for row in await connection.execute(wanted)]

        return await self._database.read(work)

    async def set_limit(
        self,
        kid: str,
        *,
        limit_nanos: int | msgspec.UnsetType = msgspec.UNSET,
        reset: LimitReset | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> SpendLimit | None:
        """Change what is given of a key's limit; the limit as it is now, None where there is no such key.

        Raises NoLimit where the key has none and only `reset` is given.
        """

        async def work(connection: AsyncConnection) -> SpendLimit | None:
            query = select(*_COLUMNS).join(teams).where(api_keys.c.id == kid).with_for_update(of=api_keys)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            before = _record(row).spend_limit
            nanos = limit_nanos
            if nanos is msgspec.UNSET:
                if before is None:
                    raise NoLimit(kid)
                nanos = before.limit_nanos
            limit = SpendLimit(nanos, (before.reset if before else None) if reset is msgspec.UNSET else reset)
            await _update_limit(connection, kid, limit)
            return limit

        return await self._database.write(work)

    async def lift_limit(self, kid: str) -> bool:
        """Let a key spend without limit: whether there is one of that id."""

        async def work(connection: AsyncConnection) -> bool:
            return await _update_limit(connection, kid, None)

        return await self._database.write(work)

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
    spend_limit: SpendLimit | None = None,
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
            **_limit_columns(spend_limit),
        )
    )
    return token


async def select_key(connection: AsyncConnection, kid: str) -> KeyRecord | None:
    """The record of a key, valid or not."""
    row = (await connection.execute(select(*_COLUMNS).join(teams).where(api_keys.c.id == kid))).one_or_none()
    return None if row is None else _record(row)


_COLUMNS: Final = (
    api_keys,
    teams.c.store_content,
    teams.c.content_days,
    teams.c.on_disconnect,
    teams.c.sort,
    teams.c.regions,
)


def _record(row: Row[Any]) -> KeyRecord:
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
        spend_limit=None if row.limit_nanos is None else SpendLimit(row.limit_nanos, row.limit_reset),
        policy=policy_of(row),
    )


def _period_start(now: float) -> ColumnElement[int]:
    """The first day of the period that the key of a row is limited in."""
    resets: tuple[LimitReset, ...] = get_args(LimitReset)
    return case(
        {reset: period_start_day(reset, now) for reset in resets}, value=api_keys.c.limit_reset, else_=FIRST_DAY
    )


async def _update_limit(connection: AsyncConnection, kid: str, limit: SpendLimit | None) -> bool:
    statement = update(api_keys).where(api_keys.c.id == kid).values(_limit_columns(limit))
    return (await connection.execute(statement)).rowcount > 0


def _limit_columns(limit: SpendLimit | None) -> dict[str, Any]:
    if limit is None:
        return {"limit_nanos": None, "limit_reset": None}
    return {"limit_nanos": limit.limit_nanos, "limit_reset": limit.reset}


def _info(row: Row[Any], now: float) -> KeyInfo:
    record = _record(row)
    return KeyInfo(
        id=record.id,
        team=row.team,
        name=record.name,
        prefix=f"{record.format}_{record.id}",
        scopes=tuple(sorted(record.scopes)),
        status=_status(record, now),
        created_at=record.created_at,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
        spend_limit=record.spend_limit,
        spent_nanos=int(row.spent_nanos or 0),
    )


def _status(record: KeyRecord, now: float) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.disabled:
        return "disabled"
    return "active" if record.is_valid(now) else "expired"
