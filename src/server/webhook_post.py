"""Webhooks leave the gateway here: to an address that a client chose, so to none of this machine's or its networks'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.domain.errors import ProviderFailure
from server.domain.ports import Clock
from server.domain.webhooks import Reply
from server.providers.retry_after import retry_after_s
from server.transport import Transport

__all__ = ["WebhookPost"]

CONNECT_S: Final = 10.0


class WebhookPost:
    """Implements `server.domain.webhooks.Poster`.

    What a name resolves to is judged for each connection, which then goes there and nowhere else. Nothing of an answer
    but its status and `retry-after` is looked at, let alone kept. Link-local addresses and those of clouds' metadata
    are never called, private ones only where the operator allows it.
    """

    def __init__(self, transport: Transport, clock: Clock, *, allow_private: bool) -> None:
        self._transport = transport
        self._clock = clock
        self._allow_private = allow_private

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        try:
            response = await self._transport.request(
                "POST",
                url,
                headers=headers,
                body=body,
                connect_timeout_s=CONNECT_S,
                allow_near=self._allow_private,
            )
        except ProviderFailure as failure:
            return Reply(None, error=failure.upstream.code or failure.category.value)
        async with response:
            return Reply(response.status, retry_after_s(response.headers, None, self._clock.now()))
