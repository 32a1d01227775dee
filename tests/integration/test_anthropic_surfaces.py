"""Chat completions and Responses by way of the anthropic dialect: the OpenAI SDK in front, the stand-in behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.fakes.anthropic_wire import (
    error_event,
    error_reply,
    event_stream,
    events_of,
    message,
    message_reply,
    message_start,
    message_stream,
    redacted,
    text,
    thinking,
    tool_use,
    usage,
)
from tests.fakes.wire import Reply
from tests.integration.anthropic_stage import HAIKU, PAID, SONNET, Stage, stage
from tests.integration.databases import migrated

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
SCHEMA = {
    "type": "object",
    "properties": {"z": {"type": "integer"}, "a": {"type": "string"}},
    "required": ["z", "a"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"n": {}}}}}
]
FLAT_TOOLS: Any = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"n": {}}}}]
U7 = usage(6, 2_745, written=159_217)
U7_NANOS = 1_063_761_250


@pytest.fixture
async def at(sqlite_url: str) -> AsyncIterator[Stage]:
    async with migrated(sqlite_url) as database, stage(database) as ready:
        yield ready


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])


def says(at: Stage, *blocks: Any, stream: bool, **fields: Any) -> None:
    at.upstream.script(message_stream(*blocks, **fields) if stream else message_reply(*blocks, **fields))


async def chat(at: Stage, *, stream: bool = False, model: str = HAIKU, **fields: Any) -> dict[str, Any]:
    """The choice, and what it used: a stream's put together, which must be what a whole answer is."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], **fields, "model": model}
    if not stream:
        whole: ChatCompletion = await at.client.chat.completions.create(**asked)
        return {**whole.choices[0].model_dump(exclude_none=True), "usage": whole.usage}
    message_: dict[str, Any] = {"content": "", "role": "assistant"}
    calls: dict[int, dict[str, Any]] = {}
    told: dict[str, Any] = {"message": message_}
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    async for chunk in await at.client.chat.completions.create(**asked):
        told["usage"] = chunk.usage
        for choice in chunk.choices:
            assert choice.index == 0
            told["finish_reason"] = choice.finish_reason or told.get("finish_reason")
            delta = choice.delta.model_dump(exclude_none=True)
            for name in ("content", "refusal", "reasoning_content", "reasoning_signature"):
                if name in delta:
                    message_[name] = message_.get(name, "") + delta[name]
            for call in delta.get("tool_calls", ()):
                known = calls.setdefault(call["index"], {"function": {"arguments": ""}})
                if "id" in call:
                    assert "id" not in known
                    known |= {"id": call["id"], "type": call["type"]}
                    known["function"]["name"] = call["function"]["name"]
                known["function"]["arguments"] += call["function"]["arguments"]
    if calls:
        assert list(calls) == list(range(len(calls)))
        message_["tool_calls"] = list(calls.values())
    return told


async def respond(at: Stage, *, stream: bool = False, model: str = HAIKU, **fields: Any) -> Any:
    """The response; of a stream, that of its last event."""
    asked: dict[str, Any] = {"input": "Hi", **fields, "model": model}
    if not stream:
        return await at.client.responses.create(**asked)
    last: Any = None
    async for event in await at.client.responses.create(**asked, stream=True):
        last = event
    return last.response


@both_ways
async def test_text(at: Stage, stream: bool) -> None:
    says(at, text("Hello there!"), stream=stream)
    told = await chat(at, stream=stream)
    says(at, text("Hello there!"), stream=stream)
    response = await respond(at, stream=stream, instructions="Be kind.")

    assert (told["message"]["content"], told["finish_reason"]) == ("Hello there!", "stop")
    assert (response.output_text, response.status) == ("Hello there!", "completed")
    assert at.sent["system"] == [{"type": "text", "text": "Be kind."}]
    assert at.sent.get("stream") == (True if stream else None)


@both_ways
async def test_p1_parallel_calls_and_their_results(at: Stage, stream: bool) -> None:
    calls = [tool_use("f", {"n": n}, id=f"toolu_{n}") for n in range(3)]
    says(at, text("Wait."), *calls, stream=stream, stop_reason="tool_use")
    told = await chat(at, stream=stream, tools=TOOLS)

    assert told["finish_reason"] == "tool_calls"
    made = told["message"]["tool_calls"]
    assert [(call["id"], json.loads(call["function"]["arguments"])) for call in made] == [
        (f"toolu_{n}", {"n": n}) for n in range(3)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "42"} for call in made]
    says(at, text("So."), stream=False)
    await chat(at, tools=TOOLS, messages=[{"role": "user", "content": "Hi"}, told["message"], *results])
    assert at.sent["messages"][1]["content"] == [text("Wait."), *calls]
    assert [block["tool_use_id"] for block in at.sent["messages"][2]["content"]] == [call["id"] for call in calls]


@both_ways
async def test_calls_and_their_results_on_the_responses_surface(at: Stage, stream: bool) -> None:
    calls = [tool_use("f", {"n": n}, id=f"toolu_{n}") for n in range(2)]
    says(at, *calls, stream=stream, stop_reason="tool_use")
    response = await respond(at, stream=stream, tools=FLAT_TOOLS, tool_choice="required", parallel_tool_calls=True)
    made = [item for item in response.output if item.type == "function_call"]
    says(at, text("So."), stream=stream)
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "42"} for call in made]
    again = await respond(at, stream=stream, input=outputs, previous_response_id=response.id)

    assert again.output_text == "So."
    assert [message["role"] for message in at.sent["messages"]] == ["user", "assistant", "user"]
    assert at.sent["messages"][1]["content"] == calls


@both_ways
async def test_an_image_and_a_document(at: Stage, stream: bool) -> None:
    says(at, stream=stream)
    image = {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}
    paper = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0x", "filename": "p.pdf"}}
    await chat(at, stream=stream, messages=[{"role": "user", "content": [image, paper]}])

    assert at.sent["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG.partition(",")[2]}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
            "title": "p.pdf",
        },
    ]


@both_ways
async def test_p9_a_schema_with_its_keys_in_order(at: Stage, stream: bool) -> None:
    says(at, text('{"z":1,"a":"b"}'), stream=stream)
    wanted = {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": SCHEMA}}
    told = await chat(at, stream=stream, response_format=wanted)

    assert json.loads(told["message"]["content"]) == {"z": 1, "a": "b"}
    assert json.dumps(at.sent["output_config"]["format"]["schema"]) == json.dumps(SCHEMA)


async def test_a_schema_that_could_be_broken_is_refused_by_name(at: Stage) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        await chat(at, response_format=wanted)
    with pytest.raises(openai.BadRequestError) as refused_there:
        await respond(at, text={"format": {"type": "json_schema", "name": "o", "strict": True, "schema": schema}})

    assert param_of(refused.value) == "response_format"
    assert param_of(refused_there.value) == "text.format"
    assert at.upstream.requests == []


def param_of(error: openai.APIStatusError) -> str:
    return str(error.response.json()["param"])


THOUGHTS = [
    [thinking("Hm, 1.", "EqQB+/a==")],
    [redacted("EmwK"), thinking("Hm, 2.", "EqQB"), redacted("Emw3")],
]


@both_ways
@pytest.mark.parametrize("thoughts", THOUGHTS)
async def test_p6_thinking_comes_back_byte_for_byte_through_chat(at: Stage, thoughts: list[Any], stream: bool) -> None:
    call = tool_use("f", {"n": 1})
    says(at, *thoughts, call, stream=stream, stop_reason="tool_use")
    told = await chat(at, stream=stream, tools=TOOLS, reasoning_effort="low")
    result = {"role": "tool", "tool_call_id": "toolu_01", "content": "42"}
    says(at, text("So."), stream=False)
    await chat(at, tools=TOOLS, messages=[{"role": "user", "content": "Hi"}, told["message"], result])

    assert told["message"]["reasoning_content"].startswith("Hm,")
    assert at.sent["messages"][1]["content"] == [*thoughts, call]


@both_ways
@pytest.mark.parametrize("thoughts", THOUGHTS)
@pytest.mark.parametrize("kept", [True, False], ids=["by id", "by items"])
async def test_p6_thinking_comes_back_byte_for_byte_through_responses(
    at: Stage, thoughts: list[Any], stream: bool, kept: bool
) -> None:
    call = tool_use("f", {"n": 1})
    says(at, *thoughts, call, stream=stream, stop_reason="tool_use")
    include: Any = ["reasoning.encrypted_content"]
    first = await respond(at, stream=stream, tools=FLAT_TOOLS, reasoning={"effort": "low"}, include=include)
    result: Any = {"type": "function_call_output", "call_id": "toolu_01", "output": "42"}
    says(at, text("So."), stream=False)
    if kept:
        await respond(at, tools=FLAT_TOOLS, input=[result], previous_response_id=first.id)
    else:
        items = [item.model_dump(exclude_none=True) for item in first.output]
        await respond(at, tools=FLAT_TOOLS, input=[{"role": "user", "content": "Hi"}, *items, result])

    assert at.sent["messages"][1]["content"] == [*thoughts, call]


async def test_an_effort_is_a_budget_or_adaptive_by_the_model(at: Stage) -> None:
    await chat(at, reasoning_effort="low")
    assert at.sent["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    await respond(at, model=SONNET, reasoning={"effort": "low"})
    assert (at.sent["thinking"]["type"], at.sent["output_config"]) == ("adaptive", {"effort": "low"})


@both_ways
@pytest.mark.parametrize(
    ("native", "finish", "status", "why"),
    [
        ("end_turn", "stop", "completed", None),
        ("stop_sequence", "stop", "completed", None),
        ("max_tokens", "length", "incomplete", "max_output_tokens"),
        ("model_context_window_exceeded", "length", "incomplete", "max_output_tokens"),
        ("refusal", "content_filter", "incomplete", "content_filter"),
        ("pause_turn", "pause_turn", "incomplete", "pause_turn"),
        ("brand_new", "brand_new", "incomplete", "brand_new"),
    ],
)
async def test_p4_reasons(at: Stage, native: str, finish: str, status: str, why: str | None, stream: bool) -> None:
    says(at, text("Some."), stream=stream, stop_reason=native)
    told = await chat(at, stream=stream)
    says(at, text("Some."), stream=stream, stop_reason=native)
    response = await respond(at, stream=stream)

    assert told["finish_reason"] == finish
    assert response.status == status
    assert (response.incomplete_details.reason if response.incomplete_details else None) == why


@both_ways
async def test_stop_sequences(at: Stage, stream: bool) -> None:
    says(at, text("One"), stream=stream, stop_reason="stop_sequence", stop_sequence="two")
    told = await chat(at, stream=stream, stop=["two", "three"])

    assert (told["finish_reason"], at.sent["stop_sequences"]) == ("stop", ["two", "three"])


@both_ways
async def test_a_refusal_says_why(at: Stage, stream: bool) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "This could do harm."}
    says(at, stream=stream, stop_reason="refusal", stop_details=details, content=[])
    told = await chat(at, stream=stream)

    assert (told["message"]["refusal"], told["finish_reason"]) == ("This could do harm.", "content_filter")


@both_ways
async def test_cached_usage_is_within_the_input(at: Stage, stream: bool) -> None:
    says(at, stream=stream, usage_=usage(5, 7, read=100, written=20))
    counted = (await chat(at, stream=stream))["usage"]
    says(at, stream=stream, usage_=usage(5, 7, read=100, written=20))
    response = await respond(at, stream=stream)

    assert (counted.prompt_tokens, counted.completion_tokens) == (125, 7)
    assert counted.prompt_tokens_details.cached_tokens == 100
    assert (response.usage.input_tokens, response.usage.input_tokens_details.cached_tokens) == (125, 100)


@both_ways
async def test_u7_written_tokens_are_charged_once(at: Stage, stream: bool) -> None:
    says(at, stream=stream, usage_=U7)
    told = await chat(at, model=PAID, stream=stream)

    pricing = told["usage"].model_dump()["pricing"]
    assert pricing["total_nanos"] == U7_NANOS
    assert {line["dimension"]: line["quantity"] for line in pricing["lines"]} == {
        "input_text_tokens": 6,
        "cached_write_text_tokens": 159_217,
        "output_text_tokens": 2_745,
    }
    await at.counter.drains.close()
    assert await at.counter.spent() == U7_NANOS


async def test_u7_cut_streams_are_counted_by_what_they_said(at: Stage) -> None:
    """The count of output at a message's start is a placeholder."""
    at.upstream.script(event_stream(events_of(message(text("x" * 400), usage_=usage(1000, 50, read=200)))[:6]))
    with pytest.raises(openai.APIError):
        await chat(at, model=PAID, stream=True)
    await at.counter.drains.close()

    # 1,000 fresh and 200 cached tokens as reported, 100 of output as counted (400 characters in three pieces).
    assert await at.counter.spent() == 1000 * 5000 + 200 * 500 + 100 * 25_000


async def test_u2_an_overload_before_any_content_costs_nothing(at: Stage) -> None:
    """The message has begun and its input is counted, but nothing was made of it."""
    at.upstream.script(event_stream([message_start(U7), error_event()]))
    with pytest.raises(openai.APIError):
        await chat(at, model=PAID, stream=True)
    await at.counter.drains.close()

    assert await at.counter.spent() == 0


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (error_reply(429, "rate_limit_error", headers={"retry-after": "7"}), openai.RateLimitError),
        (error_reply(529, "overloaded_error"), openai.InternalServerError),
        (error_reply(401, "authentication_error", "invalid x-api-key"), openai.InternalServerError),
        (error_reply(400, "invalid_request_error", "prompt is too long: 9 > 8"), openai.BadRequestError),
        (event_stream([error_event()]), openai.InternalServerError),
    ],
)
async def test_errors_before_any_output(at: Stage, reply: Reply, error: type[openai.APIError]) -> None:
    at.upstream.script(reply)
    with pytest.raises(error):
        await chat(at, stream=True)


async def test_an_overload_after_some_output_ends_the_stream_with_an_error(at: Stage) -> None:
    at.upstream.script(event_stream([*events_of(message(text()))[:5], error_event()]))
    with pytest.raises(openai.APIError, match="Overloaded"):
        await chat(at, stream=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("seed", 7),
        ("logprobs", True),
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
        ("logit_bias", {"1": 5}),
        ("temperature", 1.5),
        ("metadata", {"a": "b"}),
        ("prompt_cache_key", "k"),
        ("response_format", {"type": "json_object"}),
        ("service_tier", "flex"),
    ],
)
async def test_p10_what_cannot_be_said_is_refused_by_name(at: Stage, name: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await chat(at, **{name: value})

    assert param_of(refused.value) == name
    assert at.upstream.requests == []


async def test_the_end_users_id_leaves_as_a_pseudonym(at: Stage) -> None:
    await chat(at, user="ann@example.com")

    assert at.sent["metadata"].keys() == {"user_id"}
    assert "ann" not in at.sent["metadata"]["user_id"]


async def test_provider_options_reach_the_upstream(at: Stage) -> None:
    await chat(at, extra_body={"provider_options": {"anthropic": {"top_k": 5}}})
    assert at.sent["top_k"] == 5

    with pytest.raises(openai.BadRequestError):
        await chat(at, extra_body={"provider_options": {"anthropic": {"messages": []}}})
