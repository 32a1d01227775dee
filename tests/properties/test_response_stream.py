"""Whatever valid stream of generation events comes in, a valid stream of response events goes out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.responses_encode import ResponseStreamEncoder, encode_response
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
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.response import LifecycleEvent, Response, ResponseEvent, ResponseStatus
from server.domain.response_stream import ResponseAssembler
from server.domain.usage import Meta, Usage
from tests.fakes.response_grammar import check_events

SUFFIX = "0" * 32
OPENING = Response(SUFFIX, 1_790_000_000, ResponseStatus.IN_PROGRESS, "acme/test-1")
SETTLED = Settled(Usage(9, 3), Meta("acme", "t", None, 1.0, 2.0, 3.0, 0.5, 1))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TEXTS = (PartKind.TEXT, PartKind.REFUSAL)
THOUGHTS = (PartKind.REASONING, PartKind.REASONING_SUMMARY)


@st.composite
def generations(draw: st.DrawFn) -> list[GenerationEvent]:
    """A valid generation of one choice: parts open, grow and close in any order, built-in items between them."""
    events: list[GenerationEvent] = [Started("native", "t")]
    open_parts: dict[int, PartKind] = {}
    parts = 0
    for _ in range(draw(st.integers(0, 25))):
        action = draw(st.sampled_from(["start", "delta", "delta", "delta", "end", "opaque", "usage"]))
        if action == "start" and len(open_parts) < 4:
            kind = draw(st.sampled_from(PartKind))
            called = kind in (PartKind.TOOL_CALL, PartKind.CUSTOM_TOOL_CALL)
            phase = draw(st.sampled_from(["", "commentary"])) if kind in TEXTS else ""
            events.append(PartStarted(0, parts, kind, f"call_{parts}" if called else "", "f" if called else "", phase))
            open_parts[parts] = kind
            parts += 1
        elif action == "opaque":
            item = {"type": "web_search_call", "id": f"ws_{len(events)}", "status": "completed"}
            events.append(OpaqueItem(msgspec.Raw(msgspec.json.encode(item))))
        elif action == "usage":
            events.append(UsageReported(Usage(1, 1)))
        elif open_parts:
            part = draw(st.sampled_from(sorted(open_parts)))
            if action == "end":
                del open_parts[part]
                events.append(PartEnded(0, part))
            else:
                events.append(_delta(draw, part, open_parts[part]))
    order = draw(st.permutations(sorted(open_parts)))
    events += [PartEnded(0, part) for part in order]
    events.append(ChoiceEnded(0, draw(st.sampled_from(FinishReason)), "native_word"))
    return [*events, UsageReported(Usage(9, 3)), Completed(), SETTLED]


def _delta(draw: st.DrawFn, part: int, kind: PartKind) -> GenerationEvent:
    if kind in THOUGHTS:
        return ReasoningDelta(0, part, draw(TEXT), draw(st.sampled_from(["", "", "seal"])))
    if kind in TEXTS:
        if kind is PartKind.TEXT and draw(st.integers(0, 5)) == 0:
            return AnnotationAdded(0, part, msgspec.Raw(b'{"type":"url_citation","url":"https://x.test"}'))
        logprobs = msgspec.Raw(b'[{"token":"a","logprob":-0.5}]') if draw(st.booleans()) else None
        return TextDelta(0, part, draw(TEXT), logprobs)
    return ToolCallDelta(0, part, draw(TEXT))


def batches(draw: st.DataObject, events: list[GenerationEvent]) -> list[list[GenerationEvent]]:
    cuts = sorted(draw.draw(st.sets(st.integers(1, max(1, len(events) - 1)), max_size=5)))
    edges = [0, *cuts, len(events)]
    return [events[start:end] for start, end in itertools.pairwise(edges)]


def wire(events: list[ResponseEvent]) -> list[dict[str, Any]]:
    """As a client decodes what is sent."""
    sent = ResponseStreamEncoder(f"gen_{SUFFIX}", logprobs=True).encode(events).decode()
    frames = sent.split("\n\n")
    assert frames.pop() == ""
    decoded = []
    for frame in frames:
        name, data = frame.split("\n")
        decoded.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {decoded[-1]['type']}"
    return decoded


@given(generations(), st.data())
def test_every_generation_becomes_a_stream_that_keeps_to_the_grammar(
    generation: list[GenerationEvent], data: st.DataObject
) -> None:
    assembler = ResponseAssembler(msgspec.structs.replace(OPENING, wants_logprobs=True))
    events: list[ResponseEvent] = []
    for batch in batches(data, generation):
        events += assembler.feed(batch, 1_790_000_001.5)
    assert assembler.settled
    events.append(assembler.end())
    terminal = check_events(wire(events))
    assert terminal["response"] == json.loads(encode_response(assembler.response))
    assert _said(generation, TEXTS) == _told(terminal, "message")
    assert _called(generation) == [
        item.get("arguments", item.get("input")) for item in terminal["response"]["output"] if "call_id" in item
    ]
    reason = next(event.reason for event in generation if isinstance(event, ChoiceEnded))
    assert (terminal["type"] == "response.completed") == (reason in (FinishReason.STOP, FinishReason.TOOL_CALLS))


@given(generations(), st.data())
def test_a_generation_that_breaks_anywhere_ends_in_an_error_and_a_failed_response(
    generation: list[GenerationEvent], data: st.DataObject
) -> None:
    assembler = ResponseAssembler(OPENING)
    shown = data.draw(st.integers(1, len(generation) - 1))
    events = [*assembler.feed(generation[:shown])]
    events += assembler.fail(GatewayError(Reason.STREAM_INTERRUPTED, "The provider broke off."))
    terminal = check_events(wire(events))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert terminal["response"]["error"]["message"] == "The provider broke off."


@given(generations())
def test_a_response_survives_being_stored(generation: list[GenerationEvent]) -> None:
    assembler = ResponseAssembler(OPENING)
    assembler.feed(generation)
    stored = msgspec.json.encode(assembler.response)
    assert msgspec.json.decode(stored, type=Response) == assembler.response


@given(generations())
def test_only_the_item_that_was_being_written_is_incomplete(generation: list[GenerationEvent]) -> None:
    assembler = ResponseAssembler(OPENING)
    assembler.feed(generation)
    end = assembler.end()
    assert isinstance(end, LifecycleEvent)
    unfinished = [item for item in end.response.output if getattr(item, "status", "completed") != "completed"]
    if end.response.status is ResponseStatus.COMPLETED:
        assert unfinished == []
    else:
        assert len(unfinished) <= 1


def _said(generation: list[GenerationEvent], kinds: tuple[PartKind, ...]) -> str:
    parts = {event.part for event in generation if isinstance(event, PartStarted) and event.kind in kinds}
    texts: dict[int, str] = dict.fromkeys(sorted(parts), "")
    for event in generation:
        if isinstance(event, TextDelta):
            texts[event.part] += event.text
    return "".join(texts.values())


def _told(terminal: dict[str, Any], kind: str) -> str:
    return "".join(
        part.get("text", part.get("refusal"))
        for item in terminal["response"]["output"]
        if item["type"] == kind
        for part in item["content"]
    )


def _called(generation: list[GenerationEvent]) -> list[str]:
    calls = {event.part: "" for event in generation if isinstance(event, PartStarted) and event.call_id}
    for event in generation:
        if isinstance(event, ToolCallDelta):
            calls[event.part] += event.arguments
    return list(calls.values())
