"""One HTTP exchange with an upstream of any dialect: a body goes out, batches of events come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from msgspec.structs import replace

from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Headroom, ProviderEvent, ProviderStream, Started
from server.domain.ports import Clock
from server.providers.decoding import StreamDecoder
from server.providers.http_port import HttpResponse, HttpTransport, ResponseHeaders, SseEvent
from server.providers.rate_limits import headroom_of

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""The largest whole answer."""
MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error body is read."""
ERROR_BODY_TIMEOUT_S: Final = 10.0
DRAIN_TIMEOUT_S: Final = 0.1
"""How long the end of a body may take after the terminator; a connection read to its end can be used again."""

USER_AGENT: Final = "aistats-gateway"

FailureOfReply = Callable[[int, ResponseHeaders, bytes], ProviderFailure]
"""What a reply outside 2xx means: its status, headers and the beginning of its body."""


class Post(msgspec.Struct, frozen=True):
    """A request to send. `wants_events`: its answer is meant to be a stream; `in_batches`: and to be yielded as one.

    `allow_link_local`: as `Provider` says.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes
    wants_events: bool
    in_batches: bool
    allow_link_local: bool = False


class Exchanges:
    """Sends requests and decodes their answers. Times are seconds."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        *,
        connect_timeout_s: float = 5.0,
        error_body_timeout_s: float = ERROR_BODY_TIMEOUT_S,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self._error_body_timeout_s = error_body_timeout_s

    async def run(self, post: Post, decoder: StreamDecoder, failure_of: FailureOfReply) -> ProviderStream:
        """The events of the answer; as one batch at the end unless `in_batches`. Raises ProviderFailure."""
        response = await self._transport.post(
            post.url,
            headers=post.headers,
            body=post.body,
            connect_timeout_s=self._connect_timeout_s,
            allow_link_local=post.allow_link_local,
        )
        async with response:
            if not 200 <= response.status < 300:
                body = await error_body(response, self._error_body_timeout_s)
                raise failure_of(response.status, response.headers, body)
            headroom = headroom_of(response.headers, self._clock.now())
            if not is_event_stream(response, post.wants_events):
                whole: list[ProviderEvent] = []
                decoder.whole(await response.read(MAX_BODY_BYTES), whole)
                yield _with(headroom, whole)
            elif post.in_batches:
                async with aclosing(self._events(response, decoder)) as batches:
                    async for batch in batches:
                        yield batch if headroom is None else _with(headroom, batch)
            else:
                async with aclosing(self._events(response, decoder)) as batches:
                    yield _with(headroom, [event async for batch in batches for event in batch])

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


def _with(headroom: Headroom | None, batch: list[ProviderEvent]) -> list[ProviderEvent]:
    """The batch that tells that the provider has begun tells what is left of its limits as well."""
    if headroom is not None and batch and isinstance(started := batch[0], Started):
        batch[0] = replace(started, headroom=headroom)
    return batch


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
