"""The REST face of webhooks: `/v1/webhooks`, their deliveries, and sending those once more.

A secret stands in the answer to what made it and nowhere else: an answer that is told again, to a request with the
same idempotency key, has null in its place.
"""

from __future__ import annotations

from typing import Final

import msgspec

from rest_bridge.http import JSON, Exchange, RestResponse, Route, json_response
from rest_bridge.json import check_json_headers
from rest_bridge.query import check_query, single, whole_number
from rest_bridge.times import iso, iso_if_any
from rest_bridge.webhooks_decode import (
    decode_changes,
    decode_new_webhook,
    decode_nothing,
    decode_overlap,
    decode_since,
)
from server.domain.identity import Scope
from server.domain.webhooks import Delivery, DeliveryState, DisabledReason, IssuedWebhook, Webhook
from server.pipeline.webhooks import DeliveryPage, Webhooks

__all__ = [
    "DeliveriesPageJson",
    "OneDeliveryJson",
    "OneWebhookJson",
    "ReplayedJson",
    "WebhookDeletionJson",
    "WebhooksJson",
    "WebhooksRest",
]

CREATED: Final = 201
ACCEPTED: Final = 202
PATH: Final = "/v1/webhooks"
_MANAGEMENT: Final = (Scope.MANAGEMENT,)
_FILTERS: Final = ("state", "limit", "after")

_encode: Final = msgspec.json.Encoder().encode


class WebhookJson(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook; times are RFC 3339. `secret` is there only where it has just been made."""

    id: str
    object: str = "webhook"
    url: str
    events: tuple[str, ...] | None
    description: str
    disabled: bool
    disabled_reason: DisabledReason | None
    created_at: str
    updated_at: str | None
    failing_since: str | None
    previous_secret_expires_at: str | None
    secret: str | msgspec.UnsetType | None = msgspec.UNSET


class OneWebhookJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    data: WebhookJson


class WebhooksJson(msgspec.Struct, frozen=True, kw_only=True):
    """All of the team's, the oldest first."""

    object: str = "list"
    ok: bool = True
    data: tuple[WebhookJson, ...]


class WebhookDeletionJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    id: str
    object: str = "webhook"
    deleted: bool = True


class WebhookDeliveryJson(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one webhook; times are RFC 3339. `subject` is the id of what the event tells of."""

    id: str
    object: str = "webhook_delivery"
    webhook_id: str
    event_id: str
    event_type: str
    subject: str
    state: DeliveryState
    attempts: int
    created_at: str
    next_attempt_at: str | None
    last_attempt_at: str | None
    ended_at: str | None
    status_code: int | None
    error: str | None


class OneDeliveryJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    data: WebhookDeliveryJson


class DeliveriesPageJson(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries, the newest first; `next_cursor` is the `after` of the next page."""

    object: str = "list"
    ok: bool = True
    data: tuple[WebhookDeliveryJson, ...]
    limit: int
    has_more: bool
    next_cursor: str | None


class ReplayedJson(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries are sent once more."""

    ok: bool = True
    replayed: int


class WebhooksRest:
    """Handlers of all routes about webhooks."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    def routes(self) -> tuple[Route, ...]:
        one = f"{PATH}/{{webhook_id}}"
        return (
            Route("GET", PATH, self.list, _MANAGEMENT),
            Route("POST", PATH, self.create, _MANAGEMENT),
            Route("GET", one, self.get, _MANAGEMENT),
            Route("PATCH", one, self.change, _MANAGEMENT),
            Route("DELETE", one, self.delete, _MANAGEMENT),
            Route("POST", f"{one}/rotate_secret", self.rotate, _MANAGEMENT),
            Route("POST", f"{one}/test", self.test, _MANAGEMENT),
            Route("POST", f"{one}/replay", self.replay_dead, _MANAGEMENT),
            Route("GET", f"{one}/deliveries", self.deliveries, _MANAGEMENT),
            Route("POST", f"{one}/deliveries/{{delivery_id}}/replay", self.replay, _MANAGEMENT),
        )

    async def list(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        now = self._webhooks.now()
        found = await self._webhooks.list(exchange.call)
        return json_response(_encode(WebhooksJson(data=tuple(_webhook(one, now) for one in found))))

    async def create(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        return self._issued(await self._webhooks.create(exchange.call, decode_new_webhook(exchange.body)))

    async def get(self, exchange: Exchange) -> RestResponse:
        return self._one(await self._webhooks.get(exchange.call, _id(exchange)))

    async def change(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        changes = decode_changes(exchange.body)
        return self._one(await self._webhooks.change(exchange.call, _id(exchange), changes))

    async def delete(self, exchange: Exchange) -> RestResponse:
        await self._webhooks.delete(exchange.call, _id(exchange))
        return json_response(_encode(WebhookDeletionJson(id=_id(exchange))))

    async def rotate(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        overlap_s = decode_overlap(exchange.body)
        return self._issued(await self._webhooks.rotate(exchange.call, _id(exchange), overlap_s))

    async def test(self, exchange: Exchange) -> RestResponse:
        _check_nothing(exchange)
        return _queued(await self._webhooks.test(exchange.call, _id(exchange)))

    async def deliveries(self, exchange: Exchange) -> RestResponse:
        request = exchange.request
        check_query(request, _FILTERS)
        page = await self._webhooks.deliveries(
            exchange.call,
            _id(exchange),
            state=single(request, "state"),
            after=single(request, "after"),
            limit=whole_number(request, "limit"),
        )
        return json_response(_encode(_page(page)))

    async def replay(self, exchange: Exchange) -> RestResponse:
        _check_nothing(exchange)
        delivery_id = exchange.path_params["delivery_id"]
        return _queued(await self._webhooks.replay(exchange.call, _id(exchange), delivery_id))

    async def replay_dead(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        since = decode_since(exchange.body)
        replayed = await self._webhooks.replay_dead(exchange.call, _id(exchange), since)
        return json_response(_encode(ReplayedJson(replayed=replayed)), ACCEPTED)

    def _one(self, webhook: Webhook) -> RestResponse:
        return json_response(_encode(OneWebhookJson(data=_webhook(webhook, self._webhooks.now()))))

    def _issued(self, issued: IssuedWebhook) -> RestResponse:
        """The only answer that holds a secret, and what is told instead of it from then on."""
        shown = _webhook(issued.webhook, self._webhooks.now())
        body, repeated = (
            _encode(OneWebhookJson(data=msgspec.structs.replace(shown, secret=secret)))
            for secret in (issued.secret, None)
        )
        headers = (("content-type", JSON), ("cache-control", "no-store"))
        return RestResponse(CREATED, headers, body, repeated=repeated)


def _check_nothing(exchange: Exchange) -> None:
    if exchange.body.strip():
        check_json_headers(exchange.request.headers)
    decode_nothing(exchange.body)


def _id(exchange: Exchange) -> str:
    return exchange.path_params["webhook_id"]


def _queued(delivery: Delivery) -> RestResponse:
    return json_response(_encode(OneDeliveryJson(data=_delivery(delivery))), ACCEPTED)


def _webhook(webhook: Webhook, now: float) -> WebhookJson:
    until = webhook.previous_expires_at
    return WebhookJson(
        id=webhook.id,
        url=webhook.url,
        events=webhook.events,
        description=webhook.description,
        disabled=webhook.disabled,
        disabled_reason=webhook.disabled_reason,
        created_at=iso(webhook.created_at),
        updated_at=iso_if_any(webhook.updated_at),
        failing_since=iso_if_any(webhook.failing_since),
        previous_secret_expires_at=None if until is None or until <= now else iso(until),
    )


def _delivery(delivery: Delivery) -> WebhookDeliveryJson:
    return WebhookDeliveryJson(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        subject=delivery.subject,
        state=delivery.state,
        attempts=delivery.attempts,
        created_at=iso(delivery.created_at),
        next_attempt_at=iso_if_any(delivery.due_at),
        last_attempt_at=iso_if_any(delivery.attempted_at),
        ended_at=iso_if_any(delivery.ended_at),
        status_code=delivery.status,
        error=delivery.error,
    )


def _page(page: DeliveryPage) -> DeliveriesPageJson:
    return DeliveriesPageJson(
        data=tuple(map(_delivery, page.deliveries)),
        limit=page.limit,
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )
