"""Answers of the Messages API as events: content, reasons, usage, and what goes wrong within a 200."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.errors import FailureCategory
from server.domain.events import (
    ChoiceEnded,
    FinishReason,
    PartKind,
    PartStarted,
    ProviderEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.usage import Usage
from server.providers.anthropic_decode import STOP_REASONS, MessagesDecoder
from tests.fakes.anthropic_wire import (
    ID,
    MODEL,
    block_delta,
    block_events,
    block_start,
    block_stop,
    error_event,
    events_of,
    message,
    message_delta,
    message_start,
    message_stop,
    ping,
    redacted,
    text,
    thinking,
    tool_use,
    usage,
)
from tests.fakes.replies import compact
from tests.unit.anthropic_cases import both, decoded, provider, streamed, unary
from tests.unit.openai_cases import Answer, CountingIds, Tool

WEATHER = tool_use("get_weather", {"city": "Paris"})


def test_a_text_answer_tells_who_answered_and_what_it_used() -> None:
    answer = both(message(text("Hello there!")))

    assert answer.started == [Started(ID, MODEL)]
    assert answer.only.text == "Hello there!"
    assert (answer.only.reason, answer.only.native_reason) == (FinishReason.STOP, "end_turn")
    assert answer.usage == Usage(9, 3)
    assert answer.service_tier == "default"
    assert answer.completed


@pytest.mark.parametrize(("native", "reason"), [*STOP_REASONS.items(), ("something_new", FinishReason.OTHER)])
def test_p4_every_stop_reason_is_the_tables_whole_and_streamed(native: str, reason: FinishReason) -> None:
    answer = both(message(text(), stop_reason=native))

    assert (answer.only.reason, answer.only.native_reason) == (reason, native)


def test_the_stop_sequence_that_was_hit_is_told() -> None:
    whole = message(text(), stop_reason="stop_sequence", stop_sequence="END")

    for events in (decoded(events_of(whole))[0],):
        [ended] = [event for event in events if isinstance(event, ChoiceEnded)]
        assert ended == ChoiceEnded(0, FinishReason.STOP, "stop_sequence", "END")


def test_p1_parallel_calls_have_a_part_each() -> None:
    calls = [tool_use("f", {"n": n}, id=f"toolu_{n}") for n in range(3)]
    answer = both(message(text("Let me see."), *calls, stop_reason="tool_use"))

    assert [(tool.call_id, tool.name, json.loads(tool.arguments)) for tool in answer.only.tools] == [
        (f"toolu_{n}", "f", {"n": n}) for n in range(3)
    ]
    assert answer.only.reason is FinishReason.TOOL_CALLS


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """Streamed, its one `partial_json` is empty."""
    answer = both(message(tool_use("now", {}), stop_reason="tool_use"))

    assert answer.only.tools == [Tool("toolu_01", "now", "{}")]


def test_input_that_comes_whole_with_the_blocks_beginning_counts() -> None:
    events = [message_start(), block_start(0, WEATHER), block_stop(0), message_delta("tool_use"), message_stop()]

    assert streamed(events).only.tools == [Tool("toolu_01", "get_weather", '{"city":"Paris"}')]


def test_p5_a_call_cut_by_the_limit_ends_with_length() -> None:
    events = [
        message_start(),
        block_start(0, {**WEATHER, "input": {}}),
        block_delta(0, "input_json_delta", partial_json='{"city": "Par'),
        block_stop(0),
        message_delta("max_tokens"),
        message_stop(),
    ]
    answer = streamed(events)

    assert answer.only.reason is FinishReason.LENGTH
    assert answer.only.tools[0].arguments == '{"city": "Par'


def test_blocks_under_way_at_the_same_time_keep_apart() -> None:
    first, second = (block_events(n, tool_use("f", {"n": n}, id=f"toolu_{n}")) for n in range(2))
    mixed = [event for pair in zip(first, second, strict=True) for event in pair]
    answer = streamed([message_start(), *mixed, message_delta("tool_use"), message_stop()])

    assert [json.loads(tool.arguments) for tool in answer.only.tools] == [{"n": 0}, {"n": 1}]


def test_p6_thinking_comes_with_its_signature_as_it_is() -> None:
    answer = both(message(thinking("Hm. Let me think.", "EqQB+/sig=="), text("Yes.")))

    assert (answer.only.reasoning, answer.only.signature) == ("Hm. Let me think.", "EqQB+/sig==")
    assert answer.only.text == "Yes."


def test_p7_a_signature_without_text_is_kept() -> None:
    """`display: omitted` leaves the text out and the seal in."""
    assert both(message(thinking("", "EqQBsig"), text("Yes."))).only.signature == "EqQBsig"


def test_redacted_thinking_is_a_reasoning_part_with_no_text() -> None:
    whole = message(redacted("EmwKdata"), text("Yes."))
    events, _ = decoded(events_of(whole))

    assert both(whole).only.reasoning == ""
    assert PartStarted(0, 0, PartKind.REASONING) in events
    assert [event.signature for event in events if isinstance(event, ReasoningDelta)] == [".r0,8.EmwKdata"]


def test_text_blocks_in_a_row_are_one_part() -> None:
    events, _ = decoded(events_of(message(text("One. "), text("Two."), WEATHER, text("Three."))))

    kinds = [event.kind for event in events if isinstance(event, PartStarted)]
    assert kinds == [PartKind.TEXT, PartKind.TOOL_CALL, PartKind.TEXT]


def test_citations_with_an_address_are_annotations_on_their_block() -> None:
    cited = {
        "type": "web_search_result_location",
        "cited_text": "…",
        "url": "https://example.com/a",
        "title": "A",
        "encrypted_index": "Eo8B",
    }
    local = {"type": "page_location", "cited_text": "…", "document_index": 0, "document_title": "D"}
    answer = both(message(text("It is known: "), text("water is wet.", citations=[cited, local])))

    assert answer.only.annotations == [
        {"type": "url_citation", "start_index": 13, "end_index": 26, "url": "https://example.com/a", "title": "A"}
    ]


def test_blocks_and_events_that_are_not_known_are_passed_over() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    strange = {"type": "fallback", "from": "a", "to": "b"}
    whole = message(text("a"), search, found, strange, text("b"))
    events = events_of(whole)
    events[2:2] = [{"type": "brand_new_event", "index": 0}, ping(), block_delta(7, "novel_delta", novelty=1)]

    assert streamed(events).only.text == both(whole).only.text == "ab"


def test_spaces_before_the_last_brace_and_pings_mean_nothing() -> None:
    events: list[Any] = [ping(), *events_of(message(text("Hi")))]
    spaced = [json.dumps(event).encode()[:-1] + b"      }" for event in events]

    assert streamed(spaced).only.text == "Hi"


def test_a_refusal_before_any_output() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": None}
    answer = both(message(stop_reason="refusal", stop_details=details, usage_=usage(20, 0)))

    assert answer.only.text == answer.only.refusal == ""
    assert answer.only.reason is FinishReason.CONTENT_FILTER
    assert answer.usage == Usage(20, 0)


def test_a_refusal_in_the_middle_says_why() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "This could do harm."}
    answer = both(message(text("First,"), stop_reason="refusal", stop_details=details))

    assert (answer.only.text, answer.only.refusal) == ("First,", "This could do harm.")


# Usage.


def counts(events: list[Any]) -> list[Usage]:
    out, _ = decoded(events)
    return [event.usage for event in out if isinstance(event, UsageReported)]


def test_input_excludes_cached_and_written_tokens_upstream_and_includes_them_here() -> None:
    answer = both(message(text(), usage_=usage(5, 7, read=1000, written=200)))

    assert answer.usage == Usage(1205, 7, cached_input_tokens=1000, cache_write_tokens=200)


def test_thinking_tokens_are_within_the_output() -> None:
    whole = message(text(), usage_=usage(5, 70, output_tokens_details={"thinking_tokens": 60}))

    assert both(whole).usage == Usage(5, 70, reasoning_tokens=60)


def test_u1_counts_of_zero_are_counts() -> None:
    assert both(message(text(), usage_=usage(0, 0))).usage == Usage()


def test_the_output_count_of_message_start_is_a_placeholder() -> None:
    """A stream that is cut is counted by what it said, not billed as one token."""
    start = message_start({**usage(5, 0, read=3), "output_tokens": 88})

    assert counts([start, block_start(0, text("")), block_delta(0, "text_delta", text="Hi")]) == [
        Usage(8, 0, cached_input_tokens=3)
    ]


def test_stream_usage_is_cumulative_and_overwrites() -> None:
    """Server tools raise the input while they run: 2,479 at the start were 404,500 at the end."""
    events = [
        message_start(usage(2479, 0)),
        message_delta(None, usage(100_000, 50)),
        message_delta("end_turn", usage(404_500, 120)),
        message_stop(),
    ]
    assert counts(events)[-1] == Usage(404_500, 120)


def test_a_delta_that_counts_output_alone_leaves_the_beginnings_input() -> None:
    partial = {"output_tokens": 9, "input_tokens": None, "cache_read_input_tokens": None}
    events = [message_start(usage(4, 0, read=6)), message_delta("end_turn", partial), message_stop()]

    assert counts(events)[-1] == Usage(10, 9, cached_input_tokens=6)


def test_a_reseller_whose_first_input_includes_the_cache_is_put_right_by_its_last() -> None:
    events = [message_start(usage(100, 0)), message_delta("end_turn", usage(20, 3, read=80)), message_stop()]

    assert counts(events)[-1] == Usage(100, 3, cached_input_tokens=80)


def test_iterations_beside_the_top_level_are_billed() -> None:
    iterations = [
        {"type": "message", "input_tokens": 10, "output_tokens": 5},
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 200},
        {"type": "advisor_message", "input_tokens": 50, "output_tokens": 20, "cache_read_input_tokens": 7},
    ]
    whole = message(text(), usage_=usage(10, 5, iterations=iterations))

    assert both(whole).usage == Usage(1067, 225, cached_input_tokens=7)


def test_usage_follows_all_that_it_counts() -> None:
    """A count that came before some of the output would be taken for stale."""
    said = message(text(), WEATHER, stop_reason="tool_use", usage_=usage(9, 0))
    whole: list[ProviderEvent] = []
    MessagesDecoder(provider(), CountingIds()).whole(compact(said), whole)
    for events in (decoded(events_of(said))[0], whole):
        after = events[max(at for at, event in enumerate(events) if isinstance(event, UsageReported)) :]
        assert not [event for event in after if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)]


def test_u2_usage_is_not_told_before_there_is_content() -> None:
    """An overload that comes first leaves nothing to be billed."""
    out, failure = decoded([message_start(), ping(), error_event()])

    assert failure is not None
    assert not [event for event in out if isinstance(event, UsageReported)]


def test_the_tier_that_served_is_told() -> None:
    def tier(**said: Any) -> str | None:
        return both(message(text(), usage_=usage(**said))).service_tier

    assert (tier(), tier(service_tier="priority"), tier(speed="fast")) == ("default", "priority", "fast")


# What goes wrong.


@pytest.mark.parametrize(
    ("event", "category"),
    [
        (error_event(), FailureCategory.OVERLOADED),
        (error_event("api_error", "Internal server error"), FailureCategory.SERVER_ERROR),
        (error_event("rate_limit_error", "Slow down"), FailureCategory.RATE_LIMITED),
        (error_event("something_else", "?"), FailureCategory.SERVER_ERROR),
        (error_event("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
         FailureCategory.CONTEXT_LENGTH),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 3], ids=["first", "amid"])
def test_an_error_event_within_a_200_is_a_failure(event: Any, category: FailureCategory, before: int) -> None:
    _, failure = decoded([*events_of(message(text()))[:before], event])

    assert failure is not None
    assert (failure.category, failure.request_id) == (category, event["request_id"])


def test_an_error_as_a_whole_body_under_a_200() -> None:
    with pytest.raises(Exception, match="overloaded"):
        unary(error_event())


@pytest.mark.parametrize("events", [0, 1, 4, 6])
def test_a_stream_cut_before_its_reason_is_a_failure(events: int) -> None:
    _, failure = decoded(events_of(message(text()))[:events])

    assert failure is not None
    assert failure.category is FailureCategory.CONNECTION


def test_a_stream_that_ends_after_its_reason_is_whole() -> None:
    assert streamed(events_of(message(text("Hi")))[:-1]).only.text == "Hi"


def test_a_stop_without_a_reason_is_no_success() -> None:
    _, failure = decoded([message_start(), message_stop()])

    assert failure is not None
    assert failure.category is FailureCategory.PROTOCOL


def test_a_second_start_of_the_same_message_repeats_the_first() -> None:
    events = events_of(message(text("Hi")))

    assert streamed([events[0], *events]).only.text == "Hi"


def test_a_second_message_within_the_first_is_a_failure() -> None:
    events = events_of(message(text("Hi")))
    _, failure = decoded([*events[:4], message_start(id="msg_another"), *events[1:]])

    assert failure is not None
    assert failure.category is FailureCategory.PROTOCOL


@pytest.mark.parametrize(
    "data",
    [b"{", b"<html>", b'"x"', b"[]", b'{"type":"content_block_delta","index":0,"delta":7}', b"\xff", b"[" * 9999],
)
def test_what_is_no_event_is_a_failure(data: bytes) -> None:
    _, failure = decoded([message_start(), data])

    assert failure is not None
    assert failure.category is FailureCategory.PROTOCOL


def test_content_before_its_message_is_a_failure() -> None:
    _, failure = decoded(block_events(0, text()))

    assert failure is not None
    assert failure.category is FailureCategory.PROTOCOL


def test_an_empty_answer_that_says_why_it_ended_is_one() -> None:
    answer: Answer = both(message())

    assert (answer.only.text, answer.only.reason) == ("", FinishReason.STOP)
