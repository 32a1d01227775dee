"""Requests as upstream bodies: messages and items, verbatim JSON, images, reasoning; and what cannot be said."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from server.domain.catalog import ProviderProfile
from server.domain.request import (
    Audio,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    Opaque,
    OutputFormat,
    Part,
    Reasoning,
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from server.providers.media import image_data_url, relabelled, sniff_image
from server.providers.openai_apis import Api, unsupported
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_responses_encode import encode_responses
from tests.unit.openai_cases import CHAT, RESPONSES, ask, offer, turn

U, A, S, D, T = Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.DEVELOPER, Role.TOOL


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def chat(request: GenerationRequest, profile: ProviderProfile = CHAT) -> dict[str, Any]:
    body = json.loads(encode_chat(offer(profile), request))
    assert isinstance(body, dict)
    return body


def responses(request: GenerationRequest, profile: ProviderProfile = RESPONSES) -> dict[str, Any]:
    body = json.loads(encode_responses(offer(profile), request))
    assert isinstance(body, dict)
    return body


def messages(*turns: Any, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(ask(*turns, **fields))["messages"]
    return found


def items(*turns: Any, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = responses(ask(*turns, **fields))["input"]
    return found


def test_the_smallest_bodies() -> None:
    assert chat(ask()) == {"model": "test-1", "messages": [{"role": "user", "content": "Hi"}]}
    assert responses(ask()) == {
        "model": "test-1",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "store": False,
    }


def test_streams_always_ask_for_usage_where_it_must_be_asked_for() -> None:
    silent = ProviderProfile(stream_usage=False)

    assert chat(ask(stream=True))["stream_options"] == {"include_usage": True}
    assert "stream_options" not in chat(ask(stream=True), silent)
    assert "stream_options" not in chat(ask())
    assert responses(ask(stream=True))["stream"] is True


def test_the_output_limit_is_named_as_the_provider_names_it() -> None:
    request = ask(sampling=Sampling(max_output_tokens=5))
    newer = ProviderProfile(max_tokens_field="max_completion_tokens")

    assert {key for key in chat(request) if "tokens" in key} == {"max_tokens"}
    assert {key for key in chat(request, newer) if "tokens" in key} == {"max_completion_tokens"}


@pytest.mark.parametrize(("role", "profile", "expected"), [
    (S, None, "system"), (D, None, "developer"), (S, "developer", "developer"), (D, "system", "system"),
])  # fmt: skip
def test_system_turns_are_called_what_the_provider_calls_them(role: Role, profile: Any, expected: str) -> None:
    request = ask(turn(role, "Be brief."), turn(U, "Hi"))

    assert chat(request, ProviderProfile(system_role=profile))["messages"][0]["role"] == expected
    assert responses(request, ProviderProfile(system_role=profile))["input"][0]["role"] == expected
    assert chat(request, ProviderProfile(system_role=profile))["messages"][1]["role"] == "user"


def test_names_of_speakers_are_kept() -> None:
    assert messages(turn(U, "Hi", name="ann"), turn(A, "Yo", name="bot")) == [
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Yo", "name": "bot"},
    ]


def test_texts_are_byte_exact() -> None:
    text = 'Ünïcödé 🙂 \u2028 \\n "quoted" \x00 end'

    assert messages(turn(U, text))[0]["content"] == text
    assert items(turn(U, text))[0]["content"][0]["text"] == text


def test_multimodal_parts_on_chat() -> None:
    parts = (
        Text("Look:"),
        Image(url="https://x.test/a.png", detail="low"),
        Image(data="AAAA", media_type="image/png"),
        Audio("UklG", "wav"),
        File(data="JVBE", media_type="application/pdf", filename="a.pdf"),
        File(data="JVBE"),
        File(file_id="file-1"),
    )

    assert messages(turn(U, *parts))[0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "JVBE"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]


def test_multimodal_parts_on_responses() -> None:
    parts = (
        Image(url="https://x.test/a.png"),
        Image(file_id="file-1", detail="high"),
        File(url="https://x.test/a.pdf"),
        File(data="JVBE", media_type="application/pdf", filename="a.pdf"),
    )

    assert items(turn(U, *parts))[0]["content"] == [
        {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "auto"},
        {"type": "input_image", "file_id": "file-1", "detail": "high"},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
    ]


CALL = ToolCall("call_1", "f", '{"b":1,"a":2}')
HISTORY = (
    turn(U, "Hi"),
    turn(
        A,
        Reasoning(text="Hm.", signature="gAAAA=="),
        Text("Let me look."),
        CALL,
        ToolCall("call_2", "sql", "SELECT", custom=True),
    ),
    turn(T, ToolResult("call_1", (Text("42"),))),
    turn(T, ToolResult("call_2", (Text("a"), Text("b")), custom=True)),
)


def test_p6_a_turn_with_reasoning_and_tools_on_chat() -> None:
    assert messages(*HISTORY)[1:] == [
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":2}'}},
                {"id": "call_2", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
    ]


def test_p6_the_same_on_responses_with_the_signature_before_the_call() -> None:
    assert items(*HISTORY)[1:] == [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": "gAAAA==",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"b":1,"a":2}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "sql", "input": "SELECT"},
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        {
            "type": "custom_tool_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
    ]


def test_p6_encrypted_reasoning_goes_back_byte_for_byte_and_without_ids() -> None:
    thought = Reasoning(summary=("One.", "Two."), encrypted="gAAAA/+=", item_id="rs_of_the_gateway")

    assert items(turn(A, thought, CALL))[0] == {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}],
        "encrypted_content": "gAAAA/+=",
    }


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES])
def test_p8_earlier_reasoning_is_never_visible_text(endpoint: Endpoint) -> None:
    thought = Reasoning(text="SECRET thought", summary=("SECRET summary",), signature="s")
    request = ask(turn(U, "Hi"), turn(A, thought, Text("Yo")), turn(U, "And?"), endpoint=endpoint)

    for message in chat(request)["messages"]:
        assert "SECRET" not in json.dumps(message["content"])
    for item in responses(request)["input"]:
        assert item["type"] == "reasoning" or "SECRET" not in json.dumps(item)


def test_a_summary_is_reasoning_on_chat_too() -> None:
    message = messages(turn(A, Reasoning(summary=("One.", "Two.")), CALL))[0]

    assert message["reasoning_content"] == "One.\n\nTwo."
    assert message["content"] is None


def test_deepseek_wants_lost_reasoning_back_as_an_empty_string() -> None:
    assert messages(turn(A, Reasoning(), CALL))[0]["reasoning_content"] == ""


def test_refusals_go_back_as_refusals() -> None:
    assert messages(turn(A, Refusal("No.")))[0] == {"role": "assistant", "content": None, "refusal": "No."}
    assert items(turn(A, Refusal("No.")))[0]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_items_of_one_assistant_turn_are_one_message_on_chat() -> None:
    turns = (
        turn(U, "Hi"),
        turn(A, Reasoning(text="Hm.")),
        turn(A, "Let me look."),
        turn(A, CALL),
        turn(A, ToolCall("call_2", "g", "{}")),
        turn(T, ToolResult("call_1", (Text("1"),))),
        turn(T, ToolResult("call_2", (Text("2"),))),
        turn(A, "Done."),
    )

    sent = messages(*turns, endpoint=Endpoint.RESPONSES)

    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "assistant"]
    assert sent[1]["reasoning_content"] == "Hm."
    assert sent[1]["content"] == "Let me look."
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_1", "call_2"]


def test_separate_messages_stay_separate() -> None:
    turns = (turn(A, "One."), turn(A, "Two."), turn(U, "Hi"))

    for endpoint in (Endpoint.CHAT, Endpoint.RESPONSES):
        assert [message["content"] for message in messages(*turns, endpoint=endpoint)] == ["One.", "Two.", "Hi"]


def test_opaque_items_keep_their_bytes_and_their_place() -> None:
    item = raw('{"type": "web_search_call" , "z": 1.0, "a": 2}')
    request = ask(
        turn(A, Text("a"), Opaque("web_search_call", item, "input[1]"), Text("b")), endpoint=Endpoint.RESPONSES
    )

    body = encode_responses(offer(RESPONSES), request)

    assert bytes(item) in body
    assert [found["type"] for found in json.loads(body)["input"]] == ["message", "web_search_call", "message"]


# P9: JSON that only passes through.

SCHEMA = (
    '{"type":"object", "$defs":{"z":{"type":"string"},"a":{"const":1.50}},"properties":{"q":{"$ref":"#/$defs/z"}},'
    '"required":["q"],"additionalProperties":false}'
)


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])
def test_p9_schemas_arrive_as_the_client_wrote_them(endpoint: Endpoint, api: Api) -> None:
    request = ask(
        endpoint=endpoint,
        tools=(FunctionTool("f", "Does.", raw(SCHEMA), strict=True),),
        output_format=OutputFormat("json_schema", "answer", raw(SCHEMA), "What.", True),
        passthrough={"metadata": raw('{"b":"1", "a":"2"}')},
        parameters={"tools": "tools", "response_format": "response_format", "metadata": "metadata"},
    )
    assert unsupported(request, api) is None

    body = (encode_chat if api == "chat" else encode_responses)(offer(), request)

    assert body.count(SCHEMA.encode()) == 2
    assert b'"metadata":{"b":"1", "a":"2"}' in body
    decoded = json.loads(body)
    if api == "chat":
        assert decoded["response_format"]["json_schema"]["strict"] is True
        assert decoded["tools"][0]["function"]["strict"] is True
    else:
        assert decoded["text"]["format"]["strict"] is True
        assert decoded["tools"][0]["strict"] is True


def test_an_unset_strict_means_the_same_on_both_apis() -> None:
    tools = (FunctionTool("f"),)

    assert responses(ask(tools=tools))["tools"] == [{"type": "function", "name": "f", "strict": False}]
    assert responses(ask(tools=tools, endpoint=Endpoint.RESPONSES))["tools"] == [{"type": "function", "name": "f"}]


NESTED = '{"type": "grammar", "grammar": {"syntax":"lark", "definition":"start: /a+/"}}'
FLAT = '{"type": "grammar", "syntax":"lark", "definition":"start: /a+/"}'


@pytest.mark.parametrize("written", [NESTED, FLAT])
def test_custom_tools_are_nested_on_chat_and_flat_on_responses(written: str) -> None:
    request = ask(tools=(CustomTool("sql", "Runs.", raw(written)),))

    assert chat(request)["tools"] == [
        {"type": "custom", "custom": {"name": "sql", "description": "Runs.", "format": json.loads(NESTED)}}
    ]
    assert responses(request)["tools"] == [
        {"type": "custom", "name": "sql", "description": "Runs.", "format": json.loads(FLAT)}
    ]


def test_custom_tools_without_a_grammar() -> None:
    request = ask(tools=(CustomTool("a"), CustomTool("b", format=raw('{"type":"text"}'))))

    assert [tool["custom"] for tool in chat(request)["tools"]] == [
        {"name": "a"},
        {"name": "b", "format": {"type": "text"}},
    ]


ALLOWED_CHAT = (
    '{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"f"}},'
    '{"type":"custom","custom":{"name":"c"}}]}}'
)
ALLOWED_RESPONSES = (
    '{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"},{"type":"custom","name":"c"}]}'
)


@pytest.mark.parametrize(
    ("choice", "on_chat", "on_responses"),
    [
        (ToolChoice("none"), "none", "none"),
        (ToolChoice("auto"), "auto", "auto"),
        (ToolChoice("required"), "required", "required"),
        (ToolChoice("named", "f"), {"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f"}),
        (
            ToolChoice("named", "c", custom=True),
            {"type": "custom", "custom": {"name": "c"}},
            {"type": "custom", "name": "c"},
        ),
        (ToolChoice("allowed", raw=raw(ALLOWED_CHAT)), json.loads(ALLOWED_CHAT), json.loads(ALLOWED_RESPONSES)),
        (ToolChoice("allowed", raw=raw(ALLOWED_RESPONSES)), json.loads(ALLOWED_CHAT), json.loads(ALLOWED_RESPONSES)),
    ],
)
def test_tool_choice_in_both_spellings(choice: ToolChoice, on_chat: Any, on_responses: Any) -> None:
    assert chat(ask(tool_choice=choice))["tool_choice"] == on_chat
    assert responses(ask(tool_choice=choice))["tool_choice"] == on_responses


def test_choosing_a_built_in_tool_takes_a_responses_upstream() -> None:
    choice = ToolChoice("built_in", raw=raw('{"type":"file_search"}'))
    request = ask(tool_choice=choice, parameters={"tool_choice": "tool_choice"}, endpoint=Endpoint.RESPONSES)

    assert unsupported(request, "chat") == "tool_choice"
    assert unsupported(request, "responses") is None
    assert responses(request)["tool_choice"] == {"type": "file_search"}


@pytest.mark.parametrize(
    ("passthrough", "expected"),
    [({}, False), ({"store": raw("true")}, True), ({"conversation": raw('"conv_1"')}, None)],
)
def test_responses_are_kept_upstream_only_where_the_client_asks(
    passthrough: dict[str, msgspec.Raw], expected: bool | None
) -> None:
    assert responses(ask(passthrough=passthrough)).get("store") is expected


# P11: images that are not what they are said to be.

PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
    "image/jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 40,
    "image/gif": b"GIF89a" + b"\0" * 40,
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 40,
}


@pytest.mark.parametrize("true", PICTURES)
@pytest.mark.parametrize("declared", PICTURES)
def test_p11_the_label_says_what_the_bytes_are(true: str, declared: str) -> None:
    data = base64.b64encode(PICTURES[true]).decode()
    as_data, as_url = Image(data=data, media_type=declared), Image(url=f"data:{declared};base64,{data}")
    expected = f"data:{true};base64,{data}"

    for image in (as_data, as_url):
        in_chat = messages(turn(U, "Look", image))[0]["content"][1]["image_url"]["url"]
        in_message = items(turn(U, image))[0]["content"][0]["image_url"]
        in_result = items(turn(T, ToolResult("c", (image,))))[0]["output"][0]["image_url"]
        assert in_chat == in_message == in_result == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [("", None), ("!!!!", None), ("AAAA", None), ("iVBORw0KGgo=", "image/png"), ("iVBO\r\nRw0K\nGgoAAAAN", "image/png"),
     ("/9j/", "image/jpeg"), ("é", None)],
)  # fmt: skip
def test_sniffing_reads_only_what_is_there(data: str, expected: str | None) -> None:
    assert sniff_image(data) == expected


def test_labels_stay_where_nothing_better_is_known() -> None:
    assert image_data_url("AAAA", "image/heic") == "data:image/heic;base64,AAAA"
    assert image_data_url("AAAA", None) == "data:application/octet-stream;base64,AAAA"
    for url in ("https://x.test/a", "data:image/svg+xml,<svg/>", "data:image/heic;base64,AAAA", "data:;base64,AAAA"):
        assert relabelled(url) == url


# What cannot be said is named.


@pytest.mark.parametrize(
    ("role", "part", "on_chat", "on_responses"),
    [
        (U, Image(file_id="f"), "messages[1].content", None),
        (U, File(url="https://x.test/a.pdf"), "messages[1].content", None),
        (U, Audio("AAAA", "wav"), None, "messages[1].content"),
        (U, Opaque("item_reference", raw("{}"), "input[3]"), "input[3]", None),
        (A, Reasoning(encrypted="gAAAA"), None, None),
        (A, Image(url="https://x.test/a"), "messages[1].content", "messages[1].content"),
        (A, Audio("AAAA", "wav"), "messages[1].content", "messages[1].content"),
        (S, Image(url="https://x.test/a"), "messages[1].content", None),
        (T, ToolResult("c", (Image(url="https://x.test/a"),)), "messages[1].content", None),
        (T, ToolResult("c", (File(file_id="f"),)), "messages[1].content", None),
        (U, Text("x"), None, None),
        (A, Reasoning(text="x", signature="s"), None, None),
    ],
)
def test_parts_that_an_api_cannot_carry(role: Role, part: Part, on_chat: str | None, on_responses: str | None) -> None:
    request = ask(turn(U, "Hi"), turn(role, part))

    assert unsupported(request, "chat") == on_chat
    assert unsupported(request, "responses") == on_responses
    if on_chat is None:
        assert chat(request)["messages"]
    if on_responses is None:
        assert responses(request)["input"]


def test_on_the_responses_surface_the_field_is_called_input() -> None:
    assert unsupported(ask(turn(U, Image(file_id="f")), endpoint=Endpoint.RESPONSES), "chat") == "input"
    on_messages = ask(turn(U, Image(file_id="f")), endpoint=Endpoint.MESSAGES)
    assert unsupported(on_messages, "chat") == "messages[].content[].image"


def test_a_speakers_name_cannot_be_said_to_a_responses_upstream() -> None:
    assert unsupported(ask(turn(U, "Hi", name="ann")), "responses") == "messages[0].name"
