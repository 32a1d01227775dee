"""The anthropic adapter over real sockets: what goes out, what comes back, and what a broken upstream becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from server.domain.catalog import Offer
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Completed, FinishReason, ProviderEvent, TextDelta, UsageReported
from server.domain.ports import ProviderAdapter
from server.domain.request import FunctionTool, GenerationRequest, Sampling
from server.domain.usage import Usage
from server.providers.anthropic import API_VERSION, AnthropicAdapter
from server.transport import Transport
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.anthropic_wire import (
    REQUEST_ID,
    error_event,
    error_reply,
    event_stream,
    events_of,
    frame,
    message,
    message_reply,
    message_stream,
    ping,
    text,
    thinking,
    tool_use,
    usage,
)
from tests.fakes.replies import broken_after, chunk, chunked, short_body, silent, whole
from tests.fakes.wire import Cut, Endless, Hang, Reply, Reset, Send
from tests.unit.anthropic_cases import BUDGET, KEY, offer
from tests.unit.openai_cases import Answer, CountingIds, FixedClock, ask, fold

STREAMED = ask(stream=True)


@pytest.fixture
async def upstream() -> AsyncGenerator[AnthropicUpstream, None]:
    async with AnthropicUpstream() as server:
        yield server


@pytest.fixture
async def adapter() -> AsyncGenerator[AnthropicAdapter, None]:
    async with Transport() as transport:
        yield AnthropicAdapter(transport, FixedClock(), CountingIds())


def at(upstream: AnthropicUpstream, **fields: Any) -> Offer:
    return offer(base_url=upstream.base_url, **fields)


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
    assert failure is None, failure.upstream
    return fold(event for batch in found for event in batch)


async def failed(adapter: ProviderAdapter, where: Offer, request: GenerationRequest) -> ProviderFailure:
    _, failure = await batches(adapter, where, request)
    assert failure is not None
    return failure


async def test_unary_and_streamed_say_the_same(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    said = (thinking("Hm.", "EqQB"), text("Let me see."), tool_use("f", {"a": 1}), tool_use("f", {}, id="toolu_02"))
    fields: dict[str, Any] = {"stop_reason": "tool_use", "usage_": usage(5, 7, read=100, written=20)}
    upstream.script(message_reply(*said, **fields), message_stream(*said, **fields))
    tools = ask(tools=(FunctionTool("f"),))

    unary = await answer(adapter, at(upstream), tools)
    streamed = await answer(adapter, at(upstream), ask(tools=(FunctionTool("f"),), stream=True))

    assert unary == streamed
    assert [tool.arguments for tool in unary.only.tools] == ['{"a":1}', "{}"]
    assert unary.usage == Usage(125, 7, cached_input_tokens=100, cache_write_tokens=20)
    assert [request.path for request in upstream.requests] == ["/v1/messages"] * 2


async def test_k10_only_our_own_headers_leave(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    await answer(adapter, at(upstream), STREAMED)

    sent = {name.lower(): value for name, value in upstream.requests[0].headers}
    assert sent.pop("accept-encoding", None) is not None
    assert sent == {
        "host": f"127.0.0.1:{upstream.port}",
        "content-length": str(len(upstream.requests[0].body)),
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "user-agent": "aistats-gateway",
        "anthropic-version": API_VERSION,
        "x-api-key": KEY,
    }


async def test_without_a_key_none_is_sent(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    failure = await failed(adapter, at(upstream, api_key=None), ask())

    assert failure.category is FailureCategory.CREDENTIALS
    assert upstream.requests[0].header("x-api-key") is None


async def test_a_large_unary_answer_is_streamed_upstream_and_told_at_once(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream
) -> None:
    asked = ask(sampling=Sampling(max_output_tokens=50_000))
    found, failure = await batches(adapter, at(upstream), asked)

    assert failure is None
    assert upstream.requests[0].json["stream"] is True
    assert len(found) == 1
    assert fold(found[0]).only.text == "Hello there!"


async def test_deltas_are_yielded_as_they_come(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    upstream.script(message_stream(text("abc"), every_s=0.01))
    found, failure = await batches(adapter, at(upstream), STREAMED)

    assert failure is None
    texts = [[event.text for event in batch if isinstance(event, TextDelta)] for batch in found]
    assert [said for said in texts if said] == [["a"], ["b"], ["c"]]


async def test_pings_are_empty_batches(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    upstream.script(chunked([frame([events_of(message())[0]])[0], Endless(chunk(frame([ping()])[0]), every_s=0.01)]))
    async with aclosing(adapter.stream(at(upstream), STREAMED)) as stream:
        seen = [list(await anext(stream)) for _ in range(4)]

    assert seen[1:] == [[], [], []]


async def test_early_usage_comes_before_the_text(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    upstream.script(event_stream(events_of(message(text(), usage_=usage(50, 9, read=7)))[:4], end=Cut()))
    found, failure = await batches(adapter, at(upstream), STREAMED)

    assert failure is not None
    reports = [event for batch in found for event in batch if isinstance(event, UsageReported)]
    assert reports == [UsageReported(Usage(57, 0, cached_input_tokens=7), "default")]


async def test_connections_are_used_again(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    for request in (ask(), STREAMED, ask(), STREAMED):
        await answer(adapter, at(upstream), request)

    assert upstream.connections_accepted == 1


async def test_closing_the_stream_closes_the_socket_at_once(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream
) -> None:
    upstream.script([*list(message_stream())[:4], Hang()])
    async with aclosing(adapter.stream(at(upstream), STREAMED)) as stream:
        await anext(stream)
    await upstream.wait_disconnect()


async def test_cancelling_a_silent_upstream_closes_the_socket(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream
) -> None:
    upstream.script(silent())
    asking = asyncio.create_task(batches(adapter, at(upstream), STREAMED))
    await upstream.wait_request()
    asking.cancel()
    await upstream.wait_disconnect()
    with pytest.raises(asyncio.CancelledError):
        await asking


HELLO = events_of(message(text("Hello there!")))


@pytest.mark.parametrize(
    ("reply", "category"),
    [
        (broken_after(event_stream(HELLO), 5), FailureCategory.CONNECTION),
        (broken_after(event_stream(HELLO), 5, by=Reset()), FailureCategory.CONNECTION),
        (event_stream(HELLO[:5]), FailureCategory.CONNECTION),
        (event_stream([*HELLO[:5], error_event()]), FailureCategory.OVERLOADED),
        (event_stream([error_event()]), FailureCategory.OVERLOADED),
        (event_stream([*HELLO[:5], error_event("api_error", "Internal server error")]), FailureCategory.SERVER_ERROR),
        (chunked([*frame(HELLO[:5]), b"event: content_block_delta\ndata: {garbage\n\n"]), FailureCategory.PROTOCOL),
        (whole(b"<html>oops</html>", content_type="text/html"), FailureCategory.PROTOCOL),
        (whole(b"\x00\x01", content_type="text/event-stream"), FailureCategory.CONNECTION),
        (error_reply(429, "rate_limit_error", headers={"retry-after": "7"}), FailureCategory.RATE_LIMITED),
        (error_reply(529, "overloaded_error", "Overloaded"), FailureCategory.OVERLOADED),
        (error_reply(500), FailureCategory.SERVER_ERROR),
        (broken_after(error_reply(500), 0), FailureCategory.CONNECTION),
    ],
)  # fmt: skip
async def test_what_breaks_a_stream_is_told(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream, reply: Reply, category: FailureCategory
) -> None:
    upstream.script(reply)
    found, failure = await batches(adapter, at(upstream), STREAMED)

    assert failure is not None
    assert failure.category is category
    assert not [event for batch in found for event in batch if isinstance(event, Completed)]
    await upstream.wait_open_sockets(1)


@pytest.mark.parametrize(
    ("reply", "category"),
    [
        (short_body(b'{"id":"msg', 400), FailureCategory.CONNECTION),
        (whole(b"{"), FailureCategory.PROTOCOL),
        (whole(b'{"object":"list"}'), FailureCategory.PROTOCOL),
        (whole(b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}'), FailureCategory.OVERLOADED),
        ([Reset()], FailureCategory.CONNECTION),
        ([Send(b"garbage\r\n\r\n"), Cut()], FailureCategory.PROTOCOL),
    ],
)  # fmt: skip
async def test_what_breaks_a_whole_answer_is_told(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream, reply: Reply, category: FailureCategory
) -> None:
    upstream.script(reply, reply)
    failure = await failed(adapter, at(upstream), ask())

    assert failure.category is category


async def test_a_refusal_to_answer_tells_when_to_come_back_and_its_id(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream
) -> None:
    upstream.script(error_reply(429, "rate_limit_error", headers={"retry-after": "7"}))
    failure = await failed(adapter, at(upstream), ask())

    assert (failure.status, failure.retry_after_s, failure.request_id) == (429, 7.0, REQUEST_ID)


async def test_a_stream_asked_for_and_answered_whole(adapter: AnthropicAdapter, upstream: AnthropicUpstream) -> None:
    upstream.script(message_reply(text("Hi"), stop_reason="max_tokens"))
    told = await answer(adapter, at(upstream), STREAMED)

    assert (told.only.text, told.only.reason) == ("Hi", FinishReason.LENGTH)


async def test_lines_may_end_in_any_way_and_events_may_be_torn(
    adapter: AnthropicAdapter, upstream: AnthropicUpstream
) -> None:
    data = b"".join(frame(HELLO)).replace(b"\n", b"\r\n")
    upstream.script(chunked([data[at : at + 7] for at in range(0, len(data), 7)]))

    assert (await answer(adapter, at(upstream), STREAMED)).only.text == "Hello there!"


async def test_the_adapter_fills_its_port(adapter: AnthropicAdapter) -> None:
    port: ProviderAdapter = adapter

    assert port.supports(offer(BUDGET), ask()) is None
