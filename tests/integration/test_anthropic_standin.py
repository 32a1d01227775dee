"""The stand-in for Anthropic satisfies the vendor's own SDK, so that what holds for it holds for the real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anthropic
import pytest

from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.anthropic_wire import (
    REQUEST_ID,
    error_event,
    error_reply,
    event_stream,
    message_reply,
    message_start,
    message_stream,
    redacted,
    text,
    thinking,
    tool_use,
    usage,
)

SAID = (
    thinking("Hm.", "EqQB"),
    redacted("EmwK"),
    text("Let me see."),
    tool_use("f", {"a": [1, 2]}),
    tool_use("g", {}, id="toolu_02"),
)


@pytest.fixture
async def upstream() -> AsyncGenerator[AnthropicUpstream, None]:
    async with AnthropicUpstream() as server:
        yield server


@pytest.fixture
async def client(upstream: AnthropicUpstream) -> AsyncGenerator[anthropic.AsyncAnthropic, None]:
    async with anthropic.AsyncAnthropic(api_key="sk-ant-x", base_url=upstream.origin, max_retries=0) as client:
        yield client


async def test_a_message(upstream: AnthropicUpstream, client: anthropic.AsyncAnthropic) -> None:
    upstream.script(message_reply(*SAID, stop_reason="tool_use", usage_=usage(5, 7, read=3)))
    told = await client.messages.create(model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])

    assert [block.type for block in told.content] == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    assert (told.stop_reason, told.usage.cache_read_input_tokens) == ("tool_use", 3)
    assert told._request_id == REQUEST_ID


async def test_a_stream(upstream: AnthropicUpstream, client: anthropic.AsyncAnthropic) -> None:
    upstream.script(message_stream(*SAID, stop_reason="tool_use", usage_=usage(5, 7, read=3)))
    async with client.messages.stream(
        model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        told = await stream.get_final_message()

    assert [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in told.content] == list(SAID)
    assert (told.stop_reason, told.usage.output_tokens) == ("tool_use", 7)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (404, "not_found_error", anthropic.NotFoundError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (529, "overloaded_error", anthropic.APIStatusError),
    ],
)
async def test_errors(
    upstream: AnthropicUpstream, client: anthropic.AsyncAnthropic, status: int, kind: str, error: type[Exception]
) -> None:
    upstream.script(error_reply(status, kind))
    with pytest.raises(error):
        await client.messages.create(model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])


async def test_an_error_amid_a_stream(upstream: AnthropicUpstream, client: anthropic.AsyncAnthropic) -> None:
    upstream.script(event_stream([message_start(), error_event()]))
    stream = await client.messages.create(
        model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        _ = [event async for event in stream]


async def test_what_the_vendor_refuses(upstream: AnthropicUpstream, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature: Extra inputs are not permitted"):
        await client.messages.create(
            model="claude-test",
            max_tokens=9,
            messages=[{"role": "user", "content": "Hi"}],
            extra_body={"temperature": 1},
        )
