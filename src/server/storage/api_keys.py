"""The keys of teams, managed: each change is one transaction with the check of who may make it and its audit entry.

The keys that a change is about, that of the actor included, are locked and read anew in that transaction. So two
changes at once both happen, and nobody acts with rights that were just taken from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.identity import Scope
from server.domain.keys import (
    Actor,
    ApiKey,
    AuditAction,
    AuditEntry,
    AuditFilter,
    IssuedKey,
    KeyChanges,
    KeyFilter,
    KeyInfo,
    KeyStatus,
    NewKey,
    changed,
    check_change,
    check_rotation,
    difference,
)
from server.domain.ports import Clock
from server.domain.rights import check_gift
from server.storage import api_key
from server.storage.audit import read_audit, write_audit
from server.storage.database import Database
from server.storage.key_rows import insert_key, key_of, select_infos, select_locked, update_key
from server.storage.tables import api_keys

__all__ = ["MAX_KEYS", "SqlApiKeys"]

MAX_KEYS: Final = 10_000
"""That a team may have; those that were revoked do not count."""


class SqlApiKeys:
    """Implements `server.domain.keys.ApiKeyStore`. An operator may do everything, and to keys of any team."""

    def __init__(self, database: Database, clock: Clock, *, max_keys: int = MAX_KEYS) -> None:
        self._database = database
        self._clock = clock
        self._max_keys = max_keys

    async def create(self, actor: Actor, new: NewKey) -> IssuedKey:
        team_id = actor.team_id
        assert team_id is not None, "a key has a team"

        async def work(connection: AsyncConnection) -> IssuedKey:
            own, _ = await self._locked(connection, actor)
            if own is not None:
                check_gift(new.rights, own.rights)
            await self._check_room(connection, team_id)
            token = await insert_key(connection, new, team_id=team_id, created_at=int(self._clock.now()))
            info = await self._read(connection, token.kid)
            await self._note(connection, actor, "key.create", None, info)
            return IssuedKey(info, str(token))

        return await self._database.write(work)

    async def get(self, team_id: str, key_id: str) -> KeyInfo | None:
        conditions = (api_keys.c.id == key_id, api_keys.c.team_id == team_id, api_keys.c.revoked_at.is_(None))

        async def work(connection: AsyncConnection) -> KeyInfo | None:
            found = await select_infos(connection, conditions, self._clock.now())
            return found[0] if found else None

        return await self._database.read(work)

    async def page(self, team_id: str, wanted: KeyFilter, *, limit: int, offset: int) -> tuple[Sequence[KeyInfo], int]:
        now = self._clock.now()
        conditions = [api_keys.c.team_id == team_id, *_conditions(wanted, now)]

        async def work(connection: AsyncConnection) -> tuple[list[KeyInfo], int]:
            if wanted.name is not None:
                ids = await _named(connection, wanted.name, conditions)
                chosen = api_keys.c.id.in_(ids[offset : offset + limit])
                return await select_infos(connection, (chosen,), now), len(ids)
            found = await select_infos(connection, conditions, now, limit=limit, offset=offset)
            total = await connection.scalar(select(func.count()).select_from(api_keys).where(*conditions))
            return found, total or 0

        return await self._database.read(work)

    async def list(self, team_id: str | None) -> Sequence[KeyInfo]:
        """All keys of one team, or of all, those revoked too; for operators."""
        conditions = () if team_id is None else (api_keys.c.team_id == team_id,)

        async def work(connection: AsyncConnection) -> Sequence[KeyInfo]:
            return await select_infos(connection, conditions, self._clock.now())

        return await self._database.read(work)

    async def change(self, actor: Actor, key_id: str, changes: KeyChanges) -> KeyInfo | None:
        async def work(connection: AsyncConnection) -> KeyInfo | None:
            own, before = await self._locked(connection, actor, key_id)
            if before is None:
                return None
            now = self._clock.now()
            after = changed(before, changes)
            if own is not None:
                check_change(own, before, after, now)
            if after != before:
                after = msgspec.structs.replace(after, updated_at=int(now))
                await update_key(connection, after)
                await self._note(connection, actor, "key.update", before, after)
            return await self._read(connection, key_id)

        return await self._database.write(work)

    async def rotate(self, actor: Actor, key_id: str, overlap_s: int) -> IssuedKey | None:
        async def work(connection: AsyncConnection) -> IssuedKey | None:
            own, before = await self._locked(connection, actor, key_id)
            if before is None:
                return None
            if own is not None:
                check_rotation(own, before)
            now = self._clock.now()
            token = api_key.renew(before.id, before.format)
            after = msgspec.structs.replace(
                before, updated_at=int(now), previous_expires_at=math.ceil(now) + overlap_s if overlap_s else None
            )
            await update_key(
                connection,
                after,
                previous_hash=api_keys.c.secret_hash if overlap_s else None,
                secret_hash=api_key.hash_secret(token.secret),
            )
            await self._note(connection, actor, "key.rotate", before, after)
            return IssuedKey(await self._read(connection, key_id), str(token))

        return await self._database.write(work)

    async def revoke(self, actor: Actor, key_id: str) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            _, before = await self._locked(connection, actor, key_id)
            if before is None:
                return False
            after = msgspec.structs.replace(before, revoked_at=int(self._clock.now()))
            await update_key(connection, after)
            await self._note(connection, actor, "key.revoke", before, after)
            return True

        return await self._database.write(work)

    async def audit(self, team_id: str, wanted: AuditFilter, *, before: int | None, limit: int) -> Sequence[AuditEntry]:
        return await read_audit(self._database, team_id, wanted, before=before, limit=limit)

    async def _locked(
        self, connection: AsyncConnection, actor: Actor, key_id: str | None = None
    ) -> tuple[ApiKey | None, ApiKey | None]:
        """The actor's own key, None for an operator, and the one to be changed, None where there is none."""
        rows = await select_locked(connection, {one for one in (actor.key_id, key_id) if one is not None})
        keys = {id_: key_of(row) for id_, row in rows.items()}
        own = None if actor.key_id is None else self._checked(keys.get(actor.key_id))
        key = keys.get(key_id or "")
        if key is None or key.revoked_at is not None or actor.team_id not in (None, key.team_id):
            return own, None
        return own, key

    def _checked(self, own: ApiKey | None) -> ApiKey:
        """The actor's key, unless it has ended since it was let in."""
        if own is None or not own.is_valid(self._clock.now()):
            raise GatewayError(Reason.INVALID_API_KEY, "The API key that this request came with has ended.")
        if Scope.MANAGEMENT not in own.scopes:
            raise GatewayError(Reason.MISSING_SCOPE, f"This API key lacks the scope '{Scope.MANAGEMENT.value}'.")
        return own

    async def _check_room(self, connection: AsyncConnection, team_id: str) -> None:
        living = select(func.count()).where(api_keys.c.team_id == team_id, api_keys.c.revoked_at.is_(None))
        if (await connection.scalar(living) or 0) >= self._max_keys:
            raise GatewayError(
                Reason.TOO_MANY_KEYS, f"The team has {self._max_keys} keys, the most that there may be: delete some."
            )

    async def _read(self, connection: AsyncConnection, key_id: str) -> KeyInfo:
        [info] = await select_infos(connection, (api_keys.c.id == key_id,), self._clock.now())
        return info

    async def _note(
        self, connection: AsyncConnection, actor: Actor, action: AuditAction, before: ApiKey | None, after: ApiKey
    ) -> None:
        old, new = difference(before, after)
        await write_audit(
            connection,
            actor,
            action,
            team_id=after.team_id,
            target=after.id,
            at=int(self._clock.now()),
            before=old,
            after=new,
        )


def _conditions(wanted: KeyFilter, now: float) -> list[ColumnElement[bool]]:
    """All but the name. Statuses are told apart here as `ApiKey.status` does it."""
    is_revoked = api_keys.c.revoked_at.is_not(None)
    is_over = func.coalesce(api_keys.c.expires_at <= int(now), False)
    of_status: dict[KeyStatus, ColumnElement[bool]] = {
        "revoked": is_revoked,
        "disabled": ~is_revoked & api_keys.c.disabled,
        "expired": ~is_revoked & ~api_keys.c.disabled & is_over,
        "active": ~is_revoked & ~api_keys.c.disabled & ~is_over,
    }
    chosen: ColumnElement[bool] | None = None
    for status in sorted(wanted.statuses):
        chosen = of_status[status] if chosen is None else chosen | of_status[status]
    conditions = [] if chosen is None else [chosen]
    if wanted.scope is not None:
        conditions.append(api_keys.c.scopes.contains(wanted.scope.value))
    return conditions


async def _named(connection: AsyncConnection, part: str, conditions: Sequence[ColumnElement[bool]]) -> list[str]:
    """The ids of keys whose name has the part, the oldest first. Databases know cases of ASCII only, or as set up."""
    query = select(api_keys.c.id, api_keys.c.name).where(*conditions).order_by(api_keys.c.created_at, api_keys.c.id)
    folded = part.casefold()
    return [id_ for id_, name in await connection.execute(query) if folded in name.casefold()]
