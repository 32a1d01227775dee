"""The `anthropic` SDK as its users have it: only the base URL and the key differ."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam
from pydantic import BaseModel

from tests.e2e.conformance.cases import shows
from tests.e2e.conformance.methods import WRONG_KEY, methods_of, standing
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


@shows("anthropic", "messages.create")
def test_a_message_of_the_embedded_model(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=LOCAL_MODEL, max_tokens=16, messages=HELLO)
    assert (message.type, message.role, message.model) == ("message", "assistant", LOCAL_MODEL)
    assert message.id.startswith("msg_")
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens > 0
    assert 0 < message.usage.output_tokens <= 16


@shows("anthropic", "messages.stream")
def test_a_stream_of_the_embedded_model(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=LOCAL_MODEL, max_tokens=16, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == text != ""
    assert final.usage.input_tokens > 0
    assert final.stop_reason in ("end_turn", "max_tokens")


@shows("anthropic", "messages.create", "messages.stream")
async def test_a_message_asynchronously(async_client: anthropic.AsyncAnthropic, acme: UpstreamThread) -> None:
    message = await async_client.messages.create(model=FREE, max_tokens=16, messages=HELLO)
    assert message.content[0].type == "text"
    assert message.stop_reason == "end_turn"
    async with async_client.messages.stream(model=FREE, max_tokens=16, messages=HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
    assert text == "Hello there!"


@shows("anthropic", "messages.create")
def test_the_events_by_name(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    acme.script(chat_stream("Hel", "lo 你好🙂"))
    events = list(client.messages.create(model=FREE, max_tokens=16, messages=HELLO, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


@shows("anthropic", "messages.create")
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


@shows("anthropic", "messages.create")
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


@shows("anthropic", "messages.stream")
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


class Colour(BaseModel):
    name: str


@shows("anthropic", "messages.parse")
def test_into_a_model(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    acme.script(chat_unary('{"name": "teal"}'))
    parsed = client.messages.parse(model=FREE, max_tokens=16, messages=HELLO, output_format=Colour)
    assert parsed.parsed_output == Colour(name="teal")
    assert acme.requests[0].json["response_format"]["type"] == "json_schema"


@shows("anthropic", "beta.messages.create", "beta.messages.stream", "beta.messages.parse", "beta.messages.count_tokens")
def test_what_anthropic_calls_beta(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    asked: Any = {"model": FREE, "messages": HELLO}
    beta = client.beta.messages
    assert beta.create(**asked, max_tokens=16).stop_reason == "end_turn"
    with beta.stream(**asked, max_tokens=16) as stream:
        assert "".join(stream.text_stream) == "Hello there!"
    assert beta.count_tokens(**asked).input_tokens > 0
    acme.script(chat_unary('{"name": "teal"}'))
    assert beta.parse(**asked, max_tokens=16, output_format=Colour).parsed_output == Colour(name="teal")


@shows("anthropic", "beta.messages.tool_runner")
def test_tools_run_until_there_is_an_answer(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"rain in {city}"

    acme.script(chat_tool_calls(tool_call("get_weather", '{"city": "Rome"}')), chat_unary("It rains."))
    runner = client.beta.messages.tool_runner(model=FREE, max_tokens=64, messages=HELLO, tools=[get_weather])
    last = runner.until_done()
    assert last.content[0].type == "text"
    assert last.content[0].text == "It rains."
    assert acme.requests[1].json["messages"][-1]["content"] == "rain in Rome"


@shows("anthropic", "beta.messages.thread", refused=True)
def test_a_conversation_that_the_provider_keeps(client: anthropic.Anthropic, record_property: Any) -> None:
    thread = client.beta.messages.thread(model=FREE, max_tokens=16, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError) as refused:
        thread.send()
    record_property("refusal", refused.value.message)


@shows("anthropic", "models.list", "models.retrieve", "beta.models.list", "beta.models.retrieve")
def test_models(client: anthropic.Anthropic) -> None:
    for models in (client.models, client.beta.models):
        assert LOCAL_MODEL in [model.id for model in models.list(limit=250, extra_query={"provider": "local"})]
        assert models.retrieve(LOCAL_MODEL).id == LOCAL_MODEL


@shows("anthropic", "messages.count_tokens")
def test_tokens_are_counted_without_a_provider(client: anthropic.Anthropic, acme: UpstreamThread) -> None:
    few = client.messages.count_tokens(model=FREE, messages=HELLO)
    many = client.messages.count_tokens(model=FREE, messages=HELLO, system="word " * 400, tools=[WEATHER])
    assert 0 < few.input_tokens < 30
    assert 400 < many.input_tokens < 800
    assert acme.requests == []


@shows("anthropic", "APIStatusError")
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


@shows("anthropic", "NotFoundError", "AuthenticationError", "PaymentRequiredError")
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


def test_every_method_that_leads_to_a_route_is_shown(gateway: Gateway, add_rows: Callable[..., None]) -> None:
    with anthropic.Anthropic(api_key=WRONG_KEY, base_url=root(gateway), max_retries=0, timeout=30) as stranger:
        methods = methods_of(stranger, "anthropic.resources")
        webhooks = {"beta.webhooks.unwrap", "beta.webhooks.parse_unverified"}
        found = standing("anthropic", methods, {"file": ("a.bin", b"x")}, asks_nobody=webhooks)
    add_rows(found.elsewhere)
    assert not found.untested, found.untested
