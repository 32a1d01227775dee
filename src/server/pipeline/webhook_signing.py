"""The headers by which a receiver knows that an event comes from its gateway: those of Standard Webhooks."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

__all__ = ["signed_headers"]


def signed_headers(event_id: str, body: bytes, secrets: Sequence[str], now: float) -> Mapping[str, str]:
    """`secrets`: as they were told, the newest first; each signs. `now` is in seconds since 1970.

    The `x-phaseo-…` headers are what the product's own SDK verifies; they hold one signature, by the newest.
    """
    timestamp = str(int(now))
    moment, text = datetime.fromtimestamp(int(now), UTC), body.decode()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, moment, text) for secret in secrets),
        "x-phaseo-timestamp": timestamp,
        "x-phaseo-signature": hmac.digest(secrets[0].encode(), timestamp.encode() + b"." + body, "sha256").hex(),
    }
