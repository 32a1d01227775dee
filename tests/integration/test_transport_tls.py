"""The HTTP client over TLS, on both event loops: whom it trusts, and that nothing else is different."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
import trustme
import uvloop

from server.domain.errors import ProviderFailure
from server.transport import SseEvent, Transport, UpstreamResponse, sse_batches
from server.transport.connection import READ_AHEAD_BYTES
from server.transport.faults import Fault, failure
from tests.fakes.openai_upstream import Endless, Upstream, chat_unary, error, silent
from tests.fakes.replies import chunk, chunked
from tests.integration.test_transport_closing import AT_ONCE_S, stalled_stream, until_it_stands_still

Runner = Callable[[Coroutine[Any, Any, None]], None]
Scenario = Callable[[Transport, Upstream], Awaitable[None]]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
AUTHORITY = trustme.CA()


def server_side(cert: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    return context


def client_side(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


TRUSTED = server_side(AUTHORITY.issue_cert("127.0.0.1"))


async def post(transport: Transport, url: str, body: bytes = b"{}") -> UpstreamResponse:
    return await transport.post(f"{url}/chat/completions", headers={}, body=body, connect_timeout_s=20)


async def read(transport: Transport, upstream: Upstream, body: bytes = b"{}") -> bytes:
    async with await post(transport, upstream.base_url, body) as response:
        return await response.read()


async def many_calls_use_one_connection(transport: Transport, upstream: Upstream) -> None:
    upstream.script(error(500), chat_unary())
    for _ in range(5):
        assert await read(transport, upstream)
    assert (len(upstream.requests), upstream.connections_accepted) == (5, 1)


async def a_large_event_comes_through(transport: Transport, upstream: Upstream) -> None:
    line = b"A" * (4 * 1024 * 1024)
    upstream.script(chunked([b"data: " + line + b"\n\n"]))
    async with await post(transport, upstream.base_url) as response:
        events = [event async for batch in sse_batches(response) for event in batch]
    assert events == [SseEvent(None, line)]


async def cancelling_closes_the_socket_at_once(transport: Transport, upstream: Upstream) -> None:
    for number, reply in enumerate((silent, stalled_stream), 1):
        upstream.script(reply())
        call = asyncio.create_task(read(transport, upstream))
        await upstream.wait_request(number)
        await asyncio.sleep(0.05)
        cancelled_at = time.monotonic()
        call.cancel()
        gone = await upstream.wait_disconnect(number)
        assert gone.at - cancelled_at < AT_ONCE_S
        with pytest.raises(asyncio.CancelledError):
            await call


async def a_reader_that_pauses_makes_the_upstream_wait(transport: Transport, upstream: Upstream) -> None:
    upstream.script(chunked([Endless(chunk(b"x" * 60_000))]))
    async with await post(transport, upstream.base_url) as response, aclosing(response.chunks()) as chunks:
        before = await until_it_stands_still(upstream.requests[0])
        assert before < 8 * 1024 * 1024
        size = 0
        async for piece in chunks:
            assert len(piece) <= READ_AHEAD_BYTES
            size += len(piece)
            if size > 2 * before:
                break
    assert upstream.requests[0].sent > before
    await upstream.wait_open_sockets(0)


async def closing_the_client_closes_everything(transport: Transport, upstream: Upstream) -> None:
    upstream.script(stalled_stream(), chat_unary())
    kept = await post(transport, upstream.base_url)
    await read(transport, upstream)
    assert upstream.open_sockets == 2
    async with asyncio.timeout(30):
        await transport.close()
    await upstream.wait_open_sockets(0)
    await kept.close()


@LOOPS
@pytest.mark.parametrize(
    "scenario",
    [
        many_calls_use_one_connection,
        a_large_event_comes_through,
        cancelling_closes_the_socket_at_once,
        a_reader_that_pauses_makes_the_upstream_wait,
        closing_the_client_closes_everything,
    ],
)
def test_it_is_as_without_tls(run: Runner, scenario: Scenario) -> None:
    async def scene() -> None:
        async with Upstream(tls=TRUSTED, send_buffer=64 * 1024) as upstream, Transport(tls=client_side()) as transport:
            await scenario(transport, upstream)

    run(scene())


@LOOPS
def test_idle_connections_that_close_cost_no_second_body(run: Runner) -> None:
    keep_alive_s, calls = 1.5, 20

    async def scene() -> None:
        async with (
            Upstream(tls=TRUSTED, keep_alive_s=keep_alive_s) as upstream,
            Transport(tls=client_side()) as transport,
        ):
            await asyncio.gather(*(read(transport, upstream, b'{"first":%d}' % n) for n in range(calls)))
            idle_since = time.monotonic()

            async def late(number: int) -> None:
                spread = (number - calls / 2) / calls * 0.02
                await asyncio.sleep(idle_since + keep_alive_s + spread - time.monotonic())
                await read(transport, upstream, b'{"second":%d}' % number)

            outcomes = await asyncio.gather(*(late(number) for number in range(calls)), return_exceptions=True)
            # TLS may have taken, and acknowledged, what its application never read: such a call is not repeated.
            assert all(outcome is None or isinstance(outcome, ProviderFailure) for outcome in outcomes)
            assert outcomes.count(None) > calls / 2
            assert max(Counter(request.body for request in upstream.requests).values()) == 1

    run(scene())


DISTRUSTED: dict[str, trustme.LeafCert] = {
    "another name": AUTHORITY.issue_cert("upstream.example"),
    "another authority": trustme.CA().issue_cert("127.0.0.1"),
    "expired": AUTHORITY.issue_cert(
        "127.0.0.1", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2021, 1, 1, tzinfo=UTC)
    ),
    "not yet valid": AUTHORITY.issue_cert(
        "127.0.0.1", not_before=datetime(2090, 1, 1, tzinfo=UTC), not_after=datetime(2091, 1, 1, tzinfo=UTC)
    ),
}


@LOOPS
@pytest.mark.parametrize("flaw", DISTRUSTED)
def test_whom_it_cannot_trust_gets_no_request(run: Runner, flaw: str) -> None:
    async def scene() -> None:
        async with Upstream(tls=server_side(DISTRUSTED[flaw])) as upstream, Transport(tls=client_side()) as transport:
            with pytest.raises(ProviderFailure) as caught:
                await read(transport, upstream)
            assert caught.value.upstream == failure(Fault.TLS).upstream
            assert upstream.requests == []

    run(scene())


@LOOPS
def test_without_a_context_of_its_own_it_asks_the_system_whom_to_trust(run: Runner) -> None:
    async def scene() -> None:
        async with Upstream(tls=TRUSTED) as upstream, Transport() as transport:
            with pytest.raises(ProviderFailure) as caught:
                await read(transport, upstream)
            assert caught.value.upstream == failure(Fault.TLS).upstream

    run(scene())


@LOOPS
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_handshake_that_hangs_can_be_left_at_once(run: Runner, how: str) -> None:
    async def scene() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            began.set()
            while await reader.read(4096):
                pass
            ended.set()
            writer.close()

        async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server, Transport() as transport:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            call = asyncio.ensure_future(
                transport.post(url, headers={}, body=b"", connect_timeout_s=0.2 if how == "deadline" else 60)
            )
            await began.wait()
            if how == "cancel":
                call.cancel()
            async with asyncio.timeout(0.2 + AT_ONCE_S if how == "deadline" else AT_ONCE_S):
                await ended.wait()
            with pytest.raises(ProviderFailure if how == "deadline" else asyncio.CancelledError) as caught:
                await call
            if isinstance(caught.value, ProviderFailure):
                assert caught.value.upstream == failure(Fault.CONNECT_TIMEOUT).upstream

    run(scene())
