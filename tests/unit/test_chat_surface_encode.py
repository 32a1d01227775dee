"""Chat replies: the object and the chunks, field by field and byte by byte."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
import structlog

from server.domain.errors import AttemptFailure, FailureCategory, GatewayError, Reason, UpstreamError
from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.request import Reasoning, Text
from tests.fakes.rest import (
    META,
    PRICING_JSON,
    SETTLED,
    STARTED,
    SUFFIX,
    USAGE,
    ScriptedGenerate,
    Step,
    chat_app,
    post_chat,
    read,
    rest_request,
    text_events,
    whole,
)

BODY: dict[str, Any] = {"model": "acme/test-1", "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, Any] = {**BODY, "stream": True}
ID = f"chatcmpl-{SUFFIX}"
LOGPROB = b'{"token":"Hi","logprob":-0.5,"bytes":[72,105],"top_logprobs":[]}'


async def complete(*events: GenerationEvent, **fields: Any) -> Any:
    reply = await post_chat(ScriptedGenerate(*whole(*events)), {**BODY, **fields})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    return reply.json


async def chunks(*events: GenerationEvent, **fields: Any) -> list[Any]:
    """The chunks of a whole stream, without its `[DONE]`."""
    reply = await post_chat(ScriptedGenerate(*whole(*events)), {**STREAM, **fields})
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    *told, done = reply.events
    assert done == "[DONE]"
    return told


async def deltas(*events: GenerationEvent) -> list[Any]:
    return [choice["delta"] for chunk in await chunks(*events) for choice in chunk["choices"]]


def call(part: int, name: str, *fragments: str, custom: bool = False) -> list[GenerationEvent]:
    kind = PartKind.CUSTOM_TOOL_CALL if custom else PartKind.TOOL_CALL
    return [
        PartStarted(0, part, kind, call_id=f"call_{part}", name=name),
        *(ToolCallDelta(0, part, fragment) for fragment in fragments),
        PartEnded(0, part),
    ]


def ended(reason: FinishReason = FinishReason.STOP, native: str = "") -> ChoiceEnded:
    return ChoiceEnded(0, reason, native or reason.value)


async def test_the_object() -> None:
    assert await complete(*text_events("Hel", "lo 你好🙂")) == {
        "id": ID,
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "acme/test-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello 你好🙂", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0, "cache_write_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 1,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "pricing": PRICING_JSON,
        },
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


async def test_the_chunks() -> None:
    common = {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "acme/test-1",
        "system_fingerprint": "fp_1",
    }

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**common, "choices": [choice]}

    assert await chunks(*text_events("Hel", "lo 你好🙂")) == [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo 你好🙂"}),
        chunk({}, "stop"),
    ]


async def test_the_bytes_of_a_stream() -> None:
    reply = await post_chat(ScriptedGenerate(*whole(*text_events('a"\n\r\u2028'))), STREAM)
    assert reply.body.endswith(b"}\n\ndata: [DONE]\n\n")
    assert reply.body.count(b"[DONE]") == 1
    lines = reply.body.split(b"\n")
    assert {line[:6] for line in lines if line} == {b"data: "}
    assert all(line == b"" for line in lines[1::2])
    assert reply.events[1]["choices"][0]["delta"]["content"] == 'a"\n\r\u2028'


async def test_usage_and_meta_come_last_and_once() -> None:
    asked: list[dict[str, Any]] = [{"stream_options": {"include_usage": True}}, {"usage": True}]
    for fields in asked:
        told = await chunks(*text_events("a"), **fields)
        assert [chunk["usage"] for chunk in told[:-1]] == [None] * (len(told) - 1)
        assert [chunk["choices"] == [] for chunk in told] == [False] * (len(told) - 1) + [True]
        assert told[-1]["usage"]["total_tokens"] == USAGE.total_tokens
        assert told[-1]["usage"]["pricing"] == PRICING_JSON
        assert told[-1]["service_tier"] == "default"
        assert "meta" not in told[-1]
    told = await chunks(*text_events("a"), usage=True, meta=True)
    assert told[-1]["meta"] == json.loads(msgspec.json.encode(META))


async def test_without_being_asked_for_there_is_no_usage() -> None:
    told = await chunks(*text_events("a"), stream_options={"include_usage": False})
    assert all(chunk["choices"] and "usage" not in chunk for chunk in told)
    told = await chunks(*text_events("a"), meta=True)
    assert (told[-1]["choices"], told[-1]["usage"], told[-1]["meta"]["provider"]) == ([], None, "acme")


async def test_meta_of_an_object() -> None:
    assert (await complete(*text_events("a"), meta=True))["meta"] == {
        "provider": "acme",
        "provider_model": "test-1",
        "native_response_id": "native-1",
        "latency_ms": 1.5,
        "generation_ms": 20.0,
        "throughput_tps": 61.2,
        "gateway_ms": 0.7,
        "attempts": 1,
        "routing": [{"provider": "acme", "outcome": "chosen", "score": 1.0, "breaker": "closed"}],
    }
    assert "meta" not in await complete(*text_events("a"), meta=False)


TOOLS: list[GenerationEvent] = [
    *call(0, "look_up", '{"a"', ":1}"),
    *call(1, "shell", "ls", " -l", custom=True),
    *call(2, "stop"),
    ended(FinishReason.TOOL_CALLS),
]


async def test_tool_calls_of_an_object() -> None:
    choice = (await complete(*TOOLS))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"type": "function", "id": "call_0", "function": {"name": "look_up", "arguments": '{"a":1}'}},
        {"type": "custom", "id": "call_1", "custom": {"name": "shell", "input": "ls -l"}},
        {"type": "function", "id": "call_2", "function": {"name": "stop", "arguments": ""}},
    ]


async def test_tool_calls_of_a_stream() -> None:
    told = [delta["tool_calls"] for delta in await deltas(*TOOLS) if "tool_calls" in delta]
    assert told == [
        [{"index": 0, "id": "call_0", "type": "function", "function": {"name": "look_up", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a"'}}],
        [{"index": 0, "function": {"arguments": ":1}"}}],
        [{"index": 1, "id": "call_1", "type": "custom", "custom": {"name": "shell", "input": ""}}],
        [{"index": 1, "custom": {"input": "ls"}}],
        [{"index": 1, "custom": {"input": " -l"}}],
        [{"index": 2, "id": "call_2", "type": "function", "function": {"name": "stop", "arguments": ""}}],
    ]


async def test_parallel_calls_whose_fragments_mix_keep_their_indices() -> None:
    """The parts before them do not count, nor do those of other choices."""
    events: list[GenerationEvent] = [
        PartStarted(0, 0, PartKind.REASONING),
        PartStarted(0, 1, PartKind.TOOL_CALL, "a", "f"),
        PartStarted(0, 2, PartKind.TOOL_CALL, "b", "g"),
        PartStarted(1, 0, PartKind.TOOL_CALL, "c", "h"),
        ToolCallDelta(0, 2, "2"),
        ToolCallDelta(1, 0, "3"),
        ToolCallDelta(0, 1, "1"),
        ended(FinishReason.TOOL_CALLS),
        ChoiceEnded(1, FinishReason.TOOL_CALLS),
    ]
    told = [
        (choice["index"], fragment["index"], fragment.get("id"), fragment["function"]["arguments"])
        for chunk in await chunks(*events)
        for choice in chunk["choices"]
        for fragment in choice["delta"].get("tool_calls", ())
    ]
    assert told == [
        (0, 0, "a", ""), (0, 1, "b", ""), (1, 0, "c", ""),
        (0, 1, None, "2"), (1, 0, None, "3"), (0, 0, None, "1"),
    ]  # fmt: skip


async def test_several_choices() -> None:
    events: list[GenerationEvent] = [
        PartStarted(1, 0, PartKind.TEXT),
        TextDelta(1, 0, "b"),
        *text_events("a"),
        ChoiceEnded(1, FinishReason.LENGTH),
    ]
    told = [(choice["index"], choice["delta"]) for chunk in await chunks(*events) for choice in chunk["choices"]]
    role = {"role": "assistant", "content": "", "refusal": None}
    assert told == [(0, role), (1, role), (1, {"content": "b"}), (0, {"content": "a"}), (0, {}), (1, {})]
    choices = (await complete(*events))["choices"]
    assert [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]


REASONED: list[GenerationEvent] = [
    PartStarted(0, 0, PartKind.REASONING),
    ReasoningDelta(0, 0, "Hm"),
    ReasoningDelta(0, 0, "."),
    ReasoningDelta(0, 0, "", "c2ln"),
    PartEnded(0, 0),
    PartStarted(0, 1, PartKind.TEXT),
    TextDelta(0, 1, "Yes"),
    PartEnded(0, 1),
    ended(),
]


async def test_reasoning() -> None:
    message = (await complete(*REASONED))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes")
    assert message["reasoning_signature"] == "c2ln"
    assert (await deltas(*REASONED))[1:-1] == [
        {"reasoning_content": "Hm"},
        {"reasoning_content": "."},
        {"reasoning_signature": "c2ln"},
        {"content": "Yes"},
    ]


async def test_reasoning_goes_back_as_it_came() -> None:
    """The reply's message, put into the next request, holds the same reasoning byte for byte."""
    message = (await complete(*REASONED))["choices"][0]["message"]
    generate = ScriptedGenerate(*whole(*text_events("ok")))
    await post_chat(generate, {**BODY, "messages": [*BODY["messages"], message, *BODY["messages"]]})
    assert generate.requests[0].turns[1].parts == (Reasoning("Hm.", signature="c2ln"), Text("Yes"))


async def test_refusals() -> None:
    events: list[GenerationEvent] = [
        PartStarted(0, 0, PartKind.REFUSAL),
        TextDelta(0, 0, "No"),
        TextDelta(0, 0, "."),
        ended(),
    ]
    message = (await complete(*events))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No.")
    assert (await deltas(*events))[1:-1] == [{"refusal": "No"}, {"refusal": "."}]


async def test_annotations_stay_on_one_line() -> None:
    written = b'{\n  "type": "url_citation",\r\n  "url_citation": {"url": "https://a.example", "title": "b\\nc"}}'
    events: list[GenerationEvent] = [
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "a"),
        AnnotationAdded(0, 0, msgspec.Raw(written)),
        ended(),
    ]
    annotation = json.loads(written)
    assert (await complete(*events))["choices"][0]["message"]["annotations"] == [annotation]
    assert {"annotations": [annotation]} in await deltas(*events)


async def test_logprobs() -> None:
    events: list[GenerationEvent] = [
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "Hi", msgspec.Raw(b"[" + LOGPROB + b"]")),
        TextDelta(0, 0, "!", msgspec.Raw(b"[\n" + LOGPROB + b", " + LOGPROB + b"]")),
        TextDelta(0, 0, "?", msgspec.Raw(b"[]")),
        PartStarted(0, 1, PartKind.REFUSAL),
        TextDelta(0, 1, "No", msgspec.Raw(b"[" + LOGPROB + b"]")),
        ended(),
    ]
    token = json.loads(LOGPROB)
    logprobs = (await complete(*events))["choices"][0]["logprobs"]
    assert logprobs == {"content": [token, token, token], "refusal": [token]}
    told = [chunk["choices"][0] for chunk in await chunks(*events)]
    assert [choice["logprobs"] for choice in told] == [
        None,
        {"content": [token], "refusal": None},
        {"content": [token, token], "refusal": None},
        {"content": [], "refusal": None},
        {"content": None, "refusal": [token]},
        None,
    ]
    assert told[1]["delta"] == {"content": "Hi"}
    assert told[4]["delta"] == {"refusal": "No"}


@pytest.mark.parametrize(
    ("reason", "native", "word"),
    [
        (FinishReason.STOP, "end_turn", "stop"),
        (FinishReason.LENGTH, "max_tokens", "length"),
        (FinishReason.TOOL_CALLS, "tool_use", "tool_calls"),
        (FinishReason.CONTENT_FILTER, "SAFETY", "content_filter"),
        (FinishReason.OTHER, "MALFORMED_THING", "MALFORMED_THING"),
        (FinishReason.OTHER, "", "other"),
    ],
)
async def test_an_unknown_finish_reason_is_never_a_stop(reason: FinishReason, native: str, word: str) -> None:
    events: list[GenerationEvent] = [
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "a"),
        ChoiceEnded(0, reason, native),
    ]
    assert (await complete(*events))["choices"][0]["finish_reason"] == word
    assert (await chunks(*events))[-1]["choices"][0]["finish_reason"] == word


async def test_a_tool_call_cut_by_the_limit_is_not_complete() -> None:
    events: list[GenerationEvent] = [*call(0, "f", '{"a'), ended(FinishReason.LENGTH)]
    assert (await complete(*events))["choices"][0]["finish_reason"] == "length"
    assert (await chunks(*events))[-1]["choices"][0]["finish_reason"] == "length"


async def test_events_of_one_batch_go_out_together() -> None:
    events = text_events(*"abcdefgh")
    generate = ScriptedGenerate([STARTED], events[:6], 0.02, events[6:], 0.02, [Completed(), SETTLED])
    reply = await post_chat(generate, STREAM)
    assert [piece.count(b"data: ") for piece in reply.pieces] == [6, 4, 1]


FAILED = GatewayError(
    Reason.STREAM_INTERRUPTED,
    "The provider broke off.",
    failures=(AttemptFailure("acme", FailureCategory.SERVER_ERROR, 500, UpstreamError("boom", "It broke 你好.", "x")),),
)


async def test_a_failure_before_the_first_event_has_its_own_status() -> None:
    scripts: list[list[Step]] = [[FAILED], [[], [], FAILED]]
    for steps in scripts:
        for body in (BODY, STREAM):
            reply = await post_chat(ScriptedGenerate(*steps), body)
            assert (reply.status, reply.headers["content-type"]) == (502, "application/json")
            assert reply.json["upstream_error"]["code"] == "boom"


async def test_a_failure_in_mid_stream_is_one_event_and_the_end() -> None:
    steps: list[Step] = [*whole(*text_events("a"))[:3], FAILED]
    reply = await post_chat(ScriptedGenerate(*steps), STREAM)
    assert reply.status == 200
    assert b"[DONE]" not in reply.body
    *told, last = reply.events
    assert [choice["delta"].get("content") for chunk in told for choice in chunk["choices"]] == ["", "a"]
    error = last["error"]
    assert set(last) == {"error"}
    assert (error["message"], error["type"], error["code"], error["param"]) == (
        "The provider broke off.", "provider_error", "stream_interrupted", None,
    )  # fmt: skip
    assert (error["status_code"], error["error"], error["generation_id"]) == (502, "provider_error", f"gen_{SUFFIX}")
    assert error["upstream_error"] == {"code": "boom", "message": "It broke 你好.", "param": "x"}


async def test_a_failure_in_the_middle_of_a_unary_reply_is_an_error() -> None:
    reply = await post_chat(ScriptedGenerate(*whole(*text_events("a"))[:3], FAILED), BODY)
    assert (reply.status, reply.json["error"]) == (502, "provider_error")


async def test_a_bug_in_mid_stream_says_nothing_of_itself() -> None:
    steps: list[Step] = [*whole(*text_events("a"))[:3], ValueError("/etc/secrets")]
    with structlog.testing.capture_logs():
        reply = await post_chat(ScriptedGenerate(*steps), STREAM)
    assert reply.events[-1]["error"]["error"] == "server_error"
    assert b"secrets" not in reply.body


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_what_chat_cannot_carry_is_an_error(body: dict[str, Any]) -> None:
    events: list[GenerationEvent] = [*text_events("a"), OpaqueItem(msgspec.Raw(b'{"type":"web_search_call"}'))]
    reply = await post_chat(ScriptedGenerate(*whole(*events)), body)
    told = reply.events[-1]["error"] if body is STREAM else reply.json
    assert told["reason"] == "stream_interrupted"
    assert b"[DONE]" not in reply.body


async def test_pings_while_the_provider_thinks() -> None:
    batches = whole(*text_events("a", "b"))
    generate = ScriptedGenerate(*batches[:3], 0.17, *batches[3:])
    reply = await post_chat(generate, STREAM, ping_interval_s=0.05)
    assert reply.body.count(b": ping\n\n") == 3
    assert [event for event in reply.events if event != "[DONE]"] == await chunks(*text_events("a", "b"))
    for line in reply.body.split(b"\n"):
        assert line in (b"", b": ping") or line.startswith(b"data: {") or line == b"data: [DONE]"


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_client_that_leaves_closes_the_generation_at_once(body: dict[str, Any]) -> None:
    generate = ScriptedGenerate(*whole(*text_events("a"))[:3], 30.0)

    async def client() -> None:
        await read(await chat_app(generate)(rest_request(body)))

    task = asyncio.create_task(client())
    async with asyncio.timeout(30):
        while not generate.requests:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
    assert generate.closed == 0
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert generate.closed == 1
    assert time.monotonic() - started < 5


async def test_tracing_does_not_change_a_byte() -> None:
    plain = await post_chat(ScriptedGenerate(*whole(*text_events("a", "b"))), STREAM)
    traced = await post_chat(
        ScriptedGenerate(*whole(*text_events("a", "b"))), {**STREAM, "debug": {"enabled": True, "trace": True}}
    )
    assert plain.body == traced.body


async def test_usage_that_is_reported_early_changes_nothing() -> None:
    events = text_events("a")
    assert await chunks(*events[:2], UsageReported(USAGE), *events[2:]) == await chunks(*events)


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data"])
async def test_another_content_type_is_refused_by_name(content_type: str) -> None:
    request = rest_request(BODY)
    headers = {**request.headers, "content-type": content_type}
    reply = await read(await chat_app(ScriptedGenerate())(rest_request(BODY, headers=headers)))
    assert (reply.status, reply.json["param"]) == (400, "content-type")


async def test_prompt_text_that_talks_of_streaming_stays_unary() -> None:
    body = {**BODY, "messages": [{"role": "user", "content": 'x", "stream": true, "y": "'}]}
    reply = await post_chat(ScriptedGenerate(*whole(*text_events("a"))), body)
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"model": "\xff"}', b'{"model":' + b"[" * 20_000 + b"]" * 20_000 + b"}", b"\xef\xbb\xbf{}"]
)
async def test_what_is_not_json_is_refused_before_anything_is_called(body: bytes) -> None:
    generate = ScriptedGenerate(*whole(*text_events("a")))
    reply = await post_chat(generate, body)
    assert (reply.status, reply.json["error"]) == (400, "validation_error")
    assert not generate.requests


@pytest.mark.parametrize("name", ["base_url", "api_base", "api_key"])
async def test_nobody_may_say_where_a_providers_key_goes(name: str) -> None:
    for fields in ({name: "http://sink.example"}, {"provider_options": {"acme": {name: "http://sink.example"}}}):
        generate = ScriptedGenerate(*whole(*text_events("a")))
        reply = await post_chat(generate, {**BODY, **fields})
        assert (reply.status, reply.json["reason"]) == (400, "unknown_parameter")
        assert reply.json["param"].endswith(name)
        assert not generate.requests


async def test_headers_say_nothing_of_providers() -> None:
    generate = ScriptedGenerate(*whole(*text_events("a")))
    app = chat_app(generate)
    sink = {"base_url": "http://sink.example", "api-base": "http://sink.example", "x-api-key": "sk-stolen"}
    assert (await read(await app(rest_request(BODY, headers={**rest_request(BODY).headers, **sink})))).status == 200
    assert (await read(await app(rest_request(BODY)))).status == 200
    assert generate.requests[0] == generate.requests[1]
