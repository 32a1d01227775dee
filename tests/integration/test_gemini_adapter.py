"""The gemini adapter over real sockets: what goes out, what comes back, and what a broken upstream becomes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from server.domain.catalog import Offer
from server.domain.errors import FailureCategory
from server.domain.events import Completed, FinishReason, Started, TextDelta
from server.domain.ports import ProviderAdapter
from server.domain.request import FunctionTool, Reasoning, Role, ToolCall, ToolResult, Turn
from server.domain.usage import Usage
from server.providers.exchange import MAX_ERROR_BYTES, Deadlines
from server.providers.gemini import GeminiAdapter
from server.transport import Transport
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.gemini_wire import (
    BAD_KEY,
    SIGNATURE,
    blocked,
    call,
    candidate,
    events,
    exhausted,
    frame,
    refused,
    reply,
    status,
    stream,
    text_chunks,
    unary,
    usage,
    whole_reply,
)
from tests.fakes.replies import chunked, silent, whole
from tests.fakes.wire import Cut, Endless, Hang, Reset, Send
from tests.integration.test_openai_adapter import answer, batches, failure
from tests.unit.gemini_cases import NEW, offer
from tests.unit.openai_cases import CountingIds, FixedClock, ask, fold, turn

STREAMED = ask(stream=True)
PRETTY = json.dumps(exhausted("39s"), indent=2).encode()
"""An error as Google prints it."""


@pytest.fixture
async def upstream() -> AsyncGenerator[GeminiUpstream, None]:
    async with GeminiUpstream() as server:
        yield server


@pytest.fixture
async def adapter() -> AsyncGenerator[GeminiAdapter, None]:
    async with Transport() as transport:
        yield GeminiAdapter(transport, FixedClock(), CountingIds(), linger_s=0.2)


def at(upstream: GeminiUpstream, model: str = NEW, **fields: Any) -> Offer:
    return offer(model, base_url=upstream.base_url, **fields)


async def test_the_adapter_fills_its_port(adapter: GeminiAdapter) -> None:
    port: ProviderAdapter = adapter

    assert port.supports(offer(), ask()) is None


async def test_unary_and_streamed_say_the_same(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    whole_answer = await answer(adapter, at(upstream), ask())
    streamed = await answer(adapter, at(upstream), STREAMED)

    assert whole_answer == streamed
    assert whole_answer.only.text == "Hello there!"
    assert whole_answer.only.reason is FinishReason.STOP
    assert whole_answer.usage == Usage(9, 3)
    assert [request.path for request in upstream.requests] == [
        f"/v1beta/models/{NEW}:generateContent",
        f"/v1beta/models/{NEW}:streamGenerateContent?alt=sse",
    ]


async def test_k10_the_key_goes_in_its_header_and_never_in_the_address(
    adapter: GeminiAdapter, upstream: GeminiUpstream
) -> None:
    await answer(adapter, at(upstream), STREAMED)

    sent = {name.lower(): value for name, value in upstream.requests[0].headers}
    assert sent.pop("accept-encoding", None) is not None
    assert sent == {
        "host": f"127.0.0.1:{upstream.port}",
        "content-length": str(len(upstream.requests[0].body)),
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "user-agent": "aistats-gateway",
        "x-goog-api-key": KEY,
    }
    assert KEY not in upstream.requests[0].path


@pytest.mark.parametrize("key", [None, ""])
async def test_k10_without_a_key_there_is_no_header(
    adapter: GeminiAdapter, upstream: GeminiUpstream, key: str | None
) -> None:
    failed = await failure(adapter, at(upstream, api_key=key), ask())

    assert upstream.requests[0].header("x-goog-api-key") is None
    assert failed.category is FailureCategory.CREDENTIALS


async def test_a_unary_answer_is_one_batch(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(unary(call("f", {"x": 1}), call("g")))

    found, failed = await batches(adapter, at(upstream), ask(tools=(FunctionTool("f"), FunctionTool("g"))))

    assert failed is None
    assert len(found) == 1
    assert [tool.arguments for tool in fold(found[0]).only.tools] == ['{"x":1}', "{}"]


async def test_deltas_are_yielded_as_they_come(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(events(map(frame, text_chunks("a", "b", "c")), every_s=0.03))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is None
    texts = [[event.text for event in batch if isinstance(event, TextDelta)] for batch in found]
    assert [text for text in texts if text] == [["a"], ["b"], ["c"]]
    assert isinstance(found[0][0], Started)
    assert isinstance(found[-1][-1], Completed)


async def test_connections_are_used_again_after_streams(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    for _ in range(3):
        await answer(adapter, at(upstream), STREAMED)
        await answer(adapter, at(upstream), ask())

    assert upstream.connections_accepted == 1


async def test_there_is_no_done_and_the_usage_after_the_finish_reason_counts(
    adapter: GeminiAdapter, upstream: GeminiUpstream
) -> None:
    late = {"usageMetadata": usage(79, 4)}
    upstream.script(events([*map(frame, text_chunks("Hi", counted=usage(169, 3))), frame(late)], every_s=0.05))

    assert (await answer(adapter, at(upstream), STREAMED)).usage == Usage(79, 4)


async def test_a_stream_that_stays_open_after_its_end_is_not_waited_for(
    adapter: GeminiAdapter, upstream: GeminiUpstream
) -> None:
    upstream.script(stream("Hi", end=Hang()))
    began = time.monotonic()

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "Hi"
    assert time.monotonic() - began < 10
    await upstream.wait_open_sockets(0)


async def test_closing_the_stream_closes_the_socket_at_once(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(stream(reply(candidate("a", finish=None)), end=Hang()))
    async with aclosing(adapter.stream(at(upstream), STREAMED)) as batches_:
        async for batch in batches_:
            if any(isinstance(event, TextDelta) for event in batch):
                break
        closed_at = time.monotonic()

    assert (await upstream.wait_disconnect()).at - closed_at < 5


async def test_cancelling_closes_the_socket_at_once(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(silent())
    task = asyncio.create_task(batches(adapter, at(upstream), STREAMED))
    await upstream.wait_request()
    cancelled_at = time.monotonic()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await upstream.wait_disconnect()).at - cancelled_at < 5


async def test_a_stream_that_says_nothing_more_says_nothing(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(stream(reply(candidate("a", finish=None)), end=Hang()))

    async with aclosing(adapter.stream(at(upstream), STREAMED)) as batches_:
        assert (await anext(batches_))[0].__class__ is Started
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):  # longer than it would linger after the end
                await anext(batches_)
    await upstream.wait_open_sockets(0)


# Answers that are not what was asked for.


@pytest.mark.parametrize("streaming", [True, False])
async def test_rate_limits_carry_their_wait(adapter: GeminiAdapter, upstream: GeminiUpstream, streaming: bool) -> None:
    upstream.script(refused(exhausted("39.8s")), refused([exhausted("7s")]))

    first = await failure(adapter, at(upstream), ask(stream=streaming))
    second = await failure(adapter, at(upstream), ask(stream=streaming))

    assert (first.category, first.status, first.retry_after_s) == (FailureCategory.RATE_LIMITED, 429, 39.8)
    assert second.retry_after_s == 7.0


async def test_a_bad_key_is_a_400_and_ours_to_mend(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    failed = await failure(adapter, at(upstream, api_key="AIzaSyWrong"), STREAMED)

    assert (failed.category, failed.status) == (FailureCategory.CREDENTIALS, 400)
    assert failed.upstream.message == BAD_KEY["error"]["message"]


async def test_x1_our_key_does_not_come_back_in_an_error(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(lambda request: refused(status(400, "X", f"Bad {request.header('x-goog-api-key')} here")))

    assert (await failure(adapter, at(upstream), ask())).upstream.message == "Bad [key] here"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_blocked_prompt(adapter: GeminiAdapter, upstream: GeminiUpstream, streaming: bool) -> None:
    upstream.script(stream(blocked()) if streaming else whole_reply(blocked()))

    failed = await failure(adapter, at(upstream), ask(stream=streaming))

    assert failed.category is FailureCategory.CONTENT_POLICY


async def test_an_array_instead_of_events(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    array = json.dumps(text_chunks("Hel", "lo"), indent=2).encode()
    upstream.script(whole(array, content_type="application/json; charset=UTF-8"))

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "Hello"


async def test_a_stream_nobody_asked_for_is_folded(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(stream("Hel", "lo"))

    found, failed = await batches(adapter, at(upstream), ask())

    assert failed is None
    assert len(found) == 1
    assert fold(found[0]).only.text == "Hello"


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("body", "kind"), [
    (b"<html>hello</html>", "text/html"), (b"", "application/json"), (b"{}", "application/json"),
    (b"data: <html>\r\n\r\n", "text/event-stream"),
])  # fmt: skip
async def test_a_200_that_is_no_answer_is_a_protocol_failure(
    adapter: GeminiAdapter, upstream: GeminiUpstream, body: bytes, kind: str, streaming: bool
) -> None:
    upstream.script(whole(body, content_type=kind))

    assert (await failure(adapter, at(upstream), ask(stream=streaming))).category is FailureCategory.PROTOCOL


async def test_an_endless_error_body_is_read_up_to_its_limit(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    head = b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    upstream.script([Send(head), Endless(b"x" * 4096)])

    failed = await failure(adapter, at(upstream), ask())

    assert (failed.category, failed.status) == (FailureCategory.SERVER_ERROR, 500)
    await upstream.wait_open_sockets(0)
    assert upstream.requests[0].sent < 100 * MAX_ERROR_BYTES


async def test_an_error_body_that_stalls_still_has_its_status(upstream: GeminiUpstream) -> None:
    head = b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n"
    upstream.script([Send(head + b'{"error":'), Hang()])

    async with Transport() as transport:
        adapter = GeminiAdapter(transport, FixedClock(), CountingIds(), Deadlines(error_body_s=0.05))
        failed = await failure(adapter, at(upstream), ask())

    assert (failed.category, failed.status) == (FailureCategory.OVERLOADED, 503)
    await upstream.wait_open_sockets(0)


async def test_a_dead_upstream_is_a_connection_failure(adapter: GeminiAdapter) -> None:
    async with GeminiUpstream() as gone:
        where = at(gone)

    assert (await failure(adapter, where, STREAMED)).category is FailureCategory.CONNECTION


# Streams that break.


@pytest.mark.parametrize("end", [Cut(), Reset(), None], ids=["cut", "reset", "proper end"])
async def test_s14_a_stream_that_breaks_off_is_a_failure_after_its_deltas(
    adapter: GeminiAdapter, upstream: GeminiUpstream, end: Any
) -> None:
    chunks = [reply(candidate(piece, finish=None)) for piece in "ab"]
    upstream.script(stream(*chunks, every_s=0.02, **({} if end is None else {"end": end})))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is not None
    assert failed.category is FailureCategory.CONNECTION
    partial = fold(event for batch in found for event in batch)
    assert partial.only.text == "ab"
    assert not partial.completed


@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_connection_lost_after_the_finish_reason_loses_nothing(
    adapter: GeminiAdapter, upstream: GeminiUpstream, end: Any
) -> None:
    upstream.script(events(map(frame, text_chunks("Hi", "!")), every_s=0.02, end=end))

    assert (await answer(adapter, at(upstream), STREAMED)).completed


BROKEN = frame(exhausted("39s"))


@pytest.mark.parametrize(
    "error",
    [BROKEN, frame([exhausted("39s")]), PRETTY, PRETTY.replace(b"\n", b"\r\n") + b"\r\n", b"[" + PRETTY + b"]"],
    ids=["data", "array", "bare", "bare crlf", "bare array"],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_s15_an_error_in_mid_stream_with_or_without_data(
    adapter: GeminiAdapter, upstream: GeminiUpstream, error: bytes, cut: bool
) -> None:
    pieces = [frame(reply(candidate("a", finish=None))), error]
    upstream.script(events(pieces, every_s=0.02, **({"end": Cut()} if cut else {})))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is not None
    assert (failed.category, failed.status, failed.retry_after_s) == (FailureCategory.RATE_LIMITED, 429, 39.0)
    assert fold(event for batch in found for event in batch).only.text == "a"


async def test_s15_deltas_of_the_same_read_come_before_the_error(
    adapter: GeminiAdapter, upstream: GeminiUpstream
) -> None:
    upstream.script(chunked([frame(reply(candidate("ab", finish=None))) + BROKEN]))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is not None
    assert fold(event for batch in found for event in batch).only.text == "ab"


async def test_an_error_first_in_a_200(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(stream(status(503, "UNAVAILABLE", "The model is overloaded.")))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert not [event for batch in found for event in batch]
    assert failed is not None
    assert failed.category is FailureCategory.OVERLOADED


async def test_garbage_in_mid_stream(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    upstream.script(stream(reply(candidate("a", finish=None)), b"data: {broken\r\n\r\n"))

    assert (await failure(adapter, at(upstream), STREAMED)).category is FailureCategory.PROTOCOL


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_s12_a_text_cut_at_every_byte_arrives_whole(
    adapter: GeminiAdapter, upstream: GeminiUpstream, newline: bytes
) -> None:
    data = b"".join(map(frame, text_chunks("你好🙂"))).replace(b"\r\n", newline)
    upstream.script(chunked([data[at : at + 1] for at in range(len(data))]))

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "你好🙂"


async def test_s13_a_chunk_of_8_mib_arrives_whole(adapter: GeminiAdapter, upstream: GeminiUpstream) -> None:
    text = "x" * (8 << 20)
    upstream.script(stream(text))

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == text


# A conversation.


async def test_p6_google_itself_accepts_a_conversation_with_tools(
    adapter: GeminiAdapter, upstream: GeminiUpstream
) -> None:
    tools = (FunctionTool("look"),)
    upstream.script(stream(reply(candidate(call("look", {"at": "sky"}, id="n1", signature=SIGNATURE), call("look")))))
    said = (await answer(adapter, at(upstream), ask(stream=True, tools=tools))).only

    calls = tuple(ToolCall(tool.call_id, tool.name, tool.arguments) for tool in said.tools)
    results = [Turn(Role.TOOL, (ToolResult(made.call_id, ()),)) for made in calls]
    again = ask(
        turn(Role.USER, "?"), Turn(Role.ASSISTANT, (Reasoning(signature=said.signature), *calls)), *results, tools=tools
    )

    assert (await answer(adapter, at(upstream), again)).only.text == "Hello there!"
    first, second = upstream.requests[1].json["contents"][1]["parts"]
    assert first == {
        "functionCall": {"name": "look", "args": {"at": "sky"}, "id": "n1"},
        "thoughtSignature": SIGNATURE,
    }
    assert second == {"functionCall": {"name": "look", "args": {}}}
