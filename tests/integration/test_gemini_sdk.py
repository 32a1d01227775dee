"""The stand-in for the Gemini API before Google's own SDK: what it plays is what the SDK understands, and what the
gateway sends is what the SDK would.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from google import genai
from google.genai import errors, types

from server.domain.request import (
    FunctionTool,
    GenerationRequest,
    Image,
    OutputFormat,
    Reasoning,
    ReasoningOptions,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from server.providers.gemini_encode import encode
from server.providers.gemini_seals import Seal
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.gemini_wire import (
    BAD_KEY,
    RESPONSE_ID,
    SIGNATURE,
    blocked,
    call,
    candidate,
    events,
    exhausted,
    frame,
    refused,
    reply,
    text,
    unary,
    usage,
    whole_reply,
)
from tests.unit.gemini_cases import NEW, offer
from tests.unit.openai_cases import ask, turn

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}


@pytest.fixture
async def upstream() -> AsyncGenerator[GeminiUpstream, None]:
    async with GeminiUpstream() as server:
        yield server


@asynccontextmanager
async def sdk(upstream: GeminiUpstream, key: str = KEY) -> AsyncIterator[genai.client.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        options = types.HttpOptions(base_url=upstream.origin, api_version="v1beta", httpx_async_client=client)
        yield genai.Client(api_key=key, http_options=options).aio


async def whole(upstream: GeminiUpstream, **fields: Any) -> types.GenerateContentResponse:
    async with sdk(upstream) as client:
        return await client.models.generate_content(model=NEW, **({"contents": "Hi"} | fields))


async def chunks(upstream: GeminiUpstream) -> list[types.GenerateContentResponse]:
    async with sdk(upstream) as client:
        return [chunk async for chunk in await client.models.generate_content_stream(model=NEW, contents="Hi")]


async def test_a_whole_answer(upstream: GeminiUpstream) -> None:
    answer = await whole(upstream)

    assert (answer.text, answer.response_id) == ("Hello there!", RESPONSE_ID)
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata.prompt_token_count, answer.usage_metadata.total_token_count) == (9, 12)
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    assert upstream.requests[0].path == f"/v1beta/models/{NEW}:generateContent"


async def test_a_stream(upstream: GeminiUpstream) -> None:
    found = await chunks(upstream)

    assert [chunk.text for chunk in found] == ["Hello", " there!"]
    assert found[-1].candidates is not None
    assert found[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert upstream.requests[0].path == f"/v1beta/models/{NEW}:streamGenerateContent?alt=sse"


async def test_calls_thoughts_and_signatures(upstream: GeminiUpstream) -> None:
    parts = (text("Hm.", thought=True), call("f", {"x": 1}, id="n1", signature=SIGNATURE), call("g"))
    counted = usage(9, 3, thoughts=7, cached=4, audio_in=2)
    upstream.script(unary(*parts, counted=counted))

    answer = await whole(upstream)

    assert answer.candidates is not None
    assert answer.candidates[0].content is not None
    assert answer.candidates[0].content.parts is not None
    thought, first, second = answer.candidates[0].content.parts
    assert (thought.text, thought.thought) == ("Hm.", True)
    assert first.function_call == types.FunctionCall(id="n1", name="f", args={"x": 1})
    assert first.thought_signature == base64.b64decode(SIGNATURE)
    assert second.function_call == types.FunctionCall(name="g")
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata.thoughts_token_count, answer.usage_metadata.cached_content_token_count) == (7, 4)


async def test_a_blocked_prompt(upstream: GeminiUpstream) -> None:
    upstream.script(whole_reply(blocked("PROHIBITED_CONTENT")))

    answer = await whole(upstream)

    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT
    assert not answer.candidates


@pytest.mark.parametrize(("body", "code", "word"), [
    (BAD_KEY, 400, "INVALID_ARGUMENT"), (exhausted(), 429, "RESOURCE_EXHAUSTED"), ([exhausted()], 429, None),
])  # fmt: skip
async def test_errors(upstream: GeminiUpstream, body: Any, code: int, word: str | None) -> None:
    upstream.script(refused(body))

    with pytest.raises(errors.ClientError) as raised:
        await whole(upstream)
    assert raised.value.code == code
    assert word in (None, raised.value.status)


@pytest.mark.parametrize("error", [
    frame(exhausted()), json.dumps(exhausted(), indent=2).encode() + b"\r\n\r\n",
], ids=["data", "bare"])  # fmt: skip
async def test_an_error_in_mid_stream_is_raised_in_either_writing(upstream: GeminiUpstream, error: bytes) -> None:
    upstream.script(events([frame(reply(candidate("a", finish=None))), error], every_s=0.02))

    with pytest.raises((errors.ClientError, errors.UnknownApiResponseError)):
        await chunks(upstream)


async def test_what_google_refuses_is_refused(upstream: GeminiUpstream) -> None:
    with pytest.raises(errors.ClientError) as raised:
        async with sdk(upstream, "AIzaSyWrong") as client:
            await client.models.generate_content(model=NEW, contents="Hi")
    assert raised.value.details == BAD_KEY


# The same request from the SDK and from the gateway.


async def sent_by_sdk(upstream: GeminiUpstream, contents: Any, **config: Any) -> Any:
    await whole(upstream, contents=contents, config=types.GenerateContentConfig(**config))
    body = {name: value for name, value in upstream.requests[0].json.items() if value != {}}
    return camel(body)


def camel(value: Any) -> Any:
    """The SDK writes some names in snake case, which protobuf reads as well."""
    if isinstance(value, dict):
        return {re.sub(r"_(\w)", lambda found: found[1].upper(), key): camel(inner) for key, inner in value.items()}
    return [camel(inner) for inner in value] if isinstance(value, list) else value


def sent_by_gateway(request: GenerationRequest) -> Any:
    return json.loads(encode(offer(), request))


async def test_sampling_formats_and_thinking_are_spelled_as_the_sdk_spells_them(upstream: GeminiUpstream) -> None:
    theirs = await sent_by_sdk(
        upstream,
        "Hi",
        system_instruction=["Be brief."],
        temperature=0.5, top_p=0.5, frequency_penalty=0.25, presence_penalty=-0.5, seed=7, stop_sequences=["END"],
        max_output_tokens=99, candidate_count=1, response_logprobs=True, logprobs=3,
        response_mime_type="application/json", response_json_schema=SCHEMA,
        thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW, include_thoughts=True),
    )  # fmt: skip
    sampling = Sampling(
        temperature=0.5, top_p=0.5, frequency_penalty=0.25, presence_penalty=-0.5, seed=7, stop=("END",),
        max_output_tokens=99, n=1, logprobs=True, top_logprobs=3,
    )  # fmt: skip
    ours = sent_by_gateway(
        ask(
            turn(Role.SYSTEM, "Be brief."),
            turn(Role.USER, "Hi"),
            sampling=sampling,
            output_format=OutputFormat("json_schema", name="a", schema=msgspec.Raw(msgspec.json.encode(SCHEMA))),
            reasoning=ReasoningOptions(effort="low"),
        )
    )
    theirs["systemInstruction"].pop("role", None)
    assert ours == theirs


async def test_tools_calls_results_and_images_are_spelled_as_the_sdk_spells_them(upstream: GeminiUpstream) -> None:
    function = types.FunctionDeclaration(name="f", description="Does f.", parameters_json_schema=SCHEMA)
    made = types.Part(
        function_call=types.FunctionCall(id="n1", name="f", args={"x": 1}),
        thought_signature=base64.b64decode(SIGNATURE),
    )
    shown = types.Part.from_bytes(data=PNG, mime_type="image/png")
    returned = types.FunctionResponse(id="n1", name="f", response={"output": "done"})
    theirs = await sent_by_sdk(
        upstream,
        [
            types.Content(role="user", parts=[types.Part(text="?"), shown]),
            types.Content(role="model", parts=[types.Part(text="Hm.", thought=True), made]),
            types.Content(role="user", parts=[types.Part(function_response=returned)]),
        ],
        tools=[types.Tool(function_declarations=[function])],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(
                mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["f"]
            )
        ),
    )  # fmt: skip
    image = Image(data=base64.b64encode(PNG).decode(), media_type="image/png")
    thought = Reasoning("Hm.", signature=str(Seal("c", 0, 0, SIGNATURE)))
    ours = sent_by_gateway(
        ask(
            Turn(Role.USER, (Text("?"), image)),
            Turn(Role.ASSISTANT, (thought, ToolCall("gemini_n1", "f", '{"x": 1}'))),
            Turn(Role.TOOL, (ToolResult("gemini_n1", (Text("done"),)),)),
            tools=(FunctionTool("f", "Does f.", msgspec.Raw(msgspec.json.encode(SCHEMA))),),
            tool_choice=ToolChoice("named", name="f"),
        )
    )
    assert ours == theirs
