"""Which HTTP client should call the upstreams? Four of them against one stand-in, in one run.

    python -m bench.http_clients [--calls 4000]

Prints, for a small unary POST, for a stream of 100 events that arrives at once and for one that arrives event by
event, requests/s and CPU per call of this process alone, and then how each client behaves where a gateway depends on
it. The stand-in runs in a process of its own. Figures are only comparable within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import aiohttp
import pyqwest
import uvloop
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from server.domain.errors import ProviderFailure
from server.transport import Transport
from tests.fakes.openai_upstream import Endless, Hang, Pause, Reply, Upstream, silent
from tests.fakes.replies import chunk, chunked
from tests.fakes.wire import Wire

HEADERS = {"content-type": "application/json", "authorization": "Bearer bench"}
MESSAGES = [{"role": "user", "content": "Say something that is worth measuring."}]
ROUNDS = 3


OnPiece = Callable[[bytes], Awaitable[None]]


async def ignore(piece: bytes) -> None:
    """Nothing is done with a piece where only the way to it counts."""


class Client(Protocol):
    name: str

    async def call(self, url: str, body: bytes, on_piece: OnPiece) -> None:
        """POST and read the reply to its end, piece by piece."""
        ...

    async def close(self) -> None: ...


class Ours:
    name = "server.transport"

    def __init__(self) -> None:
        self._transport = Transport()

    async def call(self, url: str, body: bytes, on_piece: OnPiece) -> None:
        async with await self._transport.post(url, headers=HEADERS, body=body, connect_timeout_s=5) as response:
            async for piece in response.chunks():
                await on_piece(piece)

    async def close(self) -> None:
        await self._transport.close()


class Pyreqwest:
    name = "pyreqwest"

    def __init__(self) -> None:
        self._client = ClientBuilder().no_proxy().follow_redirects(False).build()

    async def call(self, url: str, body: bytes, on_piece: OnPiece) -> None:
        # With its default buffer it returns when 64 KiB or the end have come in: useless for events.
        request = self._client.post(url).headers(HEADERS).body_bytes(body).streamed_read_buffer_limit(0)
        async with request.build_streamed() as response:
            reader = response.body_reader
            while (piece := await reader.read_chunk()) is not None:
                await on_piece(piece.to_bytes())

    async def close(self) -> None:
        await self._client.close()


class Pyqwest:
    name = "pyqwest"

    def __init__(self) -> None:
        self._transport = pyqwest.HTTPTransport(enable_otel=False, pool_max_idle_per_host=256, follow_redirects=False)
        self._client = pyqwest.Client(self._transport)

    async def call(self, url: str, body: bytes, on_piece: OnPiece) -> None:
        async with self._client.stream("POST", url, headers=HEADERS, content=body) as response:
            async for piece in response.content:
                await on_piece(bytes(piece))

    async def close(self) -> None:
        await self._transport.aclose()


class Aiohttp:
    name = "aiohttp"

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4096),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def call(self, url: str, body: bytes, on_piece: OnPiece) -> None:
        async with self._session.post(url, headers=HEADERS, data=body, allow_redirects=False) as response:
            while piece := await response.content.readany():
                await on_piece(piece)

    async def close(self) -> None:
        await self._session.close()


CLIENTS: list[Callable[[], Client]] = [Ours, Pyreqwest, Pyqwest, Aiohttp]
PYQWEST_FAILURES = (pyqwest.StreamError, pyqwest.RemoteProtocolError, pyqwest.ReadError, pyqwest.WriteError)
FAILURES = (OSError, ProviderFailure, PyreqwestError, aiohttp.ClientError, *PYQWEST_FAILURES)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(make: Callable[[], Client], url: str, body: bytes, calls: int, parallel: int) -> tuple[float, float]:
    """(calls per second, CPU microseconds per call) with `parallel` connections that are already open."""
    client = make()
    await asyncio.gather(*(client.call(url, body, ignore) for _ in range(parallel)))
    left = calls

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await client.call(url, body, ignore)

    began, cpu = time.monotonic(), cpu_s()
    await asyncio.gather(*(work() for _ in range(parallel)))
    took, used = time.monotonic() - began, cpu_s() - cpu
    await client.close()
    return calls / took, used / calls * 1e6


async def speed(port: int, calls: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    loads = [
        ("unary", {"model": "test", "messages": MESSAGES}, calls),
        ("100 events at once", {"model": "test", "messages": MESSAGES, "stream": True}, calls // 4),
        ("50 events, 5 ms apart", {"model": "slow-50-5", "messages": MESSAGES, "stream": True}, 96),
    ]
    print("| load | client | requests/s | CPU µs/call | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for title, request, count in loads:
        body = json.dumps(request, separators=(",", ":")).encode()
        best = {make: (0.0, float("inf")) for make in CLIENTS}
        for _ in range(ROUNDS):  # interleaved, so that a noisy second hits everybody
            for make in CLIENTS:
                rate, cost = await measure(make, url, body, count, 32)
                best[make] = max(best[make][0], rate), min(best[make][1], cost)
        for make in CLIENTS:
            rate, cost = best[make]
            name = make.name  # type: ignore[attr-defined]
            print(f"| {title} | {name} | {rate:,.0f} | {cost:,.0f} | {cost / best[Ours][1]:.2f} |")


# Behaviour.


async def closes_within(make: Callable[[], Client], reply: Reply) -> str:
    """How long after a cancel the upstream's socket closes, while the client waits for more of `reply`."""
    async with Upstream() as upstream:
        client = make()
        upstream.script(reply)
        call = asyncio.ensure_future(client.call(f"{upstream.base_url}/x", b"{}", ignore))
        await upstream.wait_request()
        await asyncio.sleep(0.05)
        cancelled_at = time.monotonic()
        call.cancel()
        try:
            gone = await upstream.wait_disconnect(timeout=2)
        except TimeoutError:
            return "**never**"
        finally:
            with suppress(asyncio.CancelledError, *FAILURES):
                await call
            await client.close()
        return f"{(gone.at - cancelled_at) * 1000:.1f} ms"


async def stale(make: Callable[[], Client]) -> str:
    """Of 200 calls that come as the upstream is closing idle connections, over 20 connections: errors, and bodies that
    arrived more than once."""
    keep_alive_s, errors = 0.5, 0
    async with Upstream(keep_alive_s=keep_alive_s) as upstream:
        client = make()
        url = f"{upstream.base_url}/chat/completions"

        async def one(number: int, delay_s: float) -> None:
            nonlocal errors
            try:
                await asyncio.sleep(delay_s)
                await client.call(url, b'{"call":%d}' % number, ignore)
            except FAILURES:
                errors += 1

        for number in range(10):
            spread = (number - 5) * 0.0004
            await asyncio.gather(*(one(number * 20 + at, keep_alive_s + spread + at * 0.0002) for at in range(20)))
        await client.close()
        twice = sum(count > 1 for count in Counter(request.body for request in upstream.requests).values())
    return f"{errors}, {twice}"


async def read_ahead(make: Callable[[], Client]) -> str:
    """How much an upstream can send to a client that has stopped to read, sockets' own buffers included."""
    async with Upstream(send_buffer=64 * 1024) as upstream:
        client = make()
        upstream.script(chunked([Endless(chunk(b"x" * 8000))]))

        async def stop(_: bytes) -> None:
            await asyncio.get_running_loop().create_future()

        call = asyncio.ensure_future(client.call(f"{upstream.base_url}/x", b"{}", stop))
        request = await upstream.wait_request()
        sent, began = -1, time.monotonic()
        while sent != request.sent and time.monotonic() - began < 5:
            sent = request.sent
            await asyncio.sleep(0.3)
        call.cancel()
        with suppress(asyncio.CancelledError, *FAILURES):
            await call
        await client.close()
    return f"{sent / 2**20:.1f} MiB" if sent == request.sent else "**no end**"


class Stamp:
    """An event that says when it was sent."""

    async def play(self, wire: Wire) -> None:
        await wire.send(chunk(b"data: %.7f\n\n" % time.monotonic()))


async def lag(make: Callable[[], Client]) -> str:
    """Of 200 events 2 ms apart: the median time from their being sent to their being told, and the 99th of 100."""
    lags: list[float] = []

    async def told(piece: bytes) -> None:
        now = time.monotonic()
        lags.extend(now - float(event[6:]) for event in piece.split(b"\n\n") if event)

    async with Upstream() as upstream:
        client = make()
        upstream.script(chunked([step for _ in range(200) for step in (Stamp(), Pause(0.002))]))
        await client.call(f"{upstream.base_url}/x", b"{}", told)
        await client.close()
    lags.sort()
    return f"{lags[len(lags) // 2] * 1e6:.0f}, {lags[len(lags) * 99 // 100] * 1e6:.0f} µs"


async def behaviour() -> None:
    print("\n| client | cancel before headers | cancel in the body | stale: errors, twice | unread | lag p50, p99 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for make in CLIENTS:
        cells = [
            await closes_within(make, silent()),
            await closes_within(make, chunked([b"data: 1\n\n", Hang()])),
            await stale(make),
            await read_ahead(make),
            await lag(make),
        ]
        print(f"| {make.name} | {' | '.join(cells)} |")  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000)
    options = parser.parse_args()
    command = [sys.executable, "-m", "tests.fakes.instant_upstream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as upstream:
        assert upstream.stdout is not None
        try:
            uvloop.run(speed(int(upstream.stdout.readline()), options.calls))
        finally:
            upstream.terminate()
    uvloop.run(behaviour())


if __name__ == "__main__":
    main()
