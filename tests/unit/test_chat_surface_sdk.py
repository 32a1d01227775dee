"""OpenAI's own SDK on our bytes: it reads what we say, and raises what we mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from rest_bridge.http import Body, RestRequest
from server.domain.errors import GatewayError, Reason
from server.domain.events import (
    FinishReason,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from tests.fakes.rest import ARRIVAL, KEY, ScriptedGenerate, Step, chat_app, pieces_of, text_events, whole

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


class InProcess(httpx2.AsyncBaseTransport):
    """Carries the SDK's requests to the core of the bridge, and its responses back piece by piece."""

    def __init__(self, generate: ScriptedGenerate, ping_interval_s: float) -> None:
        self.app = chat_app(generate, ping_interval_s=ping_interval_s)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        rest = RestRequest(request.method, request.url.path, headers, pieces_of(await request.aread()), ARRIVAL)
        response = await self.app(rest)
        return httpx2.Response(response.status, headers=list(response.headers), content=pieces(response.body))


async def pieces(body: Body) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    async with aclosing(body) as read:
        async for piece in read:
            yield piece


def client(*steps: Step, key: str = KEY, ping_interval_s: float = 15.0) -> openai.AsyncOpenAI:
    transport = InProcess(ScriptedGenerate(*steps), ping_interval_s)
    return openai.AsyncOpenAI(
        api_key=key.removeprefix("Bearer "),
        base_url="http://gateway/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    )


async def complete(sdk: openai.AsyncOpenAI, **more: Any) -> ChatCompletion:
    completion: ChatCompletion = await sdk.chat.completions.create(model="acme/test-1", messages=MESSAGES, **more)
    return completion


async def stream(sdk: openai.AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    chunks = await sdk.chat.completions.create(model="acme/test-1", messages=MESSAGES, stream=True, **more)
    return [chunk async for chunk in chunks]


async def test_an_object() -> None:
    completion = await complete(client(*whole(*text_events("Hel", "lo"))))
    assert completion.choices[0].message.content == "Hello"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 12


async def test_chunks_with_pings_between_them() -> None:
    batches = whole(*text_events("Hel", "lo"))
    sdk = client(*batches[:3], 0.17, *batches[3:], ping_interval_s=0.05)
    chunks = await stream(sdk, stream_options={"include_usage": True})
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "Hello"
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []


async def test_the_sdk_rebuilds_parallel_tool_calls() -> None:
    events = [
        PartStarted(0, 0, PartKind.REASONING),
        ReasoningDelta(0, 0, "Hm"),
        PartEnded(0, 0),
        PartStarted(0, 1, PartKind.TOOL_CALL, "call_a", "look_up"),
        PartStarted(0, 2, PartKind.TOOL_CALL, "call_b", "add"),
        ToolCallDelta(0, 2, '{"x":'),
        ToolCallDelta(0, 1, '{"q":"a"}'),
        ToolCallDelta(0, 2, "1}"),
        *text_events(reason=FinishReason.TOOL_CALLS)[-1:],
    ]
    async with client(*whole(*events)).chat.completions.stream(model="acme/test-1", messages=MESSAGES) as told:
        completion = await told.get_final_completion()
    calls = completion.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_a", "look_up", '{"q":"a"}'),
        ("call_b", "add", '{"x":1}'),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"


class Answer(BaseModel):
    text: str
    score: int


async def test_structured_output_is_parsed() -> None:
    generate = whole(*text_events('{"text": "yes", ', '"score": 5}'))
    parsed = await client(*generate).chat.completions.parse(
        model="acme/test-1", messages=MESSAGES, response_format=Answer
    )
    assert parsed.choices[0].message.parsed == Answer(text="yes", score=5)


@pytest.mark.parametrize(
    ("reason", "kind", "status"),
    [
        (Reason.UNSUPPORTED_PARAMETER, openai.BadRequestError, 400),
        (Reason.MISSING_SCOPE, openai.PermissionDeniedError, 403),
        (Reason.INSUFFICIENT_FUNDS, openai.APIStatusError, 402),
        (Reason.UNKNOWN_MODEL, openai.NotFoundError, 404),
        (Reason.IDEMPOTENCY_KEY_REUSED, openai.ConflictError, 409),
        (Reason.UPSTREAM_RATE_LIMITED, openai.RateLimitError, 429),
        (Reason.ALL_CANDIDATES_FAILED, openai.InternalServerError, 502),
        (Reason.OVERLOADED, openai.InternalServerError, 503),
        (Reason.UPSTREAM_TIMEOUT, openai.InternalServerError, 504),
    ],
)
@pytest.mark.parametrize("call", [complete, stream])
async def test_an_error_is_of_the_class_that_its_status_says(
    call: Any, reason: Reason, kind: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(kind) as caught:
        await call(client(GatewayError(reason, "What happened.")))
    assert caught.value.status_code == status
    assert caught.value.response.json()["description"] == "What happened."
    assert caught.value.request_id == ARRIVAL.request_id


async def test_a_wrong_key_is_an_authentication_error() -> None:
    with pytest.raises(openai.AuthenticationError):
        await complete(client(*whole(*text_events("a")), key="Bearer wrong"))


async def test_a_failure_in_mid_stream_is_raised_with_our_description() -> None:
    batches: list[Step] = [*whole(*text_events("a", "b", "c"))[:5]]
    assert batches[-1] == [TextDelta(0, 0, "c")]
    failed = GatewayError(Reason.STREAM_INTERRUPTED, "The provider broke off.", param="messages")
    chunks = await client(*batches, failed).chat.completions.create(model="acme/test-1", messages=MESSAGES, stream=True)
    seen = [(await anext(chunks)).choices[0].delta.content for _ in range(4)]
    assert seen == ["", "a", "b", "c"]
    with pytest.raises(openai.APIError) as caught:
        await anext(chunks)
    assert caught.value.message == "The provider broke off."
    told = (caught.value.type, caught.value.code, caught.value.param)
    assert told == ("provider_error", "stream_interrupted", "messages")
