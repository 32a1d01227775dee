"""Chat completions into events: one test a quirk that some upstream has."""

from __future__ import annotations

from typing import Any

import pytest

from server.domain.catalog import ProviderProfile
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import FinishReason, PartEnded, PartKind, PartStarted, TextDelta, UsageReported
from server.domain.usage import Usage
from server.providers.openai_chat_decode import FAILED_REASONS, FINISH_REASONS, ChatDecoder
from tests.fakes.chat_wire import (
    ID,
    MODEL,
    completion,
    delta_chunk,
    finish_chunk,
    role_chunk,
    text_chunk,
    text_chunks,
    tool_call,
    usage,
    usage_chunk,
)
from tests.fakes.replies import compact
from tests.unit.openai_cases import CHAT, CountingIds, chat_stream, chat_whole, feed, provider

BESIDE = ProviderProfile(reasoning_tokens="beside")

TOKENS = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]


def parity_cases() -> dict[str, tuple[dict[str, Any], list[Any]]]:
    """The same answer as one body and as a stream."""
    calls = [tool_call("f", '{"a":1}', id="c1"), tool_call("g", '{"b":2}', id="c2")]
    counted = usage(1034, 210, cached=1000, reasoning=64)
    details = [{"type": "reasoning.text", "text": "Hm.", "signature": "sig=="}]
    annotation = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 2}}
    return {
        "text": (completion("Hello there!"), text_chunks("Hello", " there!")),
        "usage with details": (
            completion("x", usage_=counted),
            text_chunks("x", usage_=counted),
        ),
        "parallel tools": (
            completion(None, finish_reason="tool_calls", message={"tool_calls": calls}),
            [
                role_chunk(),
                delta_chunk({"tool_calls": [tool_call("f", "", id="c1", index=0)]}),
                delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
                delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
                delta_chunk({"tool_calls": [tool_call("g", '{"b":2}', id="c2", index=1)]}),
                finish_chunk("tool_calls"),
                usage_chunk(),
            ],
        ),
        "reasoning_content, then text": (
            completion("42", message={"reasoning_content": "Let me see."}),
            [
                delta_chunk({"reasoning_content": ""}),
                delta_chunk({"reasoning_content": "Let me"}),
                delta_chunk({"reasoning_content": " see."}),
                text_chunk("42"),
                finish_chunk(),
                usage_chunk(),
            ],
        ),
        "reasoning with details": (
            completion("ok", message={"reasoning": "Hm.", "reasoning_details": details}),
            [
                delta_chunk({"reasoning": "Hm.", "reasoning_details": details}),
                text_chunk("ok"),
                finish_chunk(),
                usage_chunk(),
            ],
        ),
        "refusal": (
            completion(None, message={"refusal": "I won't."}),
            [delta_chunk({"refusal": "I "}), delta_chunk({"refusal": "won't."}), finish_chunk(), usage_chunk()],
        ),
        "logprobs": (
            {
                **completion("Hi"),
                "choices": [
                    {
                        "index": 0,
                        "message": {"content": "Hi"},
                        "finish_reason": "stop",
                        "logprobs": {"content": TOKENS, "refusal": None},
                    }
                ],
            },
            [
                {
                    **text_chunk("Hi"),
                    "choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": TOKENS}}],
                },
                finish_chunk(),
                usage_chunk(),
            ],
        ),
        "mistral thinking blocks": (
            completion(
                None,
                message={
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                        {"type": "text", "text": "Hi"},
                    ]
                },
            ),
            [
                delta_chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}),
                text_chunk("H"),
                delta_chunk({"content": [{"type": "text", "text": "i"}]}),
                finish_chunk(),
                usage_chunk(),
            ],
        ),
        "annotations": (
            completion("Hi", message={"annotations": [annotation]}),
            [text_chunk("Hi"), delta_chunk({"annotations": [annotation]}), finish_chunk(), usage_chunk()],
        ),
        "two choices": (
            {
                **completion(),
                "choices": [
                    {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
                    {"index": 1, "message": {"content": "b"}, "finish_reason": "length"},
                ],
            },
            [
                text_chunk("b", choice=1),
                text_chunk("a"),
                finish_chunk("length", choice=1),
                finish_chunk(),
                usage_chunk(),
            ],
        ),
    }


@pytest.mark.parametrize("case", parity_cases())
def test_u14_one_body_and_a_stream_give_the_same_answer(case: str) -> None:
    body, chunks = parity_cases()[case]

    whole, streamed = chat_whole(body), chat_stream(chunks)

    assert whole == streamed
    assert whole.completed
    assert whole.usage is not None


def test_text_arrives_as_deltas_of_one_part() -> None:
    events = feed(ChatDecoder(provider(), CountingIds()), text_chunks("Hel", "lo"))

    assert [type(event).__name__ for event in events] == [
        "Started", "PartStarted", "TextDelta", "TextDelta", "UsageReported", "PartEnded", "ChoiceEnded", "Completed",
    ]  # fmt: skip
    assert events[0].native_response_id == ID
    assert events[0].provider_model == MODEL
    assert events[0].system_fingerprint == "fp_test"


def test_the_role_chunk_opens_nothing() -> None:
    out: list[Any] = []
    decoder = ChatDecoder(provider(), CountingIds())

    decoder.feed(None, b'{"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}', out)

    assert [type(event).__name__ for event in out] == ["Started"]


def test_azure_first_chunk_names_nobody_so_the_next_one_does() -> None:
    azure = {"id": "", "model": "", "created": 0, "object": "", "choices": [], "prompt_filter_results": [{}]}

    answer = chat_stream([azure, *text_chunks("Hi")])

    assert [started.native_response_id for started in answer.started] == [ID]
    assert answer.only.text == "Hi"


@pytest.mark.parametrize("choices", [[], None, "missing"])
def test_chunks_without_choices_say_nothing(choices: Any) -> None:
    odd = {**text_chunk("x"), "choices": choices}
    if choices == "missing":
        del odd["choices"]

    answer = chat_stream([odd, *text_chunks("Hi"), odd])

    assert answer.only.text == "Hi"


def test_nulls_are_absent() -> None:
    nulls = delta_chunk({"role": None, "content": None, "tool_calls": None, "reasoning_content": None, "refusal": None})

    answer = chat_stream([nulls, *text_chunks("Hi")])

    assert answer.only.text == "Hi"
    assert not answer.only.tools


def test_empty_data_and_blank_lines_are_ignored() -> None:
    assert chat_stream([b"", b"\n\n", *text_chunks("Hi")]).only.text == "Hi"
    assert (
        chat_whole(b"\n\n\n" + b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}').only.text == "Hi"
    )


def test_nothing_after_done_counts() -> None:
    answer = chat_stream([*text_chunks("Hi"), b"[DONE]", text_chunk("late")])

    assert answer.only.text == "Hi"


def test_reasoning_closes_when_text_begins_and_opens_anew_after_it() -> None:
    chunks = [
        delta_chunk({"reasoning": "a"}),
        text_chunk("b"),
        delta_chunk({"reasoning": "c"}),
        text_chunk("d"),
        finish_chunk(),
    ]

    events = feed(ChatDecoder(provider(), CountingIds()), chunks)

    order = [
        (event.part, getattr(event, "kind", "end")) for event in events if isinstance(event, PartStarted | PartEnded)
    ]
    assert order == [
        (0, PartKind.REASONING), (0, "end"), (1, PartKind.TEXT), (2, PartKind.REASONING), (2, "end"), (1, "end"),
    ]  # fmt: skip
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["b", "d"]


def test_reasoning_closes_when_a_tool_begins() -> None:
    chunks = [
        delta_chunk({"reasoning_content": "a"}),
        delta_chunk({"tool_calls": [tool_call("f", "{}", index=0)]}),
        finish_chunk("tool_calls"),
    ]

    events = feed(ChatDecoder(provider(), CountingIds()), chunks)

    parts = [event for event in events if isinstance(event, PartStarted | PartEnded)]
    assert [type(event).__name__ for event in parts] == ["PartStarted", "PartEnded", "PartStarted", "PartEnded"]


@pytest.mark.parametrize(
    ("delta", "text", "signature"),
    [
        ({"reasoning_content": "a"}, "a", ""),
        ({"reasoning": "a"}, "a", ""),
        ({"reasoning_content": "a", "reasoning": "a"}, "a", ""),
        ({"reasoning_content": None, "reasoning": "a"}, "a", ""),
        ({"reasoning": {"odd": True}, "reasoning_content": "a"}, "a", ""),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}]}, "a", ""),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "AAA="}]}, "", "AAA="),
        ({"content": [{"type": "thinking", "thinking": "a", "signature": "s"}]}, "a", "s"),
    ],
)
def test_every_spelling_of_reasoning(delta: dict[str, Any], text: str, signature: str) -> None:
    answer = chat_stream([delta_chunk(delta), text_chunk("x"), finish_chunk()])

    assert (answer.only.reasoning, answer.only.signature, answer.only.text) == (text, signature, "x")


@pytest.mark.parametrize("native", sorted(FINISH_REASONS))
def test_p4_each_known_finish_reason_maps_by_the_table(native: str) -> None:
    streamed = chat_stream([text_chunk("x"), finish_chunk(native)])
    whole = chat_whole(completion("x", finish_reason=native))

    assert streamed.only.reason is whole.only.reason is FINISH_REASONS[native]
    assert streamed.only.native_reason == whole.only.native_reason == native


def test_p4_an_unknown_finish_reason_is_no_silent_stop() -> None:
    streamed = chat_stream([text_chunk("x"), finish_chunk("cosmic_rays")])
    whole = chat_whole(completion("x", finish_reason="cosmic_rays"))

    assert streamed.only.reason is whole.only.reason is FinishReason.OTHER
    assert streamed.only.native_reason == whole.only.native_reason == "cosmic_rays"


@pytest.mark.parametrize("native", sorted(FAILED_REASONS))
def test_p4_finish_reasons_that_are_failures(native: str) -> None:
    with pytest.raises(ProviderFailure) as streamed:
        chat_stream([text_chunk("x"), finish_chunk(native)])
    with pytest.raises(ProviderFailure) as whole:
        chat_whole(completion("x", finish_reason=native))

    assert streamed.value.category is whole.value.category is FAILED_REASONS[native]
    assert streamed.value.upstream.code == native


@pytest.mark.parametrize("missing", [None, ""])
def test_p4_a_missing_finish_reason_before_done_is_no_stop_either(missing: str | None) -> None:
    chunks = [text_chunk("x"), delta_chunk({}, finish_reason=missing)]

    assert chat_stream(chunks).only.reason is FinishReason.OTHER


def test_stop_with_tool_calls_stays_what_the_provider_said() -> None:
    calls = delta_chunk({"tool_calls": [tool_call("f", "{}", index=0)]})

    assert chat_stream([calls, finish_chunk("stop")]).only.reason is FinishReason.STOP
    assert chat_stream([calls, finish_chunk("STOP")]).only.reason is FinishReason.TOOL_CALLS


def test_p5_a_tool_call_cut_by_the_limit_stays_length() -> None:
    cut = delta_chunk({"tool_calls": [tool_call("f", '{"city": "Ber', index=0)]})

    answer = chat_stream([cut, finish_chunk("length")])

    assert answer.only.reason is FinishReason.LENGTH
    assert answer.only.tools[0].arguments == '{"city": "Ber'


def test_openrouter_repeats_the_finish_and_keeps_a_choice_on_the_usage_chunk() -> None:
    late = {**delta_chunk({"role": "assistant", "content": ""}), "usage": usage(5, 6)}

    answer = chat_stream([text_chunk("x"), finish_chunk("length"), finish_chunk("stop"), late])

    assert answer.only.reason is FinishReason.LENGTH
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6


def test_ollama_sends_content_after_a_finish_reason() -> None:
    first = delta_chunk({"tool_calls": [tool_call("f", "{}", id="a", index=0)]}, finish_reason="tool_calls")
    second = delta_chunk({"tool_calls": [tool_call("g", "{}", id="b", index=1)]}, finish_reason="stop")

    answer = chat_stream([first, second])

    assert [tool.name for tool in answer.only.tools] == ["f", "g"]
    assert answer.only.reason is FinishReason.TOOL_CALLS


USAGES: dict[str, tuple[dict[str, Any], Usage]] = {
    "deepseek counts cache hits beside": (
        {"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2},
        Usage(10, 2, cached_input_tokens=8),
    ),
    "together at top level": (
        {"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4},
        Usage(10, 2, cached_input_tokens=4),
    ),
    "older mistral": (
        {"prompt_tokens": 10, "completion_tokens": 2, "num_cached_tokens": 4},
        Usage(10, 2, cached_input_tokens=4),
    ),
    "mistral's singular": (
        {"prompt_tokens": 10, "completion_tokens": 2, "prompt_token_details": {"cached_tokens": 4}},
        Usage(10, 2, cached_input_tokens=4),
    ),
    "null details": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "reasoning_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
        Usage(10, 2),
    ),
    "more reasoning than output": (
        {"prompt_tokens": 10, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 11}},
        Usage(10, 10, reasoning_tokens=10),
    ),
    "cache writes": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 5, "audio_tokens": 1},
        },
        Usage(10, 2, cached_input_tokens=3, cache_write_tokens=5, input_audio_tokens=1),
    ),
    "u1 explicit zeros": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(0, 0)),
    "floats and nonsense": (
        {"prompt_tokens": 10.0, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}},
        Usage(10, 2),
    ),
    "all of openai's": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 9,
            "completion_tokens_details": {
                "reasoning_tokens": 4,
                "audio_tokens": 3,
                "accepted_prediction_tokens": 1,
                "rejected_prediction_tokens": 2,
            },
        },
        Usage(
            10,
            9,
            reasoning_tokens=4,
            output_audio_tokens=3,
            accepted_prediction_tokens=1,
            rejected_prediction_tokens=2,
        ),
    ),
}


@pytest.mark.parametrize("case", USAGES)
def test_usage_in_every_spelling(case: str) -> None:
    counted, expected = USAGES[case]

    assert chat_whole(completion("x", usage_=counted)).usage == expected
    assert chat_stream([text_chunk("x"), finish_chunk(), usage_chunk(counted)]).usage == expected


def test_xai_reasoning_beside_the_output_is_added() -> None:
    counted = {"prompt_tokens": 10, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 30}}

    assert chat_whole(completion("x", usage_=counted), profile=BESIDE).usage == Usage(10, 32, reasoning_tokens=30)


@pytest.mark.parametrize("counted", [None, {}, {"total_tokens": 5}, "12", []])
def test_missing_usage_is_not_reported(counted: Any) -> None:
    assert chat_stream([text_chunk("x"), {**finish_chunk(), "usage": counted}]).usage is None


def test_perplexity_repeats_cumulative_usage_and_the_last_wins() -> None:
    chunks = [{**text_chunk("x"), "usage": usage(9, count)} for count in (1, 2, 3)]

    answer = chat_stream([*chunks, {**finish_chunk(), "usage": usage(9, 4)}])

    assert answer.usage is not None
    assert answer.usage.output_tokens == 4


def test_mistral_usage_rides_on_the_finishing_chunk() -> None:
    answer = chat_stream([text_chunk("x"), {**finish_chunk(), "usage": usage(9, 4)}])

    assert answer.usage == Usage(9, 4)


def test_groq_usage_sits_in_x_groq() -> None:
    first = {**role_chunk(), "x_groq": {"id": "req_1", "seed": 3}}
    last = {**finish_chunk(), "x_groq": {"id": "req_1", "usage": usage(9, 4)}}

    assert chat_stream([first, text_chunk("x"), last]).usage == Usage(9, 4)


def test_service_tier_of_the_answer_comes_with_the_usage() -> None:
    assert chat_stream(text_chunks("x")).service_tier == "default"


def test_perplexity_citations_become_annotations_once() -> None:
    sources = {"citations": ["https://a.test/1", "https://b.test/2"],
               "search_results": [{"title": "A", "url": "https://a.test/1"}]}  # fmt: skip
    chunks = [{**text_chunk(text), **sources} for text in ("x", "y")]

    answer = chat_stream([*chunks, {**finish_chunk(), **sources}])

    assert [(note["url"], note["title"]) for note in answer.only.annotations] == [
        ("https://a.test/1", "A"),
        ("https://b.test/2", ""),
    ]


def test_annotations_are_flat_and_not_repeated() -> None:
    nested = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 1, "end_index": 2}}

    answer = chat_stream([text_chunk("x"), *[delta_chunk({"annotations": [nested]})] * 2, finish_chunk()])

    assert answer.only.annotations == [
        {"type": "url_citation", "url": "u", "title": "t", "start_index": 1, "end_index": 2}
    ]


def test_together_writes_logprobs_in_an_older_shape() -> None:
    old = text_chunk("x")
    old["choices"][0]["logprobs"] = -0.25

    assert chat_stream([old, finish_chunk()]).only.logprobs == []


def test_cumulative_messages_beside_deltas_are_not_added() -> None:
    chunks = [text_chunk("x"), text_chunk("y"), finish_chunk()]
    for chunk, so_far in zip(chunks, ("x", "xy", "xy"), strict=True):
        chunk["choices"][0]["message"] = {"role": "assistant", "content": so_far}

    assert chat_stream(chunks).only.text == "xy"


# The end of a stream, and errors inside it.


def test_a_missing_done_after_a_finish_reason_is_fine() -> None:
    assert chat_stream(text_chunks("Hi"), done=False).completed


@pytest.mark.parametrize("chunks", [[], [role_chunk()], [text_chunk("a"), text_chunk("b")], [usage_chunk()]])
def test_s14_an_end_without_any_finish_reason_is_a_cut(chunks: list[Any]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        chat_stream(chunks, done=False)

    assert caught.value.category is FailureCategory.CONNECTION


def test_s14_one_choice_of_two_cut_is_a_cut() -> None:
    with pytest.raises(ProviderFailure) as caught:
        chat_stream([text_chunk("a"), text_chunk("b", choice=1), finish_chunk()], done=False)

    assert caught.value.category is FailureCategory.CONNECTION


NOTHING = usage(9, 0)


@pytest.mark.parametrize(
    "chunks",
    [[], [role_chunk()], [usage_chunk()], [finish_chunk()], [role_chunk(), finish_chunk(), usage_chunk(NOTHING)]],
)
def test_an_empty_answer_is_no_success(chunks: list[Any]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        chat_stream(chunks)

    assert caught.value.category is FailureCategory.PROTOCOL


def test_an_answer_that_met_a_stop_sequence_at_once_is_one() -> None:
    """Output was counted, although there is none to see."""
    assert chat_stream([role_chunk(), finish_chunk(), usage_chunk(usage(9, 1))]).only.reason is FinishReason.STOP


ERROR = {"message": "It broke.", "type": "server_error", "code": "boom", "param": None}
IN_BAND: dict[str, tuple[Any, FailureCategory]] = {
    "openai": ({"error": ERROR}, FailureCategory.SERVER_ERROR),
    "event: error": (("error", {"error": ERROR}), FailureCategory.SERVER_ERROR),
    "groq validates arguments": (
        ("error", {"error": {"message": "It broke.", "code": "tool_use_failed", "status_code": 400}}),
        FailureCategory.SERVER_ERROR,
    ),
    "groq's x_groq": ({**text_chunk("x"), "x_groq": {"error": "It broke."}}, FailureCategory.SERVER_ERROR),
    "openrouter, in a chunk that looks normal": (
        {**finish_chunk("error"), "error": {"code": 429, "message": "It broke."}, "usage": usage()},
        FailureCategory.RATE_LIMITED,
    ),
    "openrouter, in a choice": (
        {"id": "x", "choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "It broke."}}]},
        FailureCategory.SERVER_ERROR,
    ),
    "lm studio": ({"error": {"message": "It broke."}, "message": "It broke."}, FailureCategory.SERVER_ERROR),
    "llama.cpp": (
        {"error": {"code": 400, "message": "It broke.", "type": "invalid_request_error"}},
        FailureCategory.CALLER_ERROR,
    ),
    "vllm, flat": (
        {"object": "error", "message": "It broke.", "type": "BadRequestError", "code": 400},
        FailureCategory.CALLER_ERROR,
    ),
    "a quota inside a 200": (
        {"error": {"code": "insufficient_quota", "message": "It broke."}},
        FailureCategory.QUOTA_EXHAUSTED,
    ),
    "gemini, in an array": (
        [{"error": {"code": 503, "message": "It broke.", "status": "UNAVAILABLE"}}],
        FailureCategory.OVERLOADED,
    ),
    "a bare string": ({"error": "It broke."}, FailureCategory.SERVER_ERROR),
}


@pytest.mark.parametrize("before", [[], [text_chunk("a"), text_chunk("b")]], ids=["first", "later"])
@pytest.mark.parametrize("case", IN_BAND)
def test_s15_an_error_inside_a_stream_is_an_error(case: str, before: list[Any]) -> None:
    value, category = IN_BAND[case]

    with pytest.raises(ProviderFailure) as caught:
        chat_stream([*before, value])

    assert caught.value.category is category
    assert caught.value.upstream.message == "It broke."


@pytest.mark.parametrize("case", [case for case, (value, _) in IN_BAND.items() if not isinstance(value, tuple)])
def test_s15_an_error_inside_a_200_body_is_an_error(case: str) -> None:
    value, category = IN_BAND[case]

    with pytest.raises(ProviderFailure) as caught:
        chat_whole(value)

    assert caught.value.category is category
    assert caught.value.upstream.message == "It broke."


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"choices":[]}',
        b'{"id":null,"choices":null,"usage":null}',
        b'{"choices":[{"message":{"content":null},"finish_reason":null}]}',
        b'{"choices":{"0":{}}}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"\xff"}}]}}]}',
        b'{"choices":[{"message":{"content":"a"},"logprobs":{"content":["\xff"]}}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_completion_is_a_protocol_failure(body: bytes) -> None:
    with pytest.raises(ProviderFailure) as caught:
        chat_whole(body)

    assert caught.value.category is FailureCategory.PROTOCOL


def test_garbage_in_a_stream_is_a_protocol_failure() -> None:
    with pytest.raises(ProviderFailure) as caught:
        chat_stream([text_chunk("a"), b'{"choices": [{'])

    assert caught.value.category is FailureCategory.PROTOCOL


def test_too_many_choices_are_refused() -> None:
    with pytest.raises(ProviderFailure) as caught:
        chat_stream([text_chunk("a", choice=128)])

    assert caught.value.category is FailureCategory.PROTOCOL


def test_events_before_a_failure_stand() -> None:
    decoder, out = ChatDecoder(provider(CHAT), CountingIds()), []
    decoder.feed(None, b'{"id":"x","choices":[{"delta":{"content":"a"}}]}', out)

    with pytest.raises(ProviderFailure):
        decoder.feed(None, b'{"error":{"message":"x"}}', out)

    assert [event.text for event in out if isinstance(event, TextDelta)] == ["a"]


COUNTED_FAILURES: dict[str, dict[str, Any]] = {
    "a finish reason": finish_chunk("error", usage=usage(10, 500)),
    "after text in the same chunk": delta_chunk({"content": "b"}, finish_reason="error", usage=usage(10, 500)),
    "an error beside it": finish_chunk("error", error=ERROR, usage=usage(10, 500)),
    "an error of a choice": {"id": "x", "choices": [{"index": 0, "error": ERROR}], "usage": usage(10, 500)},
    "groq": {**role_chunk(), "x_groq": {"error": "It broke.", "usage": usage(10, 500)}},
}


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
@pytest.mark.parametrize("case", COUNTED_FAILURES)
def test_what_a_failure_says_it_used_is_told_last(case: str, whole: bool) -> None:
    """The provider bills for it."""
    decoder, out = ChatDecoder(provider(CHAT), CountingIds()), []
    said = compact(COUNTED_FAILURES[case])
    if not whole:
        decoder.feed(None, compact(text_chunk("a")), out)

    with pytest.raises(ProviderFailure):
        decoder.whole(said, out) if whole else decoder.feed(None, said, out)

    assert isinstance(told := out[-1], UsageReported)
    assert told.usage == Usage(10, 500)
