"""What the routes of webhooks read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rest_bridge.openapi_surface import Surface, Type
from rest_bridge.webhooks import (
    DeliveriesPageJson,
    OneDeliveryJson,
    OneWebhookJson,
    ReplayedJson,
    WebhookDeletionJson,
    WebhooksJson,
)
from rest_bridge.webhooks_decode import (
    CreateWebhookBody,
    ReplayBody,
    RotateSecretBody,
    UpdateWebhookBody,
)
from rest_bridge.webhooks_events import VideoEventJson, WebhookTestEventJson

__all__ = ["EVENTS", "WEBHOOKS", "WEBHOOK_WORDS"]

EVENTS: Final[Mapping[str, Type]] = {"video": VideoEventJson, "webhook.test": WebhookTestEventJson}
"""By what they tell of, the bodies that receivers get."""

WEBHOOK_WORDS: Final[Mapping[str, str]] = {
    "WebhooksVideoEvent.id": "`evt_<x>`, the same at each attempt and in `webhook-id`.",
    "WebhooksVideoEvent.type": "What has happened.",
    "WebhooksVideoEvent.created_at": "When it happened, in seconds since 1970.",
    "WebhooksVideoEvent.data": "The video, as it was then.",
}

WEBHOOKS: Final[Mapping[str, Surface]] = {
    "WebhooksRestService.ListWebhooks": Surface(reply=WebhooksJson),
    "WebhooksRestService.CreateWebhook": Surface(
        body=CreateWebhookBody,
        examples={
            "all": {"url": "https://hooks.example.com/videos"},
            "some": {
                "url": "https://hooks.example.com/videos",
                "events": ["video.completed", "video.failed"],
                "description": "the site's back end",
            },
        },
        reply=OneWebhookJson,
        status=201,
    ),
    "WebhooksRestService.GetWebhook": Surface(reply=OneWebhookJson),
    "WebhooksRestService.UpdateWebhook": Surface(
        body=UpdateWebhookBody,
        examples={"off": {"disabled": True}, "all": {"events": None}},
        reply=OneWebhookJson,
    ),
    "WebhooksRestService.DeleteWebhook": Surface(reply=WebhookDeletionJson),
    "WebhooksRestService.RotateWebhookSecret": Surface(
        body=RotateSecretBody, examples={"hour": {"overlap_s": 3600}}, reply=OneWebhookJson, status=201
    ),
    "WebhooksRestService.TestWebhook": Surface(reply=OneDeliveryJson, status=202),
    "WebhooksRestService.ListWebhookDeliveries": Surface(reply=DeliveriesPageJson),
    "WebhooksRestService.ReplayWebhookDelivery": Surface(reply=OneDeliveryJson, status=202),
    "WebhooksRestService.ReplayDeadWebhookDeliveries": Surface(
        body=ReplayBody, examples={"since": {"since": "2027-01-31T12:00:00Z"}}, reply=ReplayedJson, status=202
    ),
}
