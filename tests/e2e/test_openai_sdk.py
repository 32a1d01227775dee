"""The `openai` SDK as its users have it: only the base URL and the key differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, chat_tool_calls, delta_chunk, finish_chunk, role_chunk, tool_call
from tests.fakes.openai_upstream import chat_stream, chat_unary, error, json_reply, responses_stream

FREE = "acme/test-1:free"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60) as client:
        yield client


class Colour(BaseModel):
    name: str


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=LOCAL_MODEL, messages=[{"role": "user", "content": "Say hello."}], max_completion_tokens=16, temperature=0
    )
    assert completion.choices[0].message.content
    assert completion.choices[0].message.role == "assistant"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=LOCAL_MODEL,
        messages=[{"role": "user", "content": "Count to three."}],
        max_completion_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [len(chunk.choices) for chunk in chunks].count(0) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_chat_stream_helper_accumulates(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=LOCAL_MODEL, messages=[{"role": "user", "content": "Say hello."}], temperature=0
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content


def test_chat_parse_into_a_model(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=LOCAL_MODEL,
        messages=[{"role": "user", "content": "Name one colour as JSON."}],
        response_format=Colour,
        max_completion_tokens=64,
        temperature=0,
    )
    assert parsed.choices[0].message.parsed is not None
    assert parsed.choices[0].message.parsed.name


def test_responses_and_parse(client: openai.OpenAI) -> None:
    response = client.responses.create(model=LOCAL_MODEL, input="Say hello.", max_output_tokens=16)
    assert response.output_text
    assert response.usage is not None
    assert client.responses.retrieve(response.id).output_text == response.output_text
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)

    parsed = client.responses.parse(
        model=LOCAL_MODEL, input="Name one colour as JSON.", text_format=Colour, max_output_tokens=64, temperature=0
    )
    assert parsed.output_parsed is not None
    assert parsed.output_parsed.name


def test_responses_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model=LOCAL_MODEL, input="Reply with: it works", temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert final.output_text


async def test_async_chat_and_responses(async_client: openai.AsyncOpenAI) -> None:
    completion, response = await asyncio.gather(
        async_client.chat.completions.create(
            model=LOCAL_MODEL, messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=8
        ),
        async_client.responses.create(model=LOCAL_MODEL, input="Hi", max_output_tokens=8),
    )
    assert completion.choices[0].message.content
    assert response.output_text

    stream = await async_client.chat.completions.create(
        model=LOCAL_MODEL, messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=8, stream=True
    )
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason in {"stop", "length"}

    events = await async_client.responses.create(model=LOCAL_MODEL, input="Hi", max_output_tokens=8, stream=True)
    kinds = [event.type async for event in events]
    assert kinds[-1] in {"response.completed", "response.incomplete"}


def test_tool_calls_whole_and_streamed(client: openai.OpenAI, acme: UpstreamThread) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    acme.script(chat_tool_calls(tool_call("weather", '{"city": "Oslo"}')))
    completion = client.chat.completions.create(
        model=FREE,
        messages=[{"role": "user", "content": "?"}],
        tools=tools,  # type: ignore[arg-type]
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    assert completion.choices[0].finish_reason == "tool_calls"

    chunks = [
        role_chunk(),
        delta_chunk({"tool_calls": [tool_call("weather", "", id="call_1", index=0)]}),
        delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
        delta_chunk({"tool_calls": [tool_call("time", "{}", id="call_2", index=1)]}),
        delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Oslo"}'}}]}),
        finish_chunk("tool_calls"),
    ]
    acme.script(chat_chunks(chunks))
    with client.chat.completions.stream(
        model=FREE,
        messages=[{"role": "user", "content": "?"}],
        tools=tools,  # type: ignore[arg-type]
    ) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1", "weather", '{"city": "Oslo"}'),
        ("call_2", "time", "{}"),
    ]


def test_responses_tool_calls(client: openai.OpenAI, acme: UpstreamThread) -> None:
    acme.script(chat_tool_calls(tool_call("weather", '{"city": "Oslo"}', id="call_9")), chat_unary("It rains."))
    first = client.responses.create(
        model=FREE,
        input="Weather?",
        tools=[{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}],
    )
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.call_id, call.arguments) == ("call_9", '{"city": "Oslo"}')
    second = client.responses.create(
        model=FREE,
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": "call_9", "output": "rain"}],
    )
    assert second.output_text == "It rains."
    roles = [message["role"] for message in acme.requests[-1].json["messages"]]
    assert roles == ["user", "assistant", "tool"]


def test_a_native_responses_upstream(client: openai.OpenAI, backup: UpstreamThread) -> None:
    backup.script(responses_stream("Na", "tive"))
    with client.responses.stream(model="acme/native:free", input="Hi") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "Native"
    assert backup.requests[0].path == "/v1/responses"
    assert final.id.startswith("resp_")


def test_error_classes(gateway: Gateway, client: openai.OpenAI, acme: UpstreamThread) -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="wrong", base_url=gateway.base_url, max_retries=0).responses.create(
            model=LOCAL_MODEL, input="x"
        )
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=FREE, messages=messages, extra_body={"temprature": 1})  # type: ignore[call-overload]
    assert bad.value.response.json()["param"] == "temprature"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody/nothing", input="x")
    acme.script(error(429, "Slow down.", code="rate_limit_exceeded", headers={"retry-after": "7"}))
    with pytest.raises(openai.RateLimitError) as limited:
        client.responses.create(model=FREE, input="x")
    assert limited.value.response.headers["retry-after"] == "7"
    acme.script(error(500))
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model=FREE, input="x")


def test_a_broken_stream_raises(client: openai.OpenAI, acme: UpstreamThread) -> None:
    broken = chat_chunks([role_chunk(), delta_chunk({"content": "Hel"})], done=False)
    acme.script(broken)
    with pytest.raises(openai.APIError, match="before the output was complete"):
        list(client.chat.completions.create(model=FREE, messages=[{"role": "user", "content": "x"}], stream=True))
    acme.script(broken)
    events = client.responses.create(model=FREE, input="x", stream=True)
    kinds: list[str] = []
    with pytest.raises(openai.APIError, match="before the output was complete"):
        kinds.extend(event.type for event in events)
    assert "response.output_text.delta" in kinds


def test_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list(extra_query={"provider": "local"})]
    assert LOCAL_MODEL in ids
    assert client.models.retrieve(LOCAL_MODEL).id == LOCAL_MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/nothing")


def test_upstream_sees_what_the_client_sent(client: openai.OpenAI, acme: UpstreamThread) -> None:
    acme.script(
        chat_stream("ok"),
        json_reply({"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}]}),
    )
    schema = {"zeta": {"type": "string"}, "alpha": {"type": "number"}, "mid": {"enum": [3, 1, 2]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": schema}}}
    prompt = 'Please send {"stream": true} back.'
    completion = client.chat.completions.create(
        model=FREE,
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        tools=[tool],  # type: ignore[list-item]
    )
    list(completion)
    unary = client.chat.completions.create(model=FREE, messages=[{"role": "user", "content": prompt}])
    assert unary.choices[0].message.content == "ok"
    streamed, whole = acme.requests
    assert b'"properties":{"zeta":{"type":"string"},"alpha":{"type":"number"},"mid":{"enum":[3,1,2]}}' in streamed.body
    assert whole.json.get("stream") in (None, False)
    assert whole.json["messages"][0]["content"] == prompt
