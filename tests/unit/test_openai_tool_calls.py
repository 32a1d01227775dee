"""Tool calls put together from deltas: one test a way in which upstreams write them."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.providers import openai_tool_calls
from server.providers.openai_tool_calls import MAX_ARGUMENT_CHARS, MAX_CALLS
from tests.fakes.chat_wire import completion, delta_chunk, finish_chunk
from tests.unit.openai_cases import Answer, chat_stream, chat_whole

SYNTHETIC = "call_" + "1".rjust(32, "0")
SYNTHETIC_2 = "call_" + "2".rjust(32, "0")


def delta(arguments: Any = None, **fields: Any) -> dict[str, Any]:
    """One entry of `tool_calls`; `name` goes into its function."""
    function: dict[str, Any] = {}
    if "name" in fields:
        function["name"] = fields.pop("name")
    if arguments is not None:
        function["arguments"] = arguments
    return {**fields, "function": function}


def stream(*chunks: list[dict[str, Any]], reason: str = "tool_calls") -> Answer:
    return chat_stream([*(delta_chunk({"tool_calls": calls}) for calls in chunks), finish_chunk(reason)])


def calls(answer: Answer) -> list[tuple[str, str, str]]:
    return [(tool.call_id, tool.name, tool.arguments) for tool in answer.only.tools]


CASES: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[str, str, str]]]] = {
    "openai: head first, then fragments without an id": (
        [[delta("", index=0, id="a", name="f")], [delta('{"x', index=0)], [delta('":1}', index=0)]],
        [("a", "f", '{"x":1}')],
    ),
    "p1 three parallel calls": (
        [
            [delta("", index=0, id="a", name="f")],
            [delta('{"x":1}', index=0)],
            [delta("", index=1, id="b", name="g")],
            [delta('{"y":', index=1)],
            [delta("", index=2, id="c", name="f"), delta("2}", index=1)],
            [delta("{}", index=2)],
        ],
        [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}'), ("c", "f", "{}")],
    ),
    "p3 no index at all (gemini compat)": (
        [[delta('{"x":1}', id="a", name="f")], [delta('{"y":2}', id="b", name="g")]],
        [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
    ),
    "p3 no index, fragments without an id": (
        [[delta("", id="a", name="f")], [delta('{"x"')], [delta(":1}")], [delta("{}", id="b", name="g")]],
        [("a", "f", '{"x":1}'), ("b", "g", "{}")],
    ),
    "p3 counting from 1": (
        [[delta("", index=1, id="a", name="f")], [delta("{}", index=1)], [delta("{}", index=2, id="b", name="g")]],
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    "p3 the index changes between id and arguments": (
        [[delta("", index=0, id="a", name="f")], [delta('{"x":', index=1)], [delta("1}", index=1)]],
        [("a", "f", '{"x":1}')],
    ),
    "p3 the index changes and the id is repeated": (
        [[delta("", index=0, id="a", name="f")], [delta('{"x":', index=1, id="a")], [delta("1}", index=1)]],
        [("a", "f", '{"x":1}')],
    ),
    "constant index 0, ids tell them apart (gemini proxies)": (
        [[delta('{"x":1}', index=0, id="a", name="f")], [delta('{"x":2}', index=0, id="b", name="f")]],
        [("a", "f", '{"x":1}'), ("b", "f", '{"x":2}')],
    ),
    "constant index 0, in fragments": (
        [
            [delta("", index=0, id="a", name="f")],
            [delta('{"x":1}', index=0)],
            [delta("", index=0, id="b", name="g")],
            [delta('{"y":2}', index=0)],
        ],
        [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
    ),
    "constant index 0 without ids": (
        [[delta('{"x":1}', index=0, name="f")], [delta('{"y":2}', index=0, name="g")]],
        [(SYNTHETIC, "f", '{"x":1}'), (SYNTHETIC_2, "g", '{"y":2}')],
    ),
    "two whole objects on one index, same name": (
        [[delta('{"x":1}', index=0, id="a", name="f")], [delta('{"x":2}', index=0)]],
        [("a", "f", '{"x":1}'), (SYNTHETIC, "f", '{"x":2}')],
    ),
    "two whole objects in one delta": (
        [[delta('{"x":"}{"} {"x":2}', index=0, id="a", name="f")]],
        [("a", "f", '{"x":"}{"}'), (SYNTHETIC, "f", '{"x":2}')],
    ),
    "two objects with the seam inside a delta": (
        [[delta('{"x":', index=0, id="a", name="f")], [delta('1}{"x"', index=0)], [delta(":2}", index=0)]],
        [("a", "f", '{"x":1}'), (SYNTHETIC, "f", '{"x":2}')],
    ),
    "two objects, cut wherever it hurts": (
        [
            [delta("", index=0, id="a", name="f")],
            *[[delta(piece, index=0)] for piece in ('{"x":"\\', '"}{', "\\\\", '"', "}", " {", '"x":{}}')],
        ],
        [("a", "f", '{"x":"\\"}{\\\\"}'), (SYNTHETIC, "f", '{"x":{}}')],
    ),
    "two objects with white space between them": (
        [[delta("{}", index=0, id="a", name="f")], [delta("\n", index=0)], [delta('{"x":2}', index=0)]],
        [("a", "f", "{}\n"), (SYNTHETIC, "f", '{"x":2}')],
    ),
    "three objects in one delta": (
        [[delta('{"x":1', index=0, id="a", name="f")], [delta('}{} {"x":2} ', index=0)]],
        [("a", "f", '{"x":1}'), (SYNTHETIC, "f", "{}"), (SYNTHETIC_2, "f", '{"x":2} ')],
    ),
    "what is no object is not cut": (
        [[delta('{"x":}', index=0, id="a", name="f")], [delta("{}{", index=0)], [delta("}", index=0)]],
        [("a", "f", '{"x":}{}{}')],
    ),
    "more than an object is not cut": (
        [[delta("{}", index=0, id="a", name="f")], [delta(",", index=0)], [delta("{}{}", index=0)]],
        [("a", "f", "{},{}{}")],
    ),
    "braces in a string are no seam": (
        [[delta('{"x":"a}', index=0, id="a", name="f")], [delta('{b}{c"}', index=0)]],
        [("a", "f", '{"x":"a}{b}{c"}')],
    ),
    "id missing (ollama)": ([[delta('{"x":1}', index=0, name="f")]], [(SYNTHETIC, "f", '{"x":1}')]),
    "id null": ([[delta("{}", index=0, id=None, name="f")]], [(SYNTHETIC, "f", "{}")]),
    "id empty on follow-ups (alibaba)": (
        [[delta("", index=0, id="a", name="f")], [delta("{}", index=0, id="", name="")]],
        [("a", "f", "{}")],
    ),
    "id and name repeated on each chunk": (
        [[delta(piece, index=0, id="a", name="f")] for piece in ('{"x"', ":1", "}")],
        [("a", "f", '{"x":1}')],
    ),
    "name repeated without id or index": (
        [[delta(piece, name="f")] for piece in ('{"x"', ":1", "}")],
        [(SYNTHETIC, "f", '{"x":1}')],
    ),
    "a new id on each fragment": (
        [[delta("", index=0, id="a", name="f")], [delta('{"x"', index=0, id="a2")], [delta(":1}", index=0, id="a3")]],
        [("a", "f", '{"x":1}')],
    ),
    "the same id for two calls": (
        [[delta("{}", index=0, id="a", name="f")], [delta("{}", index=1, id="a", name="g")]],
        [("a", "f", "{}"), (SYNTHETIC, "g", "{}")],
    ),
    "name late, after argument bytes": (
        [[delta('{"x"', index=0, id="a")], [delta(":1", index=0, name="")], [delta("}", index=0, name="f")]],
        [("a", "f", '{"x":1}')],
    ),
    "id late, with the name": (
        [[delta('{"x":1}', index=0)], [delta("", index=0, id="a", name="f")]],
        [("a", "f", '{"x":1}')],
    ),
    "whole call and type missing (mistral, xai, groq)": (
        [[delta('{"x":1}', id="a", name="f"), delta('{"x":1}', id="b", name="f")]],
        [("a", "f", '{"x":1}'), ("b", "f", '{"x":1}')],
    ),
    "whole calls without id and index (old ollama)": (
        [[delta('{"x":1}', name="f"), delta('{"x":2}', name="f")]],
        [(SYNTHETIC, "f", '{"x":1}'), (SYNTHETIC_2, "f", '{"x":2}')],
    ),
    "arguments as an object": (
        [[delta({"x": 1, "a": [1.5]}, index=0, id="a", name="f")]],
        [("a", "f", '{"x":1,"a":[1.5]}')],
    ),
    "arguments empty": ([[delta("", index=0, id="a", name="f")]], [("a", "f", "{}")]),
    "arguments null": ([[{**delta(index=0, id="a", name="f")}]], [("a", "f", "{}")]),
    "a prefix that parses is not the end": (
        [[delta("{}", index=0, id="a", name="f")], [delta(" ", index=0)], [delta("", index=1, id="b", name="g")]],
        [("a", "f", "{} "), ("b", "g", "{}")],
    ),
    "an empty call is none": ([[delta("", index=0)], [delta("{}", index=1, id="b", name="g")]], [("b", "g", "{}")]),
    "index as a string": ([[{**delta("{}", id="a", name="f"), "index": "0"}]], [("a", "f", "{}")]),
}


@pytest.mark.parametrize("case", CASES)
def test_calls_are_rebuilt(case: str) -> None:
    chunks, expected = CASES[case]

    assert calls(stream(*chunks)) == expected


def test_the_call_and_the_finish_in_one_chunk() -> None:
    last = delta_chunk({"tool_calls": [delta('{"x":1}', id="a", name="f")]}, finish_reason="tool_calls")

    assert calls(chat_stream([last])) == [("a", "f", '{"x":1}')]


def test_p1_each_start_has_its_id_and_name_once() -> None:
    answer = stream([delta("", index=0, id="a", name="f")], *([[delta("1", index=0, id="a", name="f")]] * 5))

    assert calls(answer) == [("a", "f", "11111")]


class Looks:
    """Counts the characters that are looked at to tell calls apart."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = self

        class Decoder(json.JSONDecoder):
            def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
                looks.count += len(s)
                return super().raw_decode(s, idx)

        class Pattern:
            def __init__(self, pattern: re.Pattern[str]) -> None:
                self._pattern = pattern

            def match(self, text: str, at: int) -> re.Match[str] | None:
                found = self._pattern.match(text, at)
                looks.count += 1 + (found.end() - at if found else 0)
                return found

        def decode_any(text: str) -> Any:
            looks.count += len(text)
            return msgspec.json.decode(text)

        monkeypatch.setattr(openai_tool_calls, "_json", Decoder())
        monkeypatch.setattr(openai_tool_calls, "decode_any", decode_any, raising=False)
        for name in ("_SPACE", "_CODE", "_STRING"):
            pattern = getattr(openai_tool_calls, name, None)
            if pattern is not None:
                monkeypatch.setattr(openai_tool_calls, name, Pattern(pattern))


MANY = 500
LONG: dict[str, list[list[dict[str, Any]]]] = {
    "seams in a string": [[delta("}{", index=0)]] * MANY,
    "braces in a string, one at a time": [[delta("}", index=0)], [delta("{", index=0)]] * MANY,
    "with the name each time": [[delta("}", index=0, name="f")], [delta("{", index=0, name="f")]] * MANY,
    "another index each time": [[delta("}", index=number)] for number in range(1, MANY)],
    "a whole one, and nothing more": [
        [delta('"}', index=0)],
        *[[delta(" ", index=0)], [delta("", index=0, name="f")]] * MANY,
    ],
    "a whole one, and then what is none": [[delta('"}', index=0)], [delta("}", index=0)], *[[delta("}{")]] * MANY],
    "objects in objects": [
        [delta('",', index=0)],
        *[[delta('"x":{},', index=0)], [delta('"x":{"x":', index=0)]] * MANY,
    ],
    "one delta": [[delta('"}' + "{} " * MANY, index=0)]],
}


@pytest.mark.parametrize("case", LONG)
def test_what_has_come_is_not_looked_at_again_with_each_delta(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks()
    looks.watch(monkeypatch)

    answer = stream([delta('{"x":"' + "x" * 1000, index=0, id="a", name="f")], *LONG[case])

    assert looks.count <= 4 * sum(len(arguments) for _, _, arguments in calls(answer))


def test_custom_tools_keep_their_input_as_it_is() -> None:
    head = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": ""}}
    rest = {"index": 0, "custom": {"input": "SELECT {1}{2}"}}

    answer = stream([head], [rest])

    assert [(tool.custom, tool.arguments) for tool in answer.only.tools] == [(True, "SELECT {1}{2}")]


def test_a_custom_tool_without_input_has_none() -> None:
    answer = stream([{"index": 0, "id": "a", "custom": {"name": "sql"}}])

    assert [(tool.custom, tool.arguments) for tool in answer.only.tools] == [(True, "")]


def test_whole_calls_are_never_joined() -> None:
    twice = [{"id": None, "index": 0, "function": {"name": "f", "arguments": ""}}] * 2

    answer = chat_whole(completion(None, message={"tool_calls": twice}))

    assert calls(answer) == [(SYNTHETIC, "f", "{}"), (SYNTHETIC_2, "f", "{}")]


@pytest.mark.parametrize(
    "chunks",
    [
        [[delta('{"x":1}', index=0, id="a")]],
        [[delta("{}", index=index, id=f"c{index}", name="f")] for index in range(MAX_CALLS + 1)],
        [[delta("", index=0, id="a", name="f")], [delta("x" * (MAX_ARGUMENT_CHARS + 1), index=0)]],
    ],
    ids=["nameless", "too many", "too long"],
)
def test_calls_that_cannot_be_are_protocol_failures(chunks: list[list[dict[str, Any]]]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        stream(*chunks)

    assert caught.value.category is FailureCategory.PROTOCOL
