"""Event streams: nothing held back, nothing piled up, never a silent cut, and the provider let go at once."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import pytest
import structlog

from rest_bridge.sse import DONE, MAX_PENDING_BYTES, PING, EventStream, first_batch
from server.domain.errors import GatewayError, Reason
from server.domain.events import GenerationEvent, GenerationStream, TextDelta
from tests.fakes.rest import SETTLED, STARTED

Batch = Sequence[GenerationEvent]


class PlainEncoder:
    """Each text as a line."""

    def encode(self, events: Sequence[GenerationEvent]) -> bytes:
        return b"".join(event.text.encode() + b"\n" for event in events if isinstance(event, TextDelta))

    def end(self) -> bytes:
        return b"end\n"

    def fail(self, error: GatewayError) -> bytes:
        return f"{error.reason}\n".encode()


def said(text: str) -> Batch:
    return (TextDelta(0, 0, text),)


class Source:
    """A generation of `batches`, each after `pause_s`; `error` is raised at the end. It knows how far it got."""

    def __init__(self, *batches: Batch, pause_s: float = 0.0, error: BaseException | None = None) -> None:
        self.batches = batches
        self.pause_s = pause_s
        self.error = error
        self.taken = 0
        self.closed_at: float | None = None

    async def stream(self) -> GenerationStream:
        try:
            for batch in self.batches:
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)
                self.taken += 1
                yield batch
            if self.error is not None:
                raise self.error
        finally:
            self.closed_at = time.monotonic()


def body(source: Source, *, ping_interval_s: float = 15.0) -> EventStream:
    return EventStream((STARTED,), source.stream(), PlainEncoder(), ping_interval_s=ping_interval_s)


async def all_of(stream: EventStream) -> list[bytes]:
    async with aclosing(stream):
        return [piece async for piece in stream]


async def test_a_whole_generation_ends_in_its_end() -> None:
    source = Source(said("a"), (), said("b"), (SETTLED,))
    assert b"".join(await all_of(body(source))) == b"a\nb\nend\n"
    assert source.closed_at is not None


async def test_each_event_goes_out_before_the_next_one_comes() -> None:
    source = Source(*[said(str(number)) for number in range(5)], (SETTLED,), pause_s=0.02)
    assert await all_of(body(source)) == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n", b"end\n"]


async def test_what_comes_while_the_client_is_slow_goes_out_together() -> None:
    stream = body(Source(*[said(str(number)) for number in range(200)], (SETTLED,)))
    async with aclosing(stream):
        await asyncio.sleep(0.02)
        pieces = [piece async for piece in stream]
    assert b"".join(pieces) == b"".join(b"%d\n" % number for number in range(200)) + b"end\n"
    assert len(pieces) == 1


async def test_a_client_that_does_not_read_holds_the_generation_up() -> None:
    line = "x" * 1023
    source = Source(*[said(line) for _ in range(1000)], (SETTLED,))
    stream = body(source)
    async with aclosing(stream):
        await asyncio.sleep(0.05)
        held = source.taken
        assert held * 1024 <= MAX_PENDING_BYTES + 2 * 1024
        sizes = []
        async for piece in stream:
            sizes.append(len(piece))
            await asyncio.sleep(0)
    assert sum(sizes) == 1000 * 1024 + len(b"end\n")
    assert max(sizes) <= MAX_PENDING_BYTES + 1024
    assert source.taken == 1001


async def test_silence_is_filled_with_pings_and_only_silence() -> None:
    source = Source(said("a"), said("b"), (SETTLED,), pause_s=0.12)
    pieces = await all_of(body(source, ping_interval_s=0.05))
    assert b"".join(piece for piece in pieces if piece != PING) == b"a\nb\nend\n"
    assert 4 <= pieces.count(PING) <= 6
    lively = Source(*[said("x")] * 20, (SETTLED,), pause_s=0.01)
    assert PING not in await all_of(body(lively, ping_interval_s=0.1))


async def test_empty_batches_are_no_writes() -> None:
    source = Source(*[()] * 12, said("late"), (SETTLED,), pause_s=0.01)
    pieces = await all_of(body(source, ping_interval_s=0.05))
    assert PING in pieces
    assert pieces[-2:] == [b"late\n", b"end\n"]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (GatewayError(Reason.UPSTREAM_TIMEOUT, "Too slow."), b"upstream_timeout\n"),
        (ValueError("a bug"), b"internal\n"),
        (None, b"internal\n"),
    ],
)
async def test_a_failure_in_mid_stream_is_told_and_ends_it(error: Exception | None, last: bytes) -> None:
    with structlog.testing.capture_logs():
        pieces = await all_of(body(Source(said("a"), error=error)))
    assert b"".join(pieces) == b"a\n" + last


async def test_an_encoder_that_cannot_go_on_ends_the_stream_too() -> None:
    class Stubborn(PlainEncoder):
        def encode(self, events: Sequence[GenerationEvent]) -> bytes:
            raise KeyError("no such part")

    source = Source(said("a"), said("b"), (SETTLED,), pause_s=0.01)
    with structlog.testing.capture_logs() as logged:
        pieces = await all_of(EventStream((STARTED,), source.stream(), Stubborn()))
    assert pieces == [b"internal\n"]
    assert [entry["event"] for entry in logged] == ["stream_failed"]
    assert source.taken == 0


async def close_unread(stream: EventStream) -> None:
    await stream.aclose()


async def close_after_one(stream: EventStream) -> None:
    async with aclosing(stream):
        await anext(stream)


async def close_while_waiting(stream: EventStream) -> None:
    async def consume() -> None:
        async with aclosing(stream):
            async for _ in stream:
                pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [close_unread, close_after_one, close_while_waiting])
async def test_leaving_lets_the_provider_go_at_once(leave: Callable[[EventStream], Awaitable[None]]) -> None:
    source = Source(said("a"), *[said("b")] * 1000, pause_s=0.01)
    stream = body(source)
    started = time.monotonic()
    await leave(stream)
    assert time.monotonic() - started < 5
    if source.taken:
        assert source.closed_at is not None
    taken = source.taken
    await asyncio.sleep(0.05)
    assert source.taken == taken


async def test_leaving_while_the_generation_is_held_up_lets_it_go() -> None:
    source = Source(*[said("x" * 50_000)] * 10)
    stream = body(source)
    await asyncio.sleep(0.02)
    await stream.aclose()
    assert source.closed_at is not None


async def test_five_hundred_streams_dropped_together_leave_nothing_behind() -> None:
    before = len(asyncio.all_tasks())
    sources = [Source(*[said("b")] * 1000, pause_s=0.05) for _ in range(500)]
    streams = [body(source) for source in sources]
    await asyncio.sleep(0.1)
    await asyncio.gather(*(stream.aclose() for stream in streams))
    assert len(asyncio.all_tasks()) == before
    assert all(source.closed_at is not None for source in sources)


async def test_the_first_batch_is_the_first_that_holds_an_event() -> None:
    stream = Source((), (), (STARTED,), said("a")).stream()
    async with aclosing(stream):
        assert await first_batch(stream) == (STARTED,)
        assert await anext(stream) == said("a")


async def test_what_fails_before_the_first_batch_is_raised() -> None:
    source = Source((), error=GatewayError(Reason.UNKNOWN_MODEL, "No."))
    with pytest.raises(GatewayError, match=r"No\."):
        await first_batch(source.stream())
    with structlog.testing.capture_logs(), pytest.raises(GatewayError) as caught:
        await first_batch(Source((), ()).stream())
    assert caught.value.reason is Reason.INTERNAL


async def test_a_client_that_leaves_before_the_first_batch_closes_the_generation() -> None:
    source = Source(said("late"), pause_s=10.0)
    task = asyncio.create_task(first_batch(source.stream()))
    await asyncio.sleep(0.02)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed_at is not None
    assert source.closed_at - started < 5


async def instant(events: int) -> AsyncGenerator[Batch, None]:
    for _ in range(events):
        yield said("word")
        await asyncio.sleep(0)
    yield (SETTLED,)


async def test_an_event_costs_little() -> None:
    """A generous bound on what the mailbox adds, so that only a change of its order of magnitude is noticed."""
    gc.collect()
    events = 5000
    started = time.process_time()
    async for _ in instant(events):
        pass
    bare_s = time.process_time() - started
    started = time.process_time()
    pieces = await all_of(EventStream((STARTED,), instant(events), PlainEncoder()))
    added_s = time.process_time() - started - bare_s
    assert b"".join(pieces).endswith(b"end\n")
    assert added_s / events < 100e-6


def test_the_last_event_is_spelt_as_sdks_expect() -> None:
    assert DONE == b"data: [DONE]\n\n"
    assert PING.startswith(b":")
