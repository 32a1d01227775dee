"""Tools on the embedded model with the `openai` SDK: what a grammar makes sure of, whatever so small a model thinks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "get_weather", "description": "The weather of a city.", "parameters": SCHEMA}
TIME: Any = {
    "name": "get_time",
    "description": "The time in a zone.",
    "parameters": {
        "type": "object",
        "properties": {"zone": {"enum": ["UTC", "CET"]}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
CHAT_TOOLS: Any = [{"type": "function", "function": function} for function in (WEATHER, TIME)]
TOOLS: Any = [{"type": "function", "strict": True, **function} for function in (WEATHER, TIME)]
QUESTION = "What is the weather in Oslo, in celsius?"
ASKED: Any = [{"role": "user", "content": QUESTION}]
# One call, for a small model likes to repeat itself.
ONE: Any = {"temperature": 0, "parallel_tool_calls": False}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60) as client:
        yield client


def check_call(name: str, arguments: str) -> None:
    given = json.loads(arguments)
    if name == "get_weather":
        assert set(given) == {"city", "unit"}
        assert isinstance(given["city"], str)
        assert len(given["city"]) <= 20
        assert given["unit"] in ("celsius", "fahrenheit")
    else:
        assert name == "get_time"
        assert given in ({"zone": "UTC"}, {"zone": "CET"})


def the_call(completion: ChatCompletion) -> tuple[str, str, str]:
    """Its id, name and arguments."""
    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    return call.id, call.function.name, call.function.arguments


def test_chat_required_whole_and_streamed(client: openai.OpenAI) -> None:
    request: Any = {"model": LOCAL_MODEL, "messages": ASKED, "tools": CHAT_TOOLS, "tool_choice": "required", **ONE}
    whole = client.chat.completions.create(**request)
    id_, *called = the_call(whole)
    assert id_
    check_call(*called)
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0

    with client.chat.completions.stream(**request) as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion()
    assert len(pieces) > 1
    assert "".join(piece.arguments_delta for piece in pieces) == the_call(final)[2]
    check_call(*the_call(final)[1:])


@pytest.mark.parametrize("name", ["get_weather", "get_time"])
def test_chat_a_named_function_is_the_one_that_is_called(client: openai.OpenAI, name: str) -> None:
    completion = client.chat.completions.create(
        model=LOCAL_MODEL,
        messages=[{"role": "user", "content": "Hello."}],
        tools=CHAT_TOOLS,
        tool_choice={"type": "function", "function": {"name": name}},
        **ONE,
    )
    _, called, arguments = the_call(completion)
    assert called == name
    check_call(called, arguments)


def test_chat_goes_on_from_a_result(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=LOCAL_MODEL, messages=ASKED, tools=CHAT_TOOLS, tool_choice="required", **ONE
    )
    result = {"role": "tool", "tool_call_id": the_call(first)[0], "content": "rain, 4 degrees"}
    messages: Any = [*ASKED, first.choices[0].message, result]
    for choice in ("none", "auto"):
        second: Any = client.chat.completions.create(
            model=LOCAL_MODEL, messages=messages, tools=CHAT_TOOLS, tool_choice=choice, max_tokens=60, **ONE
        )
        assert second.usage.prompt_tokens > 0
        assert second.choices[0].message.content or choice == "auto"
        for call in second.choices[0].message.tool_calls or []:
            assert choice == "auto"
            check_call(call.function.name, call.function.arguments)


def test_chat_none_gives_text(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=LOCAL_MODEL, messages=ASKED, tools=CHAT_TOOLS, tool_choice="none", max_tokens=16, temperature=0
    )
    assert completion.choices[0].message.content
    assert not completion.choices[0].message.tool_calls


def test_responses_required_whole_and_streamed(client: openai.OpenAI) -> None:
    request: Any = {"model": LOCAL_MODEL, "input": QUESTION, "tools": TOOLS, "tool_choice": "required", **ONE}
    [call] = client.responses.create(**request).output
    assert call.type == "function_call"
    check_call(call.name, call.arguments)

    with client.responses.stream(**request) as stream:
        events = list(stream)
        [streamed] = stream.get_final_response().output
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 1
    assert streamed.type == "function_call"
    assert "".join(deltas) == streamed.arguments
    check_call(streamed.name, streamed.arguments)
    assert events[-1].type == "response.completed"


def test_responses_a_named_function_and_its_result(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model=LOCAL_MODEL, input=QUESTION, tools=TOOLS, tool_choice={"type": "function", "name": "get_weather"}, **ONE
    )
    [call] = first.output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    check_call(call.name, call.arguments)
    second = client.responses.create(
        model=LOCAL_MODEL,
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain, 4 degrees"}],
        max_output_tokens=40,
        temperature=0,
    )
    assert second.output_text


def test_custom_tools_are_refused_by_name(client: openai.OpenAI) -> None:
    custom: Any = [{"type": "custom", "custom": {"name": "grep"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=LOCAL_MODEL, messages=ASKED, tools=custom)
    assert "tools" in refused.value.response.text
