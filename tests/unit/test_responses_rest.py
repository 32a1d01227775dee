"""The Responses surface over REST, from a client's bytes to a client's bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall

from server.domain.errors import AttemptFailure, FailureCategory, GatewayError, Reason, UpstreamError
from server.domain.events import (
    ChoiceEnded,
    FinishReason,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.domain.request import Opaque, Reasoning, Role, Text, ToolCall, ToolResult, Turn
from tests.fakes.response_grammar import check_events
from tests.fakes.responses_rest import ScriptedHost
from tests.fakes.rest import PRICING_JSON, STARTED, ScriptedGenerate, text_events, whole

FIRST, SECOND = f"{1:032x}", f"{2:032x}"
BROKEN = GatewayError(
    Reason.STREAM_INTERRUPTED,
    "The provider broke off in the middle of its answer.",
    failures=(AttemptFailure("acme", FailureCategory.SERVER_ERROR, 0, UpstreamError("boom", "The GPU is on fire.")),),
)
TOOL_EVENTS = (
    PartStarted(0, 0, PartKind.TOOL_CALL, "call_1", "weather"),
    ToolCallDelta(0, 0, '{"city":'),
    PartStarted(0, 1, PartKind.TOOL_CALL, "call_2", "time"),
    ToolCallDelta(0, 1, "{}"),
    ToolCallDelta(0, 0, '"Oslo"}'),
    PartEnded(0, 0),
    PartEnded(0, 1),
    ChoiceEnded(0, FinishReason.TOOL_CALLS, "tool_calls"),
)


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost(ScriptedGenerate(*whole(*text_events("quickstart ", "works"))))


@pytest.fixture
async def client(host: ScriptedHost) -> AsyncIterator[httpx.AsyncClient]:
    async with host.client() as client:
        yield client


@pytest.fixture
async def sdk(host: ScriptedHost) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        host.client() as carrier,
        openai.AsyncOpenAI(
            api_key="key-of-team-1", base_url="http://gateway.test/v1", http_client=carrier, max_retries=0
        ) as sdk,
    ):
        yield sdk


async def post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/responses", json={"model": "acme/test-1:free", "input": "Hi", **fields})


async def stream(client: httpx.AsyncClient, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """The decoded events, and the text as it was sent."""
    reply = await post(client, stream=True, **fields)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream"
    frames = [frame for frame in reply.text.split("\n\n") if frame and not frame.startswith(":")]
    events = []
    for frame in frames:
        if frame != "data: [DONE]":
            name, data = frame.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events, reply.text


async def test_the_documented_shape(client: httpx.AsyncClient) -> None:
    reply = await post(client, input="Reply with: quickstart works", temperature=0)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    body = reply.json()
    assert list(body)[:10] == [
        "id", "object", "created_at", "status", "completed_at", "model", "output", "usage", "error",
        "incomplete_details",
    ]  # fmt: skip
    assert {name: body[name] for name in list(body)[:10]} == {
        "id": f"resp_{FIRST}",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed",
        "completed_at": 1_790_000_002,
        "model": "acme/test-1:free",
        "output": [
            {
                "type": "message",
                "id": f"msg_{FIRST}",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "quickstart works", "annotations": []}],
            }
        ],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
            "pricing": PRICING_JSON,
        },
        "error": None,
        "incomplete_details": None,
    }
    assert "meta" not in body
    assert {
        "instructions", "metadata", "temperature", "top_p", "max_output_tokens", "parallel_tool_calls", "reasoning",
        "previous_response_id", "text", "tool_choice", "tools", "top_logprobs", "truncation", "service_tier", "store",
        "background", "user",
    } <= body.keys()  # fmt: skip
    assert (body["temperature"], body["instructions"], body["tools"]) == (0, None, [])
    assert (body["text"], body["truncation"]) == ({"format": {"type": "text"}}, "disabled")
    assert reply.headers["x-generation-id"] == f"gen_{FIRST}"


async def test_the_request_is_repeated_byte_for_byte(client: httpx.AsyncClient) -> None:
    schema = b'{"type": "object", "properties": {"z": {"maximum": 1.0}, "a": {}}}'
    sent = (
        b'{"model": "m", "input": "x", "instructions": "Be brief.", "metadata": {"k": "v"}, "user": "u", '
        b'"tools": [{"type": "function", "name": "f", "strict": true, "parameters": ' + schema + b"}]}"
    )
    reply = await client.post("/responses", content=sent, headers={"content-type": "application/json"})
    assert schema in reply.content
    body = reply.json()
    assert (body["instructions"], body["metadata"], body["user"]) == ("Be brief.", {"k": "v"}, "u")
    assert body["tools"][0]["strict"] is True


async def test_meta_where_it_is_asked_for(client: httpx.AsyncClient) -> None:
    meta = (await post(client, meta=True)).json()["meta"]
    assert (meta["provider"], meta["attempts"], meta["native_response_id"]) == ("acme", 1, "native-1")
    assert meta["routing"] == [{"provider": "acme", "outcome": "chosen", "score": 1.0, "breaker": "closed"}]
    kept = (await client.get(f"/responses/resp_{FIRST}")).json()
    assert kept["meta"] == meta


async def test_a_stream_keeps_to_the_grammar_and_ends_like_the_whole(client: httpx.AsyncClient) -> None:
    events, text = await stream(client)
    terminal = check_events(events)
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert text.startswith('event: response.created\ndata: {"type":"response.created","sequence_number":0,')
    assert "\nid:" not in text
    assert "retry:" not in text
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert deltas[0] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": f"msg_{FIRST}",
        "output_index": 0,
        "content_index": 0,
        "delta": "quickstart ",
        "logprobs": [],
    }
    unary = (await post(client)).json()
    replaced = json.loads(json.dumps(terminal["response"]).replace(FIRST, SECOND))
    assert replaced == unary


async def test_a_pretty_printed_schema_cannot_break_an_event(client: httpx.AsyncClient) -> None:
    body = {
        "model": "m",
        "input": "x",
        "stream": True,
        "tools": [{"type": "function", "name": "f", "parameters": {"z": 1, "a": "é\n"}}],
    }
    reply = await client.post(
        "/responses",
        content=json.dumps(body, indent=2).replace("\n", "\r\n"),
        headers={"content-type": "application/json"},
    )
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    check_events(events)
    assert events[0]["response"]["tools"][0]["parameters"] == {"z": 1, "a": "é\n"}


async def test_parallel_calls_reasoning_and_built_in_items_stream(
    host: ScriptedHost, client: httpx.AsyncClient
) -> None:
    search = msgspec.Raw(b'{"type":"web_search_call","id":"ws_1","status":"completed"}')
    thoughts = (
        PartStarted(0, 7, PartKind.REASONING_SUMMARY),
        ReasoningDelta(0, 7, "Hm."),
        ReasoningDelta(0, 7, "", "seal=="),
        PartEnded(0, 7),
    )
    host.says(*whole(OpaqueItem(search), *thoughts, *TOOL_EVENTS))
    events, _ = await stream(client)
    output = check_events(events)["response"]["output"]
    assert [item["type"] for item in output] == ["web_search_call", "reasoning", "function_call", "function_call"]
    assert output[1]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert output[1]["encrypted_content"] == "seal=="
    assert output[2] == {
        "type": "function_call",
        "id": f"fc_{FIRST}_2",
        "status": "completed",
        "call_id": "call_1",
        "name": "weather",
        "arguments": '{"city":"Oslo"}',
    }


async def test_logprobs_are_shown_where_they_are_asked_for(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    token = {"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}
    said = TextDelta(0, 0, "a", msgspec.Raw(json.dumps([token]).encode()))
    host.says(*whole(PartStarted(0, 0, PartKind.TEXT), said, PartEnded(0, 0), ChoiceEnded(0, FinishReason.STOP)))
    asked = (await post(client, include=["message.output_text.logprobs"])).json()
    assert asked["output"][0]["content"][0]["logprobs"] == [token]
    events, _ = await stream(client, include=["message.output_text.logprobs"])
    assert [event["logprobs"] for event in events if "logprobs" in event] == [[token], [token]]
    unasked = (await post(client)).json()
    assert "logprobs" not in unasked["output"][0]["content"][0]


async def test_the_limit_makes_an_incomplete_response(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    host.says(*whole(*text_events("Hel", reason=FinishReason.LENGTH)))
    body = (await post(client)).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (body["completed_at"], body["output"][0]["status"]) == (None, "incomplete")
    events, text = await stream(client)
    terminal = check_events(events)
    assert terminal["type"] == "response.incomplete"
    assert terminal["response"]["usage"]["total_tokens"] == 12
    assert terminal["response"]["usage"]["pricing"] == PRICING_JSON
    assert text.endswith("data: [DONE]\n\n")


async def test_a_failure_before_the_first_event_is_a_plain_error(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    host.says(GatewayError(Reason.UNKNOWN_MODEL, "There is no model acme/nope.", param="model"))
    for streamed in (False, True):
        reply = await post(client, stream=streamed)
        assert (reply.status_code, reply.headers["content-type"]) == (404, "application/json")
        assert (reply.json()["error"], reply.json()["param"]) == ("not_found_error", "model")


async def test_a_failure_in_mid_stream_is_told_and_nothing_is_kept(
    host: ScriptedHost, client: httpx.AsyncClient
) -> None:
    host.says([STARTED, PartStarted(0, 0, PartKind.TEXT)], [TextDelta(0, 0, "Hel")], BROKEN)
    events, text = await stream(client)
    terminal = check_events(events)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert "[DONE]" not in text
    error = events[-2]
    assert (error["code"], error["message"], error["param"]) == ("stream_interrupted", BROKEN.description, None)
    assert error["error"]["message"] == BROKEN.description
    assert error["error"]["upstream_error"] == {"code": "boom", "message": "The GPU is on fire.", "param": None}
    assert error["error"]["generation_id"] == f"gen_{FIRST}"
    assert terminal["response"]["error"] == {
        "code": "provider_error", "message": BROKEN.description, "param": None,
    }  # fmt: skip
    assert host.store.kept == {}
    assert host.generate.closed == 1


async def test_a_bug_in_mid_stream_tells_nothing_of_itself(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    host.says([STARTED], RuntimeError("secret of /etc"))
    events, text = await stream(client)
    assert check_events(events)["type"] == "response.failed"
    assert "secret" not in text
    assert events[-2]["error"]["error"] == "server_error"


async def test_a_response_that_cannot_be_kept_is_told_all_the_same(
    host: ScriptedHost, client: httpx.AsyncClient
) -> None:
    """It is paid for by then; and it says itself that it cannot be read back."""
    host.store.fails_with = GatewayError(Reason.DATABASE_UNAVAILABLE, "The database cannot be reached.")
    events, _ = await stream(client)
    last = check_events(events)
    assert (last["type"], last["response"]["store"]) == ("response.completed", False)
    reply = await post(client)
    assert (reply.status_code, reply.json()["status"], reply.json()["store"]) == (200, "completed", False)
    assert reply.json()["output"][0]["content"][0]["text"] == "quickstart works"
    assert (await client.get(f"/responses/{reply.json()['id']}")).status_code == 404


async def test_pings_fill_the_silence(client: httpx.AsyncClient) -> None:
    quiet = ScriptedHost(ScriptedGenerate([STARTED], 0.12, *whole(*text_events("x"))[1:]), ping_interval_s=0.03)
    async with quiet.client() as patient:
        events, text = await stream(patient)
    assert text.count(": ping\n\n") >= 2
    check_events(events)


async def test_leaving_closes_the_generation(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    host.says([STARTED, PartStarted(0, 0, PartKind.TEXT)], 30.0)
    body = {"model": "m", "input": "x", "stream": True}
    async with client.stream("POST", "/responses", json=body) as reply:
        assert (await anext(reply.aiter_lines())) == "event: response.created"
        assert host.generate.closed == 0
    assert host.generate.closed == 1
    assert host.store.kept == {}


async def test_a_response_can_be_read_back_and_deleted(client: httpx.AsyncClient) -> None:
    made = await post(client)
    for spelling in (f"resp_{FIRST}", FIRST, f"resp_{FIRST}"):
        read = await client.get(f"/responses/{spelling}")
        assert (read.status_code, read.content) == (200, made.content)
    gone = await client.delete(f"/responses/{FIRST}")
    assert gone.json() == {"id": f"resp_{FIRST}", "object": "response", "deleted": True}
    assert (await client.get(f"/responses/resp_{FIRST}")).status_code == 404
    assert (await client.delete(f"/responses/resp_{FIRST}")).status_code == 404


async def test_a_stream_is_kept_before_its_last_event(client: httpx.AsyncClient) -> None:
    events, _ = await stream(client)
    assert (await client.get(f"/responses/resp_{FIRST}")).json() == events[-1]["response"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_store_false_keeps_nothing(host: ScriptedHost, client: httpx.AsyncClient, streamed: bool) -> None:
    reply = await post(client, store=False, stream=streamed)
    assert reply.status_code == 200
    assert host.store.kept == {}
    assert (await client.get(f"/responses/resp_{FIRST}")).status_code == 404


async def test_another_teams_response_does_not_exist(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    await post(client)
    spellings = (
        f"resp_{FIRST}", FIRST, f"gen_{FIRST}", f"msg_{FIRST}", f"resp_resp_{FIRST}", "native-1", f"resp_{FIRST}%00",
        f"resp_{FIRST.upper()}x", "resp_", "..%2f..",
    )  # fmt: skip
    async with host.client(team=2) as other:
        never = (await other.get(f"/responses/resp_{'f' * 32}")).json()
        bodies = [
            (reply.status_code, {**reply.json(), "generation_id": ""})
            for spelling in spellings
            for reply in (await other.get(f"/responses/{spelling}"), await other.delete(f"/responses/{spelling}"))
        ]
        assert bodies == [(404, {**never, "generation_id": ""})] * len(bodies)
        for spelling in spellings:
            reply = await post(other, previous_response_id=spelling)
            assert (reply.status_code, reply.json()["param"]) == (404, "previous_response_id")
            assert FIRST not in reply.json()["description"]
    assert len(host.generate.requests) == 1
    assert (await client.get(f"/responses/resp_{FIRST}")).status_code == 200


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("stream=true", 400, "stream"),
        ("stream=maybe", 400, "stream"),
        ("stream=false", 200, None),
        ("include=message.output_text.logprobs", 200, None),
        ("starting_after=3", 400, "starting_after"),
    ],
)
async def test_query_parameters_of_reading_back(
    client: httpx.AsyncClient, query: str, status: int, param: str | None
) -> None:
    await post(client)
    reply = await client.get(f"/responses/resp_{FIRST}?{query}")
    assert (reply.status_code, reply.json().get("param")) == (status, param)


async def test_a_conversation_goes_on_without_its_instructions(host: ScriptedHost, client: httpx.AsyncClient) -> None:
    await post(client, input="One?", instructions="Speak French.")
    second = await post(client, input="Two?", previous_response_id=f"resp_{FIRST}", instructions="Speak Danish.")
    assert second.json()["previous_response_id"] == f"resp_{FIRST}"
    await post(client, input="Three?", previous_response_id=SECOND)
    answer = Turn(Role.ASSISTANT, (Text("quickstart works"),))
    one, two, three = (Turn(Role.USER, (Text(text),)) for text in ("One?", "Two?", "Three?"))
    assert [request.turns for request in host.generate.requests] == [
        (Turn(Role.SYSTEM, (Text("Speak French."),)), one),
        (Turn(Role.SYSTEM, (Text("Speak Danish."),)), one, answer, two),
        (one, answer, two, answer, three),
    ]


async def test_a_conversation_goes_on_after_tool_calls_and_reasoning(
    host: ScriptedHost, client: httpx.AsyncClient
) -> None:
    search = msgspec.Raw(b'{"type":"web_search_call","id":"ws_1","status":"completed"}')
    thoughts = (
        PartStarted(0, 7, PartKind.REASONING),
        ReasoningDelta(0, 7, "Hm."),
        ReasoningDelta(0, 7, "", "seal=="),
        PartEnded(0, 7),
    )
    host.says(*whole(*thoughts, OpaqueItem(search), *TOOL_EVENTS))
    await post(client, input="Weather?")
    host.says(*whole(*text_events("Sunny.")))
    results = [
        {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
        {"type": "function_call_output", "call_id": "call_2", "output": "noon"},
    ]
    reply = await post(client, input=results, previous_response_id=f"resp_{FIRST}")
    assert reply.status_code == 200
    assert host.generate.requests[1].turns == (
        Turn(Role.USER, (Text("Weather?"),)),
        Turn(Role.ASSISTANT, (Reasoning("Hm.", signature="seal==", item_id=f"rs_{FIRST}_0"),)),
        Turn(Role.ASSISTANT, (Opaque("web_search_call", search, "previous_response_id"),)),
        Turn(Role.ASSISTANT, (ToolCall("call_1", "weather", '{"city":"Oslo"}', item_id=f"fc_{FIRST}_2"),)),
        Turn(Role.ASSISTANT, (ToolCall("call_2", "time", "{}", item_id=f"fc_{FIRST}_3"),)),
        Turn(Role.TOOL, (ToolResult("call_1", (Text("sun"),)),)),
        Turn(Role.TOOL, (ToolResult("call_2", (Text("noon"),)),)),
    )


async def test_the_sdk_accumulates_a_text(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.responses.stream(model="acme/test-1", input="Hi") as events:
        seen = [event.type async for event in events]
        final = await events.get_final_response()
    assert seen[0] == "response.created"
    assert seen[-1] == "response.completed"
    assert final.output_text == "quickstart works"
    assert final.usage is not None
    assert final.usage.total_tokens == 12
    assert (await sdk.responses.retrieve(final.id)).output_text == final.output_text
    await sdk.responses.delete(final.id)


async def test_the_sdk_accumulates_parallel_calls(host: ScriptedHost, sdk: openai.AsyncOpenAI) -> None:
    host.says(*whole(*TOOL_EVENTS))
    async with sdk.responses.stream(model="acme/test-1", input="Hi") as events:
        snapshots = [
            (event.output_index, event.snapshot)
            async for event in events
            if event.type == "response.function_call_arguments.delta"
        ]
        final = await events.get_final_response()
    assert snapshots == [(0, '{"city":'), (1, "{}"), (0, '{"city":"Oslo"}')]
    calls = [item for item in final.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        ("call_1", "weather", '{"city":"Oslo"}'),
        ("call_2", "time", "{}"),
    ]


async def test_the_sdk_raises_our_words_in_mid_stream(host: ScriptedHost, sdk: openai.AsyncOpenAI) -> None:
    said = [TextDelta(0, 0, "a"), TextDelta(0, 0, "b"), TextDelta(0, 0, "c")]
    host.says([STARTED, PartStarted(0, 0, PartKind.TEXT)], said, BROKEN)
    events = await sdk.responses.create(model="acme/test-1", input="Hi", stream=True)
    heard: list[str] = []

    async def listen() -> None:
        async for event in events:
            if event.type == "response.output_text.delta":
                heard.append(event.delta)  # noqa: PERF401  # kept, though the listening ends in an error

    with pytest.raises(openai.APIError, match="broke off in the middle") as caught:
        await listen()
    assert "".join(heard) == "abc"
    assert (caught.value.code, caught.value.type) == ("stream_interrupted", "provider_error")


async def test_the_sdk_raises_its_own_error_classes(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.responses.create(model="acme/test-1", input="Hi", temperature=9)
    assert caught.value.status_code == 400
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve("resp_nope")
