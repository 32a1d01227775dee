"""What a key is to be, of a JSON body in which each field is of the one type that it has."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from rest_bridge.json import decode_body, invalid
from rest_bridge.times import read_time
from server.domain.identity import Scope
from server.domain.keys import KeyChanges, NewKey
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.money import nanos
from server.domain.restrictions import Restrictions

__all__ = ["CreateKeyBody", "RotateKeyBody", "UpdateKeyBody", "decode_changes", "decode_new_key", "decode_overlap"]

MAX_DOLLARS: Final = 1_000_000_000
_SMALLEST: Final = Decimal("0.000000001")

ScopeName = Literal["inference", "management"]
Entries = tuple[str, ...]


class CreateKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`expires_at` is RFC 3339 text, or seconds since 1970; `limit` dollars, as a number or as decimal text."""

    name: str
    scopes: tuple[ScopeName, ...] = ("inference",)
    expires_at: str | int | None = None
    disabled: bool = False
    limit: Decimal | None = None
    limit_reset: LimitReset | None = None
    allowed_models: Entries | None = None
    allowed_providers: Entries | None = None
    allowed_cidrs: Entries | None = None


class UpdateKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As CreateKeyBody; what is not given stays, and null lifts what holds the key to something."""

    name: str | UnsetType = UNSET
    scopes: tuple[ScopeName, ...] | UnsetType = UNSET
    expires_at: str | int | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    limit: Decimal | UnsetType | None = UNSET
    limit_reset: LimitReset | UnsetType | None = UNSET
    allowed_models: Entries | UnsetType | None = UNSET
    allowed_providers: Entries | UnsetType | None = UNSET
    allowed_cidrs: Entries | UnsetType | None = UNSET


class RotateKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`overlap_s`: for how many seconds the secret before goes on working."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0)] | None = None


_new: Final = msgspec.json.Decoder(CreateKeyBody)
_changes: Final = msgspec.json.Decoder(UpdateKeyBody)
_rotation: Final = msgspec.json.Decoder(RotateKeyBody)


def decode_new_key(body: bytes) -> NewKey:
    """Raises GatewayError naming the field that is unknown, missing or wrong."""
    decoded = decode_body(_new, body)
    limit = _nanos(decoded.limit)
    if limit is None and decoded.limit_reset is not None:
        raise invalid("limit_reset", "`limit_reset` needs `limit`.")
    return NewKey(
        name=decoded.name,
        scopes=_scopes(decoded.scopes),
        expires_at=_seconds(decoded.expires_at),
        disabled=decoded.disabled,
        spend_limit=None if limit is None else SpendLimit(limit, decoded.limit_reset),
        restrictions=Restrictions(decoded.allowed_models, decoded.allowed_providers, decoded.allowed_cidrs),
    )


def decode_changes(body: bytes) -> KeyChanges:
    """Raises as `decode_new_key`."""
    decoded = decode_body(_changes, body)
    return KeyChanges(
        name=decoded.name,
        scopes=UNSET if decoded.scopes is UNSET else _scopes(decoded.scopes),
        expires_at=UNSET if decoded.expires_at is UNSET else _seconds(decoded.expires_at),
        disabled=decoded.disabled,
        limit_nanos=UNSET if decoded.limit is UNSET else _nanos(decoded.limit),
        limit_reset=decoded.limit_reset,
        models=decoded.allowed_models,
        providers=decoded.allowed_providers,
        cidrs=decoded.allowed_cidrs,
    )


def decode_overlap(body: bytes) -> int | None:
    """None where the client leaves it to the gateway; there may be no body at all."""
    return decode_body(_rotation, body).overlap_s if body.strip() else None


def _scopes(names: Sequence[ScopeName]) -> frozenset[Scope]:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise invalid(f"scopes[{index}]", f"`scopes[{index}]` stands there twice.")
    return frozenset(Scope(name) for name in names)


def _seconds(time: str | int | None) -> int | None:
    seconds = read_time(time) if isinstance(time, str) else time
    if time is not None and seconds is None:
        raise invalid("expires_at", "`expires_at` must be a time such as 2027-01-31T12:00:00Z, or seconds since 1970.")
    return seconds


def _nanos(dollars: Decimal | None) -> int | None:
    if dollars is None:
        return None
    if not (dollars.is_finite() and 0 <= dollars <= MAX_DOLLARS):
        raise invalid("limit", f"`limit` must be from 0 to {MAX_DOLLARS} dollars.")
    if dollars != dollars.quantize(_SMALLEST):
        raise invalid("limit", "`limit` must have at most nine decimals.")
    return nanos(dollars.quantize(_SMALLEST))
