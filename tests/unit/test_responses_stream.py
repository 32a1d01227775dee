"""The events of a response, one case of the grammar at a time."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

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
    TextDelta,
    ToolCallDelta,
)
from server.domain.response import (
    DeltaEvent,
    ItemEvent,
    MessageItem,
    OpaqueOutput,
    OutputRefusal,
    OutputText,
    ReasoningItem,
    Response,
    ResponseEvent,
    ResponseStatus,
    ToolCallItem,
)
from server.domain.response_stream import ResponseAssembler
from tests.fakes.garbage import garbage
from tests.fakes.rest import SETTLED, STARTED, SUFFIX, text_events

OPENING = Response(SUFFIX, 1_790_000_000, ResponseStatus.IN_PROGRESS, "acme/test-1")
STOP = ChoiceEnded(0, FinishReason.STOP, "stop")
LENGTH = ChoiceEnded(0, FinishReason.LENGTH, "length")


def assemble(*events: GenerationEvent) -> tuple[list[ResponseEvent], Response]:
    """Every event of a generation that says `events`, and the response that comes of it."""
    assembler = ResponseAssembler(OPENING)
    made = [
        response_event
        for event in (STARTED, *events, Completed(), SETTLED)
        for response_event in assembler.feed((event,), 1_790_000_002.9)
    ]
    return [*made, assembler.end()], assembler.response


def names(events: list[ResponseEvent]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def test_a_text() -> None:
    events, response = assemble(*text_events("Hel", "lo"))
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert response.output == (MessageItem(f"msg_{SUFFIX}", "completed", (OutputText("Hello"),)),)
    assert (response.status, response.completed_at, response.incomplete_reason) == ("completed", 1_790_000_002, None)
    assert (response.usage, response.meta, response.service_tier) == (SETTLED.usage, SETTLED.meta, "default")


def test_an_answer_that_says_nothing() -> None:
    events, response = assemble(STOP)
    assert names(events) == ["created", "in_progress", "completed"]
    assert response.output == ()


def test_empty_deltas_are_not_told() -> None:
    events, _ = assemble(*text_events("", "a", ""))
    assert names(events).count("output_text.delta") == 1


def test_reasoning_then_text_then_calls_keep_their_places() -> None:
    events, response = assemble(
        PartStarted(0, 0, PartKind.REASONING_SUMMARY),
        ReasoningDelta(0, 0, "Sum"),
        PartEnded(0, 0),
        PartStarted(0, 1, PartKind.REASONING_SUMMARY),
        ReasoningDelta(0, 1, "mary"),
        PartEnded(0, 1),
        PartStarted(0, 2, PartKind.REASONING),
        ReasoningDelta(0, 2, "Raw"),
        ReasoningDelta(0, 2, "", "seal=="),
        PartEnded(0, 2),
        PartStarted(0, 3, PartKind.TEXT),
        TextDelta(0, 3, "Hi"),
        PartEnded(0, 3),
        PartStarted(0, 4, PartKind.TOOL_CALL, "call_1", "f"),
        ToolCallDelta(0, 4, "{}"),
        PartEnded(0, 4),
        PartStarted(0, 5, PartKind.CUSTOM_TOOL_CALL, "call_2", "g"),
        ToolCallDelta(0, 5, "free"),
        PartEnded(0, 5),
        ChoiceEnded(0, FinishReason.TOOL_CALLS, "tool_calls"),
    )
    assert response.output == (
        ReasoningItem(f"rs_{SUFFIX}_0", "completed", ("Sum", "mary"), ("Raw",), "seal=="),
        MessageItem(f"msg_{SUFFIX}", "completed", (OutputText("Hi"),)),
        ToolCallItem(f"fc_{SUFFIX}_2", "completed", "call_1", "f", "{}"),
        ToolCallItem(f"ctc_{SUFFIX}_3", "completed", "call_2", "g", "free", custom=True),
    )
    assert response.status == "completed"
    assert names(events)[2:18] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
    ]


def test_a_second_choice_is_not_told() -> None:
    second: tuple[GenerationEvent, ...] = (
        PartStarted(1, 0, PartKind.TEXT),
        TextDelta(1, 0, "Bonjour"),
        PartStarted(1, 1, PartKind.TOOL_CALL, "call_1", "f"),
        ToolCallDelta(1, 1, "{}"),
        PartStarted(1, 2, PartKind.REASONING),
        ReasoningDelta(1, 2, "Hm."),
        AnnotationAdded(1, 0, msgspec.Raw(b"{}")),
        PartEnded(1, 2),
        PartEnded(1, 1),
        PartEnded(1, 0),
        ChoiceEnded(1, FinishReason.LENGTH, "length"),
    )
    first = text_events("Hello")
    alone = assemble(*first)
    mixed = [event for pair in itertools.zip_longest(first, second) for event in pair if event is not None]
    assert assemble(*first, *second) == assemble(*second, *first) == assemble(*mixed) == alone


def test_what_ends_or_breaks_off_leaves_no_garbage() -> None:
    parts = [
        PartStarted(0, 0, PartKind.REASONING),
        ReasoningDelta(0, 0, "I think"),
        PartEnded(0, 0),
        PartStarted(0, 1, PartKind.TEXT),
        TextDelta(0, 1, "so"),
    ]
    with garbage() as left:
        assemble(*parts, PartEnded(0, 1), STOP)
        ResponseAssembler(OPENING).feed((STARTED, *parts))
    assert not left


def test_reasoning_that_is_only_a_seal_has_no_parts() -> None:
    events, response = assemble(
        PartStarted(0, 0, PartKind.REASONING), ReasoningDelta(0, 0, "", "seal=="), PartEnded(0, 0), STOP
    )
    assert names(events)[2:4] == ["output_item.added", "output_item.done"]
    assert response.output == (ReasoningItem(f"rs_{SUFFIX}_0", "completed", encrypted_content="seal=="),)


def test_sealed_reasoning_takes_nothing_more() -> None:
    thoughts = [
        event
        for part in (0, 1)
        for event in (
            PartStarted(0, part, PartKind.REASONING),
            ReasoningDelta(0, part, f"t{part}"),
            ReasoningDelta(0, part, "", f"seal{part}"),
            PartEnded(0, part),
        )
    ]
    _, response = assemble(*thoughts, STOP)
    assert [item.encrypted_content for item in response.output if isinstance(item, ReasoningItem)] == ["seal0", "seal1"]


def test_parallel_calls_interleave_and_keep_their_index() -> None:
    events, response = assemble(
        PartStarted(0, 0, PartKind.TOOL_CALL, "a", "f"),
        ToolCallDelta(0, 0, '{"x"'),
        PartStarted(0, 1, PartKind.TOOL_CALL, "b", "g"),
        ToolCallDelta(0, 1, "{"),
        ToolCallDelta(0, 0, ":1}"),
        ToolCallDelta(0, 1, "}"),
        PartEnded(0, 1),
        PartEnded(0, 0),
        ChoiceEnded(0, FinishReason.TOOL_CALLS, "tool_calls"),
    )
    deltas = [(event.output_index, event.delta) for event in events if isinstance(event, DeltaEvent)]
    assert deltas == [(0, '{"x"'), (1, "{"), (0, ":1}"), (1, "}")]
    assert [item.arguments for item in response.output if isinstance(item, ToolCallItem)] == ['{"x":1}', "{}"]
    assert [getattr(item, "status", "") for item in response.output] == ["completed", "completed"]


def test_text_after_a_call_is_a_message_of_its_own() -> None:
    _, response = assemble(
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "a"),
        PartStarted(0, 1, PartKind.TOOL_CALL, "c", "f"),
        TextDelta(0, 0, "b"),
        PartEnded(0, 0),
        PartStarted(0, 2, PartKind.TEXT),
        TextDelta(0, 2, "c"),
        PartEnded(0, 2),
        PartEnded(0, 1),
        STOP,
    )
    messages = [item for item in response.output if isinstance(item, MessageItem)]
    assert [(item.id, item.content) for item in messages] == [
        (f"msg_{SUFFIX}", (OutputText("ab"),)),
        (f"msg_{SUFFIX}_2", (OutputText("c"),)),
    ]


def test_text_of_another_phase_is_a_message_of_its_own() -> None:
    _, response = assemble(
        PartStarted(0, 0, PartKind.TEXT, phase="commentary"),
        TextDelta(0, 0, "Let me look."),
        PartEnded(0, 0),
        PartStarted(0, 1, PartKind.TEXT, phase="final_answer"),
        TextDelta(0, 1, "It is 4."),
        PartEnded(0, 1),
        PartStarted(0, 2, PartKind.REFUSAL, phase="final_answer"),
        TextDelta(0, 2, "No."),
        PartEnded(0, 2),
        STOP,
    )
    assert response.output == (
        MessageItem(f"msg_{SUFFIX}", "completed", (OutputText("Let me look."),), "commentary"),
        MessageItem(f"msg_{SUFFIX}_1", "completed", (OutputText("It is 4."), OutputRefusal("No.")), "final_answer"),
    )


def test_a_refusal_is_a_part_beside_the_text() -> None:
    events, response = assemble(
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "Well"),
        PartEnded(0, 0),
        PartStarted(0, 1, PartKind.REFUSAL),
        TextDelta(0, 1, "No"),
        PartEnded(0, 1),
        STOP,
    )
    assert response.output == (MessageItem(f"msg_{SUFFIX}", "completed", (OutputText("Well"), OutputRefusal("No"))),)
    assert names(events)[7:11] == ["content_part.added", "refusal.delta", "refusal.done", "content_part.done"]


def test_annotations_and_logprobs_stay_with_their_part() -> None:
    citation = msgspec.Raw(b'{"type":"url_citation","url":"https://x.test"}')
    events, response = assemble(
        PartStarted(0, 0, PartKind.TEXT),
        TextDelta(0, 0, "a", msgspec.Raw(b'[{"token":"a","logprob":-0.10}]')),
        AnnotationAdded(0, 0, citation),
        TextDelta(0, 0, "b", msgspec.Raw(b'[{"token":"b","logprob":-0.2}]')),
        PartEnded(0, 0),
        STOP,
    )
    (item,) = response.output
    assert isinstance(item, MessageItem)
    (text,) = item.content
    assert isinstance(text, OutputText)
    assert (text.text, text.annotations) == ("ab", (citation,))
    assert [bytes(token) for token in text.logprobs] == [
        b'{"token":"a","logprob":-0.10}', b'{"token":"b","logprob":-0.2}',
    ]  # fmt: skip
    assert "output_text.annotation.added" in names(events)


def test_an_item_of_a_built_in_tool_stands_between_the_others() -> None:
    search = msgspec.Raw(b'{"type":"web_search_call","id":"ws_1","status":"completed"}')
    events, response = assemble(OpaqueItem(search), *text_events("Hi"))
    assert names(events)[2:5] == ["output_item.added", "output_item.done", "output_item.added"]
    assert response.output[0] == OpaqueOutput(search)
    assert isinstance(response.output[1], MessageItem)


@pytest.mark.parametrize("told_first", [True, False])
def test_a_call_cut_by_the_limit_is_incomplete(told_first: bool) -> None:
    """Whether or not the provider closes the part before it says why it stopped."""
    end: list[GenerationEvent] = [PartEnded(0, 0), PartEnded(0, 1), LENGTH] if told_first else [LENGTH]
    events, response = assemble(
        PartStarted(0, 0, PartKind.TOOL_CALL, "a", "f"),
        ToolCallDelta(0, 0, "{}"),
        PartStarted(0, 1, PartKind.TOOL_CALL, "b", "g"),
        ToolCallDelta(0, 1, '{"city": "Os'),
        *end,
    )
    assert [getattr(item, "status", "") for item in response.output] == ["completed", "incomplete"]
    assert names(events)[-1] == "incomplete"
    assert (response.status, response.incomplete_reason) == ("incomplete", "max_output_tokens")
    assert (response.completed_at, response.usage) == (None, SETTLED.usage)


@pytest.mark.parametrize(
    ("reason", "native", "told"),
    [
        (FinishReason.LENGTH, "length", "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "content_filter", "content_filter"),
        (FinishReason.OTHER, "malformed_function_call", "malformed_function_call"),
        (FinishReason.OTHER, "", "other"),
    ],
)
def test_what_was_cut_says_why(reason: FinishReason, native: str, told: str) -> None:
    _, response = assemble(*text_events("Hel")[:-1], ChoiceEnded(0, reason, native))
    assert (response.status, response.incomplete_reason) == ("incomplete", told)
    assert [getattr(item, "status", "") for item in response.output] == ["incomplete"]


def test_the_end_of_a_part_is_told_before_what_follows_it() -> None:
    assembler = ResponseAssembler(OPENING)
    first: list[GenerationEvent] = [STARTED, PartStarted(0, 0, PartKind.TEXT), TextDelta(0, 0, "a"), PartEnded(0, 0)]
    assert names(list(assembler.feed(first)))[-1] == "output_text.delta"
    after: Any = assembler.feed([PartStarted(0, 1, PartKind.TOOL_CALL, "c", "f")])
    assert names(after) == ["output_text.done", "content_part.done", "output_item.done", "output_item.added"]
    assert isinstance(after[2], ItemEvent)
    assert getattr(after[2].item, "status", "") == "completed"


def test_a_failure_keeps_what_was_said() -> None:
    assembler = ResponseAssembler(OPENING)
    assembler.feed([STARTED, PartStarted(0, 0, PartKind.TEXT), TextDelta(0, 0, "Hel")])
    error, failed = assembler.fail(GatewayError(Reason.STREAM_INTERRUPTED, "It broke."))
    assert (error.type, failed.type) == ("error", "response.failed")
    assert (error.sequence_number, failed.sequence_number) == (5, 6)
    response = assembler.response
    assert (response.status, response.completed_at, response.usage) == ("failed", None, None)
    assert response.error is not None
    assert (response.error.code, response.error.message) == ("provider_error", "It broke.")
    assert response.output == (MessageItem(f"msg_{SUFFIX}", "incomplete", (OutputText("Hel"),)),)


def test_an_answer_that_ends_without_a_reason_is_a_failure_and_leaves_no_gap() -> None:
    assembler = ResponseAssembler(OPENING)
    with pytest.raises(GatewayError) as caught:
        assembler.feed([STARTED, PartStarted(0, 0, PartKind.TEXT), Completed(), SETTLED])
    assert caught.value.reason is Reason.STREAM_INTERRUPTED
    events = list(assembler.fail(caught.value))
    assert names(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "error", "failed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(6))
