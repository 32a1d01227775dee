"""The adapter of the `openai` dialect: any upstream with OpenAI's chat completions or Responses API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import ProviderEvent, ProviderStream
from server.domain.ports import Clock, IdSource
from server.domain.request import GenerationRequest
from server.providers.decoding import StreamDecoder
from server.providers.http_port import HttpResponse, HttpTransport, SseEvent
from server.providers.openai_apis import PATHS, Api, api_for, unsupported
from server.providers.openai_chat_decode import ChatDecoder
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_errors import failure_of_reply
from server.providers.openai_responses_decode import ResponsesDecoder
from server.providers.openai_responses_encode import encode_responses
from server.providers.provider_options import options_for
from server.providers.tool_call_start import no_function

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""The largest whole answer."""
MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error body is read."""
ERROR_BODY_TIMEOUT_S: Final = 10.0
DRAIN_TIMEOUT_S: Final = 0.1
"""How long the end of a body may take after the terminator; a connection read to its end can be used again."""

USER_AGENT: Final = "aistats-gateway"

_ENCODERS: Final[dict[Api, Callable[[Offer, GenerationRequest], bytes]]] = {
    "chat": encode_chat,
    "responses": encode_responses,
}
_DECODERS: Final[dict[Api, Callable[[Provider, IdSource], StreamDecoder]]] = {
    "chat": ChatDecoder,
    "responses": ResponsesDecoder,
}


class OpenAIAdapter:
    """See `server.domain.ports.ProviderAdapter`."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        ids: IdSource,
        *,
        connect_timeout_s: float = 5.0,
        error_body_timeout_s: float = ERROR_BODY_TIMEOUT_S,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._ids = ids
        self._connect_timeout_s = connect_timeout_s
        self._error_body_timeout_s = error_body_timeout_s

    def supports(self, offer: Offer, request: GenerationRequest) -> str | None:
        """As the port says. Raises GatewayError where `provider_options` holds what no client may set."""
        options_for(request, offer.provider.id)
        profile = offer.provider.profile
        return unsupported(request, api_for(request.endpoint, profile)) or no_function(request, profile)

    async def stream(self, offer: Offer, request: GenerationRequest) -> ProviderStream:
        provider = offer.provider
        api = api_for(request.endpoint, provider.profile)
        decoder = _DECODERS[api](provider, self._ids)
        response = await self._transport.post(
            provider.base_url + PATHS[api],
            headers=_headers(provider, request),
            body=_ENCODERS[api](offer, request),
            connect_timeout_s=self._connect_timeout_s,
        )
        async with response:
            if not 200 <= response.status < 300:
                body = await _error_body(response, self._error_body_timeout_s)
                raise failure_of_reply(response.status, response.headers, body, provider, self._clock.now())
            if not _is_event_stream(response, request):
                whole: list[ProviderEvent] = []
                decoder.whole(await response.read(MAX_BODY_BYTES), whole)
                yield whole
            elif request.stream:
                async with aclosing(self._events(response, decoder)) as batches:
                    async for batch in batches:
                        yield batch
            else:
                async with aclosing(self._events(response, decoder)) as batches:
                    yield [event async for batch in batches for event in batch]

    async def _events(
        self, response: HttpResponse, decoder: StreamDecoder
    ) -> AsyncGenerator[list[ProviderEvent], None]:
        """A batch a network read; the last ends with `Completed`."""
        async with aclosing(self._transport.sse_batches(response)) as reads:
            while not decoder.done:
                events: list[ProviderEvent] = []
                try:
                    ended = await _decode_read(reads, decoder, events)
                except ProviderFailure:
                    if events:
                        yield events
                    raise
                yield events
                if ended:
                    return
            await _drain(reads)


async def _decode_read(
    reads: AsyncGenerator[Sequence[SseEvent], None], decoder: StreamDecoder, events: list[ProviderEvent]
) -> bool:
    """Decode the next network read into `events`, and close the answer where it is complete.

    True where the stream has ended. Raises ProviderFailure; the events before it stand.
    """
    ended = False
    try:
        for event in await anext(reads):
            decoder.feed(event.event, event.data, events)
    except StopAsyncIteration:
        ended = True
    except ProviderFailure as failure:
        if failure.category is not FailureCategory.CONNECTION or not decoder.complete:
            raise
        ended = True  # it said all it had to say before the connection broke
    if ended or decoder.done:
        decoder.finish(events)
    return ended


def _headers(provider: Provider, request: GenerationRequest) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json" if request.stream else "application/json",
        "user-agent": USER_AGENT,
    }
    if provider.api_key:
        headers["authorization"] = f"Bearer {provider.api_key}"
    return headers


def _is_event_stream(response: HttpResponse, request: GenerationRequest) -> bool:
    """Whether the body is events: as it declares, whatever was asked for."""
    declared = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if declared in ("application/json", "text/html"):
        return False
    return request.stream or declared == "text/event-stream"


async def _error_body(response: HttpResponse, timeout_s: float) -> bytes:
    """The beginning of an error's body, or what came of it before it broke off."""
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s), aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= MAX_ERROR_BYTES:
                    break
    except (TimeoutError, ProviderFailure):
        pass
    return bytes(body[:MAX_ERROR_BYTES])


async def _drain(reads: AsyncGenerator[object, None]) -> None:
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            async for _ in reads:
                pass
    except (TimeoutError, ProviderFailure):
        pass
