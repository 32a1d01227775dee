"""Thought signatures: every one goes back byte for byte on the part that had it, by whatever way it came."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.request import Endpoint, Part, Reasoning, Role, Text, ToolCall, ToolResult, Turn
from server.providers.gemini_contents import contents
from server.providers.gemini_seals import Seal, native_id, outward_id, seals
from tests.fakes.gemini_wire import SIGNATURE, call, candidate, reply, text
from tests.fakes.lines_run import lines_run
from tests.unit.gemini_cases import NEW, body, streamed
from tests.unit.openai_cases import Choice, ask, turn


def as_chat(choice: Choice) -> list[Turn]:
    """The turn as a chat client sends it back: reasoning, text, calls."""
    parts: list[Part] = [Reasoning("".join(choice.summaries), signature=choice.signature)]
    parts += [Text(choice.text)] if choice.text else []
    parts += [ToolCall(tool.call_id, tool.name, tool.arguments) for tool in choice.tools]
    return [Turn(Role.ASSISTANT, tuple(parts)), *_results(choice)]


def as_items(choice: Choice) -> list[Turn]:
    """The same as a client of the Responses surface does: an item a turn, the seal as encrypted content."""
    reasoning = Reasoning(summary=tuple(choice.summaries), encrypted=choice.signature or None)
    parts: list[Part] = [Text(choice.text)] if choice.text else []
    parts += [reasoning, *(ToolCall(tool.call_id, tool.name, tool.arguments) for tool in choice.tools)]
    return [*(Turn(Role.ASSISTANT, (part,)) for part in parts), *_results(choice)]


def _results(choice: Choice) -> list[Turn]:
    return [Turn(Role.TOOL, (ToolResult(tool.call_id, (Text("ok"),)),)) for tool in choice.tools]


def sent_back(*chunks: Any) -> list[Any]:
    """What the model's turn becomes in the next request, which both surfaces agree on."""
    choice = streamed(*chunks).only
    turns = [turn(Role.USER, "?"), *as_chat(choice), turn(Role.USER, "Go on.")]
    chat = body(ask(*turns), NEW)["contents"][1]["parts"]
    items = [turn(Role.USER, "?"), *as_items(choice), turn(Role.USER, "Go on.")]
    responses = body(ask(*items, endpoint=Endpoint.RESPONSES), NEW)["contents"][1]["parts"]
    assert sorted(map(str, chat)) == sorted(map(str, responses))
    return list(chat)


def test_p6_a_call_gets_its_signature_back() -> None:
    parts = sent_back(reply(candidate(call("f", {"x": 1}, signature=SIGNATURE))))

    assert parts == [{"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": SIGNATURE}]


def test_p6_of_parallel_calls_only_the_one_that_had_it() -> None:
    parts = sent_back(reply(candidate(call("f", {}, signature=SIGNATURE), call("g", {}), call("h", {}))))

    assert [part.get("thoughtSignature") for part in parts] == [SIGNATURE, None, None]


def test_p6_calls_in_chunks_of_their_own_keep_their_own() -> None:
    chunks = [reply(candidate(call(name, {}, signature=f"{name}+/="), finish=None)) for name in "fgh"]
    parts = sent_back(*chunks, reply(candidate(content=False)))

    assert [part["thoughtSignature"] for part in parts] == ["f+/=", "g+/=", "h+/="]


def test_p7_a_signature_on_a_part_of_its_own_is_not_lost() -> None:
    parts = sent_back(
        reply(candidate("Hel", finish=None)),
        reply(candidate("lo", finish=None)),
        reply(candidate(text("", signature=SIGNATURE))),
    )

    assert parts == [{"text": "Hello"}, {"text": "", "thoughtSignature": SIGNATURE}]


def test_p7_a_part_with_nothing_but_a_signature() -> None:
    parts = sent_back(reply(candidate("Hello", finish=None)), reply(candidate({"thoughtSignature": SIGNATURE})))

    assert parts == [{"text": "Hello"}, {"text": "", "thoughtSignature": SIGNATURE}]


def test_p7_a_thought_with_a_signature_and_one_without_text() -> None:
    parts = sent_back(
        reply(candidate(text("Hm. ", thought=True), text("Aha.", thought=True, signature="a/+="), finish=None)),
        reply(candidate(text("", thought=True, signature="b/+="), finish=None)),
        reply(candidate("Yes.")),
    )

    assert parts == [
        {"text": "Hm. ", "thought": True},
        {"text": "Aha.", "thought": True, "thoughtSignature": "a/+="},
        {"text": "", "thought": True, "thoughtSignature": "b/+="},
        {"text": "Yes."},
    ]


def test_a_signature_on_text_stays_on_that_text() -> None:
    parts = sent_back(
        reply(candidate("你好 ", finish=None)), reply(candidate(text("🙂 there", signature=SIGNATURE), " you"))
    )

    assert parts == [{"text": "你好 "}, {"text": "🙂 there", "thoughtSignature": SIGNATURE}, {"text": " you"}]


def test_thoughts_text_and_calls_with_a_signature_each() -> None:
    parts = sent_back(
        reply(candidate(text("Think.", thought=True, signature="r="), text("Say.", signature="t="), finish=None)),
        reply(candidate(call("f", {}, id="n1", signature="c="))),
    )

    assert parts == [
        {"text": "Think.", "thought": True, "thoughtSignature": "r="},
        {"text": "Say.", "thoughtSignature": "t="},
        {"functionCall": {"name": "f", "args": {}, "id": "n1"}, "thoughtSignature": "c="},
    ]


def test_the_seals_of_an_edited_turn_do_not_land_elsewhere() -> None:
    seal = str(Seal("t", 3, 90, "s="))
    turns = (turn(Role.USER, "?"), Turn(Role.ASSISTANT, (Reasoning(signature=seal), Text("short"))))

    assert body(ask(*turns))["contents"][1]["parts"] == [{"text": "short"}]


@pytest.mark.parametrize(
    ("given", "texts", "sent"),
    [
        ((Seal("t", 0, 2, "a="), Seal("t", 2, 4, "b=")), ("abcd",), [("ab", "a="), ("cd", "b=")]),
        ((Seal("t", 2, 4, "b="), Seal("t", 0, 2, "a=")), ("ab", "cd"), [("ab", "a="), ("cd", "b=")]),
        ((Seal("t", 0, 3, "a="), Seal("t", 2, 4, "b=")), ("ab", "cd"), [("ab", None), ("cd", "b=")]),
        ((Seal("t", 2, 2, "a="), Seal("t", 2, 4, "b=")), ("ab", "cd"), [("ab", None), ("", "a="), ("cd", "b=")]),
        ((Seal("t", 2, 1, "x="), Seal("t", 2, 2, "a=")), ("ab",), [("ab", None), ("", "a=")]),
        ((Seal("t", 0, 0, "a="), Seal("t", 0, 0, "b=")), ("", "ab"), [("", "a="), ("", "b="), ("ab", None)]),
        ((Seal("t", 0, 0, "a="), Seal("t", 0, 0, "b=")), ("",), [("", "b="), ("", "a=")]),
    ],
)
def test_text_is_cut_where_its_parts_were(given: tuple[Seal, ...], texts: tuple[str, ...], sent: list[Any]) -> None:
    signature = "".join(map(str, given))
    turns = (turn(Role.USER, "?"), Turn(Role.ASSISTANT, (Reasoning(signature=signature), *map(Text, texts))))

    parts = body(ask(*turns))["contents"][1]["parts"]
    assert [(part["text"], part.get("thoughtSignature")) for part in parts] == sent


def test_many_parts_beside_many_seals_cost_no_more_each_than_few() -> None:
    """Of seals that fit no text too: each was looked at again for every part."""

    def lines(parts: int) -> int:
        signature = str(Seal("t", 5 * 10**8, 5 * 10**8, "")) * parts
        said = Turn(Role.ASSISTANT, (Reasoning(signature=signature), *(Text("x") for _ in range(parts))))
        return lines_run(lambda: contents((turn(Role.USER, "?"), said), "gemini-3-pro"))

    assert lines(800) < 8 * lines(200)


PLACES = st.sampled_from(["t", "c", "r"])
SEALS = st.builds(Seal, PLACES, st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1), st.text(max_size=40))


@given(st.lists(SEALS, max_size=8))
def test_seals_survive_being_joined(given_seals: list[Seal]) -> None:
    joined = "".join(map(str, given_seals))

    assert list(seals([joined])) == given_seals


@given(st.lists(SEALS, min_size=1, max_size=3), st.data())
def test_seals_that_are_cut_do_no_harm(given_seals: list[Seal], data: st.DataObject) -> None:
    joined = "".join(map(str, given_seals))
    cut = joined[: data.draw(st.integers(0, len(joined)))]

    found = list(seals([cut]))
    assert found == given_seals[: len(found)]


@pytest.mark.parametrize("foreign", ["", "ErUBCkYIBxgCIkD", "gAAAAABo", "gemini/", "gemini/x0-0:1:a"])
def test_other_providers_signatures_are_no_seals(foreign: str) -> None:
    assert list(seals([foreign])) == []


def test_ids_tell_whose_they_are() -> None:
    assert native_id(outward_id("abc", "1")) == "abc"
    assert native_id(outward_id("", "1")) is None
