"""Streams through the whole gateway: nothing held back, never a silent cut, nothing left behind by who leaves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import (
    CHAT,
    DONE,
    RESPONSES,
    SURFACES,
    Event,
    EventReader,
    Surface,
    open_raw,
    read_stream,
    read_until,
    request_bytes,
    streaming,
    wait_left,
    whole,
)
from tests.e2e.tcp_proxy import TcpProxy
from tests.e2e.test_errors import assert_contract
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import frame, role_chunk, text_chunk, text_chunks
from tests.fakes.deviations import DEVIATIONS, ERRORS, FAILING_RESPONSES, FAILING_STREAMS, TOOL_STREAMS, UNARY
from tests.fakes.openai_upstream import (
    Call,
    Cut,
    Endless,
    Hang,
    Reply,
    Request,
    Step,
    chat_stream,
    error,
    silent,
    sse,
)
from tests.fakes.replies import chunk, chunked, compact, error_body, sse_event
from tests.fakes.response_grammar import check_events

AT_ONCE_S = 0.1
"""What the contract allows between a client's leaving and the end of the upstream call."""

NATIVE = frozenset(FAILING_RESPONSES)
"""What only an upstream of the Responses API does."""
FAILING = frozenset({*FAILING_STREAMS, *FAILING_RESPONSES, *ERRORS})

surfaces = pytest.mark.parametrize("surface", SURFACES, ids=str)


def begun(*texts: str) -> list[bytes | Step]:
    """The beginning of an upstream's stream."""
    return [*frame([role_chunk(), *map(text_chunk, texts)], done=False)]


def failed(message: str = "The server had an error.", code: str = "boom") -> bytes:
    return sse_event(compact(error_body(message, type="server_error", code=code)))


# A client that leaves.


@surfaces
@pytest.mark.parametrize(
    ("reply", "events_read"), [(silent, 0), (lambda: chunked([*begun("Hel"), Hang()]), 1)], ids=["silent", "mid-stream"]
)
def test_who_leaves_is_noticed_at_once(
    gateway: Gateway, acme: UpstreamThread, surface: Surface, reply: Callable[[], Reply], events_read: int
) -> None:
    took_s = []
    for number in range(1, 6):
        acme.script(reply())
        connection = open_raw(gateway, request_bytes(gateway, surface))
        request = acme.wait_request(number)
        time.sleep(0.05)
        if events_read:
            read_until(connection, b"Hel")
        connection.close()
        closed_at = time.monotonic()
        took_s.append(wait_left(acme, request).at - closed_at)
    # The machine may be busy, but not five times of five.
    assert min(took_s) < AT_ONCE_S
    time.sleep(0.2)
    assert len(acme.requests) == 5


@surfaces
def test_who_goes_on_writing_finds_nobody(gateway: Gateway, acme: UpstreamThread, surface: Surface) -> None:
    idle_sockets, took_s = acme.upstream.open_sockets, []
    for number in range(1, 4):
        acme.script(chat_stream(*["word "] * 1000, every_s=0.01))
        connection = open_raw(gateway, request_bytes(gateway, surface))
        request = acme.wait_request(number)
        read_until(connection, b"word ", 3)
        connection.close()
        closed_at = time.monotonic()
        took_s.append(wait_left(acme, request).at - closed_at)
        acme.wait_open_sockets(idle_sockets)
        sent = request.sent
        time.sleep(0.05)
        assert request.sent == sent
    assert min(took_s) < AT_ONCE_S


def test_no_fallback_is_tried_for_who_has_left(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any]
) -> None:
    acme.script(silent())
    connection = open_raw(gateway, request_bytes(gateway, CHAT, **pair))
    request = acme.wait_request()
    connection.close()
    wait_left(acme, request)
    time.sleep(0.2)
    assert (len(acme.requests), backup.requests) == (1, [])


def calls_logged(gateway: Gateway, offset: int) -> list[dict[str, Any]]:
    """The workers' access log from `offset` characters on."""
    whole_lines = gateway.log[offset:].rpartition("\n")[0].splitlines()
    lines = [json.loads(line) for line in whole_lines]
    return [line for line in lines if line.get("event") == "call" and "Rest" in line["method"]]


@surfaces
def test_who_closes_on_done_has_not_disconnected(gateway: Gateway, acme: UpstreamThread, surface: Surface) -> None:
    offset, request = len(gateway.log), request_bytes(gateway, surface)
    for _ in range(100):
        with open_raw(gateway, request) as connection:
            read_until(connection, b"data: [DONE]")
    deadline = time.monotonic() + 60
    while len(calls := calls_logged(gateway, offset)) < 100:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {call["status"] for call in calls} == {"OK"}


def open_descriptors(gateway: Gateway) -> int:
    return sum(worker.num_fds() for worker in gateway.workers())


def test_three_hundred_dropped_together_leave_nothing(gateway: Gateway, acme: UpstreamThread) -> None:
    read_stream(gateway, CHAT)
    idle_sockets, idle_descriptors = acme.upstream.open_sockets, open_descriptors(gateway)
    acme.script(*[silent(), chat_stream(*["word "] * 500, every_s=0.05)] * 150)
    request = request_bytes(gateway, CHAT)
    offset = len(gateway.log)
    clients = [open_raw(gateway, request) for _ in range(300)]
    acme.wait_request(300, timeout=50)
    dropped_at = time.monotonic()
    for client in clients:
        client.close()
    acme.wait_open_sockets(idle_sockets)
    while len(calls_logged(gateway, offset)) < 300 or open_descriptors(gateway) > idle_descriptors + 4:
        assert time.monotonic() - dropped_at < 60
        time.sleep(0.02)
    assert whole(read_stream(gateway, CHAT))


# An upstream that falls silent.


@surfaces
def test_a_stalled_stream_ends_in_an_error(strict_gateway: Gateway, acme: UpstreamThread, surface: Surface) -> None:
    acme.script(chunked([*begun("Hel"), Hang()]))
    with streaming(strict_gateway, surface) as reader:
        events = list(reader)
    first_s = next(event.at for event in events if b"Hel" in event.data)
    assert 0.9 < events[-1].at - first_s < 10
    (failure,) = surface.failures(events)
    assert (failure["error"], failure["reason"]) == ("timeout_error", "upstream_timeout")
    assert surface.text(events) == "Hel"
    assert DONE not in reader.raw
    if surface is RESPONSES:
        assert events[-1].name == "response.failed"
    assert wait_left(acme, acme.requests[0]).at - events[-1].at < 30


@surfaces
def test_a_silent_candidate_is_given_up_for_the_next(
    strict_gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, surface: Surface, pair: dict[str, Any]
) -> None:
    acme.script(silent())
    backup.script(chat_stream("From", " backup"))
    asked_at = time.monotonic()
    with streaming(strict_gateway, surface, meta=True, **pair) as reader:
        events = list(reader)
    first_at = next(event.at for event in events if b"From" in event.data)
    assert 1.9 < first_at - asked_at < 30
    assert surface.text(events) == "From backup"
    assert whole(events)
    assert (len(acme.requests), len(backup.requests)) == (1, 1)
    wait_left(acme, acme.requests[0])
    told = [event.json for event in events if event.data != DONE]
    meta = told[-1]["meta"] if surface is CHAT else told[-1]["response"]["meta"]
    assert (meta["provider"], meta["attempts"]) == ("backup", 2)


def test_signs_of_life_are_no_first_token(
    strict_gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any]
) -> None:
    alive = chunk(b": ping\n\n" + b"".join(frame([role_chunk()], done=False)))
    acme.script([*chunked([])[:1], Endless(alive, every_s=0.2)])
    asked_at = time.monotonic()
    events = read_stream(strict_gateway, CHAT, **pair)
    assert 1.9 < events[-1].at - asked_at < 30
    assert CHAT.text(events) == "Hello there!"
    assert acme.requests[0].sent > len(alive)
    wait_left(acme, acme.requests[0])
    assert len(backup.requests) == 1


def test_the_proxy_of_these_tests_cuts_who_is_silent(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(chunked([*begun("Hel"), Hang()]))
    with TcpProxy(gateway.http_port, idle_cut_s=0.3) as proxy:
        with pytest.raises(httpx.RemoteProtocolError), streaming(gateway, CHAT, url=proxy.url) as reader:
            list(reader)
        assert proxy.cuts == 1


# Nothing is held back.


@surfaces
@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "h2"])
def test_each_event_arrives_when_it_was_sent(
    gateway: Gateway, acme: UpstreamThread, surface: Surface, http2: bool
) -> None:
    """Each is sent when the one before it has been read: one that waited for the next would wait for ever."""
    events: list[Event] = []

    def when_read(count: int) -> Call:
        async def wait(_: Request) -> None:
            async with asyncio.timeout(30):
                while len(surface.text(events)) < count * len("<0>"):  # noqa: ASYNC110 - the reader is a thread
                    await asyncio.sleep(0.005)

        return Call(wait)

    pieces = begun()
    for number in range(8):
        pieces += [when_read(number), *frame([text_chunk(f"<{number}>")], done=False)]
    acme.script(chunked([*pieces, when_read(8), *frame(text_chunks()[1:])]))
    with streaming(gateway, surface, http2=http2) as reader:
        for event in reader:
            events.append(event)  # noqa: PERF402 - the upstream's thread looks at them
    assert surface.text(events) == "".join(f"<{number}>" for number in range(8))


TEXT = "你好🙂 Grüße"


@surfaces
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_characters_survive_any_cut(gateway: Gateway, acme: UpstreamThread, surface: Surface, newline: bytes) -> None:
    stream = b"".join(sse_event(compact(value), newline=newline) for value in text_chunks(TEXT))
    stream += sse_event(DONE, newline=newline)
    acme.script(sse([stream[at : at + 1] for at in range(len(stream))]))
    with streaming(gateway, surface) as reader:
        events = list(reader)
    assert surface.text(events) == TEXT
    assert TEXT.encode() in reader.raw
    assert whole(events)


@surfaces
def test_a_line_of_eight_mebibytes_arrives_whole(gateway: Gateway, acme: UpstreamThread, surface: Surface) -> None:
    image = "iVBORw0KGgo=" * (8 * 1024 * 1024 // 12)
    acme.script(chat_stream(image))
    events = read_stream(gateway, surface)
    assert surface.text(events) == image
    assert whole(events)


def test_a_line_without_end_is_a_providers_error(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(chunked([b'data: {"choices":[{"delta":{"content":"', Endless(chunk(b"A" * 1024 * 1024))]))
    before = [worker.memory_info().rss for worker in gateway.workers()]
    assert_contract(gateway.post(CHAT.path, CHAT.body()), 502, "provider_error")
    grown = [worker.memory_info().rss - rss for worker, rss in zip(gateway.workers(), before, strict=True)]
    assert max(grown) < 64 * 1024 * 1024
    assert acme.requests[0].sent < 48 * 1024 * 1024


# A failing upstream: before any output another one answers, after it the client is told.


@surfaces
def test_a_failure_before_output_leaves_no_trace(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, surface: Surface, pair: dict[str, Any]
) -> None:
    acme.script(chunked([*begun(), failed()]))
    backup.script(chat_stream("From", " backup"))
    with streaming(gateway, surface, **pair) as reader:
        events = list(reader)
    assert surface.text(events) == "From backup"
    assert whole(events)
    assert b"boom" not in reader.raw
    if surface is RESPONSES:
        numbers = [event.json["sequence_number"] for event in events[:-1]]
        assert numbers == list(range(len(numbers)))
        assert [event.name for event in events].count("response.created") == 1
    sent = [upstream.requests[0].json for upstream in (acme, backup)]
    assert sent[0]["messages"] == sent[1]["messages"]


@surfaces
def test_a_failure_after_output_is_told_and_not_replayed(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, surface: Surface, pair: dict[str, Any]
) -> None:
    acme.script(chunked([*begun("Hel"), failed("The GPU is on fire.", "gpu_on_fire")]))
    with streaming(gateway, surface, **pair) as reader:
        events = list(reader)
    assert surface.text(events) == "Hel"
    (failure,) = surface.failures(events)
    assert (failure["error"], failure["reason"]) == ("provider_error", "stream_interrupted")
    assert failure["upstream_error"]["code"] == "gpu_on_fire"
    assert "The GPU is on fire." in failure["description"]
    assert DONE not in reader.raw
    assert backup.requests == []


def test_dying_candidates_cost_no_answer(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any]
) -> None:
    acme.script(*[chunked([*begun(), failed()]), chunked(begun(), end=Cut())] * 25)
    for _ in range(50):
        events = read_stream(gateway, CHAT, **pair)
        assert CHAT.text(events) == "Hello there!"
        assert whole(events)
    assert len(backup.requests) == 50
    assert 5 <= len(acme.requests) < 50, "its breaker has opened"


@surfaces
def test_an_error_instead_of_a_first_event_has_its_status(
    gateway: Gateway, acme: UpstreamThread, surface: Surface
) -> None:
    acme.script(chunked([failed("No GPU is left.")]))
    problem = assert_contract(gateway.post(surface.path, surface.body()), 502, "provider_error")
    assert problem["upstream_error"]["message"] == "No GPU is left."
    acme.script(error(400, "Invalid schema.", type="invalid_request_error"))
    problem = assert_contract(gateway.post(surface.path, surface.body()), 400, "validation_error")
    assert "Invalid schema." in problem["description"]


@surfaces
def test_debugging_changes_no_byte_of_the_events(gateway: Gateway, acme: UpstreamThread, surface: Surface) -> None:
    pids = [worker.pid for worker in gateway.workers()]
    texts = []
    for debug in (None, {"enabled": True, "trace": True}, {"enabled": False, "trace": False}):
        events = read_stream(gateway, surface, debug=debug)
        texts.append([_without_ids(event) for event in events])
    assert texts[0] == texts[1] == texts[2]
    assert [worker.pid for worker in gateway.workers()] == pids


def _without_ids(event: Event) -> Any:
    """The event with the ids and times that differ from one request to the next taken out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            varying = ("id", "item_id", "created", "created_at", "completed_at")
            return {key: plain(inner) for key, inner in value.items() if key not in varying}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return event.data if event.data == DONE else (event.name, plain(event.json))


# Every manner of every upstream.


@pytest.mark.parametrize(
    ("surface", "name"),
    [(surface, name) for name in DEVIATIONS for surface in SURFACES if surface is RESPONSES or name not in NATIVE],
    ids=str,
)
def test_every_manner_of_an_upstream_ends_well(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, surface: Surface, name: str
) -> None:
    """A whole answer, or an error of the contract; never a hang or a silent cut."""
    upstream, model = (backup, "acme/native:free") if name in NATIVE else (acme, "acme/strange:free")
    upstream.script(DEVIATIONS[name]())
    with (
        httpx.Client(timeout=30) as client,
        client.stream(
            "POST", f"{gateway.url}{surface.path}", json=surface.body(model), headers=gateway.headers
        ) as reply,
    ):
        if reply.headers["content-type"] == "application/json":
            reply.read()
            assert name in FAILING
            assert_contract(reply, reply.status_code, reply.json()["error"], error_origin="upstream")
            return
        reader = EventReader(reply)
        events = list(reader)
    assert not re.search(rb"^(id|retry):|^data: ?$", reader.raw, re.MULTILINE)
    if name in FAILING:
        assert len(surface.failures(events)) == 1
        assert DONE not in reader.raw
        assert surface.text(events) in ("", "Hello", "Hello there!")
    else:
        assert surface.failures(events) == []
        assert whole(events)
        called = [(tool, json.loads(arguments)) for tool, arguments in surface.calls(events)]
        assert called == ([("get_weather", {"city": "Paris"})] if name in TOOL_STREAMS else [])
        assert surface.text(events) == ("" if name in TOOL_STREAMS else "Hello there!")
    if surface is RESPONSES:
        check_events([event.json for event in events if event.data != DONE])


@pytest.mark.parametrize("name", [*ERRORS, *UNARY])
def test_every_whole_answer_of_an_upstream_ends_well(gateway: Gateway, acme: UpstreamThread, name: str) -> None:
    acme.script(DEVIATIONS[name]())
    reply = gateway.post(CHAT.path, CHAT.body("acme/strange:free", stream=False), timeout=30)
    if name in UNARY:
        assert reply.json()["choices"][0]["message"]["content"] == "Hello there!"
    else:
        assert_contract(reply, reply.status_code, reply.json()["error"], error_origin="upstream")
