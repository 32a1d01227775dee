"""`openai`: its own verifier of webhooks, before what the gateway sends."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.e2e.conformance.both import got
from tests.e2e.conformance.cases import shows
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.receiver import receiving

PATIENCE_S = 30.0


@shows("openai", "webhooks.unwrap", "webhooks.verify_signature")
async def test_an_event_is_what_its_signature_says(client: Any, gateway: Gateway) -> None:
    team = Purse(gateway, None)
    with receiving() as receiver:
        made = team.post("/v1/webhooks", {"url": receiver.url}).json()["data"]
        queued = team.post(f"/v1/webhooks/{made['id']}/test", {}).json()["data"]
        async with asyncio.timeout(PATIENCE_S):
            while not receiver.received:  # noqa: ASYNC110 - another process sends it
                await asyncio.sleep(0.1)
        [(headers, body)] = receiver.received
    event = await got(client.webhooks.unwrap(body, headers, secret=made["secret"]))
    assert (event.id, event.type, event.object) == (queued["event_id"], "webhook.test", "event")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        await got(client.webhooks.verify_signature(body + b" ", headers, secret=made["secret"]))
    team.send("DELETE", f"/v1/webhooks/{made['id']}")
