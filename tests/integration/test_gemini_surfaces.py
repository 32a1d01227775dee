"""Chat completions and Responses, with the OpenAI SDK, through the gemini dialect to an upstream on a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.fakes.gemini_wire import SIGNATURE, blocked, call, candidate, reply, stream, text, unary, usage, whole_reply
from tests.fakes.response_grammar import check_events
from tests.fakes.wire import Reply
from tests.integration.databases import migrated
from tests.integration.gemini_stage import BUDGET, FLASH, Stage, stage

both_ways = pytest.mark.parametrize("streaming", [True, False])
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "$defs": {"city": {"type": ["string", "null"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
async def scene(sqlite_url: str) -> AsyncIterator[Stage]:
    async with migrated(sqlite_url) as database, stage(database) as made:
        yield made


def says(scene: Stage, streaming: bool, *parts: dict[str, Any] | str, finish: str = "STOP", **counted: Any) -> None:
    """The upstream's answer: whole, or a chunk for each part."""
    made = usage(**counted)
    reply_: Reply
    if streaming:
        chunks = [reply(candidate(part, finish=None), counted=made) for part in parts]
        reply_ = stream(*chunks, reply(candidate(content=False, finish=finish), counted=made))
    else:
        reply_ = (
            unary(*parts, finish=finish, counted=made)
            if parts
            else whole_reply(reply(candidate(content=False, finish=finish), counted=made))
        )
    scene.upstream.script(reply_)


async def chat(scene: Stage, streaming: bool, messages: Any = None, model: str = FLASH, **fields: Any) -> Any:
    """The completion; of a stream what its chunks add up to."""
    asked = messages or [{"role": "user", "content": "Hi"}]
    create = scene.client.chat.completions
    if not streaming:
        return await create.create(model=model, messages=asked, **fields)
    options: Any = {"include_usage": True}
    async with create.stream(model=model, messages=asked, stream_options=options, **fields) as events:
        async for _ in events:
            pass
        return await events.get_final_completion()


async def respond(scene: Stage, streaming: bool, asked: Any = "Hi", model: str = FLASH, **fields: Any) -> Any:
    if not streaming:
        return await scene.client.responses.create(model=model, input=asked, **fields)
    async with scene.client.responses.stream(model=model, input=asked, **fields) as events:
        async for event in events:
            if event.type in ("response.completed", "response.incomplete"):
                return event.response
    raise AssertionError("no end")


# Chat completions.


@both_ways
async def test_chat_text(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, "Hello", " there!")

    completion = await chat(
        scene, streaming, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )

    assert completion.choices[0].message.content == "Hello there!"
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 3)
    assert scene.sent == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
    }


TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": WEATHER}} for name in ("weather", "clock")
]


@both_ways
async def test_chat_parallel_calls_and_their_results(scene: Stage, streaming: bool) -> None:
    says(
        scene, streaming, text("Hm.", thought=True), call("weather", {"city": "Bonn"}, signature=SIGNATURE),
        call("clock", {"city": "Oslo"}), call("weather", {"city": "Rom"}),
    )  # fmt: skip
    messages: list[Any] = [{"role": "user", "content": "?"}]

    completion = await chat(scene, streaming, messages, tools=TOOLS, tool_choice="required")

    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [(made.function.name, json.loads(made.function.arguments)["city"]) for made in calls] == [
        ("weather", "Bonn"),
        ("clock", "Oslo"),
        ("weather", "Rom"),
    ]
    assert len({made.id for made in calls}) == 3
    assert scene.sent["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    declared = scene.sent["tools"][0]["functionDeclarations"]
    assert declared[0] == {"name": "weather", "parametersJsonSchema": WEATHER}

    sent_back = _said(choice.message)
    messages += [sent_back, *({"role": "tool", "tool_call_id": made.id, "content": made.id} for made in calls)]
    says(scene, streaming, "Sunny.")
    assert (await chat(scene, streaming, messages, tools=TOOLS)).choices[0].message.content == "Sunny."
    _, said, results = scene.sent["contents"]
    assert said["parts"][0] == {"text": "Hm.", "thought": True}
    assert said["parts"][1] == {
        "functionCall": {"name": "weather", "args": {"city": "Bonn"}},
        "thoughtSignature": SIGNATURE,
    }
    assert [part["functionResponse"] for part in results["parts"]] == [
        {"name": made.function.name, "response": {"output": made.id}} for made in calls
    ]


def _said(message: Any) -> dict[str, Any]:
    """The assistant's message as a client appends it, with what the SDK does not know."""
    fields = ("role", "content", "tool_calls", "reasoning_content", "reasoning_signature")
    said = {name: value for name, value in message.model_dump(exclude_none=True).items() if name in fields}
    for made in said.get("tool_calls", ()):
        made["function"].pop("parsed_arguments", None)
        made.pop("index", None)
    return said


@both_ways
async def test_chat_a_client_that_drops_the_signature_is_still_served(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, call("clock", {}, id="n1", signature=SIGNATURE))
    made = (await chat(scene, streaming, tools=TOOLS)).choices[0].message.tool_calls[0]
    function = {"name": made.function.name, "arguments": made.function.arguments}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [{"id": made.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": made.id, "content": "noon"},
    ]

    says(scene, streaming, "Noon.")
    await chat(scene, streaming, messages, tools=TOOLS)

    assert scene.sent["contents"][1]["parts"] == [
        {
            "functionCall": {"name": "clock", "args": {}, "id": "n1"},
            "thoughtSignature": "skip_thought_signature_validator",
        }
    ]


@both_ways
async def test_chat_image_and_json_schema(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, '{"city":', '"Bonn"}')
    content = [
        {"type": "text", "text": "Where?"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}"}},
    ]
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": WEATHER}}

    completion = await chat(scene, streaming, [{"role": "user", "content": content}], response_format=wanted)

    assert json.loads(completion.choices[0].message.content) == {"city": "Bonn"}
    assert scene.sent["contents"][0]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": PNG}}
    assert scene.sent["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": WEATHER,
    }


@both_ways
@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        (FLASH, {"thinkingLevel": "LOW", "includeThoughts": True}),
        (BUDGET, {"thinkingBudget": 1024, "includeThoughts": True}),
    ],
)
async def test_chat_reasoning(scene: Stage, streaming: bool, model: str, thinking: Any) -> None:
    says(scene, streaming, text("Hm. ", thought=True), text("Aha.", thought=True), "Yes.", thoughts=20)

    completion = await chat(scene, streaming, model=model, reasoning_effort="low")

    assert completion.choices[0].message.content == "Yes."
    assert completion.choices[0].message.reasoning_content == "Hm. Aha."
    assert completion.usage.completion_tokens == 23
    assert completion.usage.completion_tokens_details.reasoning_tokens == 20
    assert scene.sent["generationConfig"] == {"thinkingConfig": thinking}


@both_ways
@pytest.mark.parametrize(
    ("finish", "expected"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter")],
)
async def test_chat_ends(scene: Stage, streaming: bool, finish: str, expected: str) -> None:
    says(scene, streaming, "Some", finish=finish)
    # The SDK's own stream raises on these endings; what the gateway said is in the chunks.
    asked: Any = [{"role": "user", "content": "Hi"}]
    found = await scene.client.chat.completions.create(
        model=FLASH, messages=asked, stop=["END"], max_completion_tokens=5, stream=streaming
    )
    reasons = [
        choice.finish_reason
        async for chunk in (found if streaming else _one(found))  # type: ignore[union-attr]
        for choice in chunk.choices
        if choice.finish_reason
    ]

    assert reasons == [expected]
    assert scene.sent["generationConfig"] == {"stopSequences": ["END"], "maxOutputTokens": 5}


async def _one(value: Any) -> AsyncIterator[Any]:
    yield value


@both_ways
async def test_chat_a_blocked_prompt_is_a_400(scene: Stage, streaming: bool) -> None:
    scene.upstream.script(stream(blocked("SAFETY")) if streaming else whole_reply(blocked("SAFETY")))

    with pytest.raises(openai.BadRequestError) as refused:
        await chat(scene, streaming)

    assert "content_policy_violation" in refused.value.response.text


@both_ways
async def test_chat_cached_usage(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, "Hi", prompt=1000, cached=800, thoughts=7, candidates=3)

    counted = (await chat(scene, streaming)).usage

    assert (counted.prompt_tokens, counted.prompt_tokens_details.cached_tokens) == (1000, 800)
    assert (counted.completion_tokens, counted.total_tokens) == (10, 1010)


async def test_chat_several_choices_and_logprobs(scene: Stage) -> None:
    token = {"token": "Hi", "logProbability": -0.5}
    probabilities = {"chosenCandidates": [token], "topCandidates": [{"candidates": [token]}]}
    first, second = candidate("Hi", logprobsResult=probabilities), candidate("Ho", index=1)
    scene.upstream.script(whole_reply(reply(first, second)))

    completion = await chat(scene, False, n=2, logprobs=True, top_logprobs=1)

    assert [choice.message.content for choice in completion.choices] == ["Hi", "Ho"]
    assert completion.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.5
    assert scene.sent["generationConfig"] == {"candidateCount": 2, "responseLogprobs": True, "logprobs": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"parallel_tool_calls": False, "tools": TOOLS}, "parallel_tool_calls"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"extra_body": {"provider_options": {"google": {"contents": []}}}}, "provider_options.google.contents"),
    ],
)
async def test_chat_what_cannot_be_said_is_refused_by_name(scene: Stage, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await chat(scene, False, **fields)

    assert param in refused.value.response.text
    assert not scene.upstream.requests


# Responses.


@both_ways
async def test_responses_text(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, "Hello", " there!")

    response = await respond(scene, streaming, instructions="Be brief.")

    assert (response.status, response.output_text) == ("completed", "Hello there!")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (9, 3)
    assert scene.sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}


FUNCTION: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}


@both_ways
@pytest.mark.parametrize("kept", [True, False], ids=["previous_response_id", "items sent back"])
async def test_responses_calls_and_their_results(scene: Stage, streaming: bool, kept: bool) -> None:
    made = (call("weather", {"city": "Bonn"}, id="n1", signature=SIGNATURE), call("weather", {"city": "Rom"}))
    says(scene, streaming, text("Hm.", thought=True), *made)
    asked: list[Any] = [{"role": "user", "content": "?"}]

    response = await respond(
        scene, streaming, asked, tools=[FUNCTION], include=["reasoning.encrypted_content"],
        reasoning={"summary": "auto"},
    )  # fmt: skip

    calls = [item for item in response.output if item.type == "function_call"]
    assert [json.loads(item.arguments)["city"] for item in calls] == ["Bonn", "Rom"]
    [thought, *_] = [item for item in response.output if item.type == "reasoning"]
    assert [summary.text for summary in thought.summary] == ["Hm."]
    assert thought.encrypted_content
    assert scene.sent["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}

    results = [{"type": "function_call_output", "call_id": item.call_id, "output": "sun"} for item in calls]
    says(scene, streaming, "Sunny.")
    if kept:
        again = await respond(scene, streaming, results, tools=[FUNCTION], previous_response_id=response.id)
    else:
        items = [item.model_dump(exclude_none=True) for item in response.output]
        for item in items:
            item.pop("parsed_arguments", None)
        again = await respond(scene, streaming, [*asked, *items, *results], tools=[FUNCTION])

    assert again.output_text == "Sunny."
    assert scene.sent["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Hm.", "thought": True},
                {
                    "functionCall": {"name": "weather", "args": {"city": "Bonn"}, "id": "n1"},
                    "thoughtSignature": SIGNATURE,
                },
                {"functionCall": {"name": "weather", "args": {"city": "Rom"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"output": "sun"}, "id": "n1"}},
                {"functionResponse": {"name": "weather", "response": {"output": "sun"}}},
            ],
        },
    ]


@both_ways
async def test_responses_image_and_json_schema(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, '{"city":', '"Bonn"}')
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"}
    wanted = {"format": {"type": "json_schema", "name": "place", "schema": WEATHER, "strict": True}}

    response = await respond(scene, streaming, [{"role": "user", "content": [image]}], text=wanted)

    assert json.loads(response.output_text) == {"city": "Bonn"}
    assert scene.sent["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": WEATHER,
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
    }


@both_ways
async def test_responses_reasoning_and_cached_usage(scene: Stage, streaming: bool) -> None:
    says(scene, streaming, text("Hm.", thought=True), "Yes.", prompt=1000, cached=800, thoughts=20)

    response = await respond(scene, streaming, reasoning={"effort": "high", "summary": "auto"})

    assert response.output_text == "Yes."
    assert response.output[0].summary[0].text == "Hm."
    assert response.usage.input_tokens_details.cached_tokens == 800
    assert response.usage.output_tokens == 23
    assert response.usage.output_tokens_details.reasoning_tokens == 20
    assert scene.sent["generationConfig"] == {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}}


@both_ways
@pytest.mark.parametrize(("finish", "reason"), [("MAX_TOKENS", "max_output_tokens"), ("SAFETY", "content_filter")])
async def test_responses_that_end_early_are_incomplete(scene: Stage, streaming: bool, finish: str, reason: str) -> None:
    says(scene, streaming, "Some", finish=finish)

    response = await respond(scene, streaming, max_output_tokens=16)

    assert response.status == "incomplete"
    assert response.incomplete_details.reason == reason


@both_ways
async def test_responses_a_blocked_prompt_is_a_400(scene: Stage, streaming: bool) -> None:
    scene.upstream.script(stream(blocked()) if streaming else whole_reply(blocked()))

    with pytest.raises(openai.BadRequestError):
        await respond(scene, streaming)


async def test_d4_signatures_amid_the_text_keep_the_grammar_of_events(scene: Stage) -> None:
    thought, said = text("Hm.", thought=True, signature="r="), text("Hel", signature="t=")
    says(scene, True, thought, said, "lo", call("weather", {}, signature="c="))

    raw = await scene.client.responses.with_raw_response.create(model=FLASH, input="Hi", tools=[FUNCTION], stream=True)
    await raw.http_response.aread()
    lines = raw.http_response.text.splitlines()

    check_events([json.loads(line[6:]) for line in lines if line.startswith("data: {")])
