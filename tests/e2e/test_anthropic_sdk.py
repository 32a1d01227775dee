"""The `anthropic` SDK as its users have it: only the base URL and the key differ."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import grpc
import pytest
from anthropic.types import MessageParam

from aistats.gateway.v1 import content_pb2, messages_pb2, messages_pb2_grpc
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, chat_tool_calls, delta_chunk, finish_chunk, role_chunk, tool_call
from tests.fakes.openai_upstream import chat_stream, chat_unary, error

FREE = "acme/test-1:free"
HELLO: list[MessageParam] = [{"role": "user", "content": "Say hello."}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def root(gateway: Gateway) -> str:
    """The SDK adds /v1 by itself."""
    return gateway.base_url.removesuffix("/v1")


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=gateway.key, base_url=root(gateway), max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key=gateway.key, base_url=root(gateway), max_retries=0, timeout=60
    ) as client:
        yield client


def test_a_message_of_the_embedded_model(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=LOCAL_MODEL, max_tokens=16, messages=HELLO)
    assert (message.type, message.role, message.model) == ("message", "assistant", LOCAL_MODEL)
    assert message.id.startswith("msg_")
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens > 0
    assert 0 < message.usage.output_tokens <= 16


def test_a_stream_of_the_embedded_model(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=LOCAL_MODEL, max_tokens=16, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == text != ""
    assert final.usage.input_tokens > 0
    assert final.stop_reason in ("end_turn", "max_tokens")


async def test_a_message_asynchronously(async_client: anthropic.AsyncAnthropic, acme: UpstreamThread) -> None:
    message = await async_client.messages.create(model=FREE, max_tokens=16, messages=HELLO)
    assert message.content[0].type == "text"
    assert message.stop_reason == "end_turn"
    async with async_client.messages.stream(model=FREE, max_tokens=16, messages=HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
    assert text == "Hello there!"


def test_the_events_by_name(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    acme.script(chat_stream("Hel", "lo 你好🙂"))
    events = list(client.messages.create(model=FREE, max_tokens=16, messages=HELLO, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_what_reaches_the_provider(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    client.messages.create(
        model=FREE,
        max_tokens=16,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
                    {"type": "text", "text": "Try again."},
                ],
            },
        ],
        stop_sequences=["END"],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        metadata={"user_id": "someone"},
        thinking={"type": "disabled"},
        extra_body={"temperature": 0.5},
    )
    sent = acme.requests[-1].json
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Rome?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {
                        "name": "get_weather",
                        "arguments": sent["messages"][2]["tool_calls"][0]["function"]["arguments"],
                    },
                }
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: no such city"},
        {"role": "user", "content": "Try again."},
    ]
    assert json.loads(sent["messages"][2]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert (sent["stop"], sent["temperature"], sent["parallel_tool_calls"]) == (["END"], 0.5, False)
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert sent["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]
    assert "someone" not in json.dumps(sent)


def test_a_tool_call_there_and_back(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    acme.script(chat_tool_calls(tool_call("get_weather", '{"city": "Rome"}')), chat_unary("It is sunny."))
    asked: list[MessageParam] = [{"role": "user", "content": "Weather in Rome?"}]
    first = client.messages.create(model=FREE, max_tokens=64, messages=asked, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    [call] = [block for block in first.content if block.type == "tool_use"]
    assert (call.id, call.name, call.input) == ("call_1", "get_weather", {"city": "Rome"})
    asked += [
        first.to_param(),
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    second = client.messages.create(model=FREE, max_tokens=64, messages=asked, tools=[WEATHER])
    assert second.stop_reason == "end_turn"
    sent = acme.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[2]["content"] == "sunny"


def test_parallel_tool_calls_streamed(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    """Text that stays open, and two calls whose arguments come in turns: blocks one after another all the same."""
    acme.script(
        chat_chunks(
            [
                role_chunk(),
                delta_chunk({"content": "I look."}),
                delta_chunk({"tool_calls": [tool_call("get_weather", "", id="call_1", index=0)]}),
                delta_chunk({"tool_calls": [tool_call("get_weather", "", id="call_2", index=1)]}),
                delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Ro'}}]}),
                delta_chunk({"tool_calls": [{"index": 1, "function": {"arguments": '{"city": "Bonn"}'}}]}),
                delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": 'me"}'}}]}),
                finish_chunk("tool_calls"),
            ]
        )
    )
    with client.messages.stream(model=FREE, max_tokens=64, messages=HELLO, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream if event.type.startswith("content_block_st")]
        final = stream.get_final_message()
    assert kinds == ["content_block_start", "content_block_stop"] * 3
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in final.content if block.type == "tool_use"] == [{"city": "Rome"}, {"city": "Bonn"}]
    assert final.stop_reason == "tool_use"


def test_tokens_are_counted_without_a_provider(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    few = client.messages.count_tokens(model=FREE, messages=HELLO)
    many = client.messages.count_tokens(model=FREE, messages=HELLO, system="word " * 400, tools=[WEATHER])
    assert 0 < few.input_tokens < 30
    assert 400 < many.input_tokens < 800
    assert acme.requests == []


@pytest.mark.parametrize(
    ("status", "kind", "type_"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
def test_errors_of_providers(
    client: anthropic.Anthropic, acme: UpstreamThread, status: int, kind: type[anthropic.APIStatusError], type_: str
) -> None:
    acme.script(error(status, "No."))
    with pytest.raises(kind) as failed:
        client.messages.create(model="acme:acme/test-1:free", max_tokens=16, messages=HELLO)
    assert failed.value.type == type_
    assert failed.value.request_id


def test_errors_of_the_gateway(client: anthropic.Anthropic, gateway: Gateway) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nobody/nothing", max_tokens=16, messages=HELLO)
    assert (missing.value.type, missing.value.error_code) == ("not_found_error", "unknown_model")
    body: Any = missing.value.body
    assert body["type"] == "error"
    assert body["error_code"] == "not_found_error"
    assert body["generation_id"].startswith("gen_")
    assert body["request_id"] == missing.value.response.headers["x-request-id"]
    stranger = anthropic.Anthropic(api_key="aistats_v1_sk_no_such", base_url=root(gateway), max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.messages.create(model=FREE, max_tokens=16, messages=HELLO)
    assert refused.value.type == "authentication_error"
    with pytest.raises(anthropic.PaymentRequiredError) as broke:
        client.messages.create(model="acme/test-1", max_tokens=16, messages=HELLO)
    assert broke.value.type == "billing_error"


def test_typed_messages_by_both_ways_in(channel: grpc.Channel, metadata: Any, acme: UpstreamThread) -> None:
    stub = messages_pb2_grpc.MessagesServiceStub(channel)
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text="Say hello."))
    said = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
    for model in (FREE, LOCAL_MODEL):
        asked = messages_pb2.CreateMessageRequest(model=model, max_tokens=16, messages=[said])
        whole = stub.CreateMessage(asked, metadata=metadata, timeout=60)
        assert whole.id.startswith("msg_")
        assert whole.parts[0].text.text
        events = list(stub.StreamMessage(asked, metadata=metadata, timeout=60))
        assert [events[0].WhichOneof("event"), events[-1].WhichOneof("event")] == ["started", "completed"]
        assert "".join(event.text_delta.text for event in events)
    counted = messages_pb2.CountTokensRequest(model=FREE, messages=[said])
    assert 0 < stub.CountTokens(counted, metadata=metadata, timeout=60).input_tokens < 30
