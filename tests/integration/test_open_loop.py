"""The load at constant arrival counts from when requests were due, whatever keeps them from leaving."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import msgspec

from bench.open_loop import MOST_CONNECTIONS, OpenLoopResult, OpenLoopSpec

RATE = 400.0
REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def loaded(answer: Answer, requests: int) -> OpenLoopResult:
    """What the load saw of a server that gives each connection to `answer`."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    async with server:
        port = server.sockets[0].getsockname()[1]
        spec = OpenLoopSpec(port, "/", "{}", RATE, requests / RATE)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.open_loop"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate(msgspec.json.encode(spec))
    return msgspec.json.decode(told, type=OpenLoopResult)


async def read(reader: asyncio.StreamReader) -> bool:
    """Whether there was one more request."""
    try:
        await reader.readuntil(b"\r\n\r\n{}")
    except asyncio.IncompleteReadError:
        return False
    return True


async def test_every_request_that_was_due_in_a_pause_has_waited_for_its_end() -> None:
    """None is answered before the last has come: the nth has waited for as many gaps as there were after it."""
    requests, came, all_came = 80, 0, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        while await read(reader):
            came += 1
            if came == requests:
                all_came.set()
            await all_came.wait()
            writer.write(REPLY)
        writer.close()

    result = await loaded(answer, requests)
    assert (len(result.latencies_s), result.failed) == (requests, 0)
    for index, latency_s in enumerate(sorted(result.latencies_s)):
        assert latency_s >= index / RATE
    assert requests <= result.connections <= MOST_CONNECTIONS


async def test_what_is_refused_or_cut_is_counted_as_failed() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read(reader):
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    result = await loaded(answer, 20)
    assert (result.latencies_s, result.failed) == ([], 20)
