"""Messages replies, whole and as events: the same generation told twice says the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from rest_bridge.messages_decode import MessagesOrder
from rest_bridge.messages_encode import encode_message
from rest_bridge.messages_stream import MessagesStreamEncoder
from server.domain.errors import GatewayError, Reason
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
    Settled,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.fold import Fold
from server.domain.request import Endpoint, GenerationRequest
from server.domain.seals import sealed
from server.domain.usage import Usage
from tests.fakes.rest import ARRIVAL, META, PRICING, PRICING_JSON, STARTED, SUFFIX, text_events

REQUEST = GenerationRequest(endpoint=Endpoint.MESSAGES, model="acme/test-1", turns=())
ORDER = MessagesOrder(REQUEST)
USAGE = Usage(
    input_tokens=20, output_tokens=3, cached_input_tokens=8, cache_write_tokens=5, reasoning_tokens=1, pricing=PRICING
)
SETTLED = Settled(USAGE, META, "default")
STOP = ChoiceEnded(0, FinishReason.STOP, "stop")
CALLS = ChoiceEnded(0, FinishReason.TOOL_CALLS, "tool_calls")
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
REDACTED = sealed("redacted", 0, "c2VjcmV0", first=True)


def whole(*events: GenerationEvent, order: MessagesOrder = ORDER) -> dict[str, Any]:
    fold = Fold()
    fold.add([STARTED, *events, Completed(), SETTLED])
    told: dict[str, Any] = json.loads(encode_message(fold.whole(), order, ARRIVAL))
    return told


def stream(*batches: Sequence[GenerationEvent], order: MessagesOrder = ORDER) -> list[dict[str, Any]]:
    encoder = MessagesStreamEncoder(order, ARRIVAL)
    return frames(b"".join([*map(encoder.encode, batches), encoder.end()]))


def frames(data: bytes) -> list[dict[str, Any]]:
    told = []
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    for block in blocks:
        name, _, text = block.partition("\n")
        value = json.loads(text.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        told.append(value)
    return told


def accumulated(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the SDK makes of a stream; blocks follow one another, each begun and ended."""
    current, message, buffers = None, None, {}  # type: ignore[var-annotated]
    begun = 0
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert current is None
                assert event["index"] == begun
                current, begun = event["index"], begun + 1
            case "content_block_delta":
                assert event["index"] == current
            case "content_block_stop":
                assert event["index"] == current
                current = None
        message = accumulate_event(event=EVENT.validate_python(event), current_snapshot=message, json_bufs=buffers)
    assert current is None
    assert message is not None
    told: dict[str, Any] = message.to_dict()
    return told


def part(
    number: int, kind: PartKind, *deltas: GenerationEvent, call: str = "", name: str = ""
) -> list[GenerationEvent]:
    return [PartStarted(0, number, kind, call, name), *deltas, PartEnded(0, number)]


def test_a_whole_message() -> None:
    told = whole(*text_events("Hel", "lo 你好🙂"), order=MessagesOrder(REQUEST, wants_meta=True))
    meta = told.pop("meta")
    assert meta["provider"] == "acme"
    assert told == {
        "id": f"msg_{SUFFIX}",
        "type": "message",
        "role": "assistant",
        "model": "acme/test-1",
        "content": [{"type": "text", "text": "Hello 你好🙂", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 8,
            "output_tokens": 3,
            "output_tokens_details": {"thinking_tokens": 1},
            "cache_creation": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "pricing": PRICING_JSON,
        },
    }


def test_a_stream_of_text() -> None:
    events = stream([STARTED], text_events("Hel", "lo"), [Completed(), SETTLED])
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    opening = events[0]["message"]
    assert (opening["content"], opening["stop_reason"], opening["usage"]["output_tokens"]) == ([], None, 0)
    assert events[2] == {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["pricing"] == PRICING_JSON
    assert "meta" not in events[-2]


def test_what_is_known_of_the_usage_at_the_beginning_is_told_there() -> None:
    [opening, *_] = stream([STARTED, UsageReported(Usage(input_tokens=9))], text_events("a"), [SETTLED])
    assert opening["message"]["usage"]["input_tokens"] == 9


CASES: dict[str, list[GenerationEvent]] = {
    "text": text_events("Hel", "lo"),
    "nothing": [STOP],
    "empty text": [*part(0, PartKind.TEXT, TextDelta(0, 0, "")), STOP],
    "thinking": [
        *part(
            0,
            PartKind.REASONING,
            ReasoningDelta(0, 0, "hm "),
            ReasoningDelta(0, 0, "so"),
            ReasoningDelta(0, 0, "", "c2ln"),
        ),
        *part(1, PartKind.TEXT, TextDelta(0, 1, "yes")),
        STOP,
    ],
    "summary": [*part(0, PartKind.REASONING_SUMMARY, ReasoningDelta(0, 0, "short")), STOP],
    "redacted": [
        *part(0, PartKind.REASONING, ReasoningDelta(0, 0, "", REDACTED)),
        *part(1, PartKind.TEXT, TextDelta(0, 1, "a")),
        STOP,
    ],
    "refusal": [*part(0, PartKind.REFUSAL, TextDelta(0, 0, "No.")), STOP],
    "call": [
        *part(0, PartKind.TOOL_CALL, ToolCallDelta(0, 0, '{"a":'), ToolCallDelta(0, 0, "1}"), call="c1", name="f"),
        CALLS,
    ],
    "call without arguments": [*part(0, PartKind.TOOL_CALL, call="c1", name="f"), CALLS],
    "citation": [
        *part(
            0,
            PartKind.TEXT,
            TextDelta(0, 0, "a"),
            AnnotationAdded(0, 0, msgspec.Raw(b'{"type":"url_citation","url":"https://a.example","title":"A"}')),
        ),
        STOP,
    ],
    "a text that stays open": [
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "I look."),
        PartStarted(0, 1, PartKind.TOOL_CALL, "c1", "f"),
        PartStarted(0, 2, PartKind.TOOL_CALL, "c2", "g"),
        ToolCallDelta(0, 1, '{"a":'),
        ToolCallDelta(0, 2, '{"b":'),
        ToolCallDelta(0, 1, "1}"),
        ToolCallDelta(0, 2, "2}"),
        PartEnded(0, 1),
        PartEnded(0, 2),
        PartEnded(0, 0),
        CALLS,
    ],
    "another choice": [*text_events("a", choice=1), *text_events("b")],
}


@pytest.mark.parametrize("events", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("at_once", [True, False])
def test_a_stream_says_what_the_whole_says(events: list[GenerationEvent], at_once: bool) -> None:
    told = [STARTED, *events, Completed(), SETTLED]
    batches = [told] if at_once else [[event] for event in told]
    expected, built = whole(*events), accumulated(stream(*batches))
    assert built["content"] == expected["content"]
    assert (built["stop_reason"], built["stop_sequence"]) == (expected["stop_reason"], expected["stop_sequence"])
    counts = {"input_tokens": 7, "cache_read_input_tokens": 8, "output_tokens": 3}
    assert {name: built["usage"][name] for name in counts} == counts


def test_a_text_that_is_interrupted_goes_on_in_a_block_of_its_own() -> None:
    events = [
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "a"),
        *part(1, PartKind.TOOL_CALL, ToolCallDelta(0, 1, "{}"), call="c1", name="f"),
        TextDelta(0, 0, "b"),
        PartEnded(0, 0),
        CALLS,
    ]
    built = accumulated(stream([STARTED], events, [SETTLED]))
    assert [block.get("text", block["type"]) for block in built["content"]] == ["a", "tool_use", "b"]


def test_blocks_of_every_kind() -> None:
    assert whole(*CASES["redacted"])["content"][0] == {"type": "redacted_thinking", "data": "c2VjcmV0"}
    assert whole(*CASES["thinking"])["content"][0] == {"type": "thinking", "thinking": "hm so", "signature": "c2ln"}
    assert whole(*CASES["call"])["content"] == [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]
    assert whole(*CASES["refusal"])["stop_reason"] == "refusal"
    assert whole(*CASES["empty text"])["content"] == []
    [text] = whole(*CASES["citation"])["content"]
    assert text["citations"][0]["url"] == "https://a.example"


def test_hidden_thinking_keeps_its_seal() -> None:
    order = MessagesOrder(REQUEST, hides_thinking=True)
    expected = [{"type": "thinking", "thinking": "", "signature": "c2ln"}]
    assert whole(*CASES["thinking"], order=order)["content"][:1] == expected
    built = accumulated(stream([STARTED], CASES["thinking"], [SETTLED], order=order))
    assert built["content"][:1] == expected


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (ChoiceEnded(0, FinishReason.STOP, "stop"), "end_turn"),
        (ChoiceEnded(0, FinishReason.STOP, "stop_sequence"), "end_turn"),
        (ChoiceEnded(0, FinishReason.STOP, "stop_sequence", "END"), "stop_sequence"),
        (ChoiceEnded(0, FinishReason.LENGTH, "length"), "max_tokens"),
        (ChoiceEnded(0, FinishReason.LENGTH, "model_context_window_exceeded"), "model_context_window_exceeded"),
        (ChoiceEnded(0, FinishReason.TOOL_CALLS, "tool_calls"), "tool_use"),
        (ChoiceEnded(0, FinishReason.CONTENT_FILTER, "content_filter"), "refusal"),
        (ChoiceEnded(0, FinishReason.OTHER, "pause_turn"), "pause_turn"),
        (ChoiceEnded(0, FinishReason.OTHER, "strange"), "strange"),
        (ChoiceEnded(0, FinishReason.OTHER), "other"),
    ],
)
def test_stop_reasons(end: ChoiceEnded, reason: str) -> None:
    events = [*part(0, PartKind.TEXT, TextDelta(0, 0, "a")), end]
    assert whole(*events)["stop_reason"] == reason
    delta = stream([STARTED], events, [SETTLED])[-2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": end.stop_sequence}


def test_arguments_that_the_limit_cut_are_not_lost() -> None:
    call = part(0, PartKind.TOOL_CALL, ToolCallDelta(0, 0, '{"a": "b'), call="c1", name="f")
    [block] = whole(*call, ChoiceEnded(0, FinishReason.LENGTH, "length"))["content"]
    assert block == {"type": "tool_use", "id": "c1", "name": "f", "input": {}, "partial_json": '{"a": "b'}
    with pytest.raises(GatewayError) as failed:
        whole(*call, CALLS)
    assert failed.value.reason is Reason.STREAM_INTERRUPTED


@pytest.mark.parametrize(
    "event", [OpaqueItem(msgspec.Raw(b"{}")), PartStarted(0, 0, PartKind.CUSTOM_TOOL_CALL, "c1", "f")]
)
def test_what_messages_cannot_carry_is_an_error(event: GenerationEvent) -> None:
    with pytest.raises(GatewayError):
        whole(event, STOP)
    with pytest.raises(GatewayError):
        stream([STARTED, event])


def test_a_failure_in_band() -> None:
    encoder = MessagesStreamEncoder(ORDER, ARRIVAL)
    [told] = frames(encoder.fail(GatewayError(Reason.STREAM_INTERRUPTED, "It broke off.")))
    assert told["type"] == "error"
    assert told["error"] == {
        "type": "api_error",
        "message": "It broke off.",
        "details": {"error_code": "stream_interrupted"},
    }
    assert (told["error_code"], told["generation_id"]) == ("provider_error", f"gen_{SUFFIX}")
    assert (told["status_code"], told["request_id"]) == (502, "req-1")
