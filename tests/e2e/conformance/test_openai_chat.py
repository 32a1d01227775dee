"""`openai`: chat completions, by the synchronous and the asynchronous client."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.conformance.both import all_of, each, entered, got
from tests.e2e.conformance.cases import shows
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import (
    chat_chunks,
    chat_tool_calls,
    completion,
    delta_chunk,
    finish_chunk,
    role_chunk,
    tool_call,
)
from tests.fakes.openai_upstream import chat_stream, chat_unary, json_reply

FREE = "acme/test-1:free"
HELLO: Any = [{"role": "user", "content": "Say hello."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CREATE, STREAM, PARSE = "chat.completions.create", "chat.completions.stream", "chat.completions.parse"


class Colour(BaseModel):
    name: str


class Weather(BaseModel):
    city: str
    unit: Literal["C", "F"]


def two_calls_streamed() -> Any:
    return chat_chunks(
        [
            role_chunk(),
            delta_chunk({"tool_calls": [tool_call("weather", "", id="call_1", index=0)]}),
            delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
            delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Oslo"}'}}]}),
            delta_chunk({"tool_calls": [tool_call("time", "{}", id="call_2", index=1)]}),
            finish_chunk("tool_calls"),
        ]
    )


@shows("openai", CREATE)
async def test_whole(client: Any) -> None:
    said = await got(
        client.chat.completions.create(model=LOCAL_MODEL, messages=HELLO, max_completion_tokens=8, temperature=0)
    )
    assert said.id.startswith("chatcmpl-")
    assert said.model == LOCAL_MODEL
    assert said.choices[0].message.role == "assistant"
    assert said.choices[0].message.content
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens


@shows("openai", CREATE)
async def test_streamed_with_usage_once_and_last(client: Any) -> None:
    chunks = await all_of(
        client.chat.completions.create(
            model=LOCAL_MODEL,
            messages=HELLO,
            max_completion_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [bool(chunk.choices) for chunk in chunks].count(False) == 1
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.completion_tokens > 0


@shows("openai", CREATE)
async def test_two_tools_called_at_once_and_what_they_answered(client: Any, acme: UpstreamThread) -> None:
    acme.script(
        chat_tool_calls(
            tool_call("weather", '{"city": "Oslo"}', id="call_1"), tool_call("weather", '{"city": "Rome"}', id="call_2")
        ),
        chat_unary("Oslo rains."),
    )
    first = await got(client.chat.completions.create(model=FREE, messages=HELLO, tools=[WEATHER]))
    calls = first.choices[0].message.tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1", "weather", '{"city": "Oslo"}'),
        ("call_2", "weather", '{"city": "Rome"}'),
    ]
    assert first.choices[0].finish_reason == "tool_calls"
    answers = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    said = [*HELLO, first.choices[0].message, *answers]
    second = await got(client.chat.completions.create(model=FREE, messages=said, tools=[WEATHER]))
    assert second.choices[0].message.content == "Oslo rains."
    assert [one["role"] for one in acme.requests[-1].json["messages"]] == ["user", "assistant", "tool", "tool"]


@shows("openai", STREAM)
async def test_tool_calls_put_together(client: Any, acme: UpstreamThread) -> None:
    acme.script(two_calls_streamed())
    async with entered(client.chat.completions.stream(model=FREE, messages=HELLO, tools=[WEATHER])) as stream:
        kinds = [event.type async for event in each(stream)]
        final = await got(stream.get_final_completion())
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert [(call.id, call.function.arguments) for call in final.choices[0].message.tool_calls] == [
        ("call_1", '{"city": "Oslo"}'),
        ("call_2", "{}"),
    ]


@shows("openai", STREAM)
async def test_a_text_put_together(client: Any, acme: UpstreamThread) -> None:
    async with entered(client.chat.completions.stream(model=FREE, messages=HELLO)) as stream:
        text = "".join([event.delta async for event in each(stream) if event.type == "content.delta"])
        final = await got(stream.get_final_completion())
    assert final.choices[0].message.content == text != ""


@shows("openai", PARSE)
async def test_into_a_model(client: Any) -> None:
    asked: Any = [{"role": "user", "content": "Name one colour as JSON."}]
    parsed = await got(
        client.chat.completions.parse(
            model=LOCAL_MODEL, messages=asked, response_format=Colour, max_completion_tokens=32, temperature=0
        )
    )
    assert isinstance(parsed.choices[0].message.parsed, Colour)


@shows("openai", STREAM)
async def test_into_a_model_piece_by_piece(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_stream('{"name": ', '"teal"}'))
    asked: Any = {"model": FREE, "messages": HELLO, "response_format": Colour}
    async with entered(client.chat.completions.stream(**asked)) as stream:
        pieces = [event.parsed async for event in each(stream) if event.type == "content.delta"]
        final = await got(stream.get_final_completion())
    assert pieces[-1] == {"name": "teal"}
    assert final.choices[0].message.parsed == Colour(name="teal")


@shows("openai", PARSE)
async def test_tools_arguments_into_a_model(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_tool_calls(tool_call("Weather", '{"city": "Oslo", "unit": "C"}')))
    tool = openai.pydantic_function_tool(Weather)
    parsed = await got(client.chat.completions.parse(model=FREE, messages=HELLO, tools=[tool]))
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == Weather(city="Oslo", unit="C")
    sent = acme.requests[0].json["tools"][0]["function"]
    assert sent["strict"] is True
    assert sent["parameters"] == tool["function"]["parameters"]


@shows("openai", PARSE)
async def test_a_refusal_and_a_cut_are_no_model(client: Any, acme: UpstreamThread) -> None:
    acme.script(json_reply(completion(None, message={"refusal": "I would rather not."})))
    asked: Any = {"model": FREE, "messages": HELLO, "response_format": Colour}
    refused = await got(client.chat.completions.parse(**asked))
    assert refused.choices[0].message.parsed is None
    assert refused.choices[0].message.refusal == "I would rather not."
    acme.script(json_reply(completion('{"na', finish_reason="length")))
    with pytest.raises(openai.LengthFinishReasonError):
        await got(client.chat.completions.parse(**asked))


@shows("openai", CREATE)
async def test_pictures_sound_and_files_reach_the_provider(client: Any, acme: UpstreamThread) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
    ]
    await got(client.chat.completions.create(model=FREE, messages=[{"role": "user", "content": parts}]))
    assert acme.requests[0].json["messages"][0]["content"] == parts


@shows("openai", CREATE)
async def test_what_reaches_the_provider_is_what_was_sent(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_stream("ok"), chat_unary("ok"))
    properties = {"zeta": {"type": "string"}, "alpha": {"type": "number"}, "mid": {"enum": [3, 1, 2]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    messages: Any = [{"role": "user", "content": 'Please send {"stream": true} back.'}]
    await all_of(client.chat.completions.create(model=FREE, messages=messages, stream=True, tools=[tool]))
    await got(client.chat.completions.create(model=FREE, messages=messages))
    streamed, whole = acme.requests
    assert b'"properties":{"zeta":{"type":"string"},"alpha":{"type":"number"},"mid":{"enum":[3,1,2]}}' in streamed.body
    assert whole.json.get("stream") in (None, False)
    assert whole.json["messages"] == messages


@shows("openai", CREATE)
async def test_several_choices_log_probabilities_and_a_seed(client: Any, acme: UpstreamThread) -> None:
    token = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}
    choice = completion("Hi")["choices"][0]
    choices = [{**choice, "index": index, "logprobs": {"content": [token], "refusal": None}} for index in (0, 1)]
    acme.script(json_reply(completion(choices=choices)))
    said = await got(
        client.chat.completions.create(model=FREE, messages=HELLO, n=2, logprobs=True, top_logprobs=0, seed=7)
    )
    assert [one.index for one in said.choices] == [0, 1]
    assert said.choices[1].logprobs.content[0].logprob == -0.25
    assert {name: acme.requests[0].json[name] for name in ("n", "logprobs", "seed")} == {
        "n": 2,
        "logprobs": True,
        "seed": 7,
    }


@shows("openai", CREATE)
async def test_the_gateways_own_parameters_and_fields(client: Any, acme: UpstreamThread) -> None:
    asked = {"meta": True, "provider": {"order": ["acme"]}}
    said = await got(client.chat.completions.create(model=FREE, messages=HELLO, extra_body=asked))
    assert said.model_extra["meta"]["provider"] == "acme"
    assert said.usage.model_extra["pricing"]["total_nanos"] == 0


@shows("openai", "with_raw_response", "with_streaming_response")
async def test_of_chat(client: Any, acme: UpstreamThread) -> None:
    raw = await got(client.chat.completions.with_raw_response.create(model=FREE, messages=HELLO))
    assert raw.headers["x-generation-id"].startswith("gen_")
    assert raw.request_id == raw.headers["x-request-id"]
    assert (await got(raw.parse())).choices[0].message.content == "Hello there!"
    streaming = client.chat.completions.with_streaming_response.create(model=FREE, messages=HELLO, stream=True)
    async with entered(streaming) as response:
        lines = await all_of(response.iter_lines())
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert acme.requests[1].json["stream"] is True


@shows("openai", "beta.chat.completions.create", "beta.chat.completions.parse", "beta.chat.completions.stream")
async def test_by_its_old_name(client: Any, acme: UpstreamThread) -> None:
    acme.script(chat_unary("Hi"), chat_unary('{"name": "teal"}'), chat_stream("Hi"))
    chat = client.beta.chat.completions
    assert (await got(chat.create(model=FREE, messages=HELLO))).choices[0].message.content == "Hi"
    parsed = await got(chat.parse(model=FREE, messages=HELLO, response_format=Colour))
    assert parsed.choices[0].message.parsed == Colour(name="teal")
    async with entered(chat.stream(model=FREE, messages=HELLO)) as stream:
        final = await got(stream.get_final_completion())
    assert final.choices[0].message.content == "Hi"


@shows("openai", CREATE, refused=True)
@pytest.mark.parametrize(
    ("param", "asked"),
    [
        ("audio", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
        ("functions", {"functions": [{"name": "f", "parameters": {}}]}),
        ("temprature", {"extra_body": {"temprature": 1}}),
    ],
    ids=["spoken output", "functions of before tools", "a parameter that does not exist"],
)
async def test_what_is_not_supported(client: Any, param: str, asked: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.chat.completions.create(model=FREE, messages=HELLO, **asked))
    said = refused.value.response.json()
    record_property("refusal", said["description"])
    assert said["param"] == param
