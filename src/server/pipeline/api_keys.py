"""The keys of a team, as those with the scope `management` manage them: what is asked for is checked field by field,
and then carried out by the store, which also decides whether the caller may.

Fields are named as in JSON; typed clients have the same names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Final, get_args

import msgspec
from msgspec import UNSET, UnsetType

from server.domain import limits
from server.domain.catalog import Catalog
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call, Scope
from server.domain.keys import (
    DEFAULT_OVERLAP_S,
    MAX_LIFETIME_S,
    MAX_LIMIT_NANOS,
    MAX_NAME_CHARS,
    MAX_OVERLAP_S,
    Actor,
    ApiKeyStore,
    AuditAction,
    AuditEntry,
    AuditFilter,
    IssuedKey,
    KeyChanges,
    KeyFilter,
    KeyInfo,
    NewKey,
    NoLimit,
)
from server.domain.ports import CatalogSource, Clock
from server.domain.restrictions import (
    MAX_ENTRIES,
    Restrictions,
    canonical_cidr,
    check_model_pattern,
    check_provider_id,
    is_pattern,
)

__all__ = ["ApiKeys", "AuditPage", "KeyPage"]

MAX_FILTER_CHARS: Final = 100
ACTIONS: Final[tuple[str, ...]] = get_args(AuditAction)

_KEY_ID: Final = re.compile(r"[a-z0-9]{4,32}")
_ENTRY_ID: Final = re.compile(r"[0-9]{1,18}")

Entries = tuple[str, ...]


class KeyPage(msgspec.Struct, frozen=True):
    """Keys, the oldest first; `total` is how many match."""

    keys: Sequence[KeyInfo]
    limit: int
    offset: int
    total: int


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, the newest first. `next_cursor` is the `after` of the next page; None where there is none."""

    entries: Sequence[AuditEntry]
    limit: int
    next_cursor: str | None


class ApiKeys:
    """Another team's keys do not exist, and neither do those that were revoked."""

    def __init__(self, store: ApiKeyStore, catalogs: CatalogSource, clock: Clock) -> None:
        self._store = store
        self._catalogs = catalogs
        self._clock = clock

    def now(self) -> float:
        """Seconds since 1970, by which a key's status is told."""
        return self._clock.now()

    async def create(self, call: Call, new: NewKey) -> IssuedKey:
        """Raises GatewayError naming the field that is wrong, `beyond_own_rights`, `too_many_keys`."""
        _check_name(new.name)
        _check_scopes(new.scopes)
        self._check_expiry(new.expires_at)
        if new.spend_limit is not None:
            _check_limit(new.spend_limit.limit_nanos)
        held_to, catalog = new.restrictions, self._catalogs.current
        checked = Restrictions(
            _models(held_to.models, catalog), _providers(held_to.providers, catalog), _cidrs(held_to.cidrs)
        )
        return await self._store.create(_actor(call), msgspec.structs.replace(new, restrictions=checked))

    async def get(self, call: Call, key_id: str) -> KeyInfo:
        """Raises GatewayError (`resource_not_found`)."""
        return _found(await self._store.get(call.principal.team_id, _known(key_id)))

    async def own(self, call: Call) -> KeyInfo:
        """The key of the call."""
        principal = call.principal
        info = await self._store.get(principal.team_id, principal.key_id)
        if info is None:
            raise GatewayError(Reason.INVALID_API_KEY, "The API key that this request came with has ended.")
        return info

    async def list(
        self, call: Call, wanted: KeyFilter, *, limit: int | None = None, offset: int | None = None
    ) -> KeyPage:
        """Raises GatewayError (`invalid_value`)."""
        limit, offset = limits.page_size(limit), offset or 0
        _check_filter("name", wanted.name)
        keys, total = await self._store.page(call.principal.team_id, wanted, limit=limit, offset=offset)
        return KeyPage(keys, limit, offset, total)

    async def change(self, call: Call, key_id: str, changes: KeyChanges) -> KeyInfo:
        """Raises GatewayError naming the field that is wrong, `beyond_own_rights`, `resource_not_found`."""
        if changes.name is not UNSET:
            _check_name(changes.name)
        if changes.scopes is not UNSET:
            _check_scopes(changes.scopes)
        if changes.expires_at is not UNSET:
            self._check_expiry(changes.expires_at)
        if not isinstance(changes.limit_nanos, UnsetType | None):
            _check_limit(changes.limit_nanos)
        catalog = self._catalogs.current
        checked = msgspec.structs.replace(
            changes,
            models=UNSET if changes.models is UNSET else _models(changes.models, catalog),
            providers=UNSET if changes.providers is UNSET else _providers(changes.providers, catalog),
            cidrs=UNSET if changes.cidrs is UNSET else _cidrs(changes.cidrs),
        )
        try:
            return _found(await self._store.change(_actor(call), _known(key_id), checked))
        except NoLimit:
            raise limits.invalid_value("limit_reset", "needs a limit, which the key does not have") from None

    async def rotate(self, call: Call, key_id: str, overlap_s: int | None = None) -> IssuedKey:
        """Raises GatewayError: `invalid_value`, `beyond_own_rights`, `resource_not_found`."""
        overlap_s = DEFAULT_OVERLAP_S if overlap_s is None else overlap_s
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise limits.invalid_value("overlap_s", f"must be from 0 to {MAX_OVERLAP_S}, not {overlap_s}")
        issued = await self._store.rotate(_actor(call), _known(key_id), overlap_s)
        if issued is None:
            raise _not_found()
        return issued

    async def delete(self, call: Call, key_id: str) -> None:
        """End it for good. Raises GatewayError (`resource_not_found`)."""
        if not await self._store.revoke(_actor(call), _known(key_id)):
            raise _not_found()

    async def audit(
        self, call: Call, wanted: AuditFilter, *, after: str | None = None, limit: int | None = None
    ) -> AuditPage:
        """Raises GatewayError (`invalid_value`)."""
        limit = limits.page_size(limit)
        _check_filter("actor", wanted.actor)
        _check_filter("target", wanted.target)
        if wanted.action is not None:
            limits.check_choice(wanted.action, ACTIONS, "action")
        if wanted.since is not None and wanted.until is not None and wanted.since > wanted.until:
            raise limits.invalid_value("from", "must not be later than to")
        if after is not None and _ENTRY_ID.fullmatch(after) is None:
            raise limits.invalid_value("after", "must be the id of an entry")
        before = None if after is None else int(after)
        rows = await self._store.audit(call.principal.team_id, wanted, before=before, limit=limit + 1)
        page = rows[:limit]
        return AuditPage(page, limit, str(page[-1].id) if len(rows) > limit else None)

    def _check_expiry(self, expires_at: int | None) -> None:
        if expires_at is None:
            return
        now = self._clock.now()
        if not now < expires_at <= now + MAX_LIFETIME_S:
            days = MAX_LIFETIME_S // 86_400
            raise limits.invalid_value("expires_at", f"must be a time to come, at most {days} days away")


def _actor(call: Call) -> Actor:
    return Actor(call.principal.key_id, call.principal.team_id, call.arrival.request_id)


def _known(key_id: str) -> str:
    """The id itself, where it can be one of a key."""
    if _KEY_ID.fullmatch(key_id) is None:
        raise _not_found()
    return key_id


def _found(info: KeyInfo | None) -> KeyInfo:
    if info is None:
        raise _not_found()
    return info


def _not_found() -> GatewayError:
    return GatewayError(Reason.RESOURCE_NOT_FOUND, "There is no such API key.")


def _check_filter(param: str, text: str | None) -> None:
    if text is not None and not (0 < len(text) <= MAX_FILTER_CHARS and text.isprintable()):
        raise limits.invalid_value(param, f"must be 1 to {MAX_FILTER_CHARS} printable characters")


def _check_name(name: str) -> None:
    if not name:
        raise limits.missing_field("name")
    if len(name) > MAX_NAME_CHARS or not name.isprintable() or not name.strip():
        raise limits.invalid_value("name", f"must be 1 to {MAX_NAME_CHARS} printable characters, and not blank")


def _check_scopes(scopes: Collection[Scope]) -> None:
    if not scopes:
        raise limits.invalid_value("scopes", f"must have at least one of {', '.join(Scope)}")


def _check_limit(nanos: int) -> None:
    if not 0 <= nanos <= MAX_LIMIT_NANOS:
        raise limits.invalid_value("limit", "must be from 0 to 1000000000 dollars")


def _models(models: Entries | None, catalog: Catalog) -> Entries | None:
    known = (*catalog.models, *catalog.aliases)

    def check(name: str) -> str:
        check_model_pattern(name)
        if not is_pattern(name) and name not in catalog.models and name not in catalog.aliases:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"names no model of this gateway{_hint(near)}")
        return name

    return _entries("allowed_models", models, check)


def _providers(providers: Entries | None, catalog: Catalog) -> Entries | None:
    def check(name: str) -> str:
        if check_provider_id(name) not in catalog.providers:
            near = difflib.get_close_matches(name, catalog.providers)
            raise ValueError(f"names no provider of this gateway{_hint(near)}")
        return name

    return _entries("allowed_providers", providers, check)


def _cidrs(cidrs: Entries | None) -> Entries | None:
    return _entries("allowed_cidrs", cidrs, canonical_cidr)


def _entries(param: str, given: Entries | None, check: Callable[[str], str]) -> Entries | None:
    """The entries of a restriction as `check` returns them."""
    if given is None:
        return None
    if not given:
        raise limits.invalid_value(param, "must have at least one entry, or be null for no restriction")
    limits.check_count(len(given), MAX_ENTRIES, param)
    entries: list[str] = []
    for index, text in enumerate(given):
        try:
            entry = check(text)
        except ValueError as error:
            raise limits.invalid_value(f"{param}[{index}]", str(error)) from None
        if entry in entries:
            raise limits.invalid_value(f"{param}[{index}]", "stands there twice")
        entries.append(entry)
    return tuple(entries)


def _hint(near: Sequence[str]) -> str:
    return f"; did you mean {', '.join(near)}?" if near else ""
