"""When the HTTP client closes sockets, and when it keeps them: cancellation, back-pressure, idle ends, leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import ssl
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from typing import Any

import psutil
import pytest
import trustme
import uvloop

from server.domain.errors import FailureCategory, ProviderFailure
from server.transport import Transport, UpstreamResponse, sse_batches
from server.transport.connection import READ_AHEAD_BYTES
from server.transport.faults import Fault, failure
from server.transport.pool import MAX_IDLE_PER_ORIGIN
from tests.fakes.openai_upstream import (
    Call,
    Cut,
    Endless,
    Hang,
    Reply,
    Request,
    Upstream,
    chat_stream,
    chat_unary,
    error,
    json_reply,
    rate_limited,
    refused_late,
    silent,
    whole,
)
from tests.fakes.replies import chunk, chunked

AT_ONCE_S = 5.0
"""Long before anything would close it that waits: an idle connection is kept for 30 s."""


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(send_buffer=64 * 1024) as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as running:
        yield running


async def post(transport: Transport, url: str, body: bytes = b"{}") -> UpstreamResponse:
    return await transport.post(url, headers={}, body=body, connect_timeout_s=20)


async def read(transport: Transport, url: str, body: bytes = b"{}") -> bytes:
    async with await post(transport, f"{url}/chat/completions", body) as response:
        return await response.read()


def stalled_stream() -> Reply:
    return chunked([b"data: 1\n\n", Hang()])


def stalled_after_head() -> Reply:
    return [chunked([])[0], Hang()]


@pytest.mark.parametrize("reply", [silent, stalled_after_head, stalled_stream])
async def test_cancelling_a_wait_closes_the_socket_at_once(
    transport: Transport, upstream: Upstream, reply: Callable[[], Reply]
) -> None:
    upstream.script(reply())
    call = asyncio.create_task(read(transport, upstream.base_url))
    await upstream.wait_request()
    await asyncio.sleep(0.05)
    assert upstream.disconnects == []
    cancelled_at = time.monotonic()
    call.cancel()
    gone = await upstream.wait_disconnect()
    assert gone.at - cancelled_at < AT_ONCE_S
    assert gone.request is upstream.requests[0]
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(20):
        while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


async def test_a_deadline_around_a_read_closes_the_socket_at_once(transport: Transport, upstream: Upstream) -> None:
    upstream.script(stalled_stream())
    async with await post(transport, upstream.base_url) as response, aclosing(sse_batches(response)) as batches:
        assert len(await anext(batches)) == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(batches)
        expired_at = time.monotonic()
        gone = await upstream.wait_disconnect()
    assert gone.at - expired_at < AT_ONCE_S


async def test_leaving_a_stream_in_the_middle_closes_the_socket_at_once(
    transport: Transport, upstream: Upstream
) -> None:
    upstream.script(chat_stream(*["word"] * 100, every_s=0.01))
    async with await post(transport, upstream.base_url) as response, aclosing(sse_batches(response)) as batches:
        for _ in range(3):
            await anext(batches)
        left_at = time.monotonic()
    gone = await upstream.wait_disconnect()
    assert gone.at - left_at < AT_ONCE_S
    await upstream.wait_open_sockets(0)


async def test_closing_a_response_unread_closes_the_socket(transport: Transport, upstream: Upstream) -> None:
    upstream.script(chunked([Hang()]))
    response = await post(transport, upstream.base_url)
    await response.close()
    await response.close()
    await upstream.wait_disconnect()
    assert [chunk async for chunk in response.chunks()] == []


async def test_a_reply_that_is_in_whole_frees_its_connection_even_unread(
    transport: Transport, upstream: Upstream
) -> None:
    for _ in range(3):
        async with await post(transport, f"{upstream.base_url}/chat/completions"):
            pass
    assert upstream.connections_accepted == 1
    assert upstream.disconnects == []


async def test_closing_the_client_closes_everything(upstream: Upstream) -> None:
    upstream.script(stalled_stream(), chat_unary())
    async with Transport() as transport:
        kept = await post(transport, upstream.base_url)
        await read(transport, upstream.base_url)
        assert upstream.open_sockets == 2
    await upstream.wait_open_sockets(0)
    await kept.close()


@pytest.mark.parametrize("reply", [silent, stalled_after_head, stalled_stream])
async def test_closing_the_client_wakes_who_waits_for_it(
    transport: Transport, upstream: Upstream, reply: Callable[[], Reply]
) -> None:
    upstream.script(reply())
    call = asyncio.create_task(read(transport, upstream.base_url))
    await upstream.wait_request()
    await asyncio.sleep(0.02)
    async with asyncio.timeout(30):
        await transport.close()
        with pytest.raises(ProviderFailure) as caught:
            await call
        await upstream.wait_open_sockets(0)
    assert caught.value.upstream == failure(Fault.CLOSED).upstream


async def test_a_closed_client_opens_nothing(transport: Transport, upstream: Upstream) -> None:
    late = asyncio.create_task(read(transport, upstream.base_url))  # is connecting as the client closes
    await asyncio.sleep(0)
    await transport.close()
    await transport.close()
    for call in (late, read(transport, upstream.base_url)):
        with pytest.raises(ProviderFailure) as caught:
            await call
        assert caught.value.upstream == failure(Fault.CLOSED).upstream
    await upstream.wait_open_sockets(0)
    assert upstream.requests == []


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_closed_client_leaves_nothing_to_collect(run: Callable[[Coroutine[Any, Any, None]], None], tls: bool) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)

    async def scene() -> None:
        async with Upstream(tls=server if tls else None, keep_alive_s=0.05) as upstream:
            async with Transport(tls=client) as transport:
                upstream.script(stalled_stream(), stalled_stream(), error(500), refused_late())
                for _ in range(2):
                    await post(transport, upstream.base_url)  # given up without a word
                call = asyncio.create_task(read(transport, upstream.base_url))
                await call
                await asyncio.sleep(0.1)  # its idle connection is closed by the upstream
                for _ in range(2):
                    with suppress(ProviderFailure):
                        await read(transport, upstream.base_url)
            await upstream.wait_open_sockets(0)

    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(scene())
        gc.collect()
    assert [str(one.message) for one in told] == []


async def test_a_reader_that_pauses_makes_the_upstream_wait(transport: Transport, upstream: Upstream) -> None:
    upstream.script(chunked([Endless(chunk(b"x" * 60_000))]))
    async with await post(transport, upstream.base_url) as response:
        request = upstream.requests[0]
        before = await until_it_stands_still(request)
        assert before < 8 * 1024 * 1024  # the sockets' own buffers, and READ_AHEAD_BYTES of ours
        size = 0
        async with aclosing(response.chunks()) as chunks:
            async for piece in chunks:
                assert len(piece) <= READ_AHEAD_BYTES
                size += len(piece)
                if size > 2 * before:
                    break
        assert request.sent > before


async def until_it_stands_still(request: Request) -> int:
    sent = -1
    while sent != request.sent:
        sent = request.sent
        await asyncio.sleep(0.1)
    return sent


async def test_idle_connections_that_close_cost_no_error_and_no_second_body() -> None:
    keep_alive_s, calls = 1.5, 40
    async with Upstream(keep_alive_s=keep_alive_s) as upstream, Transport() as transport:
        await asyncio.gather(*(read(transport, upstream.base_url, b'{"first":%d}' % n) for n in range(calls)))
        idle_since = time.monotonic()

        async def late(number: int) -> None:
            spread = (number - calls / 2) / calls * 0.02  # 10 ms before the upstream closes, to 10 ms after
            await asyncio.sleep(idle_since + keep_alive_s + spread - time.monotonic())
            await read(transport, upstream.base_url, b'{"second":%d}' % number)

        await asyncio.gather(*(late(number) for number in range(calls)))
        assert max(Counter(request.body for request in upstream.requests).values()) == 1
        assert len(upstream.requests) == 2 * calls


async def test_an_upstream_that_closed_an_idle_connection_once_is_not_tempted_again() -> None:
    async with Upstream(keep_alive_s=2.0) as upstream, Transport() as transport:
        await read(transport, upstream.base_url)
        await upstream.wait_open_sockets(0)
        await read(transport, upstream.base_url)
        assert upstream.connections_accepted == 2
        await read(transport, upstream.base_url)  # long before its end: the same connection
        assert upstream.connections_accepted == 2
        await asyncio.sleep(1.7)  # the upstream would still have it, for 300 ms
        await read(transport, upstream.base_url)
        assert upstream.connections_accepted == 3


async def test_what_the_upstream_says_about_keep_alive_is_believed(transport: Transport, upstream: Upstream) -> None:
    upstream.script(json_reply({}, headers={"keep-alive": "timeout=0, max=100"}))
    await read(transport, upstream.base_url)
    await asyncio.sleep(0.01)
    await read(transport, upstream.base_url)
    assert upstream.connections_accepted == 2


async def test_a_billable_body_is_not_sent_again_when_its_reply_is_lost(
    transport: Transport, upstream: Upstream
) -> None:
    await read(transport, upstream.base_url)
    upstream.script([Cut()])
    with pytest.raises(ProviderFailure):
        await read(transport, upstream.base_url, b'{"once":1}')
    assert [request.body for request in upstream.requests] == [b"{}", b'{"once":1}']
    assert upstream.connections_accepted == 1


async def test_a_reset_soon_after_another_reply_is_not_taken_for_an_idle_end(
    transport: Transport, upstream: Upstream
) -> None:
    await read(transport, upstream.base_url)
    upstream.script(refused_late())
    with pytest.raises(ProviderFailure):
        await read(transport, upstream.base_url, b'{"once":1}')
    assert [request.body for request in upstream.requests] == [b"{}", b'{"once":1}']


async def test_idle_connections_are_bounded(transport: Transport, upstream: Upstream) -> None:
    parallel = MAX_IDLE_PER_ORIGIN + 20
    gate = asyncio.Event()

    async def wait(_: Request) -> None:
        if len(upstream.requests) == parallel:
            gate.set()
        await gate.wait()

    held = [Call(wait), *chat_unary()]
    upstream.script(*([held] * parallel))
    await asyncio.gather(*(read(transport, upstream.base_url) for _ in range(parallel)))
    await upstream.wait_open_sockets(MAX_IDLE_PER_ORIGIN)
    assert upstream.open_sockets == MAX_IDLE_PER_ORIGIN


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open nothing while it lasts."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        with suppress(OSError):
            while True:
                held.callback(os.close, os.dup(0))
        yield


async def test_without_a_descriptor_it_is_the_gateway_that_has_no_capacity(
    transport: Transport, upstream: Upstream
) -> None:
    with no_descriptor_left(), pytest.raises(ProviderFailure) as caught:
        await read(transport, upstream.base_url)
    assert caught.value.category is FailureCategory.NO_CAPACITY
    assert upstream.requests == []


async def test_without_a_descriptor_an_idle_connection_to_another_upstream_gives_up_its_own(
    transport: Transport, upstream: Upstream
) -> None:
    async with Upstream() as other:
        await read(transport, other.base_url)
        with no_descriptor_left():
            assert b"Hello" in await read(transport, upstream.base_url)
        await other.wait_open_sockets(0)


async def test_a_thousand_mixed_calls_leave_no_descriptor_behind() -> None:
    process = psutil.Process()

    def mixed(request: Request) -> Reply:
        kind = int(request.header("x-kind") or 0)
        return [
            chat_unary(), chat_stream(), error(500), rate_limited(), refused_late(), [Cut()], chat_stream(end=Cut()),
            whole(b"x" * 100_000, status=502), silent(), stalled_stream(),
        ][kind]  # fmt: skip

    async def one(transport: Transport, url: str, number: int) -> None:
        with suppress(ProviderFailure, TimeoutError):
            async with asyncio.timeout(0.05 if number % 10 >= 8 else 30):
                async with await transport.post(
                    url, headers={"x-kind": str(number % 10)}, body=b"{}", connect_timeout_s=20
                ) as response:
                    await response.read(64 * 1024)

    async with Upstream(mixed) as first, Upstream(mixed) as second:
        before = process.num_fds()
        async with Transport() as transport:
            for start in range(0, 1000, 50):
                urls = [first.base_url, second.base_url]
                await asyncio.gather(*(one(transport, urls[n % 3 % 2], n) for n in range(start, start + 50)))
            async with asyncio.timeout(20):  # both ends are in this process, and close in the loop's next turns
                while any(  # noqa: ASYNC110
                    link.status == psutil.CONN_CLOSE_WAIT for link in process.net_connections(kind="tcp")
                ):
                    await asyncio.sleep(0.1)
        for upstream in (first, second):
            await upstream.wait_open_sockets(0)
        await asyncio.sleep(0)
        assert 800 <= len(first.requests) + len(second.requests) <= 1000  # some deadlines end before the request is out
        assert process.num_fds() <= before + 10
