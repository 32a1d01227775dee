"""Claude by the whole gateway, Envoy included: three surfaces by their SDKs, one upstream that speaks Messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.gateway import Gateway
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.anthropic_wire import message_reply, message_stream, text, thinking, tool_use, usage

CONFIG = """
providers:
  - {{id: anthropic, dialect: anthropic, base_url: "{url}", api_key_env: CLAUDE_KEY}}
models:
  - id: acme/claude
    max_output_tokens: 8192
    offers:
      - provider: anthropic
        provider_model: claude-opus-4-5
        endpoints: [chat, responses, messages]
  - id: acme/claude:free
    max_output_tokens: 8192
    offers: [{{provider: anthropic, provider_model: claude-opus-4-5, endpoints: [chat, responses, messages]}}]
replace_catalog: true
"""
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
SAID = (thinking("Hm.", "EqQB+/a=="), text("Let me see."), tool_use("f", {"n": 1}), tool_use("f", {}, id="toolu_02"))


@pytest.fixture
async def upstream() -> AsyncIterator[AnthropicUpstream]:
    async with AnthropicUpstream() as server:
        yield server


@pytest.fixture
async def gateway(tmp_path: Any, upstream: AnthropicUpstream) -> AsyncIterator[Gateway]:
    config = CONFIG.format(url=upstream.base_url)
    gateway = Gateway(tmp_path, config, environ={"CLAUDE_KEY": "sk-ant-canary-0123456789"})
    await asyncio.to_thread(gateway.start)
    yield gateway
    assert await asyncio.to_thread(gateway.stop) == 0, gateway.log[-4000:]


async def test_every_surface_gets_what_the_model_said(gateway: Gateway, upstream: AnthropicUpstream) -> None:
    upstream.script(
        message_reply(*SAID, stop_reason="tool_use", usage_=usage(5, 7, read=100)),
        message_stream(*SAID, stop_reason="tool_use", usage_=usage(5, 7, read=100)),
        message_stream(*SAID, stop_reason="tool_use", usage_=usage(5, 7, read=100)),
        message_stream(*SAID, stop_reason="tool_use", usage_=usage(5, 7, read=100)),
    )
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client:
        asked: dict[str, Any] = {"model": "acme/claude:free", "messages": [{"role": "user", "content": "Hi"}]}
        whole = await client.chat.completions.create(**asked, tools=TOOLS)
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, tools=TOOLS, stream=True)]
        events: Any = await client.responses.create(model="acme/claude:free", input="Hi", stream=True)
        response = [event async for event in events][-1].response
    root = gateway.base_url.removesuffix("/v1")
    async with (
        anthropic.AsyncAnthropic(api_key=gateway.key, base_url=root, max_retries=0) as native,
        native.messages.stream(max_tokens=99, **asked) as stream,
    ):
        message = await stream.get_final_message()

    assert [call.function.arguments for call in whole.choices[0].message.tool_calls] == ['{"n":1}', "{}"]
    assert whole.usage.prompt_tokens_details.cached_tokens == 100
    pieces = [delta for chunk in chunks for choice in chunk.choices for delta in choice.delta.tool_calls or ()]
    assert [piece.index for piece in pieces if piece.id] == [0, 1]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.usage.input_tokens == 5
    assert "sk-ant-canary" not in gateway.log


async def test_without_credit_a_claude_with_a_default_price_is_not_called(
    gateway: Gateway, upstream: AnthropicUpstream
) -> None:
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model="acme/claude", messages=[{"role": "user", "content": "Hi"}])

    assert refused.value.status_code == 402
    assert upstream.requests == []
