"""WebhooksService: where the caller's team is told of what happens to its videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET

from aistats.gateway.v1 import webhooks_pb2, webhooks_pb2_grpc
from server.domain import limits
from server.domain.webhooks import Delivery, DeliveryState, DisabledReason, NewWebhook, Webhook, WebhookChanges
from server.pipeline.webhooks import Webhooks
from server.rpc.context import CallContext

__all__ = ["WebhooksServicer"]

_REASONS: Final[Mapping[DisabledReason | None, webhooks_pb2.WebhookDisabledReason.ValueType]] = {
    None: webhooks_pb2.WEBHOOK_DISABLED_REASON_UNSPECIFIED,
    "gone": webhooks_pb2.WEBHOOK_DISABLED_REASON_GONE,
    "failing": webhooks_pb2.WEBHOOK_DISABLED_REASON_FAILING,
}
_STATES: Final[Mapping[DeliveryState, webhooks_pb2.WebhookDeliveryState.ValueType]] = {
    "pending": webhooks_pb2.WEBHOOK_DELIVERY_STATE_PENDING,
    "delivered": webhooks_pb2.WEBHOOK_DELIVERY_STATE_DELIVERED,
    "dead": webhooks_pb2.WEBHOOK_DELIVERY_STATE_DEAD,
}
_STATE_OF: Final[Mapping[int, DeliveryState | None]] = {
    webhooks_pb2.WEBHOOK_DELIVERY_STATE_UNSPECIFIED: None,
    **{number: state for state, number in _STATES.items()},
}
_FIELDS: Final = tuple(field.name for field in webhooks_pb2.WebhookSettings.DESCRIPTOR.fields)
_MAX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999."""


class WebhooksServicer(webhooks_pb2_grpc.WebhooksServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def ListWebhooks(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.ListWebhooksRequest, context: CallContext
    ) -> webhooks_pb2.ListWebhooksResponse:
        found = await self._webhooks.list(context.call)
        return webhooks_pb2.ListWebhooksResponse(webhooks=map(self._encode, found))

    async def GetWebhook(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.GetWebhookRequest, context: CallContext
    ) -> webhooks_pb2.GetWebhookResponse:
        webhook = await self._webhooks.get(context.call, _required(request.webhook_id))
        return webhooks_pb2.GetWebhookResponse(webhook=self._encode(webhook))

    async def CreateWebhook(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.CreateWebhookRequest, context: CallContext
    ) -> webhooks_pb2.CreateWebhookResponse:
        settings = request.settings
        new = NewWebhook(settings.url, tuple(settings.events) or None, settings.description, settings.disabled)
        issued = await self._webhooks.create(context.call, new)
        return webhooks_pb2.CreateWebhookResponse(webhook=self._encode(issued.webhook), secret=issued.secret)

    async def UpdateWebhook(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.UpdateWebhookRequest, context: CallContext
    ) -> webhooks_pb2.UpdateWebhookResponse:
        webhook = await self._webhooks.change(context.call, _required(request.webhook_id), _decode_changes(request))
        return webhooks_pb2.UpdateWebhookResponse(webhook=self._encode(webhook))

    async def DeleteWebhook(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.DeleteWebhookRequest, context: CallContext
    ) -> webhooks_pb2.DeleteWebhookResponse:
        await self._webhooks.delete(context.call, _required(request.webhook_id))
        return webhooks_pb2.DeleteWebhookResponse()

    async def RotateWebhookSecret(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.RotateWebhookSecretRequest, context: CallContext
    ) -> webhooks_pb2.RotateWebhookSecretResponse:
        overlap_s = request.overlap_s if request.HasField("overlap_s") else None
        issued = await self._webhooks.rotate(context.call, _required(request.webhook_id), overlap_s)
        return webhooks_pb2.RotateWebhookSecretResponse(webhook=self._encode(issued.webhook), secret=issued.secret)

    async def TestWebhook(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.TestWebhookRequest, context: CallContext
    ) -> webhooks_pb2.TestWebhookResponse:
        delivery = await self._webhooks.test(context.call, _required(request.webhook_id))
        return webhooks_pb2.TestWebhookResponse(delivery=_encode_delivery(delivery))

    async def ListWebhookDeliveries(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.ListWebhookDeliveriesRequest, context: CallContext
    ) -> webhooks_pb2.ListWebhookDeliveriesResponse:
        if request.state not in _STATE_OF:
            raise limits.invalid_value("state", f"has no value {request.state}")
        page = await self._webhooks.deliveries(
            context.call,
            _required(request.webhook_id),
            state=_STATE_OF[request.state],
            after=request.after if request.HasField("after") else None,
            limit=request.limit if request.HasField("limit") else None,
        )
        return webhooks_pb2.ListWebhookDeliveriesResponse(
            deliveries=map(_encode_delivery, page.deliveries), limit=page.limit, next_cursor=page.next_cursor
        )

    async def ReplayWebhookDelivery(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.ReplayWebhookDeliveryRequest, context: CallContext
    ) -> webhooks_pb2.ReplayWebhookDeliveryResponse:
        if not request.delivery_id:
            raise limits.missing_field("delivery_id")
        delivery = await self._webhooks.replay(context.call, _required(request.webhook_id), request.delivery_id)
        return webhooks_pb2.ReplayWebhookDeliveryResponse(delivery=_encode_delivery(delivery))

    async def ReplayDeadWebhookDeliveries(  # type: ignore[override]  # the context is our own
        self, request: webhooks_pb2.ReplayDeadWebhookDeliveriesRequest, context: CallContext
    ) -> webhooks_pb2.ReplayDeadWebhookDeliveriesResponse:
        if not 0 <= request.since <= _MAX_SECONDS:
            raise limits.invalid_value("since", "must be a time from 1970 to 9999")
        replayed = await self._webhooks.replay_dead(context.call, _required(request.webhook_id), request.since)
        return webhooks_pb2.ReplayDeadWebhookDeliveriesResponse(replayed=replayed)

    def _encode(self, webhook: Webhook) -> webhooks_pb2.Webhook:
        until = webhook.previous_expires_at
        return webhooks_pb2.Webhook(
            id=webhook.id,
            settings=webhooks_pb2.WebhookSettings(
                url=webhook.url,
                events=webhook.events,
                description=webhook.description,
                disabled=webhook.disabled,
            ),
            disabled_reason=_REASONS[webhook.disabled_reason],
            created_at=webhook.created_at,
            updated_at=webhook.updated_at,
            failing_since=webhook.failing_since,
            previous_secret_expires_at=None if until is None or until <= self._webhooks.now() else until,
        )


def _decode_changes(request: webhooks_pb2.UpdateWebhookRequest) -> WebhookChanges:
    settings, mask = request.settings, request.update_mask.paths
    for path in mask:
        limits.check_choice(path, _FIELDS, "update_mask")
    named = frozenset(mask) or {field.name for field, _ in settings.ListFields()}
    values = {
        "url": settings.url,
        "events": tuple(settings.events) or None,
        "description": settings.description,
        "disabled": settings.disabled,
    }
    chosen: dict[str, Any] = {name: value if name in named else UNSET for name, value in values.items()}
    return WebhookChanges(**chosen)


def _encode_delivery(delivery: Delivery) -> webhooks_pb2.WebhookDelivery:
    return webhooks_pb2.WebhookDelivery(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        subject=delivery.subject,
        state=_STATES[delivery.state],
        attempts=delivery.attempts,
        created_at=delivery.created_at,
        next_attempt_at=delivery.due_at,
        last_attempt_at=delivery.attempted_at,
        ended_at=delivery.ended_at,
        status_code=delivery.status,
        error=delivery.error,
    )


def _required(webhook_id: str) -> str:
    if not webhook_id:
        raise limits.missing_field("webhook_id")
    return webhook_id
