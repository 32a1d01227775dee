"""What a webhook is to be, of a JSON body in which each field is of the one type that it has."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from rest_bridge.json import decode_body, invalid
from rest_bridge.times import read_time
from server.domain.webhooks import NewWebhook, WebhookChanges

__all__ = [
    "CreateWebhookBody",
    "ReplayBody",
    "RotateSecretBody",
    "UpdateWebhookBody",
    "decode_changes",
    "decode_new_webhook",
    "decode_nothing",
    "decode_overlap",
    "decode_since",
]

MAX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999."""

Entries = tuple[str, ...]


class CreateWebhookBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`events` null, or not given, is all that there are, and will be."""

    url: str
    events: Entries | None = None
    description: str = ""
    disabled: bool = False


class UpdateWebhookBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As CreateWebhookBody; what is not given stays."""

    url: str | UnsetType = UNSET
    events: Entries | UnsetType | None = UNSET
    description: str | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class RotateSecretBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`overlap_s`: for how many seconds the secret before signs as well."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0)] | None = None


class ReplayBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`since` is RFC 3339 text, or seconds since 1970."""

    since: str | Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)]


class _NothingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that needs none."""


_new: Final = msgspec.json.Decoder(CreateWebhookBody)
_changes: Final = msgspec.json.Decoder(UpdateWebhookBody)
_rotation: Final = msgspec.json.Decoder(RotateSecretBody)
_replay: Final = msgspec.json.Decoder(ReplayBody)
_nothing: Final = msgspec.json.Decoder(_NothingBody)


def decode_new_webhook(body: bytes) -> NewWebhook:
    """Raises GatewayError naming the field that is unknown, missing or wrong."""
    decoded = decode_body(_new, body)
    return NewWebhook(decoded.url, decoded.events, decoded.description, decoded.disabled)


def decode_changes(body: bytes) -> WebhookChanges:
    """Raises as `decode_new_webhook`."""
    decoded = decode_body(_changes, body)
    return WebhookChanges(decoded.url, decoded.events, decoded.description, decoded.disabled)


def decode_overlap(body: bytes) -> int | None:
    """None where the client leaves it to the gateway; there may be no body at all."""
    return decode_body(_rotation, body).overlap_s if body.strip() else None


def decode_since(body: bytes) -> int:
    """Seconds since 1970. Raises as `decode_new_webhook`."""
    since = decode_body(_replay, body).since
    seconds = read_time(since) if isinstance(since, str) else since
    if seconds is None:
        raise invalid("since", "`since` must be a time such as 2027-01-31T12:00:00Z, or seconds since 1970.")
    return seconds


def decode_nothing(body: bytes) -> None:
    """Raises as `decode_new_webhook`; there may be no body at all."""
    if body.strip():
        decode_body(_nothing, body)
