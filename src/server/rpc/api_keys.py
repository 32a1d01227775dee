"""ApiKeysService: the keys of the caller's team, and the log of who changed what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from google.protobuf.internal.containers import RepeatedScalarFieldContainer
from msgspec import UNSET

from aistats.gateway.v1 import api_keys_pb2, api_keys_pb2_grpc
from server.domain import limits
from server.domain.identity import Scope
from server.domain.keys import AuditEntry, AuditFilter, KeyChanges, KeyFilter, KeyInfo, KeyStatus, NewKey
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.restrictions import Restrictions
from server.pipeline.api_keys import ApiKeys
from server.rpc.context import CallContext

__all__ = ["ApiKeysServicer"]

_SCOPES: Final[Mapping[int, Scope]] = {
    api_keys_pb2.API_KEY_SCOPE_INFERENCE: Scope.INFERENCE,
    api_keys_pb2.API_KEY_SCOPE_MANAGEMENT: Scope.MANAGEMENT,
}
_RESETS: Final[Mapping[int, LimitReset | None]] = {
    api_keys_pb2.API_KEY_LIMIT_RESET_UNSPECIFIED: None,
    api_keys_pb2.API_KEY_LIMIT_RESET_DAILY: "daily",
    api_keys_pb2.API_KEY_LIMIT_RESET_WEEKLY: "weekly",
    api_keys_pb2.API_KEY_LIMIT_RESET_MONTHLY: "monthly",
}
_STATUSES: Final[Mapping[int, KeyStatus]] = {
    api_keys_pb2.API_KEY_STATUS_ACTIVE: "active",
    api_keys_pb2.API_KEY_STATUS_DISABLED: "disabled",
    api_keys_pb2.API_KEY_STATUS_EXPIRED: "expired",
    api_keys_pb2.API_KEY_STATUS_REVOKED: "revoked",
}
_FIELDS: Final = tuple(field.name for field in api_keys_pb2.ApiKeySettings.DESCRIPTOR.fields)
_MAX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999."""


class ApiKeysServicer(api_keys_pb2_grpc.ApiKeysServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._keys = api_keys

    async def ListApiKeys(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.ListApiKeysRequest, context: CallContext
    ) -> api_keys_pb2.ListApiKeysResponse:
        statuses = frozenset(_known(_STATUSES, status, "status") for status in request.status)
        wanted = KeyFilter(
            statuses=statuses or KeyFilter().statuses,
            scope=_known(_SCOPES, request.scope, "scope") if request.scope else None,
            name=request.name if request.HasField("name") else None,
        )
        limit = request.limit if request.HasField("limit") else None
        page = await self._keys.list(context.call, wanted, limit=limit, offset=request.offset)
        return api_keys_pb2.ListApiKeysResponse(
            keys=[self._encode(info) for info in page.keys], limit=page.limit, offset=page.offset, total=page.total
        )

    async def GetApiKey(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.GetApiKeyRequest, context: CallContext
    ) -> api_keys_pb2.GetApiKeyResponse:
        info = await self._keys.get(context.call, _required(request.key_id))
        return api_keys_pb2.GetApiKeyResponse(api_key=self._encode(info))

    async def CreateApiKey(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.CreateApiKeyRequest, context: CallContext
    ) -> api_keys_pb2.CreateApiKeyResponse:
        issued = await self._keys.create(context.call, _decode_new(request.settings))
        return api_keys_pb2.CreateApiKeyResponse(api_key=self._encode(issued.info), key=issued.text)

    async def UpdateApiKey(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.UpdateApiKeyRequest, context: CallContext
    ) -> api_keys_pb2.UpdateApiKeyResponse:
        info = await self._keys.change(context.call, _required(request.key_id), _decode_changes(request))
        return api_keys_pb2.UpdateApiKeyResponse(api_key=self._encode(info))

    async def DeleteApiKey(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.DeleteApiKeyRequest, context: CallContext
    ) -> api_keys_pb2.DeleteApiKeyResponse:
        await self._keys.delete(context.call, _required(request.key_id))
        return api_keys_pb2.DeleteApiKeyResponse()

    async def RotateApiKey(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.RotateApiKeyRequest, context: CallContext
    ) -> api_keys_pb2.RotateApiKeyResponse:
        overlap_s = request.overlap_s if request.HasField("overlap_s") else None
        issued = await self._keys.rotate(context.call, _required(request.key_id), overlap_s)
        return api_keys_pb2.RotateApiKeyResponse(api_key=self._encode(issued.info), key=issued.text)

    async def GetCurrentApiKey(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.GetCurrentApiKeyRequest, context: CallContext
    ) -> api_keys_pb2.GetCurrentApiKeyResponse:
        return api_keys_pb2.GetCurrentApiKeyResponse(api_key=self._encode(await self._keys.own(context.call)))

    async def ListAuditLog(  # type: ignore[override]  # the context is our own
        self, request: api_keys_pb2.ListAuditLogRequest, context: CallContext
    ) -> api_keys_pb2.ListAuditLogResponse:
        given = {field.name: value for field, value in request.ListFields()}
        wanted = AuditFilter(
            actor=given.get("actor"),
            action=given.get("action"),
            target=given.get("target"),
            since=_seconds(given.get("from"), "from"),
            until=_seconds(given.get("to"), "to"),
        )
        limit = request.limit if request.HasField("limit") else None
        page = await self._keys.audit(context.call, wanted, after=given.get("after"), limit=limit)
        return api_keys_pb2.ListAuditLogResponse(
            entries=[_encode_entry(entry) for entry in page.entries], limit=page.limit, next_cursor=page.next_cursor
        )

    def _encode(self, info: KeyInfo) -> api_keys_pb2.ApiKey:
        now, until = self._keys.now(), info.previous_expires_at
        return api_keys_pb2.ApiKey(
            id=info.id,
            team_id=info.team_id,
            prefix=info.prefix,
            settings=_encode_settings(info),
            status=_number(_STATUSES, info.status(now)),
            created_at=info.created_at,
            updated_at=info.updated_at,
            last_used_at=info.last_used_at,
            revoked_at=info.revoked_at,
            previous_key_expires_at=None if until is None or until <= now else until,
            usage_nanos=info.used_nanos,
            spent_nanos=info.spent_nanos,
            limit_remaining_nanos=info.remaining_nanos,
        )


def _decode_new(settings: api_keys_pb2.ApiKeySettings) -> NewKey:
    limit, reset = _limit(settings), _reset(settings)
    if limit is None and reset is not None:
        raise limits.invalid_value("limit_reset", "needs limit_nanos")
    return NewKey(
        name=settings.name,
        scopes=_scopes(settings) or frozenset({Scope.INFERENCE}),
        expires_at=_expiry(settings),
        disabled=settings.disabled,
        spend_limit=None if limit is None else SpendLimit(limit, reset),
        restrictions=Restrictions(
            _entries(settings.allowed_models), _entries(settings.allowed_providers), _entries(settings.allowed_cidrs)
        ),
    )


def _decode_changes(request: api_keys_pb2.UpdateApiKeyRequest) -> KeyChanges:
    settings, mask = request.settings, request.update_mask.paths
    for path in mask:
        limits.check_choice(path, _FIELDS, "update_mask")
    named = frozenset(mask) or {field.name for field, _ in settings.ListFields()}
    values = {
        "name": settings.name,
        "scopes": _scopes(settings),
        "expires_at": _expiry(settings),
        "disabled": settings.disabled,
        "limit_nanos": _limit(settings),
        "limit_reset": _reset(settings),
        "allowed_models": _entries(settings.allowed_models),
        "allowed_providers": _entries(settings.allowed_providers),
        "allowed_cidrs": _entries(settings.allowed_cidrs),
    }

    def chosen(name: str) -> Any:
        return values[name] if name in named else UNSET

    return KeyChanges(
        name=chosen("name"),
        scopes=chosen("scopes"),
        expires_at=chosen("expires_at"),
        disabled=chosen("disabled"),
        limit_nanos=chosen("limit_nanos"),
        limit_reset=chosen("limit_reset"),
        models=chosen("allowed_models"),
        providers=chosen("allowed_providers"),
        cidrs=chosen("allowed_cidrs"),
    )


def _encode_settings(info: KeyInfo) -> api_keys_pb2.ApiKeySettings:
    limit, held_to = info.spend_limit, info.restrictions
    return api_keys_pb2.ApiKeySettings(
        name=info.name,
        scopes=[_number(_SCOPES, scope) for scope in sorted(info.scopes)],
        expires_at=info.expires_at,
        disabled=info.disabled,
        limit_nanos=None if limit is None else limit.limit_nanos,
        limit_reset=_number(_RESETS, None if limit is None else limit.reset),
        allowed_models=held_to.models,
        allowed_providers=held_to.providers,
        allowed_cidrs=held_to.cidrs,
    )


def _encode_entry(entry: AuditEntry) -> api_keys_pb2.AuditEntry:
    return api_keys_pb2.AuditEntry(
        id=str(entry.id),
        team_id=entry.team_id,
        created_at=entry.at,
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
        request_id=entry.request_id,
        before_json=_json(entry.before),
        after_json=_json(entry.after),
    )


def _json(fields: Mapping[str, Any] | None) -> str | None:
    return None if fields is None else msgspec.json.encode(fields).decode()


def _required(key_id: str) -> str:
    if not key_id:
        raise limits.missing_field("key_id")
    return key_id


def _scopes(settings: api_keys_pb2.ApiKeySettings) -> frozenset[Scope]:
    return frozenset(_known(_SCOPES, scope, "scopes") for scope in settings.scopes)


def _reset(settings: api_keys_pb2.ApiKeySettings) -> LimitReset | None:
    reset: LimitReset | None = _known(_RESETS, settings.limit_reset, "limit_reset")
    return reset


def _limit(settings: api_keys_pb2.ApiKeySettings) -> int | None:
    return settings.limit_nanos if settings.HasField("limit_nanos") else None


def _expiry(settings: api_keys_pb2.ApiKeySettings) -> int | None:
    return settings.expires_at if settings.HasField("expires_at") else None


def _entries(given: RepeatedScalarFieldContainer[str]) -> tuple[str, ...] | None:
    return tuple(given) or None


def _seconds(value: int | None, param: str) -> int | None:
    if value is not None and not 0 <= value <= _MAX_SECONDS:
        raise limits.invalid_value(param, "must be a time from 1970 to 9999")
    return value


def _known(values: Mapping[int, Any], number: int, param: str) -> Any:
    if number not in values:
        raise limits.invalid_value(param, f"has no value {number}")
    return values[number]


def _number(values: Mapping[int, Any], value: object) -> Any:
    return next(number for number, known in values.items() if known == value)
