"""The HTTP client against a real socket: what it sends, what it makes of a reply, and what it calls a failure."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.probes import unused_port
from server.transport import SseEvent, Transport, UpstreamResponse, sse_batches
from server.transport.codings import MAX_PIECE_BYTES
from server.transport.faults import Fault, failure
from tests.fakes.deviations import STREAMS
from tests.fakes.openai_upstream import (
    Cut,
    Endless,
    Reply,
    Reset,
    Send,
    Step,
    Upstream,
    chat_stream,
    encoded,
    encoded_sse,
    error,
    raw,
    refused_late,
    whole,
)
from tests.fakes.replies import END, chunk, chunked, head, short_body, until_close
from tests.fakes.wire import Wire


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as running:
        yield running


async def post(transport: Transport, upstream: Upstream, path: str = "/chat/completions") -> UpstreamResponse:
    headers = {"content-type": "application/json", "authorization": "Bearer sk-test"}
    return await transport.post(upstream.base_url + path, headers=headers, body=b"{}", connect_timeout_s=20)


async def read(transport: Transport, upstream: Upstream) -> bytes:
    async with await post(transport, upstream) as response:
        return await response.read()


async def test_a_request_arrives_as_it_was_given(transport: Transport, upstream: Upstream) -> None:
    async with await post(transport, upstream, "/chat/completions?api-version=1") as response:
        assert response.status == 200
        assert response.headers.get("content-type") == "application/json"
        assert response.headers.get("x-request-id") == "req_upstream1"
        assert b"Hello there!" in await response.read()
    request = await upstream.wait_request()
    assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions?api-version=1", b"{}")
    assert request.headers == [
        ("host", f"127.0.0.1:{upstream.port}"),
        ("content-length", "2"),
        ("accept-encoding", "gzip, deflate, br"),
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-test"),
    ]


async def test_a_connection_is_used_again(transport: Transport, upstream: Upstream) -> None:
    upstream.script(error(500), chat_stream("a", "b"), whole(b""), head_only_204())
    for _ in range(6):
        await read(transport, upstream)
    assert len(upstream.requests) == 6
    assert upstream.connections_accepted == 1


def head_only_204() -> Reply:
    return [head(204)]


async def test_a_redirect_is_a_reply_like_others(transport: Transport, upstream: Upstream) -> None:
    upstream.script(whole(b"moved", status=307, headers={"location": "/elsewhere"}))
    async with await post(transport, upstream) as response:
        assert (response.status, response.headers.get("location")) == (307, "/elsewhere")
    assert len(upstream.requests) == 1


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch, upstream: Upstream) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with Transport() as transport:
        assert b"Hello" in await read(transport, upstream)


async def test_informational_replies_are_read_over(transport: Transport, upstream: Upstream) -> None:
    upstream.script(raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + reply_bytes()))
    assert await read(transport, upstream) == b"{}"


def reply_bytes(headers: str = "content-length: 2", body: bytes = b"{}") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode() + body


async def test_a_reply_may_come_in_single_bytes(transport: Transport, upstream: Upstream) -> None:
    stream = b'4\r\n{"a"\r\n3;ext=1\r\n:1}\r\n0\r\ntrailer: x\r\n\r\n'
    bytewise = reply_bytes("transfer-encoding: chunked", stream)
    upstream.script(raw(*(bytewise[at : at + 1] for at in range(len(bytewise)))))
    assert await read(transport, upstream) == b'{"a":1}'
    await read(transport, upstream)
    assert upstream.connections_accepted == 1


async def test_a_body_may_end_with_its_connection(transport: Transport, upstream: Upstream) -> None:
    upstream.script(until_close(b'{"a":1}'))
    assert await read(transport, upstream) == b'{"a":1}'
    assert b"Hello" in await read(transport, upstream)
    assert upstream.connections_accepted == 2


@pytest.mark.parametrize("bytes_too_many", [b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_what_follows_a_reply_unasked_is_never_taken_for_the_next(
    transport: Transport, upstream: Upstream, bytes_too_many: bytes
) -> None:
    upstream.script(raw(reply_bytes() + bytes_too_many), raw(reply_bytes(), bytes_too_many))
    assert await read(transport, upstream) == b"{}"
    assert await read(transport, upstream) == b"{}"
    async with asyncio.timeout(20):
        while upstream.requests[1].replied_at is None:  # noqa: ASYNC110 - the stand-in tells no more
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert b"Hello" in await read(transport, upstream)
    assert upstream.connections_accepted == 3


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_content_codings_are_undone(transport: Transport, upstream: Upstream, coding: str) -> None:
    text = b'{"text":"' + "你好🙂".encode() * 200_000 + b'"}'
    upstream.script(encoded(text, coding), encoded(text, coding, status=400))  # type: ignore[arg-type]
    for status in (200, 400):
        async with await post(transport, upstream) as response:
            assert response.status == status
            pieces = [piece async for piece in response.chunks()]
        assert b"".join(pieces) == text
        assert max(map(len, pieces)) <= MAX_PIECE_BYTES
    assert upstream.connections_accepted == 1


async def test_a_compressed_event_stream_is_undone_as_it_comes(transport: Transport, upstream: Upstream) -> None:
    upstream.script(encoded_sse([b"data: %d\n\n" % number for number in range(50)], "gzip"))
    async with await post(transport, upstream) as response:
        events = [event async for batch in sse_batches(response) for event in batch]
    assert events == [SseEvent(None, b"%d" % number) for number in range(50)]


async def test_deflate_without_its_header_is_understood(transport: Transport, upstream: Upstream) -> None:
    bare = encoded(b"x" * 1000, "deflate")
    body = bare[0].data.split(b"\r\n\r\n", 1)[1][2:-4]  # type: ignore[attr-defined]
    upstream.script(whole(body, headers={"content-encoding": "deflate"}))
    assert await read(transport, upstream) == b"x" * 1000


async def test_events_come_out_as_they_come_in(transport: Transport, upstream: Upstream) -> None:
    pieces = [b"data: 1\n\n", b": ping\n\n", b"data: 2\n", b"\ndata: 3"]
    go_on = [asyncio.Event() for _ in pieces]

    def slowly() -> Reply:
        steps: list[Step] = [head(200, {"transfer-encoding": "chunked"})]
        for piece, gate in zip(pieces, go_on, strict=True):
            steps += [_Gate(gate), Send(chunk(piece))]
        return [*steps, END]

    upstream.script(slowly())
    seen = []
    async with await post(transport, upstream) as response, aclosing(sse_batches(response)) as batches:
        for gate in go_on:
            gate.set()
            async with asyncio.timeout(20):
                seen.append([event.data for event in await anext(batches)])
        seen.append([event.data for event in await anext(batches)])
    assert seen == [[b"1"], [], [], [b"2"], [b"3"]]


class _Gate:
    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    async def play(self, wire: Wire) -> None:
        await self._gate.wait()


async def test_a_stream_of_one_eight_mebibyte_line_comes_through(transport: Transport, upstream: Upstream) -> None:
    line = b"A" * (8 * 1024 * 1024)
    upstream.script(chunked([b"data: " + line + b"\n\n"]))
    async with await post(transport, upstream) as response:
        events = [event async for batch in sse_batches(response) for event in batch]
    assert events == [SseEvent(None, line)]


@pytest.mark.parametrize("name", STREAMS)
async def test_every_known_manner_of_framing_is_understood(transport: Transport, upstream: Upstream, name: str) -> None:
    upstream.script(STREAMS[name]())
    async with await post(transport, upstream) as response:
        payloads = [event.data async for batch in sse_batches(response) for event in batch]
    chunks = [json.loads(payload) for payload in payloads if payload != b"[DONE]"]
    assert any(chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks if chunk.get("choices"))
    assert b"[DONE]" in payloads[-1:] or name == "missing_done"


async def test_reading_stops_at_the_limit(transport: Transport, upstream: Upstream) -> None:
    upstream.script(whole(b"x" * 1000), whole(b"x" * 1001), encoded(b"x" * 1_000_000, "gzip"))
    async with await post(transport, upstream) as response:
        assert len(await response.read(1000)) == 1000
    for _ in range(2):
        async with await post(transport, upstream) as response:
            with pytest.raises(ProviderFailure) as caught:
                await response.read(1000)
        assert caught.value.category is FailureCategory.PROTOCOL


async def test_an_endless_error_body_costs_what_is_asked_for(transport: Transport, upstream: Upstream) -> None:
    limit = 64 * 1024
    upstream.script(chunked([Endless(chunk(b"x" * 8000))], status=502, content_type="text/html"))
    async with await post(transport, upstream) as response:
        assert response.status == 502
        with pytest.raises(ProviderFailure):
            await response.read(limit)
    gone = await upstream.wait_disconnect()
    assert gone.request is not None
    assert gone.request.sent < 16 * 1024 * 1024


FAILURES: dict[str, tuple[Callable[[], Reply], Fault]] = {
    "reset without a reply": (refused_late, Fault.DROPPED),
    "closed without a reply": (lambda: [Cut()], Fault.DROPPED),
    "closed within the head": (lambda: [Send(b"HTTP/1.1 200 OK\r\ncontent-"), Cut()], Fault.DROPPED),
    "fewer bytes than promised": (lambda: short_body(b"{}", 10), Fault.CUT),
    "chunks without an end": (lambda: chat_stream(end=Cut()), Fault.CUT),
    "reset within the body": (lambda: chat_stream(end=Reset()), Fault.CUT),
    "gzip without its end": (lambda: whole_gzip_cut(), Fault.CUT),
    "no gzip": (lambda: whole(b"plain", headers={"content-encoding": "gzip"}), Fault.MALFORMED),
    "a coding of its own": (lambda: whole(b"plain", headers={"content-encoding": "zzz"}), Fault.UNKNOWN_CODING),
    "another protocol": (lambda: raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Fault.MALFORMED),
    "a header without a colon": (lambda: raw(reply_bytes("content-length 2")), Fault.MALFORMED),
    "two lengths": (lambda: raw(reply_bytes("content-length: 2\r\ncontent-length: 3")), Fault.MALFORMED),
    "a negative length": (lambda: raw(reply_bytes("content-length: -2")), Fault.MALFORMED),
    "a chunk size that is none": (lambda: raw(reply_bytes("transfer-encoding: chunked", b"xyz\r\n")), Fault.MALFORMED),
    "a chunk longer than it said": (
        lambda: raw(reply_bytes("transfer-encoding: chunked", b"1\r\nab\r\n0\r\n\r\n")),
        Fault.MALFORMED,
    ),
    "a switch of protocols": (lambda: raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Fault.MALFORMED),
    "an endless head": (lambda: [Send(b"HTTP/1.1 200 OK\r\n"), Endless(b"a: b\r\n" * 1000)], Fault.MALFORMED),
}


def whole_gzip_cut() -> Reply:
    body = encoded(b"x" * 1000, "gzip")[0].data.split(b"\r\n\r\n", 1)[1]  # type: ignore[attr-defined]
    return whole(body[:-9], headers={"content-encoding": "gzip"})


@pytest.mark.parametrize("name", FAILURES)
async def test_a_broken_reply_is_a_failure_and_the_next_call_works(
    transport: Transport, upstream: Upstream, name: str
) -> None:
    build, fault = FAILURES[name]
    upstream.script(build())
    with pytest.raises(ProviderFailure) as caught:
        await read(transport, upstream)
    assert caught.value.upstream == failure(fault).upstream
    assert caught.value.category is failure(fault).category
    assert len(upstream.requests) == 1  # nothing is sent twice
    assert b"Hello" in await read(transport, upstream)


async def test_what_came_before_a_cut_is_given_out_first(transport: Transport, upstream: Upstream) -> None:
    upstream.script(chunked([b"data: 1\n\n", b"data: 2\n\n"], end=Reset()))
    seen: list[bytes] = []

    async def collect() -> None:
        async with await post(transport, upstream) as response:
            async for batch in sse_batches(response):
                seen.extend(event.data for event in batch)

    with pytest.raises(ProviderFailure):
        await collect()
    assert seen == [b"1", b"2"]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        pytest.param(f"http://127.0.0.1:{unused_port()}/", Fault.REFUSED, id="no listener"),
        ("http://no-such-host.invalid/", Fault.NAME_NOT_FOUND),
        ("ftp://127.0.0.1/", Fault.BAD_URL),
        ("http:///v1", Fault.BAD_URL),
        ("http://127.0.0.1:99999/", Fault.BAD_URL),
        ("http://127.0.0.1/a b\r\nx: y", Fault.BAD_URL),
        (f"http://{'a' * 70}.invalid/", Fault.BAD_URL),
    ],
)
async def test_what_cannot_be_reached_is_a_failure(transport: Transport, url: str, fault: Fault) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await transport.post(url, headers={}, body=b"", connect_timeout_s=20)
    assert caught.value.upstream == failure(fault).upstream


async def test_a_connect_that_hangs_times_out(transport: Transport) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]  # fill the backlog, so that the next SYN is dropped
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            with pytest.raises(ProviderFailure) as caught:
                await transport.post(f"http://127.0.0.1:{port}/", headers={}, body=b"", connect_timeout_s=0.3)
        finally:
            for filler in fillers:
                filler.close()
    assert caught.value.category is FailureCategory.TIMEOUT


async def test_tls_that_nobody_speaks_is_a_failure(transport: Transport) -> None:
    async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_plainly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProviderFailure) as caught:
            await transport.post(f"https://127.0.0.1:{port}/", headers={}, body=b"", connect_timeout_s=20)
    assert caught.value.upstream == failure(Fault.TLS).upstream


@pytest.mark.parametrize("header", [{"x": "a\r\nb: c"}, {"x\n": "a"}, {"x": "a\0"}, {"x": "🙂"}])
async def test_a_header_cannot_smuggle_another(
    transport: Transport, upstream: Upstream, header: dict[str, str]
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await transport.post(upstream.base_url, headers=header, body=b"", connect_timeout_s=20)
    assert caught.value.upstream == failure(Fault.BAD_HEADER).upstream
    assert upstream.requests == []


def test_the_texts_of_failures_hold_nothing_of_the_machine() -> None:
    for fault in Fault:
        message = failure(fault).upstream.message or ""
        assert message.endswith(".")
        assert not re.search(r"\d|/|:|Error|Exception|errno|\w\.\w", message), message
