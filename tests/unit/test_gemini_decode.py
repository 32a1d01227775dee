"""Answers in the gemini dialect, one quirk a test; whole and streamed they say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import FinishReason, PartKind, PartStarted, ProviderEvent, TextDelta, UsageReported
from server.domain.usage import Usage
from server.providers.gemini_decode import FAILED_REASONS, FINISH_REASONS
from tests.fakes.gemini_wire import (
    MODEL,
    RESPONSE_ID,
    blocked,
    call,
    candidate,
    frame,
    reply,
    text,
    text_chunks,
    usage,
)
from tests.unit.gemini_cases import decoder, events_of, stream_failure, streamed, unary, unary_failure
from tests.unit.openai_cases import Answer, Tool


def both(*parts: dict[str, Any] | str, finish: str = "STOP", **extra: Any) -> Answer:
    """The answer as one body; as a stream with a chunk for each part it must be the same."""
    whole = unary(reply(candidate(*parts, finish=finish, **extra)))
    chunks = [reply(candidate(part, finish=None)) for part in parts]
    in_pieces = streamed(*chunks, reply(candidate(content=False, finish=finish, **extra)))
    assert whole == in_pieces
    return whole


def test_text_with_who_said_it_and_what_it_cost() -> None:
    answer = both("Hello", " there!")

    assert answer.only.text == "Hello there!"
    assert (answer.only.reason, answer.only.native_reason) == (FinishReason.STOP, "STOP")
    assert answer.started[0].native_response_id == RESPONSE_ID
    assert answer.started[0].provider_model == MODEL
    assert answer.usage == Usage(9, 3)
    assert answer.completed


def test_a_text_is_one_part_and_each_chunk_a_delta() -> None:
    found = events_of(text_chunks("a", "b", "c"))

    assert [event.kind for event in found if isinstance(event, PartStarted)] == [PartKind.TEXT]
    assert [event.text for event in found if isinstance(event, TextDelta)] == ["a", "b", "c"]


# Finish reasons.


@pytest.mark.parametrize(("native", "reason"), list(FINISH_REASONS.items()))
def test_p4_every_finish_reason_by_the_table(native: str, reason: FinishReason) -> None:
    answer = both("text", finish=native)

    assert (answer.only.reason, answer.only.native_reason) == (reason, native)


@pytest.mark.parametrize("native", ["LANGUAGE", "OTHER", "NO_IMAGE", "FINISH_REASON_UNSPECIFIED", "SOMETHING_NEW"])
def test_p4_an_unknown_reason_is_never_a_silent_stop(native: str) -> None:
    answer = both("text", finish=native)

    assert (answer.only.reason, answer.only.native_reason) == (FinishReason.OTHER, native)


@pytest.mark.parametrize(("native", "category"), list(FAILED_REASONS.items()))
def test_p4_reasons_that_are_failures(native: str, category: FailureCategory) -> None:
    ended = reply(candidate(content=False, finish=native, finishMessage="Malformed function call: f("))

    for failure in (unary_failure(ended), stream_failure(reply(candidate("Let me", finish=None)), ended)):
        assert failure.category is category
        assert (failure.upstream.code, failure.upstream.message) == (native, "Malformed function call: f(")


def test_stop_after_a_call_is_tool_calls() -> None:
    assert both(call("f", {})).only.reason is FinishReason.TOOL_CALLS


def test_p5_a_call_before_the_limit_is_cut_short_not_complete() -> None:
    assert both(call("f", {}), finish="MAX_TOKENS").only.reason is FinishReason.LENGTH


def test_thoughts_may_eat_the_whole_limit_and_leave_no_parts() -> None:
    counted = usage(9, None, thoughts=7)
    ended = reply(candidate(finish="MAX_TOKENS"), counted=counted)

    for answer in (unary(ended), streamed(ended)):
        assert (answer.only.reason, answer.only.text) == (FinishReason.LENGTH, "")
        assert answer.usage == Usage(9, 7, reasoning_tokens=7)


def test_a_filtered_answer_without_content() -> None:
    answer = unary(reply(candidate(content=False, finish="SAFETY", finishMessage="Blocked."), counted=usage(9, None)))

    assert (answer.only.reason, answer.only.native_reason) == (FinishReason.CONTENT_FILTER, "SAFETY")
    assert answer.usage == Usage(9, 0)


# Prompts that are refused.


@pytest.mark.parametrize(
    "reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK"]
)
def test_a_blocked_prompt_is_a_content_policy_failure(reason: str) -> None:
    for failure in (unary_failure(blocked(reason)), stream_failure(blocked(reason))):
        assert failure.category is FailureCategory.CONTENT_POLICY
        assert failure.is_final
        assert (failure.upstream.code, failure.upstream.message) == (reason, f"The prompt was blocked ({reason}).")


def test_a_blocked_prompt_in_googles_words_and_with_empty_candidates() -> None:
    body = {**blocked("MODEL_ARMOR", blockReasonMessage="Blocked by Model Armor."), "candidates": []}

    assert unary_failure(body).upstream.message == "Blocked by Model Armor."


def test_a_block_in_mid_stream_ends_the_answer_as_filtered() -> None:
    answer = streamed(reply(candidate("Once upon", finish=None)), blocked("PROHIBITED_CONTENT"))

    assert answer.only.text == "Once upon"
    assert (answer.only.reason, answer.only.native_reason) == (FinishReason.CONTENT_FILTER, "PROHIBITED_CONTENT")


# Calls.


def test_p1_parallel_calls_whole_at_once_and_without_ids() -> None:
    answer = both(call("f", {"x": 1}), call("g", {"y": [1, 2]}), call("f", {"x": 2}))

    ids = [tool.call_id for tool in answer.only.tools]
    assert answer.only.tools == [
        Tool(ids[0], "f", '{"x":1}'),
        Tool(ids[1], "g", '{"y":[1,2]}'),
        Tool(ids[2], "f", '{"x":2}'),
    ]
    assert len(set(ids)) == 3
    assert all(call_id.startswith("call_") for call_id in ids)


def test_p3_an_id_of_googles_own_is_kept_and_marked() -> None:
    answer = both(call("f", {}, id="abc"), call("g", {}, id="abc"))

    first, second = answer.only.tools
    assert first.call_id == "gemini_abc"
    assert second.call_id.startswith("call_"), "two calls never share an id"


def test_arguments_keep_their_spelling() -> None:
    raw = (
        b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"zebra":1.50,"apple":1e3}}}]},'
        b'"finishReason":"STOP"}]}'
    )
    assert unary(raw).only.tools[0].arguments == '{"zebra":1.50,"apple":1e3}'


@pytest.mark.parametrize("part", [call("f"), {"functionCall": {"name": "f", "args": None}}])
def test_omitted_arguments_are_an_empty_object(part: dict[str, Any]) -> None:
    assert both(part).only.tools[0].arguments == "{}"


def test_text_and_calls_stay_in_their_order() -> None:
    found = events_of([reply(candidate("Let me see.", call("f", {}), "There."))])

    kinds = [event.kind for event in found if isinstance(event, PartStarted)]
    assert kinds == [PartKind.TEXT, PartKind.TOOL_CALL, PartKind.TEXT]


def test_a_call_without_a_name_is_a_breach_of_protocol() -> None:
    assert unary_failure(reply(candidate({"functionCall": {}}))).category is FailureCategory.PROTOCOL


# Thoughts.


def test_thoughts_are_reasoning_and_never_text() -> None:
    answer = both(text("Hm. ", thought=True), text("Aha.", thought=True), "Yes.")

    assert answer.only.summaries == ["Hm. Aha."]
    assert answer.only.text == "Yes."


# Legal oddities.


def test_empty_texts_missing_parts_and_missing_content_are_legal() -> None:
    answer = streamed(
        reply(candidate(text(""), finish=None)),
        reply(candidate(finish=None)),
        reply(candidate("Hi", finish=None)),
        {"candidates": [], "usageMetadata": usage()},
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
        reply(candidate(content=False)),
    )

    assert (answer.only.text, answer.only.reason) == ("Hi", FinishReason.STOP)
    assert answer.usage == Usage(9, 3)


def test_what_comes_after_the_finish_reason_still_counts() -> None:
    answer = streamed(reply(candidate("Hi"), counted=usage(9, 1)), {"usageMetadata": usage(20, 2)})

    assert answer.usage == Usage(20, 2)


def test_several_candidates() -> None:
    answer = streamed(
        reply(candidate("a", index=0, finish=None), candidate("x", index=1)),
        reply(candidate("b", index=0, finish="MAX_TOKENS")),
    )

    assert [(choice.text, choice.reason) for choice in answer.choices.values()] == [
        ("ab", FinishReason.LENGTH),
        ("x", FinishReason.STOP),
    ]


def test_an_index_that_is_missing_is_the_place() -> None:
    first, second = candidate("a"), candidate("b")
    del first["index"], second["index"]

    assert [choice.text for choice in unary(reply(first, second)).choices.values()] == ["a", "b"]


def test_an_array_is_a_stream_in_one_body() -> None:
    body = json.dumps(text_chunks("Hello", " there!"), indent=2).encode()

    assert unary(body) == streamed(*text_chunks("Hello", " there!"))


def test_unknown_fields_are_read_over() -> None:
    answer = both({"text": "Hi", "mediaResolution": {"level": "X"}}, safetyRatings=[{"category": "X"}], tokenCount=3)

    assert answer.only.text == "Hi"


def test_code_that_google_ran_is_shown_as_text() -> None:
    ran = {"executableCode": {"language": "PYTHON", "code": "print(6*7)"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n"}}

    assert both(ran, result, "42.").only.text == "\n```python\nprint(6*7)\n```\n\n```\n42\n\n```\n42."


# Breaches.


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [reply(candidate("Hi", finish=None))],
        [{"usageMetadata": usage()}],
        [reply(candidate("a"), candidate("b", index=1, finish=None))],
    ],
)
def test_s14_a_stream_without_a_finish_reason_was_cut(chunks: list[Any]) -> None:
    assert stream_failure(*chunks).category is FailureCategory.CONNECTION


@pytest.mark.parametrize("body", [{}, {"candidates": []}, reply(candidate("Hi", finish=None)), reply(candidate())])
def test_a_whole_answer_that_says_nothing_is_no_success(body: Any) -> None:
    assert unary_failure(body).category is FailureCategory.PROTOCOL


@pytest.mark.parametrize("data", [b"<html>", b'"text"', b"[1]", b'{"candidates": 3}', b"[" * 100_000, b"\xff"])
def test_garbage_is_a_breach_of_protocol(data: bytes) -> None:
    assert stream_failure(data).category is FailureCategory.PROTOCOL
    assert unary_failure(data).category is FailureCategory.PROTOCOL


def test_media_in_an_answer_cannot_be_carried() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}

    assert unary_failure(reply(candidate(image))).category is FailureCategory.PROTOCOL


def test_too_many_candidates_are_a_breach() -> None:
    assert unary_failure(reply(candidate("a", index=128))).category is FailureCategory.PROTOCOL


def test_a_failure_leaves_the_usage_before_it() -> None:
    out: list[ProviderEvent] = []
    ended = reply(candidate(content=False, finish="MALFORMED_FUNCTION_CALL"), counted=usage(9, 5))
    with pytest.raises(ProviderFailure):
        decoder().feed(None, json.dumps(ended).encode(), out)

    assert [event.usage for event in out if isinstance(event, UsageReported)] == [Usage(9, 5)]


def test_the_framing_of_the_stand_in_is_crlf_without_names() -> None:
    assert frame({"a": 1}) == b'data: {"a":1}\r\n\r\n'
