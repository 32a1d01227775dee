"""API keys as their team manages them, and the log of who changed what. Nothing here is of use to call with.

`ApiKeyStore` is the port. What its methods do to keys is decided by the pure functions of this module and of
`server.domain.rights`, within the store's transaction: so that it holds of the keys as they are, and not as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from server.domain.identity import Scope
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.restrictions import Restrictions
from server.domain.rights import Rights, check_gift

__all__ = [
    "STATUSES",
    "Actor",
    "ApiKey",
    "ApiKeyStore",
    "AuditAction",
    "AuditEntry",
    "AuditFilter",
    "IssuedKey",
    "KeyChanges",
    "KeyFilter",
    "KeyInfo",
    "KeyStatus",
    "NewKey",
    "NoLimit",
    "changed",
    "check_change",
    "check_rotation",
    "difference",
]

KeyStatus: TypeAlias = Literal["active", "disabled", "expired", "revoked"]
STATUSES: Final[tuple[KeyStatus, ...]] = ("active", "disabled", "expired", "revoked")

MAX_NAME_CHARS: Final = 100
MAX_LIFETIME_S: Final = 3650 * 86_400
MAX_LIMIT_NANOS: Final = 10**18
DEFAULT_OVERLAP_S: Final = 86_400
MAX_OVERLAP_S: Final = 30 * 86_400

AuditAction: TypeAlias = Literal[
    "key.create",
    "key.update",
    "key.rotate",
    "key.revoke",
    "team.create",
    "team.update",
    "webhook.create",
    "webhook.update",
    "webhook.rotate_secret",
    "webhook.delete",
]


class NoLimit(ValueError):
    """The key has no limit that could be reset."""


class NewKey(msgspec.Struct, frozen=True):
    """A key to be made. `expires_at` is in seconds since 1970."""

    name: str
    scopes: frozenset[Scope]
    expires_at: int | None = None
    disabled: bool = False
    spend_limit: SpendLimit | None = None
    restrictions: Restrictions = Restrictions()

    @property
    def rights(self) -> Rights:
        return Rights(self.scopes, self.expires_at, self.spend_limit, self.restrictions)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key. Times are in seconds since 1970; the secret before the last rotation works until `previous_expires_at`."""

    id: str
    team_id: str
    name: str
    format: str
    scopes: frozenset[Scope]
    created_at: int
    updated_at: int | None = None
    expires_at: int | None = None
    disabled: bool = False
    revoked_at: int | None = None
    spend_limit: SpendLimit | None = None
    restrictions: Restrictions = Restrictions()
    last_used_at: int | None = None
    previous_expires_at: int | None = None

    @property
    def prefix(self) -> str:
        """How the key begins, up to its secret."""
        return f"{self.format}_{self.id}"

    @property
    def rights(self) -> Rights:
        return Rights(self.scopes, self.expires_at, self.spend_limit, self.restrictions)

    def is_valid(self, now: float) -> bool:
        return self.status(now) == "active"

    def status(self, now: float) -> KeyStatus:
        if self.revoked_at is not None:
            return "revoked"
        if self.disabled:
            return "disabled"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"


class KeyInfo(ApiKey, frozen=True, kw_only=True):
    """A key with what it has spent: ever, and in the period that its limit is for (ever, where there is none).

    `reserved_nanos` is what its requests under way hold.
    """

    team: str = ""
    used_nanos: int = 0
    spent_nanos: int = 0
    reserved_nanos: int = 0

    @property
    def remaining_nanos(self) -> int | None:
        """What is left of its limit, never below 0; None without one."""
        if self.spend_limit is None:
            return None
        return max(0, self.spend_limit.limit_nanos - self.spent_nanos - self.reserved_nanos)


class IssuedKey(msgspec.Struct, frozen=True):
    """A key with a new secret. `text` is all of it, as its owner sends it: the only time that it is known."""

    info: KeyInfo
    text: str

    def __repr__(self) -> str:
        return f"IssuedKey(id={self.info.id!r})"


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be another; what is not set stays. Without a limit there is no reset."""

    name: str | UnsetType = UNSET
    scopes: frozenset[Scope] | UnsetType = UNSET
    expires_at: int | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    limit_nanos: int | UnsetType | None = UNSET
    limit_reset: LimitReset | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    providers: tuple[str, ...] | UnsetType | None = UNSET
    cidrs: tuple[str, ...] | UnsetType | None = UNSET


class Actor(msgspec.Struct, frozen=True):
    """Who manages: a key (`key_id`) within its team, or where that is None an operator at the command line."""

    key_id: str | None = None
    team_id: str | None = None
    request_id: str | None = None

    @property
    def name(self) -> str:
        return self.key_id or "cli"


class KeyFilter(msgspec.Struct, frozen=True):
    """Which keys of a team: those of one of the statuses, with the scope, whose name holds the text in any case."""

    statuses: frozenset[KeyStatus] = frozenset(STATUSES) - {"revoked"}
    scope: Scope | None = None
    name: str | None = None


class AuditEntry(msgspec.Struct, frozen=True):
    """One change that was made. `before` and `after` hold the fields that it changed, and no secrets.

    `actor` is the id of a key, or `cli`. `target` is the id of the key or team that was changed.
    """

    id: int
    team_id: str
    at: int
    actor: str
    action: str
    target: str
    request_id: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class AuditFilter(msgspec.Struct, frozen=True):
    """Entries from `since` on and before `until`, in seconds since 1970; None asks for nothing."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    since: int | None = None
    until: int | None = None


class ApiKeyStore(Protocol):
    """The keys of teams. All raise GatewayError (`database_unavailable`).

    Those with an actor raise `beyond_own_rights` where it would give more than it has, and `invalid_api_key` where it
    has ended meanwhile; what they do is in the audit log. A key that is revoked, or of another team, does not exist.
    """

    async def create(self, actor: Actor, new: NewKey) -> IssuedKey:
        """Raises `too_many_keys`."""
        ...

    async def get(self, team_id: str, key_id: str) -> KeyInfo | None: ...

    async def page(self, team_id: str, wanted: KeyFilter, *, limit: int, offset: int) -> tuple[Sequence[KeyInfo], int]:
        """Keys, the oldest first, and how many match."""
        ...

    async def change(self, actor: Actor, key_id: str, changes: KeyChanges) -> KeyInfo | None:
        """The key as it is then. Raises NoLimit."""
        ...

    async def rotate(self, actor: Actor, key_id: str, overlap_s: int) -> IssuedKey | None:
        """Give it a new secret; the one that it has works for `overlap_s` seconds more, any older one no longer."""
        ...

    async def revoke(self, actor: Actor, key_id: str) -> bool:
        """End it for good: whether there is one."""
        ...

    async def audit(self, team_id: str, wanted: AuditFilter, *, before: int | None, limit: int) -> Sequence[AuditEntry]:
        """Entries, the newest first; `before` skips those from that id on."""
        ...


def changed(key: ApiKey, changes: KeyChanges) -> ApiKey:
    """The key as it is after the changes. Raises NoLimit."""
    own, limit, reset = key.restrictions, changes.limit_nanos, changes.limit_reset
    if limit is UNSET:
        limit = None if key.spend_limit is None else key.spend_limit.limit_nanos
    if limit is None and reset not in (UNSET, None):
        raise NoLimit(key.id)
    if reset is UNSET:
        reset = None if key.spend_limit is None else key.spend_limit.reset
    return msgspec.structs.replace(
        key,
        name=_or(changes.name, key.name),
        scopes=_or(changes.scopes, key.scopes),
        expires_at=_or(changes.expires_at, key.expires_at),
        disabled=_or(changes.disabled, key.disabled),
        spend_limit=None if limit is None else SpendLimit(limit, reset),
        restrictions=Restrictions(
            models=_or(changes.models, own.models),
            providers=_or(changes.providers, own.providers),
            cidrs=_or(changes.cidrs, own.cidrs),
        ),
    )


def check_change(actor: ApiKey, before: ApiKey, after: ApiKey, now: float) -> None:
    """Raise `beyond_own_rights` where `actor` may not make `after` of `before`."""
    is_revived = after.is_valid(now) and not before.is_valid(now)
    if is_revived or after.rights.exceeding(before.rights) is not None:
        check_gift(after.rights, actor.rights)


def check_rotation(actor: ApiKey, key: ApiKey) -> None:
    """Raise `beyond_own_rights` where `actor` may not have the secret of `key`."""
    if key.id != actor.id:
        check_gift(key.rights, actor.rights)


def difference(before: ApiKey | None, after: ApiKey | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the audit log says of a change: the fields that differ, as they were and as they are."""
    if before is None or after is None:
        return _shown(before), _shown(after)
    old, new = _shown(before) or {}, _shown(after) or {}
    names = [name for name in new if new[name] != old[name]]
    return {name: old[name] for name in names}, {name: new[name] for name in names}


def _or(value: Any, other: Any) -> Any:
    return other if value is UNSET else value


def _shown(key: ApiKey | None) -> dict[str, Any] | None:
    if key is None:
        return None
    limit, restrictions = key.spend_limit, key.restrictions
    return {
        "name": key.name,
        "scopes": sorted(key.scopes),
        "expires_at": key.expires_at,
        "disabled": key.disabled,
        "limit_nanos": None if limit is None else limit.limit_nanos,
        "limit_reset": None if limit is None else limit.reset,
        "allowed_models": restrictions.models,
        "allowed_providers": restrictions.providers,
        "allowed_cidrs": restrictions.cidrs,
        "revoked_at": key.revoked_at,
        "previous_key_expires_at": key.previous_expires_at,
    }
