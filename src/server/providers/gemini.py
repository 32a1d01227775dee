"""The adapter of the `gemini` dialect: any upstream with Google's `generateContent`, or its embeddings."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import quote

from server.domain.catalog import Offer, Provider
from server.domain.embedding import EmbeddingRequest
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import ProviderEvent, ProviderStream, UsageReported
from server.domain.images import ImageRequest
from server.domain.ports import Clock, IdSource
from server.domain.request import GENERATING, Endpoint, GenerationRequest, Request
from server.domain.work import Work
from server.providers import gemini_embeddings, gemini_images
from server.providers.exchange import (
    DEADLINES,
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    MAX_STREAM_BYTES,
    USER_AGENT,
    Deadlines,
    Exchanges,
    FailureOfReply,
    failed_reply,
    is_event_stream,
)
from server.providers.gemini_decode import GeminiDecoder
from server.providers.gemini_encode import encode
from server.providers.gemini_errors import bare_error, failure_in_band, failure_of_reply
from server.providers.gemini_options import gemini_options
from server.providers.gemini_supports import unsupported
from server.providers.http_port import HttpResponse, HttpTransport, ResponseHeaders, SseEvent

LINGER_S: Final = 1.0
"""How long a stream may stay open after all of its candidates have finished: nothing else marks its end."""


class GeminiAdapter:
    """See `server.domain.ports.ProviderAdapter`."""

    endpoints: Final = GENERATING | {Endpoint.EMBEDDINGS, Endpoint.IMAGES}

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        ids: IdSource,
        deadlines: Deadlines = DEADLINES,
        *,
        linger_s: float = LINGER_S,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._ids = ids
        self._deadlines = deadlines
        self._linger_s = linger_s
        self._exchanges = Exchanges(transport, clock, deadlines)

    def supports(self, offer: Offer, request: Work) -> str | None:
        """As the port says. Raises GatewayError where `provider_options` holds what no client may set."""
        if isinstance(request, EmbeddingRequest):
            return gemini_embeddings.unsupported(offer, request)
        if isinstance(request, ImageRequest):
            return gemini_images.unsupported(offer, request)
        assert isinstance(request, GenerationRequest), "routed by endpoints"
        gemini_options(request, offer.provider.id)
        return unsupported(request, offer.provider_model)

    def stream(self, offer: Offer, request: Work) -> ProviderStream:
        provider = offer.provider

        def failure_of(status: int, headers: ResponseHeaders, body: bytes) -> ProviderFailure:
            return failure_of_reply(status, headers, body, provider, self._clock.now())

        if isinstance(request, EmbeddingRequest):
            headers = _headers(provider, request)
            return gemini_embeddings.stream(self._exchanges, offer, request, headers, failure_of)
        if isinstance(request, ImageRequest):
            headers = _headers(provider, request)
            return gemini_images.stream(self._exchanges, offer, request, headers, failure_of)
        assert isinstance(request, GenerationRequest), "routed by endpoints"
        return self._generate(offer, request, failure_of)

    async def _generate(self, offer: Offer, request: GenerationRequest, failure_of: FailureOfReply) -> ProviderStream:
        provider = offer.provider
        decoder = GeminiDecoder(provider, self._ids)
        response = await self._transport.post(
            url(offer, stream=request.stream),
            headers=_headers(provider, request),
            body=encode(offer, request),
            connect_timeout_s=self._deadlines.connect_s,
            allow_link_local=provider.allow_link_local,
        )
        async with response:
            if not 200 <= response.status < 300:
                raise await failed_reply(response, provider, self._deadlines.error_body_s, failure_of)
            if request.stream and is_event_stream(response, request.stream):
                events_of = self._events(_Overheard(response), decoder, provider, MAX_STREAM_BYTES)
                async with aclosing(events_of) as batches:
                    async for batch in batches:
                        yield batch
                return
            events: list[ProviderEvent] = []
            try:
                await self._collect(response, decoder, request, provider, events)
            except ProviderFailure:
                if used := [event for event in events if isinstance(event, UsageReported)]:
                    yield used  # a provider bills for an answer that came to nothing
                raise
            yield events

    async def _collect(
        self,
        response: HttpResponse,
        decoder: GeminiDecoder,
        request: GenerationRequest,
        provider: Provider,
        events: list[ProviderEvent],
    ) -> None:
        """The whole answer into `events`, as one body or as a stream that nobody asked for. Raises ProviderFailure."""
        if not is_event_stream(response, request.stream):
            decoder.whole(await response.read(MAX_BODY_BYTES), events)
            return
        async with aclosing(self._events(_Overheard(response), decoder, provider, MAX_BODY_BYTES)) as batches:
            async for batch in batches:
                events += batch

    async def _events(
        self, response: _Overheard, decoder: GeminiDecoder, provider: Provider, limit: int
    ) -> AsyncGenerator[list[ProviderEvent], None]:
        """A batch a network read; the last ends with `Completed`."""
        async with aclosing(self._transport.sse_batches(response, limit)) as reads:
            while not decoder.done:
                events: list[ProviderEvent] = []
                try:
                    if not await self._read(reads, decoder, events):
                        self._finish(response, decoder, provider, events)
                except ProviderFailure:
                    if events:
                        yield events
                    raise
                yield events

    async def _read(
        self, reads: AsyncGenerator[Sequence[SseEvent], None], decoder: GeminiDecoder, events: list[ProviderEvent]
    ) -> bool:
        """Decode the next network read into `events`; False where the stream has ended. Raises ProviderFailure."""
        try:
            async with asyncio.timeout(self._linger_s if decoder.complete else None):
                read = await anext(reads)
        except (StopAsyncIteration, TimeoutError):
            return False
        except ProviderFailure as failure:
            if failure.category is not FailureCategory.CONNECTION:
                raise
            return False  # whether it had said all it had to say before is for the decoder to tell
        for event in read:
            decoder.feed(event.event, event.data, events)
        return True

    def _finish(
        self, response: _Overheard, decoder: GeminiDecoder, provider: Provider, events: list[ProviderEvent]
    ) -> None:
        """Close the answer, or fail where it was cut; the reason may stand in the stream as plain JSON."""
        if not decoder.complete and (error := bare_error(response.tail())) is not None:
            raise failure_in_band(error, provider)
        decoder.finish(events)


def url(offer: Offer, *, stream: bool) -> str:
    """Where a request goes; the model may be given with its collection (`tunedModels/x`)."""
    model = offer.provider_model
    name = quote(model if "/" in model else f"models/{model}", safe="/-._~")
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"{offer.provider.base_url}/{name}:{method}"


class _Overheard:
    """A response that remembers the end of what it said, as far as an error needs."""

    def __init__(self, response: HttpResponse) -> None:
        self._response = response
        self._last: deque[bytes] = deque()
        self._size = 0

    async def piece(self) -> bytes:
        piece = await self._response.piece()
        self._last.append(piece)
        self._size += len(piece)
        while len(self._last) > 1 and self._size - len(self._last[0]) >= MAX_ERROR_BYTES:
            self._size -= len(self._last.popleft())
        return piece

    async def close(self) -> None:
        await self._response.close()

    def tail(self) -> bytes:
        return b"".join(self._last)[-MAX_ERROR_BYTES:]


def _headers(provider: Provider, request: Request) -> Mapping[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json" if request.stream else "application/json",
        "user-agent": USER_AGENT,
    }
    if provider.api_key:
        headers["x-goog-api-key"] = provider.api_key
    return headers
