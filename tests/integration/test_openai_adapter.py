"""The openai adapter over real sockets: what goes out, what comes back, and what a broken upstream becomes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from server.domain.catalog import Offer, ProviderProfile
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Completed, FinishReason, ProviderEvent, Started, TextDelta, UsageReported
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint, FunctionTool, GenerationRequest, Role
from server.domain.usage import Usage
from server.providers.exchange import DRAIN_TIMEOUT_S, MAX_ERROR_BYTES, Deadlines
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.chat_wire import (
    DONE,
    completion,
    delta_chunk,
    finish_chunk,
    frame,
    role_chunk,
    text_chunk,
    text_chunks,
    tool_call,
    usage,
)
from tests.fakes.openai_upstream import (
    Cut,
    Endless,
    Hang,
    Reset,
    Send,
    Upstream,
    chat_chunks,
    chat_stream,
    chat_tool_calls,
    chat_unary,
    error,
    json_reply,
    rate_limited,
    responses_events,
    responses_stream,
    responses_unary,
    sse,
    whole,
)
from tests.fakes.replies import chunked, sse_event
from tests.fakes.responses_wire import text_events
from tests.unit.openai_cases import BOTH, CHAT, KEY, RESPONSES, Answer, CountingIds, FixedClock, ask, fold, offer, turn


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream, None]:
    async with Upstream() as server:
        yield server


@pytest.fixture
async def adapter() -> AsyncGenerator[OpenAIAdapter, None]:
    async with Transport() as transport:
        yield OpenAIAdapter(transport, FixedClock(), CountingIds())


def at(upstream: Upstream, profile: ProviderProfile = CHAT, **fields: Any) -> Offer:
    return offer(profile, base_url=upstream.base_url, **fields)


async def batches(
    adapter: ProviderAdapter, where: Offer, request: GenerationRequest
) -> tuple[list[list[ProviderEvent]], ProviderFailure | None]:
    """Every batch, and the failure that ended them."""
    found: list[list[ProviderEvent]] = []
    try:
        async with aclosing(adapter.stream(where, request)) as stream:
            async for batch in stream:
                found.append(list(batch))  # noqa: PERF401 - what came before a failure must be kept
    except ProviderFailure as failure:
        return found, failure
    return found, None


async def answer(adapter: ProviderAdapter, where: Offer, request: GenerationRequest) -> Answer:
    found, failure = await batches(adapter, where, request)
    assert failure is None
    return fold(event for batch in found for event in batch)


async def failure(adapter: ProviderAdapter, where: Offer, request: GenerationRequest) -> ProviderFailure:
    _, failed = await batches(adapter, where, request)
    assert failed is not None
    return failed


STREAMED = ask(stream=True)


async def test_the_adapter_fills_its_port(adapter: OpenAIAdapter) -> None:
    port: ProviderAdapter = adapter

    assert port.supports(offer(), ask()) is None


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])
@pytest.mark.parametrize("profile", [CHAT, RESPONSES], ids=["chat", "responses"])
async def test_each_surface_on_each_api_unary_and_streamed(
    adapter: OpenAIAdapter, upstream: Upstream, endpoint: Endpoint, profile: ProviderProfile
) -> None:
    unary = await answer(adapter, at(upstream, profile), ask(endpoint=endpoint))
    streamed = await answer(adapter, at(upstream, profile), ask(endpoint=endpoint, stream=True))

    assert [started.request_id for started in unary.started] == ["req_upstream1"]
    unary.started = [replace(started, request_id=None) for started in unary.started]
    assert unary == streamed
    assert unary.only.text == "Hello there!"
    assert unary.only.reason is FinishReason.STOP
    assert unary.usage == Usage(9, 3)
    path = "/v1/responses" if profile is RESPONSES else "/v1/chat/completions"
    assert [request.path for request in upstream.requests] == [path, path]


async def test_where_both_apis_are_spoken_the_surface_decides(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    await answer(adapter, at(upstream, BOTH), ask(endpoint=Endpoint.CHAT))
    await answer(adapter, at(upstream, BOTH), ask(endpoint=Endpoint.RESPONSES))

    assert [request.path for request in upstream.requests] == ["/v1/chat/completions", "/v1/responses"]


async def test_k10_only_our_own_headers_leave(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    await answer(adapter, at(upstream), STREAMED)

    sent = {name.lower(): value for name, value in upstream.requests[0].headers}
    assert sent.pop("accept-encoding", None) is not None
    assert sent == {
        "host": f"127.0.0.1:{upstream.port}",
        "content-length": str(len(upstream.requests[0].body)),
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "user-agent": "aistats-gateway",
        "authorization": f"Bearer {KEY}",
    }


@pytest.mark.parametrize("key", [None, ""])
async def test_k10_without_a_key_there_is_no_authorization(
    adapter: OpenAIAdapter, upstream: Upstream, key: str | None
) -> None:
    await answer(adapter, at(upstream, api_key=key), ask())

    assert upstream.requests[0].header("authorization") is None


async def test_a_unary_answer_is_one_batch(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(chat_tool_calls(tool_call("f", '{"x":1}'), tool_call("g", "", id="call_2")))

    found, failed = await batches(adapter, at(upstream), ask(tools=(FunctionTool("f"), FunctionTool("g"))))

    assert failed is None
    assert len(found) == 1
    assert [tool.arguments for tool in fold(found[0]).only.tools] == ['{"x":1}', "{}"]


async def test_deltas_are_yielded_as_they_come(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(chat_stream("a", "b", "c", every_s=0.03))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is None
    texts = [[event.text for event in batch if isinstance(event, TextDelta)] for batch in found]
    assert [text for text in texts if text] == [["a"], ["b"], ["c"]]
    assert isinstance(found[0][0], Started)
    assert isinstance(found[-1][-1], Completed)


async def test_keep_alives_are_empty_batches(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    events = [b": OPENROUTER PROCESSING\n\n", b": keep-alive\n\n", *frame(text_chunks("Hi"))]
    upstream.script(sse(events, every_s=0.03))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is None
    assert found[0] == []
    assert fold(event for batch in found for event in batch).only.text == "Hi"


async def test_connections_are_used_again_after_streams(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    for _ in range(3):
        await answer(adapter, at(upstream), STREAMED)
        await answer(adapter, at(upstream), ask())
        await answer(adapter, at(upstream, RESPONSES), STREAMED)

    assert upstream.connections_accepted == 1


async def test_an_upstream_that_never_closes_after_done_does_not_hold_us_up(
    adapter: OpenAIAdapter, upstream: Upstream
) -> None:
    upstream.script(chat_stream("Hi", end=Hang()))
    began = time.monotonic()

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "Hi"
    assert time.monotonic() - began < DRAIN_TIMEOUT_S + 10
    await upstream.wait_open_sockets(0)


async def test_closing_the_stream_closes_the_socket_at_once(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script([*list(sse(frame([role_chunk(), text_chunk("a")], done=False)))[:-1], Hang()])
    async with aclosing(adapter.stream(at(upstream), STREAMED)) as stream:
        async for batch in stream:
            if any(isinstance(event, TextDelta) for event in batch):
                break
        closed_at = time.monotonic()

    gone = await upstream.wait_disconnect()
    assert gone.at - closed_at < 5


async def test_cancelling_closes_the_socket_at_once(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script([Hang()])
    task = asyncio.create_task(batches(adapter, at(upstream), STREAMED))
    await upstream.wait_request()
    cancelled_at = time.monotonic()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await upstream.wait_disconnect()).at - cancelled_at < 5


# Answers that are not what was asked for.


async def test_s16_a_json_400_to_a_stream_is_an_error(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(error(400, "Too hot.", type="invalid_request_error", code=None, param="temperature"))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert found == []
    assert failed is not None
    assert (failed.category, failed.status) == (FailureCategory.CALLER_ERROR, 400)
    assert (failed.upstream.message, failed.upstream.param) == ("Too hot.", "temperature")


async def test_s16_a_json_200_to_a_stream_is_a_whole_answer(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(chat_unary("Hi"), responses_unary("Ho"))

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "Hi"
    assert (await answer(adapter, at(upstream, RESPONSES), STREAMED)).only.text == "Ho"


async def test_a_stream_nobody_asked_for_is_folded(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(chat_stream("Hel", "lo", every_s=0.02))

    found, failed = await batches(adapter, at(upstream), ask())

    assert failed is None
    assert len(found) == 1
    assert fold(found[0]).only.text == "Hello"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("body", "kind"), [
    (b"<html>hello</html>", "text/html"), (b"", "application/json"), (b'{"choices":[]}', "application/json"),
])  # fmt: skip
async def test_a_200_that_is_no_answer_is_a_protocol_failure(
    adapter: OpenAIAdapter, upstream: Upstream, body: bytes, kind: str, stream: bool
) -> None:
    upstream.script(whole(body, content_type=kind))

    assert (await failure(adapter, at(upstream), ask(stream=stream))).category is FailureCategory.PROTOCOL


@pytest.mark.parametrize("stream", [True, False])
async def test_rate_limits_carry_their_wait(adapter: OpenAIAdapter, upstream: Upstream, stream: bool) -> None:
    upstream.script(rate_limited("7"), rate_limited("Thu, 01 Oct 2026 12:00:30 GMT"))

    first = await failure(adapter, at(upstream), ask(stream=stream))
    second = await failure(adapter, at(upstream), ask(stream=stream))

    assert (first.category, first.status, first.retry_after_s) == (FailureCategory.RATE_LIMITED, 429, 7.0)
    assert second.retry_after_s == 30.0


async def test_x1_our_key_does_not_come_back_in_an_error(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    def echo(request: Any) -> Any:
        return error(401, f"Bad {request.header('authorization')} at {upstream.base_url}", code="invalid_api_key")

    upstream.script(echo)

    failed = await failure(adapter, at(upstream), ask())

    assert failed.category is FailureCategory.CREDENTIALS
    assert failed.upstream.message == "Bad Bearer [key] at [url]"


async def test_an_endless_error_body_is_read_up_to_its_limit(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    head = b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    upstream.script([Send(head), Endless(b"x" * 4096)])

    failed = await failure(adapter, at(upstream), ask())

    assert (failed.category, failed.status) == (FailureCategory.SERVER_ERROR, 500)
    assert failed.upstream.message == "x" * 200
    await upstream.wait_open_sockets(0)
    assert upstream.requests[0].sent < 100 * MAX_ERROR_BYTES


async def test_an_error_body_that_is_cut_still_has_its_status(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    head = b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n"
    upstream.script([Send(head + b'{"error":'), Cut()])

    failed = await failure(adapter, at(upstream), ask())

    assert (failed.category, failed.status) == (FailureCategory.OVERLOADED, 503)


async def test_an_error_body_that_stalls_still_has_its_status(upstream: Upstream) -> None:
    head = b"HTTP/1.1 429 Slow\r\ncontent-type: application/json\r\ncontent-length: 999\r\nretry-after: 3\r\n\r\n"
    upstream.script([Send(head + b'{"error":'), Hang()])

    async with Transport() as transport:
        adapter = OpenAIAdapter(transport, FixedClock(), CountingIds(), Deadlines(error_body_s=0.05))
        failed = await failure(adapter, at(upstream), ask())

    assert (failed.category, failed.status, failed.retry_after_s) == (FailureCategory.RATE_LIMITED, 429, 3.0)
    await upstream.wait_open_sockets(0)


@pytest.mark.parametrize("profile", [CHAT, RESPONSES], ids=["chat", "responses"])
@pytest.mark.parametrize("end", [Cut(), Reset(), None], ids=["cut", "reset", "proper end"])
async def test_s14_a_stream_that_breaks_off_is_a_failure_after_its_deltas(
    adapter: OpenAIAdapter, upstream: Upstream, profile: ProviderProfile, end: Any
) -> None:
    chat_events = frame([role_chunk(), text_chunk("a"), text_chunk("b")], done=False)
    events = chat_events if profile is CHAT else [*map(framed, text_events("a", "b")[:6])]
    reply = sse(events, every_s=0.02)
    upstream.script(reply if end is None else [*list(reply)[:-1], end])

    found, failed = await batches(adapter, at(upstream, profile), STREAMED)

    assert failed is not None
    assert failed.category is FailureCategory.CONNECTION
    partial = fold(event for batch in found for event in batch)
    assert partial.only.text == "ab"
    assert not partial.completed


def framed(event: dict[str, Any]) -> bytes:
    return sse_event(json.dumps(event).encode(), event=event["type"])


@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_connection_lost_after_the_finish_reason_loses_nothing(
    adapter: OpenAIAdapter, upstream: Upstream, end: Any
) -> None:
    upstream.script(chat_chunks(text_chunks("Hi"), done=False, every_s=0.02, end=end))

    assert (await answer(adapter, at(upstream), STREAMED)).completed


async def test_s15_deltas_of_the_same_read_come_before_the_error(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    broken = b'{"error":{"message":"It broke.","code":"server_is_overloaded"}}'
    together = b"".join([*frame([role_chunk(), text_chunk("a"), text_chunk("b")], done=False), sse_event(broken)])
    upstream.script(chunked([together]))

    found, failed = await batches(adapter, at(upstream), STREAMED)

    assert failed is not None
    assert (failed.category, failed.upstream.message) == (FailureCategory.OVERLOADED, "It broke.")
    assert fold(event for batch in found for event in batch).only.text == "ab"


async def test_groq_ends_with_a_named_error_and_no_done(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    body = b'{"error":{"message":"It broke.","code":"tool_use_failed","status_code":400}}'
    upstream.script(sse([*frame([role_chunk()], done=False), sse_event(body, event="error")], every_s=0.02))

    failed = await failure(adapter, at(upstream), STREAMED)

    assert (failed.category, failed.status) == (FailureCategory.SERVER_ERROR, 400)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_a_text_cut_at_every_byte_arrives_whole(
    adapter: OpenAIAdapter, upstream: Upstream, newline: bytes
) -> None:
    chunks = [json.dumps(chunk, ensure_ascii=False).encode() for chunk in text_chunks("你好🙂")]
    data = b"".join(sse_event(chunk, newline=newline) for chunk in chunks) + DONE
    upstream.script(chunked([data[at : at + 1] for at in range(len(data))]))

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "你好🙂"


async def test_unnamed_responses_events_with_a_done(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(responses_events(text_events("Hel", "lo"), named=False), responses_stream("a"))

    assert (await answer(adapter, at(upstream, RESPONSES), STREAMED)).only.text == "Hello"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_dead_upstream_is_a_connection_failure(adapter: OpenAIAdapter, stream: bool) -> None:
    async with Upstream() as gone:
        where = at(gone)

    assert (await failure(adapter, where, ask(stream=stream))).category is FailureCategory.CONNECTION


async def test_openrouter_says_200_and_means_402(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    upstream.script(json_reply({"error": {"code": 402, "message": "Pay."}, "user_id": "u"}))

    failed = await failure(adapter, at(upstream), ask())

    assert (failed.category, failed.status) == (FailureCategory.QUOTA_EXHAUSTED, 402)


CACHED = [("90", usage(100, 3), 90), ("90", usage(100, 3, cached=40), 40), ("900", usage(100, 3), 100),
          ("0", usage(100, 3), 0), ("-1", usage(100, 3), 0), ("many", usage(100, 3), 0)]  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("told", "counted", "cached"), CACHED)
async def test_fireworks_tells_in_a_header_what_of_the_prompt_was_cached(
    adapter: OpenAIAdapter, upstream: Upstream, told: str, counted: dict[str, Any], cached: int, stream: bool
) -> None:
    headers = {"fireworks-cached-prompt-tokens": told}
    chunks = frame(text_chunks("Hi", usage_=counted))
    upstream.script(
        sse(chunks, headers=headers) if stream else json_reply(completion("Hi", usage_=counted), headers=headers)
    )

    assert (await answer(adapter, at(upstream), ask(stream=stream))).usage == Usage(100, 3, cached_input_tokens=cached)


async def test_what_was_cached_is_told_of_a_failure_too(adapter: OpenAIAdapter, upstream: Upstream) -> None:
    failed = completion("Hi", finish_reason="error", usage_=usage(100, 3))
    upstream.script(json_reply(failed, headers={"fireworks-cached-prompt-tokens": "90"}))

    found, failure = await batches(adapter, at(upstream), ask())

    assert failure is not None
    assert found == [[UsageReported(Usage(100, 3, cached_input_tokens=90), "default")]]


async def test_a_conversation_with_tools_and_reasoning_goes_out_and_comes_back(
    adapter: OpenAIAdapter, upstream: Upstream
) -> None:
    upstream.script(
        chat_chunks(
            [
                delta_chunk({"role": "assistant", "reasoning_content": "Hm."}),
                delta_chunk({"tool_calls": [tool_call("look", '{"at":', index=0)]}),
                delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"sky"}'}}]}),
                finish_chunk("tool_calls"),
            ]
        )
    )

    said = await answer(adapter, at(upstream), ask(turn(Role.USER, "Hi"), tools=(FunctionTool("look"),), stream=True))

    assert said.only.reasoning == "Hm."
    assert [(tool.call_id, tool.name, tool.arguments) for tool in said.only.tools] == [
        ("call_1", "look", '{"at":"sky"}')
    ]
    assert upstream.requests[0].json == {
        "model": "test-1",
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
