"""API keys as rows: read into what the domain knows of them, and written back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

import msgspec
from sqlalchemy import ColumnElement, FromClause, Row, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.identity import Scope, TeamPolicy
from server.domain.keys import ApiKey, KeyInfo, NewKey
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.periods import FIRST_DAY, period_start_day
from server.domain.restrictions import Restrictions
from server.storage import api_key
from server.storage.tables import api_keys, daily_usage, reservations, teams
from server.storage.teams import POLICY_COLUMNS, policy_of

__all__ = ["KeyRecord", "insert_key", "key_of", "select_infos", "select_key", "select_locked", "update_key"]


class KeyRecord(msgspec.Struct, frozen=True):
    """What decides who may call. A secret is that of `secret_hash`, or for a while that of `previous_hash`."""

    key: ApiKey
    secret_hash: bytes
    previous_hash: bytes | None = None
    policy: TeamPolicy = TeamPolicy()

    def opens(self, secret: str, now: float) -> bool:
        """Whether it is the key's secret, in a time that does not tell how close it is."""
        if api_key.secret_matches(secret, self.secret_hash):
            return True
        until = self.key.previous_expires_at
        if self.previous_hash is None or until is None or now >= until:
            return False
        return api_key.secret_matches(secret, self.previous_hash)

    def __repr__(self) -> str:
        return f"KeyRecord(id={self.key.id!r})"


async def select_key(connection: AsyncConnection, kid: str) -> KeyRecord | None:
    """The record of a key, valid or not."""
    row = (await connection.execute(_WITH_POLICY.where(api_keys.c.id == kid))).one_or_none()
    if row is None:
        return None
    return KeyRecord(key_of(row), row.secret_hash, row.previous_hash, policy_of(row))


async def select_locked(connection: AsyncConnection, kids: Iterable[str]) -> dict[str, Row[Any]]:
    """The rows of those keys that there are; nobody changes them before the transaction ends."""
    query = select(api_keys).where(api_keys.c.id.in_(sorted(kids))).order_by(api_keys.c.id).with_for_update()
    return {row.id: row for row in await connection.execute(query)}


async def select_infos(
    connection: AsyncConnection,
    conditions: Sequence[ColumnElement[bool]],
    now: float,
    *,
    limit: int | None = None,
    offset: int = 0,
) -> list[KeyInfo]:
    """Keys and what they have spent, the oldest first."""
    order = (api_keys.c.created_at, api_keys.c.id)
    chosen = select(api_keys, teams.c.name.label("team")).join(teams).where(*conditions).order_by(*order)
    page = chosen.limit(limit).offset(offset).cte("page")
    spent = case((daily_usage.c.day >= _period_start(page, now), daily_usage.c.cost_nanos), else_=0)
    used = (
        select(
            daily_usage.c.key_id,
            func.sum(daily_usage.c.cost_nanos).label("used_nanos"),
            func.sum(spent).label("spent_nanos"),
        )
        .join(page, page.c.id == daily_usage.c.key_id)
        .group_by(daily_usage.c.key_id)
        .subquery()
    )
    held = (
        select(reservations.c.key_id, func.sum(reservations.c.held_nanos).label("reserved_nanos"))
        .join(page, page.c.id == reservations.c.key_id)
        .group_by(reservations.c.key_id)
        .subquery()
    )
    found = page.outerjoin(used, used.c.key_id == page.c.id).outerjoin(held, held.c.key_id == page.c.id)
    query = select(page, used.c.used_nanos, used.c.spent_nanos, held.c.reserved_nanos).select_from(found)
    return [_info(row) for row in await connection.execute(query.order_by(page.c.created_at, page.c.id))]


async def insert_key(connection: AsyncConnection, new: NewKey, *, team_id: str, created_at: int) -> api_key.Token:
    """Make a key within a transaction of the caller's."""
    token = api_key.mint()
    key = ApiKey(
        id=token.kid,
        team_id=team_id,
        name=new.name,
        format=token.format,
        scopes=new.scopes,
        created_at=created_at,
        expires_at=new.expires_at,
        disabled=new.disabled,
        spend_limit=new.spend_limit,
        restrictions=new.restrictions,
    )
    await connection.execute(
        insert(api_keys).values(
            id=key.id,
            team_id=team_id,
            format=key.format,
            secret_hash=api_key.hash_secret(token.secret),
            created_at=created_at,
            **_columns(key),
        )
    )
    return token


async def update_key(connection: AsyncConnection, key: ApiKey, **others: Any) -> None:
    """Write what of a key can change, and other columns of it."""
    await connection.execute(update(api_keys).where(api_keys.c.id == key.id).values(**_columns(key), **others))


def key_of(row: Row[Any]) -> ApiKey:
    return ApiKey(**_fields(row))


def _info(row: Row[Any]) -> KeyInfo:
    # PostgreSQL's sums of bigint are numeric.
    return KeyInfo(
        **_fields(row),
        team=row.team,
        used_nanos=int(row.used_nanos or 0),
        spent_nanos=int(row.spent_nanos or 0),
        reserved_nanos=int(row.reserved_nanos or 0),
    )


def _fields(row: Row[Any]) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _AS_THEY_ARE},
        "scopes": frozenset(Scope(scope) for scope in row.scopes.split()),
        "spend_limit": None if row.limit_nanos is None else SpendLimit(row.limit_nanos, row.limit_reset),
        "restrictions": Restrictions(
            _entries(row.allowed_models), _entries(row.allowed_providers), _entries(row.allowed_cidrs)
        ),
    }


def _columns(key: ApiKey) -> dict[str, Any]:
    limit, held_to = key.spend_limit, key.restrictions
    return {
        "name": key.name,
        "scopes": " ".join(sorted(key.scopes)),
        "updated_at": key.updated_at,
        "expires_at": key.expires_at,
        "disabled": key.disabled,
        "revoked_at": key.revoked_at,
        "limit_nanos": None if limit is None else limit.limit_nanos,
        "limit_reset": None if limit is None else limit.reset,
        "previous_expires_at": key.previous_expires_at,
        "allowed_models": _text(held_to.models),
        "allowed_providers": _text(held_to.providers),
        "allowed_cidrs": _text(held_to.cidrs),
    }


def _entries(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split())


def _text(entries: Sequence[str] | None) -> str | None:
    return None if entries is None else " ".join(entries)


def _period_start(keys: FromClause, now: float) -> ColumnElement[int]:
    """The first day of the period that the key of a row is limited in."""
    resets: tuple[LimitReset, ...] = get_args(LimitReset)
    return case({reset: period_start_day(reset, now) for reset in resets}, value=keys.c.limit_reset, else_=FIRST_DAY)


_AS_THEY_ARE: Final = (
    "id",
    "team_id",
    "name",
    "format",
    "created_at",
    "updated_at",
    "expires_at",
    "disabled",
    "revoked_at",
    "last_used_at",
    "previous_expires_at",
)
_WITH_POLICY: Final = select(
    api_keys,
    *(teams.c[name] for name in POLICY_COLUMNS),
).join(teams)
