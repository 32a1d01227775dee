"""One HTTP exchange with an upstream of any dialect: a body goes out, batches of events come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import Headroom, ProviderEvent, ProviderStream, Started
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

_REDIRECT: Final = UpstreamError(
    code="redirect", message="The provider answered with a redirect, which the gateway does not follow."
)

FailureOfReply = Callable[[int, ResponseHeaders, bytes], ProviderFailure]
"""What a reply outside 2xx means: its status, headers and the beginning of its body."""


class Deadlines(msgspec.Struct, frozen=True):
    """How long a provider may take, in seconds: to be connected to, and for the body of an error."""

    connect_s: float = 5.0
    error_body_s: float = 10.0


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
            headroom = headroom_of(response.headers, self._clock.now())
            if not 200 <= response.status < 300:
                failure = await failed_reply(response, post.provider, self._deadlines.error_body_s, failure_of)
                failure.headroom = headroom
                raise failure
            request_id = upstream_request_id(response.headers, post.provider)
            try:
                is_raw = post.may_be_sound and is_sound(response, post.wants_events)
                if not is_raw and not is_event_stream(response, post.wants_events):
                    whole: list[ProviderEvent] = []
                    decoder.whole(await response.read(MAX_BODY_BYTES), whole)
                    _tell(whole, headroom, request_id)
                    yield whole
                elif post.in_batches:
                    is_told = False
                    read = partial(self._events, decoder=decoder) if not is_raw else sound
                    async with aclosing(read(response, limit=MAX_STREAM_BYTES)) as batches:
                        async for batch in batches:
                            is_told = is_told or _tell(batch, headroom, request_id)
                            yield batch
                else:
                    async with aclosing(self._events(response, decoder, MAX_BODY_BYTES)) as batches:
                        joined = [event async for batch in batches for event in batch]
                    _tell(joined, headroom, request_id)
                    yield joined
            except ProviderFailure as failure:
                failure.request_id = failure.request_id or request_id
                raise

    async def _events(
        self, response: HttpResponse, decoder: StreamDecoder, limit: int
    ) -> AsyncGenerator[list[ProviderEvent], None]:
        """A batch a network read; the last ends with `Completed`."""
        async with aclosing(self._transport.sse_batches(response, limit)) as reads:
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


def _tell(batch: list[ProviderEvent], headroom: Headroom | None, request_id: str | None) -> bool:
    """Add what a reply's headers say to the event that the provider has begun; whether the batch has that."""
    if not batch or not isinstance(started := batch[0], Started):
        return False
    if headroom is not None or request_id is not None:
        batch[0] = replace(started, headroom=headroom, request_id=request_id)
    return True


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
