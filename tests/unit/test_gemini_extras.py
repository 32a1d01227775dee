"""What Gemini tells beside its text: token counts, probabilities, sources, and arguments in pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import FailureCategory
from server.domain.pricing import quantities
from server.domain.usage import Usage
from server.providers.gemini_usage import UsageCount
from tests.fakes.gemini_wire import candidate, reply, usage
from tests.unit.gemini_cases import stream_failure, streamed, unary


def counted(*snapshots: dict[str, Any]) -> Usage | None:
    """What a stream of these amounts to."""
    count, last = UsageCount(), None
    for snapshot in snapshots:
        last = count.add(snapshot) or last
    return last


# Usage.


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (usage(10, 5), Usage(10, 5)),
        (usage(10, 5, thoughts=7), Usage(10, 12, reasoning_tokens=7)),
        (usage(10, None, thoughts=7), Usage(10, 7, reasoning_tokens=7)),
        (usage(100, 5, cached=60), Usage(100, 5, cached_input_tokens=60)),
        (usage(100, 5, tool_use=40), Usage(140, 5)),
        (usage(100, 5, audio_in=30), Usage(100, 5, input_audio_tokens=30)),
        (usage(100, 50, audio_out=20), Usage(100, 50, output_audio_tokens=20)),
        (
            usage(100, 50, thoughts=25, cached=60, tool_use=40, audio_in=30, audio_out=20),
            Usage(140, 75, 60, reasoning_tokens=25, input_audio_tokens=30, output_audio_tokens=20),
        ),
        (usage(0, 0), Usage()),
        ({"promptTokenCount": "12", "candidatesTokenCount": "3"}, Usage(12, 3)),
        ({"trafficType": "ON_DEMAND"}, None),
        ({"totalTokenCount": 5}, None),
        ({"promptTokenCount": -1, "candidatesTokenCount": True}, None),
        ([], None),
        (None, None),
    ],
)
def test_counts_in_our_convention(metadata: Any, expected: Usage | None) -> None:
    assert counted(metadata) == expected


def test_thoughts_stand_beside_the_output_also_where_no_total_tells() -> None:
    metadata = usage(10, 5, thoughts=7)
    del metadata["totalTokenCount"]

    assert counted(metadata) == Usage(10, 12, reasoning_tokens=7)


def test_thoughts_that_the_total_counts_as_output_are_not_counted_twice() -> None:
    assert counted(usage(10, 12, thoughts=7, totalTokenCount=22)) == Usage(10, 12, reasoning_tokens=7)


def test_u1_a_count_of_zero_is_a_count() -> None:
    assert counted(usage(0, 0)) is not None


@pytest.mark.parametrize(("before", "after"), [(169, 79), (55, 257)])
def test_snapshots_replace_each_other_and_the_prompt_may_jump_at_the_end(before: int, after: int) -> None:
    assert counted(usage(before, 1), usage(before, 2), usage(after, 3)) == Usage(after, 3)


def test_a_field_that_vanishes_keeps_its_last_value() -> None:
    assert counted(usage(10, 5, cached=4, thoughts=7), usage(10, 6)) == Usage(10, 13, 4, reasoning_tokens=7)


def test_chunks_that_only_tell_their_traffic_change_nothing() -> None:
    answer = streamed(
        reply(candidate("a", finish=None), counted=usage(10, 1)),
        reply(candidate("b"), counted={"trafficType": "ON_DEMAND"}),
    )

    assert answer.usage == Usage(10, 1)


COUNT = st.integers(0, 10**6)


@given(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
def test_no_token_is_ever_in_two_dimensions(
    prompt: int, made: int, thoughts: int, cached: int, tools: int, heard: int, spoken: int
) -> None:
    found = counted(
        usage(prompt, made, thoughts=thoughts, cached=cached, tool_use=tools, audio_in=heard, audio_out=spoken)
    )
    assert found is not None
    dimensions = (
        "input_text_tokens", "cached_read_text_tokens", "input_audio_tokens",
        "output_text_tokens", "reasoning_text_tokens", "output_audio_tokens",
    )  # fmt: skip
    split = quantities(found, dict.fromkeys(dimensions, 1))

    assert sum(split.get(name, 0) for name in dimensions[:3]) == prompt + tools
    assert sum(split.get(name, 0) for name in dimensions[3:]) == made + thoughts


# Probabilities.


def test_logprobs_are_token_objects() -> None:
    token, other = {"token": "Hé", "tokenId": 7, "logProbability": -0.5}, {"token": "Ho", "logProbability": -2}
    result = {"chosenCandidates": [token], "topCandidates": [{"candidates": [token, other]}]}
    said = {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]}

    answer = unary(reply(candidate("Hé", logprobsResult=result)))

    assert answer.only.text == "Hé"
    assert answer.only.logprobs == [
        {**said, "top_logprobs": [said, {"token": "Ho", "logprob": -2, "bytes": [72, 111]}]}
    ]


@pytest.mark.parametrize("result", [{}, {"chosenCandidates": []}, {"chosenCandidates": 3}, 7])
def test_no_logprobs(result: Any) -> None:
    assert unary(reply(candidate("Hi", logprobsResult=result))).only.logprobs == []


# Sources. Their places are bytes; ours are characters.

CITED = {"type": "url_citation", "start_index": 0, "end_index": 4, "url": "https://a.example/", "title": "A"}


def test_grounding_comes_on_a_later_chunk_than_its_text() -> None:
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a.example/", "title": "A"}}, {"unknown": {}}],
        "groundingSupports": [
            {"segment": {"endIndex": 5, "text": "Schö"}, "groundingChunkIndices": [0, 1, 9]},
            {"segment": {"endIndex": 5, "text": "Schö"}, "groundingChunkIndices": [0]},
        ],
    }
    answer = streamed(
        reply(candidate("Schön", finish=None)),
        reply(candidate(" ist es", finish=None)),
        reply(candidate(content=False, groundingMetadata=grounding)),
    )

    assert answer.only.annotations == [CITED]


@pytest.mark.parametrize("field", ["citationSources", "citations"])
def test_citations_in_either_writing(field: str) -> None:
    sources = {field: [{"startIndex": 0, "endIndex": 5, "uri": "https://a.example/", "title": "A"}, {"endIndex": 3}]}

    assert unary(reply(candidate("Schön", citationMetadata=sources))).only.annotations == [CITED]


# Arguments in pieces.


def piece(*pieces: dict[str, Any], **fields: Any) -> dict[str, Any]:
    told = {"partialArgs": list(pieces)} if pieces else {}
    return reply(candidate({"functionCall": {**told, **fields}}, finish=None), counted={"trafficType": "ON_DEMAND"})


def arguments(*pieces: dict[str, Any]) -> str:
    chunks = [piece(name="f", willContinue=True), *(piece(one, willContinue=True) for one in pieces), piece()]
    answer = streamed(*chunks, reply(candidate(content=False)))
    [tool] = answer.only.tools
    assert tool.name == "f"
    return tool.arguments


def test_streamed_arguments_are_rebuilt_by_path() -> None:
    assert (
        arguments(
            {"jsonPath": "$.city", "stringValue": "San", "willContinue": True},
            {"jsonPath": "$.city", "stringValue": " Francisco"},
            {"jsonPath": "$.days[0].rain", "boolValue": True},
            {"jsonPath": "$.days[1]['wind.max']", "numberValue": 12.5},
            {"jsonPath": "$.note", "nullValue": "NULL_VALUE"},
        )
        == '{"city":"San Francisco","days":[{"rain":true},{"wind.max":12.5}],"note":null}'
    )


def test_streamed_arguments_without_an_end_mark_end_with_the_answer() -> None:
    answer = streamed(
        piece(name="f", id="n1", willContinue=True),
        piece({"jsonPath": "$.x", "numberValue": 1}),
        reply(candidate(content=False)),
    )

    assert [(tool.call_id, tool.arguments) for tool in answer.only.tools] == [("gemini_n1", '{"x":1}')]


def test_a_call_may_follow_streamed_arguments_at_once() -> None:
    answer = streamed(
        piece({"jsonPath": "$.x", "numberValue": 1}, name="f"),
        reply(candidate({"functionCall": {"name": "g", "args": {"y": 2}}})),
    )

    assert [(tool.name, tool.arguments) for tool in answer.only.tools] == [("f", '{"x":1}'), ("g", '{"y":2}')]


@pytest.mark.parametrize("path", ["", "x", "$", "$[0]", "$.a[", "$.a[99999]", "$..a"])
def test_paths_that_make_no_sense_are_a_breach(path: str) -> None:
    failure = stream_failure(piece({"jsonPath": path, "stringValue": "x"}, name="f", willContinue=True))
    assert failure.category is FailureCategory.PROTOCOL


def test_a_path_through_something_else_is_a_breach() -> None:
    chunk = piece({"jsonPath": "$.a", "stringValue": "x"}, {"jsonPath": "$.a.b", "stringValue": "y"}, name="f")
    assert stream_failure(chunk).category is FailureCategory.PROTOCOL
