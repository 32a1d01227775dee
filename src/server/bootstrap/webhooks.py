"""Webhooks: what teams set up, and the deliveries to them."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

from server.bootstrap.background import running
from server.bootstrap.base import Base
from server.metrics.figures import Sampled
from server.pipeline.webhook_delivery import WebhookRunner
from server.pipeline.webhooks import Webhooks
from server.storage.webhook_queue import SqlWebhookQueue
from server.storage.webhooks import SqlWebhooks
from server.transport import OwnLookups, Transport
from server.webhook_post import WebhookPost

__all__ = ["make_webhooks"]


async def make_webhooks(stack: AsyncExitStack, base: Base) -> Webhooks:
    """Events are delivered until `stack` ends."""
    settings, clock = base.settings, base.clock
    to_teams = await stack.enter_async_context(Transport(lookup=OwnLookups()))
    post = WebhookPost(to_teams, clock, allow_private=settings.webhooks_allow_private)
    queue = SqlWebhookQueue(*base.rows)
    deliveries = WebhookRunner(queue, post, clock, random.random, lease_s=settings.worker_lease_s)
    stack.push_async_callback(deliveries.close)
    await stack.enter_async_context(running(deliveries.run()))
    if base.meter is not None:
        base.meter.add(
            Sampled(
                "aistats_webhook_attempts_total",
                "Attempts to deliver an event, by what it is then.",
                "state",
                read=lambda: {(state,): count for state, count in deliveries.attempts.items()},
                kind="counter",
            )
        )
    return Webhooks(
        SqlWebhooks(base.stores.database, clock, base.ids),
        clock,
        allow_http=settings.webhooks_allow_http,
        allow_private=settings.webhooks_allow_private,
    )
