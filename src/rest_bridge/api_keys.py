"""The REST face of API keys: `/v1/api-keys`, its alias `/v1/keys`, `/v1/key` for the caller's own, and the audit log.

A secret stands in the answer to what made it and nowhere else: an answer that is told again, to a request with the
same idempotency key, has null in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from rest_bridge.api_keys_decode import decode_changes, decode_new_key, decode_overlap
from rest_bridge.credits import Dollars
from rest_bridge.http import ANY_KEY, JSON, Exchange, RestRequest, RestResponse, Route, json_response
from rest_bridge.json import check_json_headers, invalid
from rest_bridge.query import check_query, single, whole_number
from rest_bridge.times import iso, iso_if_any, read_time
from server.domain.identity import Scope
from server.domain.keys import STATUSES, AuditEntry, AuditFilter, IssuedKey, KeyFilter, KeyInfo, KeyStatus
from server.domain.limits import check_choice
from server.domain.money import usd
from server.pipeline.api_keys import ApiKeys, AuditPage, KeyPage

__all__ = ["ApiKeysRest", "AuditPageJson", "KeyDeletionJson", "KeysPageJson", "OneKeyJson"]

CREATED: Final = 201
_MANAGEMENT: Final = (Scope.MANAGEMENT,)
_FILTERS: Final = ("status", "scope", "name", "limit", "offset")
_AUDIT_FILTERS: Final = ("actor", "action", "target", "from", "to", "limit", "after")

_encode: Final = msgspec.json.Encoder().encode


class ApiKeyJson(msgspec.Struct, frozen=True, kw_only=True):
    """A key. Amounts are dollars, printed exactly, and nano-dollars; times are RFC 3339.

    `usage` is what it ever spent, `spent` what it spent in the period of its limit. `key` is there only where it has
    just been made: all of it, its secret included.
    """

    id: str
    object: str = "api_key"
    team_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    status: KeyStatus
    disabled: bool
    created_at: str
    updated_at: str | None
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    previous_key_expires_at: str | None
    limit: Dollars | None
    limit_nanos: int | None
    limit_reset: str | None
    limit_remaining: Dollars | None
    limit_remaining_nanos: int | None
    spent: Dollars
    spent_nanos: int
    usage: Dollars
    usage_nanos: int
    allowed_models: tuple[str, ...] | None
    allowed_providers: tuple[str, ...] | None
    allowed_cidrs: tuple[str, ...] | None
    key: str | msgspec.UnsetType | None = msgspec.UNSET


class OneKeyJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    data: ApiKeyJson


class KeysPageJson(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, the oldest first; `total` and `total_count` are how many match."""

    object: str = "list"
    ok: bool = True
    data: tuple[ApiKeyJson, ...]
    limit: int
    offset: int
    total: int
    total_count: int


class KeyDeletionJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    id: str
    object: str = "api_key"
    deleted: bool = True


class AuditEntryJson(msgspec.Struct, frozen=True, kw_only=True):
    """One change that somebody made; `before` and `after` hold the fields that it changed."""

    id: str
    object: str = "audit_entry"
    team_id: str
    created_at: str
    actor: str
    action: str
    target: str
    request_id: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class AuditPageJson(msgspec.Struct, frozen=True, kw_only=True):
    """Entries, the newest first; `next_cursor` is the `after` of the next page."""

    object: str = "list"
    ok: bool = True
    data: tuple[AuditEntryJson, ...]
    limit: int
    has_more: bool
    next_cursor: str | None


class ApiKeysRest:
    """Handlers of all routes about keys."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._keys = api_keys

    def routes(self) -> tuple[Route, ...]:
        return (
            *(route for path in ("/v1/api-keys", "/v1/keys") for route in self._managing(path)),
            Route("GET", "/v1/key", self.own, ANY_KEY),
            Route("GET", "/v1/audit-log", self.audit, _MANAGEMENT),
        )

    def _managing(self, path: str) -> tuple[Route, ...]:
        one = f"{path}/{{key_id}}"
        return (
            Route("GET", path, self.list, _MANAGEMENT),
            Route("POST", path, self.create, _MANAGEMENT),
            Route("GET", one, self.get, _MANAGEMENT),
            Route("PATCH", one, self.change, _MANAGEMENT),
            Route("DELETE", one, self.delete, _MANAGEMENT),
            Route("POST", f"{one}/rotate", self.rotate, _MANAGEMENT),
        )

    async def list(self, exchange: Exchange) -> RestResponse:
        request = exchange.request
        check_query(request, _FILTERS)
        limit, offset = whole_number(request, "limit"), whole_number(request, "offset")
        page = await self._keys.list(exchange.call, _read_filter(request), limit=limit, offset=offset)
        return json_response(_encode(self._page(page)))

    async def create(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        return self._issued(await self._keys.create(exchange.call, decode_new_key(exchange.body)))

    async def get(self, exchange: Exchange) -> RestResponse:
        return self._one(await self._keys.get(exchange.call, exchange.path_params["key_id"]))

    async def change(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        changes = decode_changes(exchange.body)
        return self._one(await self._keys.change(exchange.call, exchange.path_params["key_id"], changes))

    async def rotate(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        overlap_s = decode_overlap(exchange.body)
        return self._issued(await self._keys.rotate(exchange.call, exchange.path_params["key_id"], overlap_s))

    async def delete(self, exchange: Exchange) -> RestResponse:
        key_id = exchange.path_params["key_id"]
        await self._keys.delete(exchange.call, key_id)
        return json_response(_encode(KeyDeletionJson(id=key_id)))

    async def own(self, exchange: Exchange) -> RestResponse:
        return self._one(await self._keys.own(exchange.call))

    async def audit(self, exchange: Exchange) -> RestResponse:
        request = exchange.request
        check_query(request, _AUDIT_FILTERS)
        wanted = AuditFilter(
            actor=single(request, "actor"),
            action=single(request, "action"),
            target=single(request, "target"),
            since=_time(request, "from"),
            until=_time(request, "to"),
        )
        after, limit = single(request, "after"), whole_number(request, "limit")
        page = await self._keys.audit(exchange.call, wanted, after=after, limit=limit)
        return json_response(_encode(_audit_page(page)))

    def _one(self, info: KeyInfo) -> RestResponse:
        return json_response(_encode(OneKeyJson(data=key_json(info, self._keys.now()))))

    def _issued(self, issued: IssuedKey) -> RestResponse:
        """The only answer that holds a secret, and what is told instead of it from then on."""
        shown = key_json(issued.info, self._keys.now())
        body, repeated = (
            _encode(OneKeyJson(data=msgspec.structs.replace(shown, key=text))) for text in (issued.text, None)
        )
        headers = (("content-type", JSON), ("cache-control", "no-store"))
        return RestResponse(CREATED, headers, body, repeated=repeated)

    def _page(self, page: KeyPage) -> KeysPageJson:
        now = self._keys.now()
        return KeysPageJson(
            data=tuple(key_json(info, now) for info in page.keys),
            limit=page.limit,
            offset=page.offset,
            total=page.total,
            total_count=page.total,
        )


def key_json(info: KeyInfo, now: float) -> ApiKeyJson:
    limit, held_to, remaining = info.spend_limit, info.restrictions, info.remaining_nanos
    until = info.previous_expires_at
    return ApiKeyJson(
        id=info.id,
        team_id=info.team_id,
        name=info.name,
        prefix=info.prefix,
        scopes=tuple(sorted(info.scopes)),
        status=info.status(now),
        disabled=info.disabled,
        created_at=iso(info.created_at),
        updated_at=iso_if_any(info.updated_at),
        expires_at=iso_if_any(info.expires_at),
        last_used_at=iso_if_any(info.last_used_at),
        revoked_at=iso_if_any(info.revoked_at),
        previous_key_expires_at=None if until is None or until <= now else iso(until),
        limit=None if limit is None else _dollars(limit.limit_nanos),
        limit_nanos=None if limit is None else limit.limit_nanos,
        limit_reset=None if limit is None else limit.reset,
        limit_remaining=None if remaining is None else _dollars(remaining),
        limit_remaining_nanos=remaining,
        spent=_dollars(info.spent_nanos),
        spent_nanos=info.spent_nanos,
        usage=_dollars(info.used_nanos),
        usage_nanos=info.used_nanos,
        allowed_models=held_to.models,
        allowed_providers=held_to.providers,
        allowed_cidrs=held_to.cidrs,
    )


def _audit_page(page: AuditPage) -> AuditPageJson:
    return AuditPageJson(
        data=tuple(_entry(entry) for entry in page.entries),
        limit=page.limit,
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


def _entry(entry: AuditEntry) -> AuditEntryJson:
    return AuditEntryJson(
        id=str(entry.id),
        team_id=entry.team_id,
        created_at=iso(entry.at),
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
        request_id=entry.request_id,
        before=entry.before,
        after=entry.after,
    )


def _read_filter(request: RestRequest) -> KeyFilter:
    named = [name for value in request.query.get("status", ()) for name in value.split(",")]
    for name in named:
        check_choice(name, STATUSES, "status")
    scope = single(request, "scope")
    if scope is not None:
        check_choice(scope, list(Scope), "scope")
    return KeyFilter(
        statuses=frozenset(status for status in STATUSES if status in named) or KeyFilter().statuses,
        scope=None if scope is None else Scope(scope),
        name=single(request, "name"),
    )


def _time(request: RestRequest, name: str) -> int | None:
    text = single(request, name)
    seconds = None if text is None else read_time(text)
    if text is not None and seconds is None:
        raise invalid(name, f"`{name}` must be seconds since 1970, or a time such as 2026-01-31T12:00:00Z.")
    return seconds


def _dollars(nanos: int) -> msgspec.Raw:
    """Dollars as a JSON number with all of its decimals, as no float has been."""
    return msgspec.Raw(usd(nanos).encode())
