"""Requests as the Messages API takes them; every body here is one that the stand-in for the vendor accepts."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from server.domain.request import (
    CacheMark,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    OutputFormat,
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from server.providers.anthropic_encode import MAX_WHOLE_TOKENS, encode_messages
from server.providers.anthropic_models import DEFAULT_MAX_TOKENS
from tests.fakes.lines_run import lines_run
from tests.unit.anthropic_cases import ADAPTIVE, BUDGET, body_of, offer
from tests.unit.openai_cases import ask, turn

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
JPEG = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQg"
PDF = base64.b64encode(b"%PDF-1.7 ...").decode()
F = FunctionTool("f", "Does f.", msgspec.Raw(b'{"type":"object","properties":{"z":{},"a":{}}}'))
G = FunctionTool("g")
USER = turn(Role.USER, "Hi")


def said(*turns: Any, model: str = BUDGET, **fields: Any) -> list[Any]:
    sent: list[Any] = body_of(ask(*turns, **fields), model)["messages"]
    return sent


def called(*ids: str) -> Any:
    return turn(Role.ASSISTANT, *(ToolCall(id_, "f", '{"b":1,"a":2}') for id_ in ids))


def result(id_: str, *content: Any, **fields: Any) -> Any:
    return turn(Role.TOOL, ToolResult(id_, content or (Text("42"),), **fields))


def test_a_plain_request() -> None:
    assert body_of(ask()) == {
        "model": BUDGET,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


@pytest.mark.parametrize(
    ("asked", "known", "sent"), [(7, 4096, 7), (None, 4096, 4096), (None, None, DEFAULT_MAX_TOKENS)]
)
def test_max_tokens_is_always_named(asked: int | None, known: int | None, sent: int) -> None:
    request = ask(sampling=Sampling(max_output_tokens=asked))

    assert body_of(request, limit=known)["max_tokens"] == sent


@pytest.mark.parametrize(("limit", "stream"), [(MAX_WHOLE_TOKENS, None), (MAX_WHOLE_TOKENS + 1, True)])
def test_a_large_limit_is_asked_for_as_a_stream(limit: int, stream: bool | None) -> None:
    """The API expects whole answers within ten minutes."""
    assert body_of(ask(), limit=limit).get("stream") is stream


def test_a_stream_is_asked_for() -> None:
    assert body_of(ask(stream=True))["stream"] is True


# Turns.


def test_leading_system_and_developer_turns_are_the_system_prompt() -> None:
    sent = body_of(ask(turn(Role.SYSTEM, "Be kind."), turn(Role.DEVELOPER, "Be brief."), USER))

    assert sent["system"] == [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}]
    assert [message["role"] for message in sent["messages"]] == ["user"]


@pytest.mark.parametrize(("model", "roles"), [(ADAPTIVE, ["user", "system", "user"]), (BUDGET, ["user"])])
def test_a_later_system_turn_stays_where_it_is(model: str, roles: list[str]) -> None:
    """Newer models know the role amid the others; for older ones it is folded into a user turn."""
    sent = said(USER, turn(Role.SYSTEM, "Now rhyme."), turn(Role.USER, "Go."), model=model)

    assert [message["role"] for message in sent] == roles
    assert [block["text"] for message in sent for block in message["content"]] == ["Hi", "Now rhyme.", "Go."]


def test_a_system_turn_never_stands_between_a_call_and_its_result() -> None:
    sent = said(USER, called("c"), turn(Role.SYSTEM, "Now rhyme."), result("c"), model=ADAPTIVE)

    assert [block["type"] for block in sent[2]["content"]] == ["tool_result", "text"]


def test_many_late_system_turns_cost_no_more_each_than_few() -> None:
    def lines(turns: int) -> int:
        request = ask(USER, *(turn(Role.SYSTEM, "Now rhyme.") for _ in range(turns)))
        return lines_run(lambda: encode_messages(offer(ADAPTIVE), request))

    assert lines(800) < 8 * lines(200)


def test_system_turns_alone_are_asked_as_a_user() -> None:
    sent = body_of(ask(turn(Role.SYSTEM, "Tell a joke.")))

    assert "system" not in sent
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Tell a joke."}]}]


def test_consecutive_turns_of_one_role_are_merged() -> None:
    sent = said(USER, turn(Role.USER, "there"), turn(Role.ASSISTANT, "Yes?"), turn(Role.ASSISTANT, "Well?"), USER)

    assert [(message["role"], len(message["content"])) for message in sent] == [
        ("user", 2),
        ("assistant", 2),
        ("user", 1),
    ]


def test_results_of_parallel_calls_are_one_turn_and_come_first() -> None:
    sent = said(USER, called("c1", "c2"), result("c1"), turn(Role.USER, "And?"), result("c2", Text("43")))

    assert sent[1]["content"] == [
        {"type": "tool_use", "id": id_, "name": "f", "input": {"b": 1, "a": 2}} for id_ in ("c1", "c2")
    ]
    assert sent[2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "42"},
            {"type": "tool_result", "tool_use_id": "c2", "content": "43"},
            {"type": "text", "text": "And?"},
        ],
    }


def test_arguments_are_an_object_with_the_clients_own_spelling() -> None:
    request = ask(USER, turn(Role.ASSISTANT, ToolCall("c", "f", '{"z": 1.50, "a": {}}')), result("c"))
    body, _ = encode_messages(offer(), request)

    assert b'"input":{"z": 1.50, "a": {}}' in body


def test_arguments_of_nothing_are_an_empty_object() -> None:
    assert said(USER, turn(Role.ASSISTANT, ToolCall("c", "f", "")), result("c"))[1]["content"][0]["input"] == {}


def test_ids_that_the_api_does_not_take_are_replaced_in_call_and_result_alike() -> None:
    sent = said(USER, called("functions.f:0", "functions.f:1"), result("functions.f:0"), result("functions.f:1"))

    ids = [block["id"] for block in sent[1]["content"]]
    assert ids == [block["tool_use_id"] for block in sent[2]["content"]]
    assert len(set(ids)) == 2
    assert all(id_.replace("_", "").isalnum() for id_ in ids)


def test_a_tool_that_failed() -> None:
    assert said(USER, called("c"), result("c", is_error=True))[2]["content"][0]["is_error"] is True


def test_a_refusal_of_before_is_what_was_said() -> None:
    assert said(USER, turn(Role.ASSISTANT, Refusal("No.")), USER)[1]["content"] == [{"type": "text", "text": "No."}]


def test_blank_texts_and_empty_assistant_turns_are_left_out() -> None:
    """The API refuses either with a 400."""
    sent = said(turn(Role.USER, "Hi", " "), turn(Role.ASSISTANT, ""), turn(Role.USER, "there"))

    assert [block["text"] for message in sent for block in message["content"]] == ["Hi", "there"]


# Media.


@pytest.mark.parametrize(
    ("image", "source"),
    [
        (Image(url="https://example.com/a.png"), {"type": "url", "url": "https://example.com/a.png"}),
        (Image(data=PNG, media_type="image/png"), {"type": "base64", "media_type": "image/png", "data": PNG}),
        (Image(data=JPEG, media_type="image/png"), {"type": "base64", "media_type": "image/jpeg", "data": JPEG}),
        (
            Image(url=f"data:image/png;base64,{JPEG}"),
            {"type": "base64", "media_type": "image/jpeg", "data": JPEG},
        ),
    ],
)
def test_p11_images_with_the_type_that_they_are_of_in_messages_and_in_results(image: Image, source: Any) -> None:
    sent = said(turn(Role.USER, "Look:", image), called("c"), result("c", image))

    assert sent[0]["content"][1] == {"type": "image", "source": source}
    assert sent[2]["content"][0]["content"] == [{"type": "image", "source": source}]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (File(url="https://example.com/a.pdf"), {"type": "url", "url": "https://example.com/a.pdf"}),
        (
            File(data=PDF, media_type="application/pdf"),
            {"type": "base64", "media_type": "application/pdf", "data": PDF},
        ),
        (File(data=PDF), {"type": "base64", "media_type": "application/pdf", "data": PDF}),
        (
            File(data=base64.b64encode("größer".encode()).decode(), media_type="text/plain"),
            {"type": "text", "media_type": "text/plain", "data": "größer"},
        ),
        (
            File(data=base64.b64encode(b"a,b").decode(), filename="a.csv"),
            {"type": "text", "media_type": "text/plain", "data": "a,b"},
        ),
    ],
)
def test_files_are_documents(file: File, source: Any) -> None:
    named = msgspec.structs.replace(file, filename=file.filename or "paper")
    sent = said(turn(Role.USER, named, "Sum it up."))

    assert sent[0]["content"][0] == {"type": "document", "source": source, "title": named.filename}


# Tools.


def test_tools_keep_their_schemas_as_they_are_written() -> None:
    request = ask(tools=(F, G, FunctionTool("h", parameters=msgspec.Raw(b"{}"), strict=True)))
    body, _ = encode_messages(offer(), request)

    assert F.parameters is not None
    assert bytes(F.parameters) in body
    assert body_of(request)["tools"] == [
        {"name": "f", "description": "Does f.", "input_schema": json.loads(bytes(F.parameters))},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
        {"name": "h", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]


def test_a_schema_that_does_not_say_object_is_one() -> None:
    tool = FunctionTool("f", parameters=msgspec.Raw(b'{"properties":{"b":{},"a":{}}}'))
    [sent] = body_of(ask(tools=(tool,)))["tools"]

    assert list(sent["input_schema"].items()) == [("type", "object"), ("properties", {"b": {}, "a": {}})]


ALLOWED = msgspec.Raw(
    b'{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"g"}}]}}'
)


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("named", "g"), None, {"type": "tool", "name": "g"}),
        (ToolChoice("allowed", raw=ALLOWED), None, {"type": "any"}),
    ],
)
def test_tool_choices(choice: ToolChoice | None, parallel: bool | None, sent: Any) -> None:
    body = body_of(ask(tools=(F, G), tool_choice=choice, parallel_tool_calls=parallel))

    assert body.get("tool_choice") == sent
    names = [tool["name"] for tool in body["tools"]]
    assert names == (["g"] if choice is not None and choice.mode == "allowed" else ["f", "g"])


def test_a_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in body_of(ask(tool_choice=ToolChoice("auto"), parallel_tool_calls=False))


# Output.


def formatted(schema: str, *, strict: bool | None = None) -> GenerationRequest:
    wanted = OutputFormat("json_schema", "answer", msgspec.Raw(schema.encode()), strict=strict)
    return ask(output_format=wanted, parameters={"response_format": "response_format"})


def test_p9_a_strict_schema_goes_as_it_is() -> None:
    schema = (
        '{"type": "object", "properties": {"z": {"$ref": "#/$defs/n"}, "a": {"enum": ["x", "b"]}}, '
        '"required": ["z", "a"], "additionalProperties": false, "$defs": {"n": {"type": "number"}}}'
    )
    body, _ = encode_messages(offer(), formatted(schema, strict=True))

    assert schema.encode() in body
    assert body_of(formatted(schema))["output_config"]["format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        (
            {"type": ["string", "null"], "description": "d"},
            {"description": "d", "anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        (
            {"type": ["string", "null"], "enum": ["a", None]},
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null", "enum": [None]}]},
        ),
        (
            {"oneOf": [{"type": "string"}, {"type": "null"}]},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        (
            {"type": "array", "items": {"type": "object", "properties": {"minimum": {"type": "null"}}}},
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"minimum": {"type": "null"}},
                    "additionalProperties": False,
                },
            },
        ),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_is_fitted_where_nothing_is_lost(given: Any, sent: Any, strict: bool) -> None:
    body = body_of(formatted(json.dumps(given), strict=strict))

    assert body["output_config"]["format"]["schema"] == sent


def test_bounds_that_the_api_does_not_enforce_are_told_to_the_model() -> None:
    schema = '{"type": "integer", "minimum": 1, "description": "How many."}'
    body = body_of(formatted(schema))

    assert body["output_config"]["format"]["schema"] == {
        "type": "integer",
        "description": "How many.\n\n{minimum: 1}",
    }


def test_parameters_and_their_words() -> None:
    request = ask(
        sampling=Sampling(temperature=0.5, stop=("a", "b"), max_output_tokens=7),
        passthrough={
            "user": msgspec.Raw(b'"u-1"'),
            "service_tier": msgspec.Raw(b'"default"'),
            "top_k": msgspec.Raw(b"5"),
        },
    )
    sent = body_of(request)

    assert {name: sent[name] for name in sent.keys() - {"model", "messages"}} == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 5,
        "stop_sequences": ["a", "b"],
        "service_tier": "standard_only",
        "metadata": {"user_id": "u-1"},
    }


def test_defaults_go_unsaid_to_a_model_without_sampling() -> None:
    assert body_of(ask(sampling=Sampling(temperature=1.0, top_p=1.0)), ADAPTIVE).keys() == {
        "model",
        "max_tokens",
        "messages",
    }


def test_provider_options_are_merged_in_and_win() -> None:
    options = {"anthropic": {"top_k": msgspec.Raw(b"3"), "max_tokens": msgspec.Raw(b"30000")}}
    sent = body_of(ask(provider_options=options))

    assert (sent["top_k"], sent["max_tokens"], sent["stream"]) == (3, 30_000, True)


def test_cache_marks_are_set_where_the_client_set_them() -> None:
    mark, hour = CacheMark(), CacheMark("1h")
    request = ask(
        turn(Role.SYSTEM, Text("Be kind.", mark)),
        turn(Role.USER, Text("Hi", hour), Image(data=PNG, cache=mark)),
        tools=(msgspec.structs.replace(F, cache=mark),),
        cache=hour,
    )
    sent = body_of(request)

    short, long = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
    assert sent["system"][0]["cache_control"] == short
    assert [block["cache_control"] for block in sent["messages"][0]["content"]] == [long, short]
    assert (sent["tools"][0]["cache_control"], sent["cache_control"]) == (short, long)
