"""Webhooks as rows: read into what the domain knows of them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, select

from server.domain.webhooks import Delivery, Webhook
from server.storage.tables import webhook_deliveries, webhook_events, webhooks

__all__ = [
    "MS",
    "SELECT_DELIVERY",
    "SELECT_WEBHOOK",
    "delivery_of",
    "encode_events",
    "signing_secrets",
    "wants",
    "webhook_of",
]

MS: Final = 1000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, ...]).decode

SELECT_WEBHOOK: Final[Select[Any]] = select(*(one for one in webhooks.c if "secret" not in one.name))
"""Without its secrets."""
SELECT_DELIVERY: Final[Select[Any]] = select(webhook_deliveries, webhook_events.c.type).join(
    webhook_events, webhook_events.c.suffix == webhook_deliveries.c.event_suffix
)


def encode_events(events: tuple[str, ...] | None) -> bytes | None:
    return None if events is None else _encode(events)


def wants(row: Row[Any], type_: str) -> bool:
    """Whether an endpoint is to be told of events of the type."""
    return row.events_json is None or type_ in _decode(row.events_json)


def webhook_of(row: Row[Any]) -> Webhook:
    return Webhook(
        suffix=row.suffix,
        team_id=row.team_id,
        url=row.url,
        events=None if row.events_json is None else _decode(row.events_json),
        description=row.description,
        disabled=row.disabled,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        previous_expires_at=row.previous_expires_at,
        failing_since=row.failing_since,
    )


def delivery_of(row: Row[Any]) -> Delivery:
    return Delivery(
        webhook_id=f"wh_{row.webhook_suffix}",
        event_suffix=row.event_suffix,
        event_type=row.type,
        subject=row.subject,
        state=row.state,
        attempts=row.attempts,
        created_at=row.queued_ms // MS,
        due_at=row.due_ms // MS if row.state == "pending" else None,
        attempted_at=row.attempted_at,
        ended_at=row.ended_at,
        status=row.status,
        error=row.error,
    )


def signing_secrets(row: Row[Any], now: float) -> tuple[str, ...]:
    """The newest first."""
    until = row.previous_expires_at
    is_signing = row.previous_secret is not None and until is not None and now < until
    return (row.secret, row.previous_secret) if is_signing else (row.secret,)
