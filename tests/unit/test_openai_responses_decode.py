"""The Responses API into events: whole and streamed alike, with the deviations of upstreams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import (
    FinishReason,
    OpaqueItem,
    PartEnded,
    PartStarted,
    ProviderEvent,
    TextDelta,
    UsageReported,
)
from server.domain.usage import Usage
from server.providers.openai_responses_decode import INCOMPLETE_REASONS, ResponsesDecoder
from tests.fakes.responses_wire import ID, MODEL, message_item, response_object, text_events, text_part
from tests.unit.openai_cases import (
    RESPONSES,
    Answer,
    CountingIds,
    Tool,
    feed,
    fold,
    provider,
    responses_stream,
    responses_whole,
)

CREATED = {"type": "response.created", "response": response_object([], status="in_progress", usage=None)}
TOKENS = [{"token": "Hi", "logprob": -0.5, "top_logprobs": []}]
CITATION = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2}

REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
    "encrypted_content": "gAAAA==",
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": '{"x":1}'}
CUSTOM = {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_2", "name": "sql", "input": "SELECT"}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"z": 1.5, "a": 2}}
REFUSAL = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
SPOKEN = {
    "type": "message",
    "id": "m",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hi", "annotations": [CITATION], "logprobs": TOKENS}],
}


def ev(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def completed(*output: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return ev("completed", response=response_object(list(output), **extra))


def item_events(
    index: int, item: dict[str, Any], *deltas: dict[str, Any], added: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        ev("output_item.added", output_index=index, item={**item, **added}),
        *({**delta, "output_index": index} for delta in deltas),
        ev("output_item.done", output_index=index, item=item),
    ]


STREAMS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "text": (text_events("Hello", " there!")[:-1], [message_item("Hello there!")]),
    "text with logprobs and a citation": (
        [
            CREATED,
            *item_events(
                0,
                SPOKEN,
                ev("content_part.added", content_index=0, part=text_part("")),
                ev("output_text.delta", content_index=0, delta="Hi", logprobs=TOKENS),
                ev("output_text.annotation.added", content_index=0, annotation_index=0, annotation=CITATION),
                ev("output_text.done", content_index=0, text="Hi", logprobs=TOKENS),
                added={"content": []},
            ),
        ],
        [SPOKEN],
    ),
    "reasoning, then a call": (
        [
            CREATED,
            *item_events(
                0,
                REASONING,
                ev("reasoning_summary_part.added", summary_index=0),
                ev("reasoning_summary_text.delta", summary_index=0, delta="On"),
                ev("reasoning_summary_text.delta", summary_index=0, delta="e."),
                ev("reasoning_summary_text.done", summary_index=0, text="One."),
                ev("reasoning_summary_text.delta", summary_index=1, delta="Two."),
                ev("reasoning_text.delta", content_index=0, delta="Hm."),
                added={"summary": [], "content": [], "encrypted_content": "incomplete"},
            ),
            *item_events(
                1,
                CALL,
                ev("function_call_arguments.delta", delta='{"x"'),
                ev("function_call_arguments.delta", delta=":1}"),
                ev("function_call_arguments.done", arguments='{"x":1}'),
                added={"arguments": ""},
            ),
        ],
        [REASONING, CALL],
    ),
    "parallel calls, one custom": (
        [
            CREATED,
            ev("output_item.added", output_index=0, item={**CALL, "arguments": ""}),
            ev("output_item.added", output_index=1, item={**CUSTOM, "input": ""}),
            ev("custom_tool_call_input.delta", output_index=1, delta="SEL"),
            ev("function_call_arguments.delta", output_index=0, delta='{"x":1}'),
            ev("custom_tool_call_input.delta", output_index=1, delta="ECT"),
            ev("output_item.done", output_index=0, item=CALL),
            ev("output_item.done", output_index=1, item=CUSTOM),
        ],
        [CALL, CUSTOM],
    ),
    "refusal": (
        [CREATED, *item_events(0, REFUSAL, ev("refusal.delta", content_index=0, delta="No."), added={"content": []})],
        [REFUSAL],
    ),
    "a built-in tool": (
        [
            CREATED,
            *item_events(0, SEARCH, ev("web_search_call.searching"), added={"status": "in_progress"}),
            *text_events("Hi")[2:-1],
        ],
        [SEARCH, message_item("Hi")],
    ),
    "only created and completed": ([CREATED], [REASONING, SPOKEN, CALL, SEARCH]),
    "only whole items": (
        [CREATED, *(ev("output_item.done", output_index=at, item=item) for at, item in enumerate([SPOKEN, CALL]))],
        [SPOKEN, CALL],
    ),
    "only done events": (
        [
            CREATED,
            ev("output_text.done", output_index=0, content_index=0, text="Hi", logprobs=TOKENS),
            ev("output_text.annotation.added", output_index=0, content_index=0, annotation=CITATION),
        ],
        [SPOKEN],
    ),
    "items without an index": (
        [CREATED, ev("output_text.delta", item_id="m", content_index=0, delta="Hi", logprobs=TOKENS)],
        [SPOKEN],
    ),
    "item ids that change between events (copilot)": (
        [
            CREATED,
            ev("output_item.added", output_index=0, item={**SPOKEN, "id": "a", "content": []}),
            ev("output_text.delta", output_index=0, item_id="b", content_index=0, delta="Hi", logprobs=TOKENS),
            ev("output_item.done", output_index=0, item={**SPOKEN, "id": "c"}),
        ],
        [{**SPOKEN, "id": "d"}],
    ),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("case", STREAMS)
def test_u14_one_body_and_a_stream_give_the_same_answer(case: str, named: bool) -> None:
    events, output = STREAMS[case]
    events = [*events, completed(*output)]

    streamed = responses_stream([(event["type"] if named else None, dump(event)) for event in events])
    whole = responses_whole(response_object(output))

    assert streamed == whole
    assert whole.completed
    assert whole.usage == Usage(9, 3)
    assert whole.service_tier == "default"
    assert [(start.native_response_id, start.provider_model) for start in whole.started] == [(ID, MODEL)]


def dump(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def test_each_kind_of_output_lands_in_its_own_place() -> None:
    answer = responses_whole(response_object([REASONING, SPOKEN, CALL, CUSTOM, SEARCH]))

    choice = answer.only
    assert choice.summaries == ["One.", "Two."]
    assert (choice.reasoning, choice.signature, choice.text) == ("Hm.", "gAAAA==", "Hi")
    assert choice.tools == [Tool("call_1", "f", '{"x":1}'), Tool("call_2", "sql", "SELECT", custom=True)]
    assert (choice.annotations, choice.logprobs) == ([CITATION], TOKENS)
    assert answer.items == [SEARCH]


def test_the_type_may_stand_in_the_event_name_alone() -> None:
    events = [
        (event["type"], dump({key: value for key, value in event.items() if key != "type"}))
        for event in text_events("Hi")
    ]

    assert responses_stream(events).only.text == "Hi"


def test_openrouter_ends_responses_with_done_as_well() -> None:
    assert responses_stream([*text_events("Hi"), b"[DONE]"]).only.text == "Hi"


def test_deltas_go_out_as_they_come_and_parts_end_with_their_item() -> None:
    out: list[Any] = []
    decoder = ResponsesDecoder(provider(RESPONSES), CountingIds())
    seen = []
    for event in text_events("Hel", "lo"):
        decoder.feed(None, dump(event), out)
        seen.append((event["type"].removeprefix("response."), [type(found).__name__ for found in out]))
        out.clear()

    assert [row for row in seen if row[1]] == [
        ("created", ["Started"]),
        ("output_text.delta", ["PartStarted", "TextDelta"]),
        ("output_text.delta", ["TextDelta"]),
        ("output_item.done", ["PartEnded"]),
        ("completed", ["UsageReported"]),
    ]


def test_opaque_items_keep_their_bytes() -> None:
    item = b'{"type": "mcp_call" , "z": 1.50, "a": "\\u00e9"}'
    out: list[Any] = []

    ResponsesDecoder(provider(RESPONSES), CountingIds()).whole(b'{"status":"completed","output":[' + item + b"]}", out)

    assert [bytes(event.item) for event in out if isinstance(event, OpaqueItem)] == [item]


@pytest.mark.parametrize("kind", [None, "", 5, ["message"], {"a": 1}])
def test_an_item_of_a_type_that_is_no_word_is_a_message(kind: Any) -> None:
    item = {**message_item("Hi"), "type": kind}
    answer = responses_whole(response_object([item]))
    stream = [CREATED, ev("output_item.added", output_index=0, item={**item, "content": []})]
    stream += [ev("output_item.done", output_index=0, item=item), completed(item)]

    assert answer.only.text == "Hi"
    assert responses_stream(stream) == answer


def test_encrypted_reasoning_alone_is_kept() -> None:
    item = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAAA"}

    assert responses_whole(response_object([item])).only.signature == "gAAAA"


def test_a_late_delta_for_an_earlier_summary_opens_a_part_of_its_own() -> None:
    events = [
        CREATED,
        ev("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="a"),
        ev("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="b"),
        ev("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="c"),
        completed(),
    ]

    assert responses_stream(events).only.summaries == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({**CALL, "arguments": ""}, Tool("call_1", "f", "{}")),
        ({**CALL, "arguments": {"x": 1}}, Tool("call_1", "f", '{"x": 1}')),
        ({**CALL, "call_id": None}, Tool("fc_1", "f", '{"x":1}')),
        ({**CALL, "call_id": "", "id": None}, Tool("call_" + "1".rjust(32, "0"), "f", '{"x":1}')),
        ({**CUSTOM, "input": ""}, Tool("call_2", "sql", "", custom=True)),
    ],
)
def test_calls_with_something_missing(call: dict[str, Any], expected: Tool) -> None:
    body = dump(response_object([call]))

    assert responses_whole(body).only.tools == [expected]


def test_arguments_before_the_name_are_kept() -> None:
    events = [
        CREATED,
        ev("output_item.added", output_index=0, item={**CALL, "name": "", "arguments": ""}),
        ev("function_call_arguments.delta", output_index=0, delta='{"x":1}'),
        ev("output_item.done", output_index=0, item=CALL),
        completed(CALL),
    ]

    assert responses_stream(events).only.tools == [Tool("call_1", "f", '{"x":1}')]


# How it ends.


@pytest.mark.parametrize("reason", [*sorted(INCOMPLETE_REASONS), "steered"])
def test_p4_incomplete_says_why(reason: str) -> None:
    body = response_object([message_item("Hi")], status="incomplete", incomplete_details={"reason": reason})
    expected = INCOMPLETE_REASONS.get(reason, FinishReason.OTHER)

    whole = responses_whole(body)
    streamed = responses_stream([*text_events("Hi")[:-1], ev("incomplete", response=body)])

    assert whole == streamed
    assert (whole.only.reason, whole.only.native_reason) == (expected, reason)


def test_p5_a_call_cut_by_the_limit_is_length() -> None:
    cut = {**CALL, "arguments": '{"x', "status": "incomplete"}
    details = {"reason": "max_output_tokens"}

    answer = responses_whole(response_object([cut], status="incomplete", incomplete_details=details))

    assert answer.only.reason is FinishReason.LENGTH
    assert answer.only.tools[0].arguments == '{"x'


@pytest.mark.parametrize(("item", "reason"), [
    (CALL, FinishReason.TOOL_CALLS), (CUSTOM, FinishReason.TOOL_CALLS),
    (SEARCH, FinishReason.STOP), (SPOKEN, FinishReason.STOP),
])  # fmt: skip
def test_completed_with_a_call_for_the_client_is_tool_calls(item: dict[str, Any], reason: FinishReason) -> None:
    assert responses_whole(response_object([item])).only.reason is reason


@pytest.mark.parametrize("events", [[], [CREATED], text_events("Hi")[:-1], [*text_events("Hi")[:-1], b"[DONE]"]])
def test_s14_an_end_without_a_terminal_event_is_a_cut(events: list[Any]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        responses_stream(events)

    assert caught.value.category is FailureCategory.CONNECTION


NESTED = {"type": "error", "sequence_number": 1, "error": {"code": "insufficient_quota", "message": "No."}}
FLAT = {"type": "error", "sequence_number": 1, "code": "server_is_overloaded", "message": "No.", "param": None}


@pytest.mark.parametrize("before", [0, 5], ids=["first", "later"])
@pytest.mark.parametrize(
    ("event", "category"),
    [
        (NESTED, FailureCategory.QUOTA_EXHAUSTED),
        (("error", dump(NESTED)), FailureCategory.QUOTA_EXHAUSTED),
        (FLAT, FailureCategory.OVERLOADED),
        ({"error": {"code": 429, "message": "No."}}, FailureCategory.RATE_LIMITED),
        (
            ev(
                "failed",
                response=response_object([], status="failed", error={"code": "server_error", "message": "No."}),
            ),
            FailureCategory.SERVER_ERROR,
        ),
        (
            ev("failed", response=response_object([], status="failed", error={"code": "bio_policy", "message": "No."})),
            FailureCategory.CONTENT_POLICY,
        ),
    ],
)
def test_s15_errors_inside_a_stream(event: Any, category: FailureCategory, before: int) -> None:
    with pytest.raises(ProviderFailure) as caught:
        responses_stream([*text_events("Hello", " there")[:before], event])

    assert caught.value.category is category
    assert caught.value.upstream.message == "No."


@pytest.mark.parametrize(
    ("body", "category"),
    [
        (
            response_object([], status="failed", error={"code": "server_error", "message": "No."}),
            FailureCategory.SERVER_ERROR,
        ),
        (response_object([], status="failed"), FailureCategory.SERVER_ERROR),
        (response_object([], status="cancelled"), FailureCategory.SERVER_ERROR),
        (response_object([], status="queued"), FailureCategory.PROTOCOL),
        (response_object([], status="in_progress"), FailureCategory.PROTOCOL),
        ({"error": {"message": "No.", "code": "rate_limit_exceeded"}}, FailureCategory.RATE_LIMITED),
        ({"code": "c", "error": "No."}, FailureCategory.SERVER_ERROR),
        ({"choices": [{"message": {"content": "Hi"}}]}, FailureCategory.PROTOCOL),
        ({}, FailureCategory.PROTOCOL),
        ([], FailureCategory.PROTOCOL),
        (b"<html>", FailureCategory.PROTOCOL),
        (b"", FailureCategory.PROTOCOL),
        (b'{"status":"completed","output":["x"]}', FailureCategory.PROTOCOL),
        (b'{"status":"completed","output":[{"type":"message","content":{}}]}', FailureCategory.PROTOCOL),
        (b'{"status":"completed","output":[{"type":"x","y":"\xff"}]}', FailureCategory.PROTOCOL),
        (response_object([{**CALL, "name": ""}]), FailureCategory.PROTOCOL),
    ],
)
def test_bodies_that_are_no_answer(body: Any, category: FailureCategory) -> None:
    with pytest.raises(ProviderFailure) as caught:
        responses_whole(body)

    assert caught.value.category is category


@pytest.mark.parametrize("usage", [None, {}, "9"])
def test_missing_usage_is_not_reported(usage: Any) -> None:
    assert responses_whole(response_object([SPOKEN], usage=usage)).usage is None


def test_usage_with_its_details() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 40},
    }

    assert responses_whole(response_object([SPOKEN], usage=usage)).usage == Usage(
        100, 50, cached_input_tokens=60, cache_write_tokens=30, reasoning_tokens=40
    )


def test_unknown_events_are_passed_over() -> None:
    odd = [ev("steer.required", output_index=0), {"type": "keepalive", "sequence_number": 3}, {}, b"", b" \n"]

    assert responses_stream([*odd, *text_events("Hi"), ev("output_text.delta", delta="late")]).only.text == "Hi"


def test_every_part_is_closed_even_where_no_item_ever_was() -> None:
    events = feed(
        ResponsesDecoder(provider(RESPONSES), CountingIds()),
        [ev("output_text.delta", delta="Hi"), ev("completed", response={})],
        done=False,
    )

    assert isinstance(fold(events), Answer)
    assert [type(event) for event in events if isinstance(event, PartStarted | TextDelta | PartEnded)] == [
        PartStarted,
        TextDelta,
        PartEnded,
    ]


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "response",
    [
        {"status": "failed", "error": {"code": "server_error", "message": "No."}},
        {"status": "failed"},
        {"status": "cancelled", "output": []},
        {"status": "completed", "output": [{**CALL, "name": ""}]},
    ],
)
def test_what_a_failure_says_it_used_is_told(response: dict[str, Any], whole: bool) -> None:
    """The provider bills for it."""
    decoder, out = ResponsesDecoder(provider(RESPONSES), CountingIds()), list[ProviderEvent]()
    counted = {**response, "usage": {"input_tokens": 10, "output_tokens": 500}}
    ended = ev(response["status"], response=counted)

    with pytest.raises(ProviderFailure):
        decoder.whole(dump(counted), out) if whole else decoder.feed(None, dump(ended), out)

    assert [event.usage for event in out if isinstance(event, UsageReported)] == [Usage(10, 500)]
