"""Each stand-in before its vendor's own SDK, without a gateway between: what it plays is what the SDK understands.

The replies are those of the cross-dialect table, so that what holds there of a stand-in holds of the vendor.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any, get_args

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from tests.dialects.asked import ASKED, SAID, Feature
from tests.dialects.heard import ENDS
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.dialects import REPLIES, Counted, DialectName, Said
from tests.fakes.gemini_upstream import KEY, GeminiUpstream
from tests.fakes.openai_upstream import Upstream
from tests.fakes.surfaces import Chat, Messages, Responses, Surface, SurfaceName

SPOKEN: dict[DialectName, SurfaceName] = {"openai": "chat", "openai_responses": "responses", "anthropic": "messages"}
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture
async def upstream(dialect: DialectName) -> AsyncGenerator[Upstream | AnthropicUpstream, None]:
    async with AnthropicUpstream() if dialect == "anthropic" else Upstream() as server:
        yield server


@pytest.fixture
async def face(dialect: DialectName, upstream: Upstream | AnthropicUpstream) -> AsyncGenerator[Surface, None]:
    if isinstance(upstream, AnthropicUpstream):
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=upstream.origin, max_retries=0) as native:
            yield Messages(native)
        return
    async with openai.AsyncOpenAI(api_key=KEY, base_url=upstream.base_url, max_retries=0) as client:
        yield Chat(client) if dialect == "openai" else Responses(client)


def cells() -> Iterator[Any]:
    for dialect in SPOKEN:
        for feature in get_args(Feature):
            if (dialect, feature) != ("openai_responses", "stop"):
                yield pytest.param(dialect, feature, id=f"{dialect}-{feature}")


@both_ways
@pytest.mark.parametrize(("dialect", "feature"), list(cells()))
async def test_the_openai_and_anthropic_sdks_hear_what_was_said(
    upstream: Upstream | AnthropicUpstream, face: Surface, dialect: DialectName, feature: Feature, stream: bool
) -> None:
    spoken, said = SPOKEN[dialect], SAID[feature]
    upstream.script(REPLIES[dialect](said, stream=stream))

    heard = await face.ask("model-1", ASKED[spoken][feature], stream=stream)

    assert (heard.text, heard.thought, heard.calls) == (said.text, said.thought, said.calls)
    assert heard.counted == said.counted
    if said.end != "stop_sequence":
        assert heard.refusal == (said.refusal if dialect != "anthropic" else "")
        assert heard.end == (ENDS[spoken][said.end] if said.end != "refusal" else OWN_REFUSALS[dialect])
    assert upstream.requests[-1].json.get("stream", False) is stream


OWN_REFUSALS = {"openai": "stop", "openai_responses": "completed", "anthropic": "refusal"}
"""Anthropic explains a refusal beside the content, OpenAI refuses in words."""


@both_ways
@pytest.mark.parametrize("dialect", ["openai", "openai_responses", "anthropic"])
async def test_a_tool_and_its_result(
    upstream: Upstream | AnthropicUpstream, face: Surface, dialect: DialectName, stream: bool
) -> None:
    said, asked = SAID["parallel_tools"], ASKED[SPOKEN[dialect]]["parallel_tools"]
    upstream.script(REPLIES[dialect](said, stream=stream), REPLIES[dialect](SAID["text"], stream=stream))

    first = await face.ask("model-1", asked, stream=stream)
    results = face.results(first.calls, ["Rain."] * len(first.calls))
    again = await face.ask("model-1", {**asked, face.turns: [*asked[face.turns], *first.turn, *results]}, stream=stream)

    assert again.text == SAID["text"].text


GEMINI_ENDS = {"length": "MAX_TOKENS", "refusal": "SAFETY"}


@both_ways
@pytest.mark.parametrize("feature", get_args(Feature))
async def test_the_google_sdk_hears_what_was_said(feature: Feature, stream: bool) -> None:
    said = SAID[feature]
    async with GeminiUpstream() as upstream, httpx.AsyncClient(trust_env=False) as http:
        upstream.script(REPLIES["gemini"](said, stream=stream))
        options = types.HttpOptions(base_url=upstream.origin, api_version="v1beta", httpx_async_client=http)
        models = genai.Client(api_key=KEY, http_options=options).aio.models
        asked: dict[str, Any] = {"model": "gemini-3-flash-preview", "contents": "Hi"}
        if stream:
            chunks = [chunk async for chunk in await models.generate_content_stream(**asked)]
        else:
            chunks = [await models.generate_content(**asked)]

    candidates = [candidate for chunk in chunks for candidate in chunk.candidates or ()]
    parts = [part for candidate in candidates for part in (candidate.content and candidate.content.parts) or ()]
    assert "".join(part.text or "" for part in parts if not part.thought) == said.text
    assert "".join(part.text or "" for part in parts if part.thought) == said.thought
    called = [part.function_call for part in parts if part.function_call]
    assert [(call.name, call.args) for call in called] == [(call.name, call.arguments) for call in said.calls]
    assert candidates[-1].finish_reason == GEMINI_ENDS.get(said.end, "STOP")
    assert counted(chunks[-1].usage_metadata, said) == said.counted


def counted(usage: Any, said: Said) -> Counted:
    thoughts = usage.thoughts_token_count or 0
    assert usage.total_token_count == said.counted.input + said.counted.output
    return Counted(
        usage.prompt_token_count,
        usage.candidates_token_count + thoughts,
        usage.cached_content_token_count or 0,
        thoughts,
    )


async def test_the_openai_stand_in_refuses_what_openai_refuses() -> None:
    async with (
        Upstream() as upstream,
        openai.AsyncOpenAI(api_key=KEY, base_url=upstream.base_url, max_retries=0) as client,
    ):
        reasoning: Any = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
        with pytest.raises(openai.BadRequestError, match="array too long"):
            await client.responses.create(model="test-1", input=[reasoning])
        assert json.loads(upstream.requests[-1].body)["input"] == [reasoning]
