"""A file of 25 MB on its way to a provider: nobody holds it, whoever is asked, however slowly it is taken."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from server.domain.audio import MAX_FILE_BYTES, Transcript, TranscriptionRequest
from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Produced, ProviderEvent
from server.domain.request import Endpoint
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.replies import whole
from tests.fakes.wire import Send
from tests.unit.openai_cases import CountingIds, FixedClock

MIB = 1024 * 1024
ANSWER = b'{"text":"Hello.","usage":{"type":"duration","seconds":9}}'
REFUSAL = b'{"error":{"message":"Too large.","type":"invalid_request_error"}}'
PIECE = bytes(range(256)) * 256


class Generated:
    """An upload of so many bytes, none of which is anywhere before it is read."""

    filename, media_type, head = "long.wav", "audio/wav", b"RIFF"

    def __init__(self, size: int) -> None:
        self.size = size
        self.readers = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        self.readers += 1
        left = self.size
        while left > 0:
            yield bytes(PIECE[:left])
            left -= len(PIECE)

    def hold(self) -> Callable[[], None]:
        return lambda: None


class Drain:
    """An upstream that takes a body and keeps nothing of it; after `refuses_after` bytes it refuses what follows.

    `taken`: how much it got of each body, `promised`: how much there was to be.
    """

    def __init__(self, *, refuses_after: int | None = None, pauses_s: float = 0.0) -> None:
        self.refuses_after = refuses_after
        self.pauses_s = pauses_s
        self.taken: list[int] = []
        self.promised = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert found is not None
        self.promised = int(found[1])
        self.taken.append(0)
        await self._take(reader, self.refuses_after or self.promised)
        body, status = (ANSWER, 200) if self.refuses_after is None else (REFUSAL, 413)
        (reply,) = whole(body, status=status)
        assert isinstance(reply, Send)
        writer.write(reply.data)
        await self._take(reader, self.promised)

    async def _take(self, reader: asyncio.StreamReader, up_to: int) -> None:
        while self.taken[-1] < up_to and (data := await reader.read(65_536)):
            self.taken[-1] += len(data)
            if self.pauses_s:
                await asyncio.sleep(self.pauses_s)


@asynccontextmanager
async def asked(drain: Drain) -> AsyncIterator[Callable[[Generated], AsyncGenerator[ProviderEvent, None]]]:
    server = await asyncio.start_server(drain, "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    offer = Offer(Provider("acme", "openai", base_url), "whisper-1", frozenset({Endpoint.AUDIO}))
    async with server, Transport() as transport:
        adapter = OpenAIAdapter(transport, FixedClock(), CountingIds())

        async def events(file: Generated) -> AsyncGenerator[ProviderEvent, None]:
            request = TranscriptionRequest(endpoint=Endpoint.AUDIO, model="a/w", file=file)
            async with aclosing(adapter.stream(offer, request)) as batches:
                async for batch in batches:
                    for event in batch:
                        yield event

        yield events


@pytest.mark.parametrize("pauses_s", [0.0, 0.001], ids=["fast", "slow"])
async def test_a_file_of_25_mb_is_not_held(pauses_s: float) -> None:
    drain, file = Drain(pauses_s=pauses_s), Generated(MAX_FILE_BYTES)
    async with asked(drain) as events:
        tracemalloc.start()
        try:
            told = [event async for event in events(file)]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert Produced(Transcript("Hello.")) in told
    assert drain.taken == [drain.promised]
    assert MAX_FILE_BYTES < drain.promised < MAX_FILE_BYTES + 2048
    assert (file.readers, peak < 8 * MIB) == (1, True), peak


async def test_a_refusal_midway_is_heard_and_ends_the_upload() -> None:
    drain, file = Drain(refuses_after=MIB), Generated(MAX_FILE_BYTES)
    async with asked(drain) as events:
        with pytest.raises(ProviderFailure) as caught:
            async for _ in events(file):
                pass
    assert (caught.value.category, caught.value.status) == (FailureCategory.CALLER_ERROR, 413)
    assert drain.taken[0] < 16 * MIB


async def test_the_next_that_is_asked_gets_the_whole_file_again() -> None:
    drain, file = Drain(), Generated(MIB)
    async with asked(drain) as events:
        for _ in range(2):
            assert Produced(Transcript("Hello.")) in [event async for event in events(file)]
    assert (drain.taken, file.readers) == ([drain.promised] * 2, 2)
