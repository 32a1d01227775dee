"""Messages requests: every parameter, every content block, and every refusal by the name of the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.messages_decode import MessagesOrder, decode_count_tokens, decode_messages
from server.domain.errors import GatewayError, Reason
from server.domain.request import (
    BuiltInTool,
    CacheMark,
    Endpoint,
    File,
    FunctionTool,
    Image,
    Part,
    Reasoning,
    ReasoningOptions,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from server.domain.seals import SealedThought, unsealed

USER = {"role": "user", "content": "hi"}
TOOL: dict[str, Any] = {"name": "look_up", "input_schema": {"type": "object"}}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
EPHEMERAL = {"type": "ephemeral"}


def order(**fields: Any) -> MessagesOrder:
    return decode_messages(
        json.dumps({"model": "acme/test-1", "max_tokens": 9000, "messages": [USER], **fields}).encode()
    )


def failure(**fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        order(**fields)
    return caught.value


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    return order(messages=list(messages)).request.turns


def part(block: dict[str, Any], role: str = "user") -> Part:
    [turn] = turns({"role": role, "content": [block]})
    [decoded] = turn.parts
    return decoded


def test_the_least_request() -> None:
    decoded = order()
    request = decoded.request
    assert (request.endpoint, request.model) == (Endpoint.MESSAGES, "acme/test-1")
    assert request.turns == (Turn(Role.USER, (Text("hi"),)),)
    assert request.sampling == Sampling(max_output_tokens=9000)
    assert request.parameters == {"max_output_tokens": "max_tokens"}
    assert (request.stream, decoded.wants_meta, decoded.hides_thinking) == (False, False, False)
    assert not request.passthrough
    assert not request.hints


def test_every_parameter_is_named_as_the_client_names_it() -> None:
    request = order(
        temperature=0,
        top_p=0.9,
        top_k=40,
        stop_sequences=["a", "b"],
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"effort": "xhigh", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        stream=True,
    ).request
    assert request.sampling == Sampling(temperature=0.0, top_p=0.9, stop=("a", "b"), max_output_tokens=9000)
    assert request.parameters == {
        "max_output_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "stop": "stop_sequences",
        "tools": "tools",
        "tool_choice": "tool_choice",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
        "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
    }
    assert (request.stream, request.parallel_tool_calls) == (True, False)
    assert bytes(request.passthrough["top_k"]) == b"40"
    assert request.reasoning == ReasoningOptions("xhigh")
    assert request.output_format is not None
    assert request.output_format.schema is not None
    assert bytes(request.output_format.schema) == b'{"type": "object"}'
    assert (request.output_format.kind, request.output_format.name, request.output_format.strict) == (
        "json_schema", "output", True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("thinking", "expected", "spelt"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, ReasoningOptions("low", None, "enabled", 1024), True),
        ({"type": "enabled", "budget_tokens": 4096}, ReasoningOptions("medium", None, "enabled", 4096), True),
        ({"type": "adaptive"}, ReasoningOptions(None, None, "adaptive"), False),
        ({"type": "disabled"}, ReasoningOptions(None, None, "disabled"), False),
        (None, None, False),
    ],
)
def test_thinking_is_an_effort_too(thinking: Any, expected: ReasoningOptions | None, spelt: bool) -> None:
    request = order(thinking=thinking).request
    assert request.reasoning == expected
    assert ("reasoning_effort" in request.parameters) == spelt


def test_a_great_budget_is_a_high_effort_and_an_effort_given_counts() -> None:
    great = order(max_tokens=64_000, thinking={"type": "enabled", "budget_tokens": 16_384}).request.reasoning
    assert great is not None
    assert great.effort == "high"
    given = order(thinking={"type": "enabled", "budget_tokens": 2000}, output_config={"effort": "max"}).request
    assert given.reasoning == ReasoningOptions("max", None, "enabled", 2000)
    assert given.parameters["reasoning_effort"] == "output_config.effort"


def test_what_changes_nothing_in_the_reply_is_a_hint() -> None:
    request = order(metadata={"user_id": "someone"}, service_tier="standard_only").request
    assert {name: bytes(value) for name, value in request.hints.items()} == {
        "user": b'"someone"',
        "service_tier": b'"default"',
    }
    assert request.parameters == {"max_output_tokens": "max_tokens"}
    assert not order(service_tier="auto").request.hints


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, None),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "look_up"}, ToolChoice("named", "look_up")),
    ],
)
def test_tool_choices(choice: Any, expected: ToolChoice | None) -> None:
    request = order(tools=[TOOL], tool_choice=choice).request
    assert request.tool_choice == expected
    assert ("tool_choice" in request.parameters) == (expected is not None)


def test_tools_keep_their_schema_and_foreign_ones_their_name() -> None:
    schema = '{"type":"object","properties":{"b":{"const":1.0},"a":{}}}'
    body = f"""{{"model": "m", "max_tokens": 1, "messages": [{{"role": "user", "content": "x"}}], "tools": [
        {{"type": "custom", "name": "f", "description": "d", "strict": true, "input_schema": {schema},
          "cache_control": {{"type": "ephemeral", "ttl": "1h"}}, "eager_input_streaming": true}},
        {{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}}]}}"""
    mine, theirs = decode_messages(body.encode()).request.tools
    assert isinstance(mine, FunctionTool)
    assert (mine.name, mine.description, mine.strict, mine.cache) == ("f", "d", True, CacheMark("1h"))
    assert mine.parameters is not None
    assert bytes(mine.parameters).decode() == schema
    assert isinstance(theirs, BuiltInTool)
    assert (theirs.type, theirs.param) == ("web_search_20250305", "tools[1]")


def test_system_prompts() -> None:
    assert order(system="Be brief.").request.turns[0] == Turn(Role.SYSTEM, (Text("Be brief."),))
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": EPHEMERAL}]
    assert order(system=blocks).request.turns[0] == Turn(Role.SYSTEM, (Text("a"), Text("b", CacheMark())))
    assert len(order(system="").request.turns) == 1
    assert turns(USER, {"role": "system", "content": "now"})[1] == Turn(Role.SYSTEM, (Text("now"),))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "text", "text": "你好", "cache_control": None}, Text("你好")),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            Image(data="iVBORw0KGgo=", media_type="image/png"),
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://a.example/x"}, "cache_control": EPHEMERAL},
            Image(url="https://a.example/x", cache=CacheMark()),
        ),
        ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, Image(file_id="file_1")),
        (
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            },
            File(data="JVBERg==", media_type="application/pdf", filename="a.pdf"),
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://a.example/x"}},
            File(url="https://a.example/x"),
        ),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}}, Text("abc")),
        ({"type": "document", "source": {"type": "content", "content": "abc"}}, Text("abc")),
    ],
)
def test_what_users_send(block: dict[str, Any], expected: Part) -> None:
    assert part(block) == expected


def test_a_documents_context_and_title_come_before_it() -> None:
    source = {"type": "content", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]}
    block = {"type": "document", "title": "T", "context": "C", "source": source}
    [turn] = turns({"role": "user", "content": [block]})
    assert turn.parts == (Text("C"), Text("T"), Text("1"), Text("2"))


@pytest.mark.parametrize(
    ("last", "mark"), [({}, CacheMark("1h")), ({"cache_control": {"type": "ephemeral"}}, CacheMark())]
)
def test_the_mark_of_a_document_in_pieces_is_that_of_its_last(last: dict[str, Any], mark: CacheMark) -> None:
    source = {"type": "content", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2", **last}]}
    block = {"type": "document", "source": source, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    [turn] = turns({"role": "user", "content": [block]})
    assert turn.parts == (Text("1"), Text("2", mark))


def test_what_the_assistant_said() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1.0}, "caller": {"type": "direct"}}
    assert part(call, "assistant") == ToolCall("toolu_1", "f", '{"a": 1.0}')
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    assert part(thought, "assistant") == Reasoning("hm", signature="c2ln")
    sealed = part({"type": "redacted_thinking", "data": "c2VjcmV0"}, "assistant")
    assert isinstance(sealed, Reasoning)
    assert list(unsealed(sealed.text, sealed.signature)) == [SealedThought("redacted", "", "c2VjcmV0")]


def test_results_of_tools_are_turns_of_their_own_in_order() -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
        {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": [{"type": "text", "text": "two"}]},
        {"type": "tool_result", "tool_use_id": "t3"},
        {"type": "text", "text": "go on"},
    ]
    assert turns({"role": "user", "content": blocks}) == (
        Turn(Role.TOOL, (ToolResult("t1", (Text("one"),)),)),
        Turn(Role.TOOL, (ToolResult("t2", (Text("two"),), is_error=True),)),
        Turn(Role.TOOL, (ToolResult("t3", (Text(""),)),)),
        Turn(Role.USER, (Text("go on"),)),
    )


def test_roles_may_follow_themselves() -> None:
    assert [turn.role for turn in turns(USER, USER, {"role": "assistant", "content": "x"})] == [
        Role.USER,
        Role.USER,
        Role.ASSISTANT,
    ]


MANY = [{**TOOL, "name": f"t{number}"} for number in range(129)]


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ({"max_tokens": None}, Reason.INVALID_VALUE, "max_tokens"),
        ({"max_tokens": 0}, Reason.INVALID_VALUE, "max_tokens"),
        ({"messages": []}, Reason.INVALID_VALUE, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, Reason.INVALID_VALUE, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, Reason.INVALID_VALUE, "messages[0].role"),
        ({"messages": [{**USER, "name": "x"}]}, Reason.UNKNOWN_PARAMETER, "messages[0].name"),
        ({"model": ""}, Reason.MISSING_FIELD, "model"),
        ({"n": 2}, Reason.UNKNOWN_PARAMETER, "n"),
        ({"temperature": 1.5}, Reason.INVALID_VALUE, "temperature"),
        ({"top_p": 0}, Reason.INVALID_VALUE, "top_p"),
        ({"top_k": -1}, Reason.INVALID_VALUE, "top_k"),
        ({"stop_sequences": [""]}, Reason.INVALID_VALUE, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, Reason.MISSING_FIELD, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, Reason.INVALID_VALUE, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}}, Reason.INVALID_VALUE, "thinking.budget_tokens"),
        ({"thinking": {"type": "between_tools"}}, Reason.UNSUPPORTED_PARAMETER, "thinking.type"),
        ({"tool_choice": {"type": "any"}}, Reason.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, Reason.INVALID_VALUE, "tool_choice.name"),
        ({"tools": [{"name": "f"}]}, Reason.MISSING_FIELD, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "name": "a b"}]}, Reason.INVALID_VALUE, "tools[0].name"),
        ({"tools": [{**TOOL, "input_schema": []}]}, Reason.INVALID_VALUE, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "parameters": {}}]}, Reason.UNKNOWN_PARAMETER, "tools[0].parameters"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, Reason.UNSUPPORTED_PARAMETER, "tools[0].defer_loading"),
        ({"tools": MANY}, Reason.INVALID_VALUE, "tools"),
        ({"metadata": {"user": "x"}}, Reason.UNKNOWN_PARAMETER, "metadata.user"),
        ({"metadata": {"user_id": "x" * 513}}, Reason.INVALID_VALUE, "metadata.user_id"),
        ({"service_tier": "flex"}, Reason.INVALID_VALUE, "service_tier"),
        ({"speed": "fast"}, Reason.UNSUPPORTED_PARAMETER, "speed"),
        ({"container": "c"}, Reason.UNSUPPORTED_PARAMETER, "container"),
        ({"mcp_servers": [{}]}, Reason.UNSUPPORTED_PARAMETER, "mcp_servers"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            Reason.UNSUPPORTED_PARAMETER,
            "context_management.edits[0]",
        ),
        ({"provider": {"only": "x"}}, Reason.INVALID_VALUE, "provider.only"),
        ({"provider_options": {"a": {"api_key": "x"}}}, Reason.UNKNOWN_PARAMETER, "provider_options.a.api_key"),
        ({"cache_control": {"type": "forever"}}, Reason.INVALID_VALUE, "cache_control.type"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], reason: Reason, param: str) -> None:
    error = failure(**fields)
    assert (error.reason, error.param) == (reason, param)


@pytest.mark.parametrize(
    ("role", "block", "param"),
    [
        ("user", {"type": "tool_use", "id": "a", "name": "f", "input": {}}, "type"),
        ("assistant", {"type": "image", "source": {"type": "url", "url": "https://a.example"}}, "type"),
        ("system", {"type": "tool_result", "tool_use_id": "a"}, "type"),
        ("user", {"type": "image", "source": {"type": "url", "url": "ftp://a.example"}}, "source.url"),
        ("user", {"type": "image", "source": {**PNG, "data": "?"}}, "source.data"),
        ("user", {"type": "image", "source": {**PNG, "media_type": "text/x"}}, "source.media_type"),
        ("assistant", {"type": "tool_use", "id": "a", "name": "f", "input": []}, "input"),
        ("user", {"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}, "type"),
        ("user", {"type": "text", "text": "a", "extra": 1}, "extra"),
    ],
)
def test_a_wrong_block_is_named(role: str, block: dict[str, Any], param: str) -> None:
    assert failure(messages=[USER, {"role": role, "content": [block]}]).param == f"messages[1].content[0].{param}"


def test_edits_that_keep_everything_ask_for_nothing() -> None:
    order(context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]})


def test_a_mark_may_have_a_scope() -> None:
    assert part({"type": "text", "text": "a", "cache_control": {**EPHEMERAL, "scope": "global"}}) == Text(
        "a", CacheMark()
    )


def test_extras() -> None:
    decoded = order(
        meta=True, usage=True, models=["b/2"], session_id="s", provider={"order": ["acme"]}, debug={"trace": True},
        provider_options={"acme": {"x": 1}}, thinking={"type": "adaptive", "display": "omitted"},
        cache_control={"type": "ephemeral", "ttl": "5m"},
    )  # fmt: skip
    assert (decoded.wants_meta, decoded.hides_thinking, decoded.request.trace) == (True, True, True)
    assert decoded.request.routing.fallback_models == ("b/2",)
    assert decoded.request.cache == CacheMark("5m")
    assert bytes(decoded.request.provider_options["acme"]["x"]) == b"1"


def test_a_count_needs_no_limit_and_knows_no_sampling() -> None:
    body = {"model": "m", "messages": [USER], "system": "s", "tools": [TOOL]}
    assert len(decode_count_tokens(json.dumps(body).encode()).turns) == 2
    with pytest.raises(GatewayError) as failed:
        decode_count_tokens(json.dumps({**body, "max_tokens": 1}).encode())
    assert failed.value.param == "max_tokens"
