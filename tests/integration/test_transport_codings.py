"""Compressed replies: undone as they come in, and never at a cost that only the upstream knows."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise

import brotli
import pytest

from server.domain.errors import ProviderFailure
from server.transport import SseEvent, Transport, UpstreamResponse, sse_batches
from server.transport.codings import MAX_PIECE_BYTES, decoder_of
from server.transport.faults import Fault, failure
from tests.fakes.openai_upstream import Hang, Upstream, whole
from tests.fakes.replies import chunked

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=9),
}
TEXT = b'{"text":"' + "你好🙂".encode() * 50_000 + b'"}'
BOMB_BYTES = 64 * 1024 * 1024
BOMBS = {coding: encode(bytes(BOMB_BYTES)) for coding, encode in ENCODERS.items()}


def undo(coding: str, wire: bytes, cuts: list[int]) -> list[bytes]:
    decoder = decoder_of(coding)
    assert decoder is not None
    edges = [0, *cuts, len(wire)]
    pieces = [piece for begin, end in pairwise(edges) for piece in decoder.feed(wire[begin:end])]
    decoder.finish()
    return pieces


async def post(transport: Transport, upstream: Upstream) -> UpstreamResponse:
    return await transport.post(upstream.base_url, headers={}, body=b"{}", connect_timeout_s=20)


@pytest.mark.parametrize("coding", ENCODERS)
def test_what_was_encoded_comes_back_however_it_is_cut(coding: str) -> None:
    wire = ENCODERS[coding](TEXT)
    for cuts in ([], list(range(1, len(wire))), [len(wire) - 1]):
        pieces = undo(coding, wire, cuts)
        assert b"".join(pieces) == TEXT
        assert all(0 < len(piece) <= MAX_PIECE_BYTES for piece in pieces)


@pytest.mark.parametrize("coding", ENCODERS)
def test_nothing_at_all_is_nothing(coding: str) -> None:
    assert undo(coding, b"", []) == []
    assert undo(coding, ENCODERS[coding](b""), []) == []


@pytest.mark.parametrize("coding", ENCODERS)
def test_what_is_missing_or_broken_is_told(coding: str) -> None:
    wire = ENCODERS[coding](TEXT)
    for broken, fault in ((wire[:-1], Fault.CUT), (wire[:20], Fault.CUT), (b"plain" * 9, Fault.MALFORMED)):
        with pytest.raises(ProviderFailure) as caught:
            undo(coding, broken, [])
        assert caught.value.upstream == failure(fault).upstream
    with pytest.raises(ProviderFailure):
        undo(coding, wire + b"more of it", [])


@pytest.mark.parametrize("coding", ENCODERS)
async def test_events_come_out_before_their_stream_has_ended(coding: str) -> None:
    encode = compressor(coding)
    pieces = [encode(b"data: %d\n\n" % number) for number in range(5)]
    async with Upstream() as upstream, Transport() as transport, asyncio.timeout(30):
        upstream.script(chunked([*pieces, Hang()], headers={"content-encoding": coding}))
        seen: list[SseEvent] = []
        async with await post(transport, upstream) as response:
            async for batch in sse_batches(response):
                seen += batch
                if len(seen) == 5:
                    break
    assert seen == [SseEvent(None, b"%d" % number) for number in range(5)]


def compressor(coding: str) -> Callable[[bytes], bytes]:
    """What compresses one event after another, so that each can be read at once."""
    if coding == "br":
        encoder = brotli.Compressor()
        return lambda data: bytes(encoder.process(data) + encoder.flush())
    deflate = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    return lambda data: deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("coding", ENCODERS)
async def test_a_bomb_is_defused_at_the_limit(coding: str) -> None:
    assert len(BOMBS[coding]) < BOMB_BYTES / 900
    async with Upstream() as upstream, Transport() as transport:
        upstream.script(whole(BOMBS[coding], headers={"content-encoding": coding}))
        async with await post(transport, upstream) as response:
            tracemalloc.start()
            try:
                with pytest.raises(ProviderFailure) as caught:
                    await response.read(1024 * 1024)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert caught.value.upstream == failure(Fault.TOO_LARGE).upstream
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize("coding", ENCODERS)
async def test_a_bomb_that_is_read_to_its_end_holds_neither_memory_nor_the_loop(coding: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with Upstream() as upstream, Transport() as transport:
        upstream.script(whole(BOMBS[coding], headers={"content-encoding": coding}))
        async with await post(transport, upstream) as response:
            other, size = asyncio.create_task(others()), 0
            async for piece in response.chunks():
                assert len(piece) <= MAX_PIECE_BYTES
                size += len(piece)
            other.cancel()
            with suppress(asyncio.CancelledError):
                await other
    assert size == BOMB_BYTES
    assert turns >= BOMB_BYTES / MAX_PIECE_BYTES
