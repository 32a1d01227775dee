"""The adapter of the `anthropic` dialect: any upstream with Anthropic's Messages API."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from server.domain.catalog import Offer, Provider
from server.domain.events import ProviderStream
from server.domain.ports import Clock, IdSource
from server.domain.request import GENERATING, GenerationRequest
from server.domain.work import Work
from server.providers.anthropic_decode import MessagesDecoder
from server.providers.anthropic_encode import encode_messages
from server.providers.anthropic_errors import failure_of_reply
from server.providers.anthropic_refusals import unsupported
from server.providers.exchange import DEADLINES, USER_AGENT, Deadlines, Exchanges, Post
from server.providers.http_port import HttpTransport

PATH: Final = "/messages"
API_VERSION: Final = "2023-06-01"
"""The newer version takes no sampling parameters at all, from any model."""


class AnthropicAdapter:
    """See `server.domain.ports.ProviderAdapter`."""

    endpoints: Final = GENERATING

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        ids: IdSource,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._exchanges = Exchanges(transport, clock, deadlines)
        self._clock = clock
        self._ids = ids

    def supports(self, offer: Offer, request: Work) -> str | None:
        """As the port says. Raises GatewayError where `provider_options` holds what no client may set."""
        assert isinstance(request, GenerationRequest), "routed by endpoints"
        return unsupported(offer, request)

    async def stream(self, offer: Offer, request: Work) -> ProviderStream:
        provider = offer.provider
        assert isinstance(request, GenerationRequest), "routed by endpoints"
        body, streamed = encode_messages(offer, request)
        post = Post(
            provider=provider,
            url=provider.base_url + PATH,
            headers=_headers(provider, streamed),
            body=body,
            wants_events=streamed,
            in_batches=request.stream,
        )
        batches = self._exchanges.run(
            post,
            MessagesDecoder(provider, self._ids),
            lambda status, headers, said: failure_of_reply(status, headers, said, provider, self._clock.now()),
        )
        async with aclosing(batches):
            async for batch in batches:
                yield batch


def _headers(provider: Provider, streamed: bool) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json" if streamed else "application/json",
        "user-agent": USER_AGENT,
        "anthropic-version": API_VERSION,
    }
    if provider.api_key:
        headers["x-api-key"] = provider.api_key
    return headers
