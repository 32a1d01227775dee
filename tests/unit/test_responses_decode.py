"""What a body of `POST /v1/responses` means, and what is said of a wrong one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.responses_decode import decode_request
from server.domain.errors import GatewayError, Reason
from server.domain.request import (
    Audio,
    BuiltInTool,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    Image,
    Opaque,
    OutputFormat,
    Part,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from server.domain.response import ResponseRequest

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="


def decode(**fields: Any) -> ResponseRequest:
    body: dict[str, Any] = {"model": "acme/test-1", "input": "Hi", **fields}
    return decode_request(json.dumps({name: value for name, value in body.items() if value is not ...}).encode())


def turns(*items: Any) -> tuple[Turn, ...]:
    return decode(input=list(items)).generation.turns


def refused(**fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        decode(**fields)
    return caught.value


def test_the_smallest_request() -> None:
    request = decode()
    generation = request.generation
    assert (generation.endpoint, generation.model) == (Endpoint.RESPONSES, "acme/test-1")
    assert generation.turns == (Turn(Role.USER, (Text("Hi"),)),)
    assert (generation.parameters, generation.passthrough, generation.stream) == ({}, {}, False)
    assert (request.store, request.instructions, request.previous_response_id, request.meta) == (
        True,
        None,
        None,
        False,
    )


def test_every_null_is_absence() -> None:
    nullable = (
        "instructions", "previous_response_id", "store", "metadata", "stream", "stream_options", "include", "tools",
        "temperature", "top_p", "max_output_tokens", "top_logprobs", "tool_choice", "parallel_tool_calls", "text",
        "reasoning", "truncation", "background", "max_tool_calls", "prompt_cache_key", "service_tier", "user",
        "conversation", "prompt", "meta", "usage", "provider", "models", "provider_options", "session_id", "debug",
    )  # fmt: skip
    assert decode(**dict.fromkeys(nullable)) == decode()


@pytest.mark.parametrize(
    ("item", "role", "part"),
    [
        ({"role": "user", "content": "a"}, Role.USER, Text("a")),
        ({"type": "message", "role": "user", "content": "a"}, Role.USER, Text("a")),
        ({"role": "system", "content": "a"}, Role.SYSTEM, Text("a")),
        ({"role": "developer", "content": "a"}, Role.DEVELOPER, Text("a")),
        ({"role": "assistant", "content": "a"}, Role.ASSISTANT, Text("a")),
        ({"role": "user", "content": [{"type": "input_text", "text": "a"}]}, Role.USER, Text("a")),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.test/a", "detail": "low"}]},
            Role.USER,
            Image(url="https://x.test/a", detail="low"),
        ),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]},
            Role.USER,
            Image(data="iVBORw0KGgo=", media_type="image/png"),
        ),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "file-1", "detail": "auto"}]},
            Role.USER,
            Image(file_id="file-1", detail="auto"),
        ),
        (
            {"role": "user", "content": [{"type": "input_file", "file_data": PDF, "filename": "a.pdf"}]},
            Role.USER,
            File(data="JVBERi0=", media_type="application/pdf", filename="a.pdf"),
        ),
        (
            {"role": "user", "content": [{"type": "input_file", "file_url": "https://x.test/a.pdf"}]},
            Role.USER,
            File(url="https://x.test/a.pdf"),
        ),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, Role.USER, File(file_id="f")),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
            Role.USER,
            Audio("AAAA", "wav"),
        ),
        (
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
            },
            Role.ASSISTANT,
            Text("a"),
        ),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, Role.ASSISTANT, Refusal("no")),
        (
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"b":1}',
             "status": "completed"},
            Role.ASSISTANT,
            ToolCall("c1", "f", '{"b":1}', item_id="fc_1"),
        ),
        (
            {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "free text"},
            Role.ASSISTANT,
            ToolCall("c1", "f", "free text", custom=True),
        ),
        (
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            Role.TOOL,
            ToolResult("c1", (Text("42"),)),
        ),
        (
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PNG}],
            },
            Role.TOOL,
            ToolResult("c1", (Text("a"), Image(data="iVBORw0KGgo=", media_type="image/png"))),
        ),
        (
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "x"},
            Role.TOOL,
            ToolResult("c1", (Text("x"),), custom=True),
        ),
        (
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "s1"}, {"type": "summary_text", "text": "s2"}],
                "content": [{"type": "reasoning_text", "text": "t"}],
                "encrypted_content": "opaque==",
            },
            Role.ASSISTANT,
            Reasoning("t", ("s1", "s2"), encrypted="opaque==", item_id="rs_1"),
        ),
    ],
)  # fmt: skip
def test_an_item_becomes_a_turn(item: Any, role: Role, part: Part) -> None:
    assert turns(item) == (Turn(role, (part,)),)


def test_items_keep_their_order_and_places() -> None:
    made = turns(
        {"role": "user", "content": "q"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "b", "output": "2"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    )
    assert [turn.role for turn in made] == [Role.USER, Role.ASSISTANT, Role.ASSISTANT, Role.TOOL, Role.TOOL]


@pytest.mark.parametrize("role", ["user", "developer", "assistant"])
def test_a_message_keeps_its_phase(role: str) -> None:
    assert turns({"role": role, "content": "a", "phase": "commentary"}) == (
        Turn(Role(role), (Text("a"),), phase="commentary"),
    )


@pytest.mark.parametrize(
    ("item", "role"),
    [
        ({"type": "function_call_output", "call_id": "c", "output": "x", "name": "f"}, Role.TOOL),
        ({"type": "shell_call_output", "call_id": "c", "output": []}, Role.TOOL),
        ({"type": "mcp_approval_response", "approval_request_id": "r", "approve": True, "reason": "x"}, Role.TOOL),
        ({"type": "additional_tools", "role": "developer", "tools": []}, Role.DEVELOPER),
        ({"type": "additional_tools", "role": "nobody", "tools": []}, Role.ASSISTANT),
        ({"type": "web_search_call", "id": "ws_1"}, Role.ASSISTANT),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "namespace": "n"}, Role.ASSISTANT),
    ],
)
def test_whose_an_item_is_that_stays_as_it_is(item: Any, role: Role) -> None:
    (turn,) = turns(item)
    assert (turn.role, type(turn.parts[0])) == (role, Opaque)


@pytest.mark.parametrize(
    ("item", "kind", "param"),
    [
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "web_search_call", "input[0]"),
        ({"type": "item_reference", "id": "msg_1"}, "item_reference", "input[0]"),
        ({"id": "msg_1"}, "item_reference", "input[0]"),
        (
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "crm"},
            "function_call",
            "input[0].namespace",
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": "", "caller": {"type": "direct"}},
            "function_call_output",
            "input[0].caller",
        ),
    ],
)
def test_what_only_a_native_provider_understands_stays_as_it_is(item: Any, kind: str, param: str) -> None:
    (turn,) = turns(item)
    (part,) = turn.parts
    assert isinstance(part, Opaque)
    assert (part.type, part.param, json.loads(bytes(part.item))) == (kind, param, item)


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ({"model": ...}, Reason.MISSING_FIELD, "model"),
        ({"model": ""}, Reason.MISSING_FIELD, "model"),
        ({"model": 5}, Reason.INVALID_VALUE, "model"),
        ({"input": ...}, Reason.MISSING_FIELD, "input"),
        ({"input": []}, Reason.MISSING_FIELD, "input"),
        ({"input": 5}, Reason.INVALID_VALUE, "input"),
        ({"input": [5]}, Reason.INVALID_VALUE, "input[0]"),
        ({"input": [{"type": "telepathy"}]}, Reason.INVALID_VALUE, "input[0].type"),
        ({"input": [{"content": "a"}]}, Reason.MISSING_FIELD, "input[0].role"),
        ({"input": [{"role": "tool", "content": "a"}]}, Reason.INVALID_VALUE, "input[0].role"),
        ({"input": [{"role": "user"}]}, Reason.MISSING_FIELD, "input[0].content"),
        ({"input": [{"role": "user", "content": "a", "naem": "b"}]}, Reason.UNKNOWN_PARAMETER, "input[0].naem"),
        (
            {"input": ["x", {"role": "user", "content": "a"}]},
            Reason.INVALID_VALUE,
            "input[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            Reason.INVALID_VALUE,
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "output_text", "text": "a"}]}]},
            Reason.INVALID_VALUE,
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"},
                       {"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x/a.png"}]}]},
            Reason.INVALID_VALUE,
            "input[2].content[0].image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            Reason.MISSING_FIELD,
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PNG, "file_id": "f"}]}]},
            Reason.INVALID_VALUE,
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "huge"}]}]},
            Reason.INVALID_VALUE,
            "input[0].content[0].detail",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "filename": "a"}]}]},
            Reason.MISSING_FIELD,
            "input[0].content[0].file_data",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a", "file_url": "https://x.t"}]}]},
            Reason.INVALID_VALUE,
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a", "detail": "high"}]}]},
            Reason.UNSUPPORTED_PARAMETER,
            "input[0].content[0].detail",
        ),
        (
            {"input": [{"role": "user", "content": [
                {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}]}]},
            Reason.UNSUPPORTED_PARAMETER,
            "input[0].content[0].prompt_cache_breakpoint",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f"}]},
            Reason.MISSING_FIELD,
            "input[0].arguments",
        ),
        ({"input": [{"type": "function_call_output", "output": "a"}]}, Reason.MISSING_FIELD, "input[0].call_id"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
            Reason.MISSING_FIELD,
            "input[0].output[0].image_url",
        ),
        ({"stop": ["x"]}, Reason.UNSUPPORTED_PARAMETER, "stop"),
        ({"messages": []}, Reason.UNKNOWN_PARAMETER, "messages"),
        ({"response_format": {"type": "json_object"}}, Reason.UNKNOWN_PARAMETER, "response_format"),
        ({"n": 2}, Reason.UNKNOWN_PARAMETER, "n"),
        ({"temperature": 3}, Reason.INVALID_VALUE, "temperature"),
        ({"temperature": "hot"}, Reason.INVALID_VALUE, "temperature"),
        ({"top_p": 0}, Reason.INVALID_VALUE, "top_p"),
        ({"max_output_tokens": 0}, Reason.INVALID_VALUE, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, Reason.INVALID_VALUE, "max_output_tokens"),
        ({"top_logprobs": 21}, Reason.INVALID_VALUE, "top_logprobs"),
        ({"store": "yes"}, Reason.INVALID_VALUE, "store"),
        ({"truncation": "middle"}, Reason.INVALID_VALUE, "truncation"),
        ({"metadata": {"k": 1}}, Reason.INVALID_VALUE, "metadata"),
        ({"metadata": {f"k{i}": "v" for i in range(17)}}, Reason.INVALID_VALUE, "metadata"),
        ({"metadata": {"k": "v" * 513}}, Reason.INVALID_VALUE, "metadata.k"),
        ({"tools": [{"type": "function"}]}, Reason.MISSING_FIELD, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, Reason.MISSING_FIELD, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, Reason.INVALID_VALUE, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": []}]}, Reason.INVALID_VALUE, "tools[0].parameters"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            Reason.UNKNOWN_PARAMETER,
            "tools[0].function",
        ),
        ({"tools": [{"type": "web_search"}] * 129}, Reason.INVALID_VALUE, "tools"),
        ({"tool_choice": "maybe"}, Reason.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, Reason.MISSING_FIELD, "tool_choice.name"),
        ({"text": {"format": {"type": "xml"}}}, Reason.INVALID_VALUE, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, Reason.MISSING_FIELD, "text.format.schema"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": 1}}},
            Reason.INVALID_VALUE,
            "text.format.schema",
        ),
        ({"text": {"fmt": {}}}, Reason.UNKNOWN_PARAMETER, "text.fmt"),
        ({"reasoning": {"effort": "epic"}}, Reason.INVALID_VALUE, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, Reason.INVALID_VALUE, "reasoning.summary"),
        ({"reasoning": {"context": "all_turns"}}, Reason.UNSUPPORTED_PARAMETER, "reasoning.context"),
        ({"reasoning": {"mode": "pro"}}, Reason.UNSUPPORTED_PARAMETER, "reasoning.mode"),
        ({"reasoning": {"depth": 3}}, Reason.UNKNOWN_PARAMETER, "reasoning.depth"),
        (
            {"stream_options": {"include_obfuscation": True}},
            Reason.UNSUPPORTED_PARAMETER,
            "stream_options.include_obfuscation",
        ),
        ({"previous_response_id": "resp_x", "conversation": "conv_1"}, Reason.INVALID_VALUE, "conversation"),
        ({"prompt": "p"}, Reason.INVALID_VALUE, "prompt"),
        ({"provider": {"orderr": []}}, Reason.UNKNOWN_PARAMETER, "provider.orderr"),
        (
            {"provider_options": {"acme": {"base_url": "http://evil.test"}}},
            Reason.UNKNOWN_PARAMETER,
            "provider_options.acme.base_url",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(fields: dict[str, Any], reason: Reason, param: str) -> None:
    error = refused(**fields)
    assert (error.reason, error.param) == (reason, param)
    assert error.description.endswith(".")


def test_sampling_and_options_are_parameters_that_providers_must_honour() -> None:
    request = decode(
        temperature=0,
        top_p=0.5,
        max_output_tokens=16,
        top_logprobs=3,
        include=["message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results"],
        parallel_tool_calls=False,
        reasoning={"effort": "low", "generate_summary": "auto", "context": "auto"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        service_tier="flex",
        truncation="auto",
        background=True,
        user="u1",
        prompt={"id": "pmpt_1"},
        stream=True,
        stream_options={"include_obfuscation": False},
    ).generation
    assert request.sampling == Sampling(temperature=0, top_p=0.5, max_output_tokens=16, logprobs=True, top_logprobs=3)
    assert request.reasoning == ReasoningOptions("low", "auto")
    assert request.output_format == OutputFormat("json_object")
    assert request.parallel_tool_calls is False
    assert request.stream is True
    assert request.parameters == {
        "temperature": "temperature",
        "top_p": "top_p",
        "max_output_tokens": "max_output_tokens",
        "top_logprobs": "top_logprobs",
        "logprobs": "include",
        "reasoning_encrypted_content": "include",
        "include": "include",
        "parallel_tool_calls": "parallel_tool_calls",
        "reasoning_effort": "reasoning.effort",
        "reasoning_summary": "reasoning.generate_summary",
        "response_format": "text.format",
        "verbosity": "text.verbosity",
        "service_tier": "service_tier",
        "truncation": "truncation",
        "background": "background",
        "user": "user",
        "prompt": "prompt",
    }
    assert {name: json.loads(bytes(raw)) for name, raw in request.passthrough.items()} == {
        "include": ["file_search_call.results"],
        "verbosity": "low",
        "service_tier": "flex",
        "truncation": "auto",
        "background": True,
        "user": "u1",
        "prompt": {"id": "pmpt_1"},
    }


def test_asking_for_the_default_asks_for_nothing() -> None:
    request = decode(
        text={"format": {"type": "text"}}, truncation="disabled", background=False, tools=[], include=[], store=True
    )
    assert request == decode()


def test_top_logprobs_alone_asks_for_logprobs() -> None:
    generation = decode(top_logprobs=2).generation
    assert generation.sampling.logprobs is True
    assert generation.parameters["logprobs"] == "top_logprobs"


def test_tools_and_schemas_keep_every_byte() -> None:
    schema = b'{"type": "object",\n "properties": {"z": {"type":"number","maximum":1.0}, "a": {"const": 1e2}}}'
    body = (
        b'{"model": "m", "input": "x", "tools": [{"type": "function", "name": "f", "description": "d", "strict": true,'
        b' "parameters": ' + schema + b'}, {"type": "custom", "name": "c", "format": {"type": "text"}},'
        b' {"type": "web_search", "filters": {"b": 1, "a": 2}}], "tool_choice": {"type": "custom", "name": "c"},'
        b' "text": {"format": {"type": "json_schema", "name": "out", "strict": true, "schema": ' + schema + b"}}}"
    )
    generation = decode_request(body).generation
    function, custom, search = generation.tools
    assert isinstance(function, FunctionTool)
    assert isinstance(custom, CustomTool)
    assert isinstance(search, BuiltInTool)
    assert (function.name, function.description, function.strict) == ("f", "d", True)
    assert bytes(function.parameters or b"") == schema
    assert bytes(custom.format or b"") == b'{"type": "text"}'
    assert (search.type, search.param) == ("web_search", "tools[2]")
    assert bytes(search.tool) == b'{"type": "web_search", "filters": {"b": 1, "a": 2}}'
    assert generation.tool_choice == ToolChoice("named", "c", custom=True)
    assert generation.output_format is not None
    assert bytes(generation.output_format.schema or b"") == schema
    assert generation.output_format.strict is True
    assert {"tools", "tool_choice", "response_format"} <= generation.parameters.keys()


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "function", "name": "f", "defer_loading": True}, "tools[0].defer_loading"),
        ({"type": "function", "name": "f", "output_schema": {}}, "tools[0].output_schema"),
        ({"type": "function", "name": "f", "async": True}, "tools[0].async"),
        ({"type": "custom", "name": "f", "allowed_callers": ["direct"]}, "tools[0].allowed_callers"),
    ],
)
def test_tools_that_only_a_native_provider_can_run_name_why(tool: Any, param: str) -> None:
    (made,) = decode(tools=[tool]).generation.tools
    assert isinstance(made, BuiltInTool)
    assert (made.param, json.loads(bytes(made.tool))) == (param, tool)


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ("none", ToolChoice("none")),
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("named", "f")),
        ({"type": "custom", "name": "f"}, ToolChoice("named", "f", custom=True)),
    ],
)
def test_tool_choices(choice: Any, made: ToolChoice) -> None:
    assert decode(tool_choice=choice).generation.tool_choice == made


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "allowed"),
        ({"type": "web_search_preview"}, "built_in"),
        ({"type": "mcp", "server_label": "s"}, "built_in"),
    ],
)
def test_other_tool_choices_stay_as_they_are(choice: Any, mode: str) -> None:
    made = decode(tool_choice=choice).generation.tool_choice
    assert made is not None
    assert made.mode == mode
    assert json.loads(bytes(made.raw or b"")) == choice


def test_what_the_gateway_itself_handles() -> None:
    request = decode(
        instructions="Be brief.",
        previous_response_id="resp_" + "0" * 32,
        store=False,
        metadata={"a": "b"},
        meta=True,
        usage=True,
        session_id="s1",
        models=["acme/test-2"],
        provider={"order": ["acme"], "allow_fallbacks": False},
        provider_options={"acme": {"top_k": 5}},
        debug={"enabled": True, "trace": True},
    )
    assert (request.instructions, request.store, request.metadata, request.meta) == (
        "Be brief.", False, {"a": "b"}, True,
    )  # fmt: skip
    assert request.previous_response_id == "resp_" + "0" * 32
    assert request.generation.parameters == {}
    assert request.generation.routing.order == ("acme",)
    assert request.generation.routing.fallback_models == ("acme/test-2",)
    assert request.generation.routing.session_id == "s1"
    assert request.generation.trace is True
    assert bytes(request.generation.provider_options["acme"]["top_k"]) == b"5"


@pytest.mark.parametrize(
    "elsewhere", [{"previous_response_id": "resp_x"}, {"prompt": {"id": "p"}}, {"conversation": "c"}]
)
def test_input_may_be_absent_where_there_is_something_to_answer(elsewhere: dict[str, Any]) -> None:
    assert decode(input=..., **elsewhere).generation.turns == ()


def test_stream_in_the_text_of_a_prompt_streams_nothing() -> None:
    assert decode(input='"stream": true').generation.stream is False


def test_twenty_thousand_levels_are_refused() -> None:
    deep = b'{"model":"m","input":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    with pytest.raises(GatewayError) as caught:
        decode_request(deep)
    assert caught.value.reason in (Reason.MALFORMED_JSON, Reason.INVALID_VALUE)
