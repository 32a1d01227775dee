"""Conversations in the gemini dialect: turns, media, calls with their results."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from server.domain.request import (
    Audio,
    Endpoint,
    File,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from server.providers.gemini_contents import NO_SIGNATURE
from server.providers.gemini_contents import contents as contents_of
from tests.fakes.lines_run import lines_run
from tests.unit.gemini_cases import NEW, OLD, body, refusal
from tests.unit.openai_cases import ask, turn

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(20)).decode()
PDF = base64.b64encode(b"%PDF-1.7\n").decode()
USER, MODEL, TOOL = Role.USER, Role.ASSISTANT, Role.TOOL


def contents(*turns: Turn, model: str = OLD, **fields: Any) -> Any:
    return body(ask(*turns, **fields), model)["contents"]


def said(*parts: Part) -> Any:
    """The one part that a user's part becomes."""
    [content] = contents(Turn(USER, parts))
    assert content["role"] == "user"
    [part] = content["parts"]
    return part


def called(call_id: str, name: str = "f", arguments: str = "{}") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def answered(call_id: str, *content: Text | Image | File) -> Turn:
    return Turn(TOOL, (ToolResult(call_id, content or (Text("done"),)),))


def responses_of(content: Any) -> list[Any]:
    return [part["functionResponse"] for part in content["parts"]]


# Turns.


def test_system_and_developer_turns_are_the_instruction() -> None:
    sent = body(ask(turn(Role.SYSTEM, "Be brief."), turn(USER, "Hi"), turn(Role.DEVELOPER, "In verse.")))

    assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "In verse."}]}
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]


def test_there_is_always_a_user_part() -> None:
    sent = body(ask(turn(Role.SYSTEM, "Say something.")))

    assert sent == {"contents": [{"role": "user", "parts": [{"text": "Say something."}]}]}


def test_roles_are_user_and_model_only() -> None:
    sent = contents(
        turn(USER, "1"), turn(MODEL, "2"), turn(USER, "3"), Turn(MODEL, (called("a"),)), answered("a"), turn(USER, "4")
    )

    assert [content["role"] for content in sent] == ["user", "model", "user", "model", "user", "user"]


def test_items_of_one_turn_of_the_model_are_joined() -> None:
    sent = contents(
        turn(USER, "Hi"), turn(MODEL, "Let me see."), Turn(MODEL, (called("a"),)), Turn(MODEL, (called("b"),)),
        answered("a"), answered("b"), endpoint=Endpoint.RESPONSES,
    )  # fmt: skip

    assert [len(content["parts"]) for content in sent] == [1, 3, 2]


def test_an_empty_turn_of_the_model_is_left_out() -> None:
    assert [content["role"] for content in contents(turn(USER, "a"), turn(MODEL, ""), turn(USER, "b"))] == [
        "user",
        "user",
    ]


def test_p8_earlier_reasoning_is_a_thought_and_never_text() -> None:
    sent = contents(turn(USER, "a"), Turn(MODEL, (Reasoning("Hm.", signature="sig-of-another"), Text("b"))))

    assert sent[1]["parts"] == [{"text": "Hm.", "thought": True}, {"text": "b"}]


def test_p8_what_another_maker_sealed_is_left_out() -> None:
    sealed = Reasoning(encrypted="gAAAA-of-another", summary=("Hm.",))

    assert contents(turn(USER, "a"), Turn(MODEL, (sealed,)))[1]["parts"] == [{"text": "Hm.", "thought": True}]


def test_a_refusal_is_what_the_model_said() -> None:
    assert contents(turn(USER, "a"), Turn(MODEL, (Refusal("No."),)))[1]["parts"] == [{"text": "No."}]


# Media.


def test_an_image_goes_inline() -> None:
    assert said(Image(data=PNG, media_type="image/png")) == {"inlineData": {"mimeType": "image/png", "data": PNG}}


def test_p11_an_images_type_is_what_its_bytes_say() -> None:
    assert said(Image(data=JPEG, media_type="image/png"))["inlineData"]["mimeType"] == "image/jpeg"
    assert said(Image(url=f"data:image/png;base64,{JPEG}"))["inlineData"] == {"mimeType": "image/jpeg", "data": JPEG}


def test_p11_also_in_what_a_function_returns() -> None:
    image = Image(data=JPEG, media_type="image/png")
    sent = contents(turn(USER, "a"), Turn(MODEL, (called("a"),)), answered("a", Text("seen"), image), model=NEW)

    assert responses_of(sent[2]) == [
        {
            "name": "f",
            "response": {"output": "seen"},
            "parts": [{"inlineData": {"mimeType": "image/jpeg", "data": JPEG}}],
        }
    ]


def test_sound_and_files_go_inline() -> None:
    assert said(Audio("UklGRg==", "wav")) == {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}}
    assert said(Audio("SUQz", "mp3"))["inlineData"]["mimeType"] == "audio/mp3"
    pdf = {"inlineData": {"mimeType": "application/pdf", "data": PDF}}
    assert said(File(data=PDF, media_type="application/pdf", filename="a.pdf")) == pdf
    assert said(File(data=PDF)) == pdf


@pytest.mark.parametrize(
    "url",
    [
        "https://generativelanguage.googleapis.com/v1beta/files/abc-123",
        "https://www.youtube.com/watch?v=9hE5-98ZeCg",
        "https://youtu.be/9hE5-98ZeCg",
        "gs://bucket/a.png",
    ],
)
def test_addresses_that_google_fetches_are_passed_on(url: str) -> None:
    assert said(File(url=url)) == {"fileData": {"fileUri": url}}
    assert said(Image(url=url)) == {"fileData": {"fileUri": url}}


@pytest.mark.parametrize(
    "part",
    [
        Image(url="https://example.com/a.png"),
        Image(url="https://example.com/?u=https://youtu.be/a"),
        Image(file_id="file-1"),
        Image(data="AAAA"),
        File(url="https://example.com/a.pdf"),
        File(file_id="file-1"),
        File(data="AAAA"),
        Image(data=PNG, detail="original"),
    ],
)
def test_what_cannot_be_sent_is_named_by_its_place(part: Part) -> None:
    turns = (turn(USER, "a"), Turn(USER, (Text("b"), part)))

    assert refusal(ask(*turns)) == "messages[1].content"
    assert refusal(ask(*turns, endpoint=Endpoint.RESPONSES)) == "input"


def test_the_detail_of_images_is_one_for_all() -> None:
    low, high, auto = (Image(data=PNG, detail=detail) for detail in ("low", "high", "auto"))

    assert body(ask(Turn(USER, (low, low))))["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert body(ask(Turn(USER, (high,))))["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}
    assert "generationConfig" not in body(ask(Turn(USER, (auto, Image(data=PNG)))))
    assert refusal(ask(Turn(USER, (low, high)))) == "messages[0].content"


# Calls and their results.


def test_parallel_calls_are_answered_in_one_turn_in_their_order() -> None:
    calls = (called("a", "f", '{"x": 1.50}'), called("b", "g"), called("c", "f"))
    sent = contents(turn(USER, "?"), Turn(MODEL, calls), *(answered(call_id, Text(call_id)) for call_id in "cab"))

    assert [part["functionCall"] for part in sent[1]["parts"]] == [
        {"name": "f", "args": {"x": 1.5}},
        {"name": "g", "args": {}},
        {"name": "f", "args": {}},
    ]
    assert responses_of(sent[2]) == [
        {"name": "f", "response": {"output": "a"}},
        {"name": "g", "response": {"output": "b"}},
        {"name": "f", "response": {"output": "c"}},
    ]


def test_many_rounds_of_calls_cost_no_more_each_than_few() -> None:
    def lines(rounds: int) -> int:
        pairs = ((turn(MODEL, called(f"c{number}")), answered(f"c{number}")) for number in range(rounds))
        turns = (turn(USER, "?"), *(part for pair in pairs for part in pair))
        return lines_run(lambda: contents_of(turns, OLD))

    assert lines(800) < 8 * lines(200)


def test_an_id_goes_back_only_where_it_came_from_google() -> None:
    calls = (called("gemini_xyz9"), called("call_1"), called("toolu_01"))
    sent = contents(turn(USER, "?"), Turn(MODEL, calls), *(answered(call.call_id) for call in calls))

    assert [part["functionCall"].get("id") for part in sent[1]["parts"]] == ["xyz9", None, None]
    assert [response.get("id") for response in responses_of(sent[2])] == ["xyz9", None, None]


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ('{"rain": 1.50}', {"rain": 1.5}),
        ("sunny", {"output": "sunny"}),
        ("[1, 2]", {"output": "[1, 2]"}),
        ('{"broken": ', {"output": '{"broken": '}),
        ("", {"output": ""}),
    ],
)
def test_what_a_function_returns_is_an_object(text: str, response: Any) -> None:
    sent = contents(turn(USER, "?"), Turn(MODEL, (called("a"),)), answered("a", Text(text)))

    assert responses_of(sent[2])[0]["response"] == response


def test_a_function_that_failed_says_so() -> None:
    failed = Turn(TOOL, (ToolResult("a", (Text("No such city."),), is_error=True),))

    assert responses_of(contents(turn(USER, "?"), Turn(MODEL, (called("a"),)), failed)[2]) == [
        {"name": "f", "response": {"error": "No such city."}}
    ]


def test_no_arguments_are_an_empty_object() -> None:
    sent = contents(turn(USER, "?"), Turn(MODEL, (called("a", arguments=""),)), answered("a"))

    assert sent[1]["parts"][0]["functionCall"]["args"] == {}


def test_a_foreign_history_gets_the_documented_word_for_no_signature() -> None:
    calls = Turn(MODEL, (called("a"), called("b")))
    results = (answered("a"), answered("b"))
    sent = contents(turn(USER, "?"), calls, *results, model=NEW)

    assert [part.get("thoughtSignature") for part in sent[1]["parts"]] == [NO_SIGNATURE, None]
    assert NO_SIGNATURE not in json.dumps(contents(turn(USER, "?"), calls, *results, model=OLD))


IMAGE = Image(data=PNG)


@pytest.mark.parametrize(
    ("turns", "chat", "model"),
    [
        ((Turn(USER, (Text("Hi"),), "bob"),), "messages[0].name", NEW),
        ((turn(USER, "a"), answered("nobody")), "messages[1].tool_call_id", NEW),
        ((Turn(MODEL, (IMAGE,)),), "messages[0].content", NEW),
        ((Turn(MODEL, (ToolCall("a", "f", "free text", custom=True),)),), "messages[0].content", NEW),
        ((Turn(MODEL, (called("a", arguments="[1]"),)),), "messages[0].content", NEW),
        ((Turn(MODEL, (called("a"),)), answered("a", IMAGE)), "messages[1].content", OLD),
        ((Turn(MODEL, (called("a"),)), answered("a", Image(url="gs://b/a.png"))), "messages[1].content", NEW),
    ],
)
def test_turns_that_cannot_be_said_are_named(turns: tuple[Turn, ...], chat: str, model: str) -> None:
    assert refusal(ask(*turns), model) == chat
    assert refusal(ask(*turns, endpoint=Endpoint.RESPONSES), model) == "input"


def test_items_of_built_in_tools_are_named_by_where_they_stood() -> None:
    item = Opaque("web_search_call", msgspec.Raw(b"{}"), "input[3]")
    assert refusal(ask(Turn(MODEL, (item,)), endpoint=Endpoint.RESPONSES)) == "input[3]"
