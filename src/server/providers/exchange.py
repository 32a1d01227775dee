"""One HTTP exchange with an upstream of any dialect: a body goes out, batches of events come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Provider, Routing
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import Headroom, ProviderEvent, ProviderStream, Started, UsageReported
from server.domain.ports import Clock
from server.providers.decoding import StreamDecoder
from server.providers.http_port import HttpResponse, HttpTransport, ResponseHeaders, SizedBody, SseEvent
from server.providers.rate_limits import headroom_of
from server.providers.request_ids import upstream_request_id
from server.providers.sound import is_sound, sound

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""The largest whole answer."""
MAX_STREAM_BYTES: Final = 256 * 1024 * 1024
"""The longest stream, of all its events."""
MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error body is read."""
DRAIN_TIMEOUT_S: Final = 0.1
"""How long the end of a body may take after the terminator; a connection read to its end can be used again."""

USER_AGENT: Final = "aistats-gateway"

_CACHED_TOKENS: Final = "fireworks-cached-prompt-tokens"
"""Where Fireworks tells what of the prompt it had already: its bodies may leave that out."""

_REDIRECT: Final = UpstreamError(
    code="redirect", message="The provider answered with a redirect, which the gateway does not follow."
)

FailureOfReply = Callable[[int, ResponseHeaders, bytes], ProviderFailure]
"""What a reply outside 2xx means: its status, headers and the beginning of its body."""


class Deadlines(msgspec.Struct, frozen=True):
    """How long a provider may take, in seconds: to be connected to, and for the body of an error.

    `routing` is asked at each call, as the catalogue may have changed.
    """

    error_body_s: float = 10.0
    routing: Callable[[], Routing] = Routing

    @property
    def connect_s(self) -> float:
        return self.routing().connect_timeout_s


DEADLINES: Final = Deadlines()


class Post(msgspec.Struct, frozen=True):
    """A request to send. `wants_events`: its answer is meant to be a stream; `in_batches`: and to be yielded as one.

    `may_be_sound`: where the body of the answer is declared as sound, it is yielded as it is.
    """

    provider: Provider
    url: str
    headers: Mapping[str, str]
    body: bytes | SizedBody
    wants_events: bool
    in_batches: bool
    may_be_sound: bool = False


class Exchanges:
    """Sends requests and decodes their answers. Times are seconds."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._deadlines = deadlines

    async def run(self, post: Post, decoder: StreamDecoder, failure_of: FailureOfReply) -> ProviderStream:
        """The events of the answer; as one batch at the end unless `in_batches`. Raises ProviderFailure."""
        response = await self._transport.post(
            post.url,
            headers=post.headers,
            body=post.body,
            connect_timeout_s=self._deadlines.connect_s,
            allow_link_local=post.provider.allow_link_local,
        )
        async with response:
            heard = _heard(response.headers, post.provider, self._clock.now())
            if not 200 <= response.status < 300:
                failure = await failed_reply(response, post.provider, self._deadlines.error_body_s, failure_of)
                failure.headroom = heard.headroom
                raise failure
            try:
                if post.may_be_sound and is_sound(response, post.wants_events):
                    async with aclosing(sound(response, MAX_STREAM_BYTES)) as batches:
                        async for batch in batches:
                            _tell(batch, heard)
                            yield batch
                elif post.in_batches and is_event_stream(response, post.wants_events):
                    async with aclosing(self._transport.sse_batches(response, MAX_STREAM_BYTES)) as reads:
                        stream = _Stream(reads, decoder)
                        while (read := await stream.next()) is not None:
                            _tell(read, heard)
                            yield read
                else:
                    events: list[ProviderEvent] = []
                    try:
                        await self._collect(response, decoder, post, events)
                    except ProviderFailure:
                        _tell(events, heard)
                        if used := [event for event in events if isinstance(event, UsageReported)]:
                            yield used  # a provider bills for an answer that came to nothing
                        raise
                    _tell(events, heard)
                    yield events
            except ProviderFailure as failure:
                failure.request_id = failure.request_id or heard.request_id
                raise

    async def _collect(
        self, response: HttpResponse, decoder: StreamDecoder, post: Post, events: list[ProviderEvent]
    ) -> None:
        """The whole answer into `events`, as one body or as a stream. Raises ProviderFailure."""
        if not is_event_stream(response, post.wants_events):
            decoder.whole(await response.read(MAX_BODY_BYTES), events)
            return
        async with aclosing(self._transport.sse_batches(response, MAX_BODY_BYTES)) as reads:
            stream = _Stream(reads, decoder)
            while (read := await stream.next()) is not None:
                events += read


class _Heard(NamedTuple):
    """What a reply's headers say. `cached_tokens` are those of the prompt."""

    headroom: Headroom | None
    request_id: str | None
    cached_tokens: int


def _heard(headers: ResponseHeaders, provider: Provider, now: float) -> _Heard:
    try:
        cached_tokens = int(headers.get(_CACHED_TOKENS) or 0)
    except ValueError:
        cached_tokens = 0
    return _Heard(headroom_of(headers, now), upstream_request_id(headers, provider), cached_tokens)


def _tell(batch: list[ProviderEvent], heard: _Heard) -> None:
    """Add it to the event that the provider has begun, and to its counts where they have none of cached tokens."""
    if (heard.headroom or heard.request_id) and batch and isinstance(started := batch[0], Started):
        batch[0] = replace(started, headroom=heard.headroom, request_id=heard.request_id)
    if heard.cached_tokens > 0:
        for place, event in enumerate(batch):
            if isinstance(event, UsageReported) and not (usage := event.usage).cached_input_tokens:
                cached = min(heard.cached_tokens, usage.input_tokens - usage.cache_write_tokens)
                batch[place] = replace(event, usage=replace(usage, cached_input_tokens=cached))


class _Stream:
    """The events of a streamed answer, a batch a network read; the last batch ends with `Completed`."""

    def __init__(self, reads: AsyncGenerator[Sequence[SseEvent], None], decoder: StreamDecoder) -> None:
        self._reads = reads
        self._decoder = decoder
        self._has_ended = False
        self._failure: ProviderFailure | None = None

    async def next(self) -> list[ProviderEvent] | None:
        """The next batch, None after the last. Raises ProviderFailure; the events before it have been given by then."""
        if self._failure is not None:
            raise self._failure
        decoder = self._decoder
        if self._has_ended or decoder.done:
            if not self._has_ended:
                await _drain(self._reads)
            return None
        events: list[ProviderEvent] = []
        try:
            try:
                for event in await anext(self._reads):
                    decoder.feed(event.event, event.data, events)
            except StopAsyncIteration:
                self._has_ended = True
            except ProviderFailure as failure:
                if failure.category is not FailureCategory.CONNECTION or not decoder.complete:
                    raise
                self._has_ended = True  # it said all it had to say before the connection broke
            if self._has_ended or decoder.done:
                decoder.finish(events)
        except ProviderFailure as failure:
            if not events:
                raise
            self._failure = failure
        return events


def is_event_stream(response: HttpResponse, wanted: bool) -> bool:
    """Whether the body is events: as it declares, whatever was asked for."""
    declared = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if declared in ("application/json", "text/html"):
        return False
    return wanted or declared == "text/event-stream"


async def failed_reply(
    response: HttpResponse, provider: Provider, timeout_s: float, failure_of: FailureOfReply
) -> ProviderFailure:
    """What a reply outside 2xx means. A redirect is never followed: a key goes to its own provider's address only."""
    if 300 <= response.status < 400:
        failure = ProviderFailure(FailureCategory.PROTOCOL, status=response.status, upstream=_REDIRECT)
    else:
        failure = failure_of(response.status, response.headers, await error_body(response, timeout_s))
    failure.request_id = failure.request_id or upstream_request_id(response.headers, provider)
    return failure


async def error_body(response: HttpResponse, timeout_s: float) -> bytes:
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
