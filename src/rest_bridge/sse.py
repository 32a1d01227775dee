"""Server-sent events: from the batches of a generation to the bytes of a response body.

A task of its own reads the generation, so that a `: ping` can go out while the provider is silent, and events that
arrive while the client is slow go out together. Nothing is held back to wait for more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Protocol, TypeVar

import structlog

from server.domain.errors import GatewayError, internal_error
from server.domain.events import Settled
from server.domain.response import LifecycleEvent

PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"
PING_INTERVAL_S: Final = 15.0
MAX_PENDING_BYTES: Final = 64 * 1024
"""Encoded and not yet taken by the client: once there is as much, the generation is not read on."""

_log: Final = structlog.get_logger(__name__)


E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)

_LAST: Final = (Settled, LifecycleEvent)
"""What a whole stream ends with: the pipeline's of a generation, and that of a response."""


class StreamEncoder(Protocol[E_contra]):
    """One surface's way of telling one generation, event by event as the pipeline gives them to that surface."""

    def encode(self, events: Sequence[E_contra]) -> bytes:
        """The frames of these events; empty where a client sees nothing of them. Raises GatewayError."""
        ...

    def end(self) -> bytes:
        """The frames after the last event of a whole generation."""
        ...

    def fail(self, error: GatewayError) -> bytes:
        """The frames that end the stream of a generation that failed after its first event."""
        ...


class Mailbox:
    """Bytes on their way from one task to another, merged as they wait. One writer, one reader."""

    def __init__(self, ping_interval_s: float, ping: bytes = PING) -> None:
        self._ping_data = ping
        self._pending: list[bytes] = []
        self._size = 0
        self._closed = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._ping_interval_s = ping_interval_s
        self._loop = asyncio.get_running_loop()
        self._last_write_s = self._loop.time()
        self._timer = self._loop.call_later(ping_interval_s, self._ping)

    async def put(self, data: bytes) -> None:
        """Leave `data` for the reader; wait while too much lies here already."""
        while self._size >= MAX_PENDING_BYTES:
            self._writer = self._loop.create_future()
            await self._writer
        self.put_last(data)

    def put_last(self, data: bytes) -> None:
        """Leave `data` without waiting: for what ends the stream."""
        if data:
            self._pending.append(data)
            self._size += len(data)
            _wake(self._reader)

    def close(self) -> None:
        """Nothing more will come; what lies here may still be taken."""
        self._closed = True
        self._timer.cancel()
        _wake(self._reader)

    @property
    def ended(self) -> bool:
        """Whether all has been taken that will ever lie here."""
        return self._closed and not self._pending

    async def take(self) -> bytes:
        """All that lies here, or the next to come; empty once it is closed and empty."""
        while not self._pending and not self._closed:
            self._reader = self._loop.create_future()
            await self._reader
        pending, self._pending, self._size = self._pending, [], 0
        self._last_write_s = self._loop.time()
        _wake(self._writer)
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def _ping(self) -> None:
        """Once per interval at most: a timer for each event would cost more than the event."""
        silent_s = self._loop.time() - self._last_write_s
        wait_s = self._ping_interval_s - silent_s
        if wait_s <= 0:
            wait_s = self._ping_interval_s
            if not self._pending:
                self.put_last(self._ping_data)
        self._timer = self._loop.call_later(wait_s, self._ping)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def first_batch(stream: AsyncGenerator[Sequence[E], None]) -> Sequence[E]:
    """The first batch that holds an event. Whatever goes wrong before it closes the stream and is raised."""
    try:
        async for batch in stream:
            if batch:
                return batch
    except BaseException:
        await stream.aclose()
        raise
    _log.error("generation_without_events")
    raise internal_error()


class EventStream:
    """The body that tells of a generation whose `first` batch has been read. Closing it closes the generation.

    It always ends in `encoder.end()` or `encoder.fail(…)`: a client can tell a whole stream from a cut one. A class and
    not a generator, because closing a generator that was never begun would leave the provider generating.
    """

    def __init__(
        self,
        first: Sequence[E],
        rest: AsyncGenerator[Sequence[E], None],
        encoder: StreamEncoder[E],
        *,
        ping_interval_s: float = PING_INTERVAL_S,
        ping: bytes = PING,
    ) -> None:
        self._rest = rest
        self._mailbox = Mailbox(ping_interval_s, ping)
        self._pump = asyncio.create_task(_pump(first, rest, encoder, self._mailbox))

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        data = await self._mailbox.take()
        if not data:
            raise StopAsyncIteration
        return data

    @property
    def ended(self) -> bool:
        return self._mailbox.ended

    async def aclose(self) -> None:
        self._mailbox.close()
        self._pump.cancel()
        await asyncio.wait((self._pump,))
        await self._rest.aclose()


async def _pump(
    first: Sequence[E], rest: AsyncGenerator[Sequence[E], None], encoder: StreamEncoder[E], mailbox: Mailbox
) -> None:
    """Move a generation into the mailbox, to its end or to what went wrong."""
    try:
        async with aclosing(rest):
            last = first[-1]
            await mailbox.put(encoder.encode(first))
            async for batch in rest:
                if batch:
                    await mailbox.put(encoder.encode(batch))
                    last = batch[-1]
        if not isinstance(last, _LAST):
            raise RuntimeError("a generation ended without its last event")
        mailbox.put_last(encoder.end())
    except GatewayError as error:
        mailbox.put_last(encoder.fail(error))
    except Exception:
        _log.exception("stream_failed")
        mailbox.put_last(encoder.fail(internal_error()))
    finally:
        mailbox.close()
