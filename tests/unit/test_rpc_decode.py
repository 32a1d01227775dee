"""Typed chat requests: everything that they can say arrives, and what is wrong is named."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format

from aistats.gateway.v1.chat_pb2 import CreateChatCompletionRequest
from aistats.gateway.v1.messages_pb2 import CreateMessageRequest
from aistats.gateway.v1.responses_pb2 import CreateResponseRequest
from server.domain.errors import GatewayError, Reason
from server.domain.parameters import PARAMETERS
from server.domain.request import (
    Audio,
    BuiltInTool,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    MaxPrice,
    OutputFormat,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Role,
    RoutingPreferences,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from server.rpc import messages, responses
from server.rpc.chat import decode_request

USER = 'messages { role: ROLE_USER parts { text { text: "Hi" } } }'
RAW = msgspec.Raw


ALLOWED = '{"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}'


def decode(text: str, *, base: str = f'model: "acme/test-1" {USER} ') -> GenerationRequest:
    """Decode a request in protobuf's text format, added to a minimal one."""
    return decode_request(text_format.Parse(base + text, CreateChatCompletionRequest()), stream=False)


def error_of(text: str, **options: Any) -> tuple[Reason, str | None]:
    with pytest.raises(GatewayError) as caught:
        decode(text, **options)
    assert caught.value.description.endswith(".")
    return caught.value.reason, caught.value.param


@pytest.mark.parametrize("trace", [False, True])
def test_a_trace_is_asked_for_alike_in_every_service(trace: bool) -> None:
    asked = f'model: "acme/test-1" routing {{ trace: {str(trace).lower()} }} '
    response = text_format.Parse(asked + USER.replace("messages", "input"), CreateResponseRequest())
    message = text_format.Parse(f"{asked} {USER} max_tokens: 9", CreateMessageRequest())
    assert decode(USER, base=asked).trace is trace
    assert responses.decode_request(response, stream=False).generation.trace is trace
    assert messages.decode_request(message, stream=False).trace is trace


def test_the_least_request() -> None:
    assert decode("") == GenerationRequest(
        endpoint=Endpoint.CHAT, model="acme/test-1", turns=(Turn(Role.USER, (Text("Hi"),)),)
    )


def test_every_kind_of_part() -> None:
    messages = r"""
        messages { role: ROLE_SYSTEM parts { text { text: "Be brief." } } }
        messages { role: ROLE_DEVELOPER name: "dev" parts { text { text: "" } } }
        messages { role: ROLE_USER
          parts { image { url: "https://example.com/a.png" detail: "high" } }
          parts { image { data: "\x89PNG" media_type: "image/png" } }
          parts { image { file_id: "file-1" } }
          parts { audio { data: "RIFF" format: "wav" } }
          parts { file { data: "%PDF" media_type: "application/pdf" filename: "a.pdf" } }
          parts { file { url: "https://example.com/a.pdf" } } }
        messages { role: ROLE_ASSISTANT
          parts { reasoning { text: "Hm" summary: "s" signature: "sig" encrypted: "" item_id: "rs_1" } }
          parts { refusal { text: "No" } }
          parts { tool_call { call_id: "c1" name: "f" arguments_json: "{\"b\": 1, \"a\": 2}" item_id: "fc_1" } }
          parts { tool_call { call_id: "c2" name: "g" arguments_json: "free" custom: true } } }
        messages { role: ROLE_TOOL parts { tool_result { call_id: "c1"
          content { text { text: "42" } } content { image { file_id: "file-2" } } } } }
        messages { role: ROLE_TOOL parts { tool_result { call_id: "c2" custom: true } } }
    """
    turns = decode(messages, base='model: "m" ').turns
    assert turns == (
        Turn(Role.SYSTEM, (Text("Be brief."),)),
        Turn(Role.DEVELOPER, (Text(""),), "dev"),
        Turn(
            Role.USER,
            (
                Image(url="https://example.com/a.png", detail="high"),
                Image(data=base64.b64encode(b"\x89PNG").decode(), media_type="image/png"),
                Image(file_id="file-1"),
                Audio("UklGRg==", "wav"),
                File(data="JVBERg==", media_type="application/pdf", filename="a.pdf"),
                File(url="https://example.com/a.pdf"),
            ),
        ),
        Turn(
            Role.ASSISTANT,
            (
                Reasoning("Hm", ("s",), "sig", "", "rs_1"),
                Refusal("No"),
                ToolCall("c1", "f", '{"b": 1, "a": 2}', item_id="fc_1"),
                ToolCall("c2", "g", "free", custom=True),
            ),
        ),
        Turn(Role.TOOL, (ToolResult("c1", (Text("42"), Image(file_id="file-2"))),)),
        Turn(Role.TOOL, (ToolResult("c2", (), custom=True),)),
    )


def test_every_option() -> None:
    schema = '{"z": 1, "a": {"y": 1.0, "b": 10000000000000000000001}}'
    escaped = schema.replace('"', '\\"')
    asked = decode(f"""
        tools {{ function {{ name: "f" description: "" parameters_json: "{escaped}" strict: false }} }}
        tools {{ function {{ name: "bare" }} }}
        tools {{ custom {{ name: "c" format_json: "{{\\"type\\": \\"text\\"}}" }} }}
        tools {{ built_in_json: "{{\\"type\\": \\"web_search\\"}}" }}
        tool_choice {{ function: "f" }}
        parallel_tool_calls: false
        output_format {{ json_schema {{ name: "s" schema_json: "{escaped}" strict: true }} }}
        reasoning {{ effort: "high" }}
        sampling {{ temperature: 0 top_p: 0.5 frequency_penalty: -2 presence_penalty: 2 seed: -9007199254740993
          stop: "a" stop: "b" max_output_tokens: 7 n: 2 logprobs: true top_logprobs: 0
          logit_bias {{ key: "50256" value: -100 }} logit_bias {{ key: "1" value: 0.5 }} }}
        routing {{ order: "a" only: "b" ignore: "c" allow_fallbacks: false require_parameters: false sort: "price"
          max_prompt_usd: "0.5" fallback_models: "m2" session_id: "s" }}
        parameters_json {{ key: "service_tier" value: "\\"flex\\"" }}
        parameters_json {{ key: "user" value: "null" }}
        provider_options_json {{ key: "acme" value: "{{\\"x\\": {{\\"b\\": 1, \\"a\\": 2}}}}" }}
    """)
    assert asked.tools == (
        FunctionTool("f", "", RAW(schema.encode()), False),
        FunctionTool("bare"),
        CustomTool("c", None, RAW(b'{"type": "text"}')),
        BuiltInTool("web_search", RAW(b'{"type": "web_search"}'), "tools[3].built_in_json"),
    )
    assert asked.tool_choice == ToolChoice("named", "f")
    assert asked.parallel_tool_calls is False
    assert asked.output_format == OutputFormat("json_schema", "s", RAW(schema.encode()), strict=True)
    assert asked.reasoning == ReasoningOptions("high")
    assert asked.sampling.logit_bias is not None
    assert msgspec.json.decode(asked.sampling.logit_bias) == {"50256": -100, "1": 0.5}
    assert b"-100.0" not in bytes(asked.sampling.logit_bias)
    assert msgspec.structs.replace(asked.sampling, logit_bias=None) == Sampling(
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        seed=-9007199254740993,
        stop=("a", "b"),
        max_output_tokens=7,
        n=2,
        logprobs=True,
        top_logprobs=0,
    )
    assert asked.routing == RoutingPreferences(
        order=("a",),
        only=("b",),
        ignore=("c",),
        allow_fallbacks=False,
        require_parameters=False,
        sort="price",
        max_price=MaxPrice("0.5"),
        fallback_models=("m2",),
        session_id="s",
    )
    assert asked.passthrough == {"service_tier": RAW(b'"flex"')}
    assert asked.provider_options == {"acme": {"x": RAW(b'{"b": 1, "a": 2}')}}
    assert asked.parameters == {
        "service_tier": "parameters_json.service_tier",
        "tools": "tools",
        "tool_choice": "tool_choice",
        "parallel_tool_calls": "parallel_tool_calls",
        "response_format": "output_format",
        "reasoning_effort": "reasoning.effort",
        **{
            name: f"sampling.{name}"
            for name in (
                "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "stop", "max_output_tokens",
                "n", "logprobs", "top_logprobs", "logit_bias",
            )
        },
    }  # fmt: skip
    assert set(asked.parameters) <= set(PARAMETERS)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("mode: TOOL_CHOICE_MODE_NONE", ToolChoice("none")),
        ("mode: TOOL_CHOICE_MODE_AUTO", ToolChoice("auto")),
        ("mode: TOOL_CHOICE_MODE_REQUIRED", ToolChoice("required")),
        ("mode: TOOL_CHOICE_MODE_UNSPECIFIED", None),
        ("", None),
        ('custom: "c"', ToolChoice("named", "c", custom=True)),
        (
            f"other_json: {msgspec.json.encode(ALLOWED).decode()}",
            ToolChoice("allowed", raw=RAW(ALLOWED.encode())),
        ),
        ('other_json: "{\\"type\\": \\"file_search\\"}"', ToolChoice("built_in", raw=RAW(b'{"type": "file_search"}'))),
    ],
)
def test_tool_choices(choice: str, expected: ToolChoice | None) -> None:
    asked = decode(f"tool_choice {{ {choice} }}")
    assert asked.tool_choice == expected
    assert ("tool_choice" in asked.parameters) == (expected is not None)


@pytest.mark.parametrize(
    ("text", "reason", "param"),
    [
        ("sampling { temperature: 2.1 }", Reason.INVALID_VALUE, "sampling.temperature"),
        ("sampling { temperature: -0.1 }", Reason.INVALID_VALUE, "sampling.temperature"),
        ("sampling { temperature: nan }", Reason.INVALID_VALUE, "sampling.temperature"),
        ("sampling { temperature: inf }", Reason.INVALID_VALUE, "sampling.temperature"),
        ("sampling { top_p: 1.01 }", Reason.INVALID_VALUE, "sampling.top_p"),
        ("sampling { frequency_penalty: 3 }", Reason.INVALID_VALUE, "sampling.frequency_penalty"),
        ("sampling { presence_penalty: -3 }", Reason.INVALID_VALUE, "sampling.presence_penalty"),
        ("sampling { max_output_tokens: 0 }", Reason.INVALID_VALUE, "sampling.max_output_tokens"),
        ("sampling { n: 0 }", Reason.INVALID_VALUE, "sampling.n"),
        ("sampling { n: 129 }", Reason.INVALID_VALUE, "sampling.n"),
        ("sampling { logprobs: true top_logprobs: 21 }", Reason.INVALID_VALUE, "sampling.top_logprobs"),
        ("sampling { top_logprobs: 1 }", Reason.INVALID_VALUE, "sampling.top_logprobs"),
        ("sampling { " + 'stop: "x" ' * 17 + "}", Reason.INVALID_VALUE, "sampling.stop"),
        ('sampling { logit_bias { key: "a" value: 1 } }', Reason.INVALID_VALUE, "sampling.logit_bias.a"),
        ('sampling { logit_bias { key: "1" value: 101 } }', Reason.INVALID_VALUE, "sampling.logit_bias.1"),
        ('sampling { logit_bias { key: "1" value: nan } }', Reason.INVALID_VALUE, "sampling.logit_bias.1"),
        ('reasoning { effort: "hard" }', Reason.INVALID_VALUE, "reasoning.effort"),
        ('reasoning { summary: "auto" }', Reason.UNSUPPORTED_PARAMETER, "reasoning.summary"),
        ('routing { sort: "random" }', Reason.INVALID_VALUE, "routing.sort"),
        ('routing { session_id: "' + "x" * 257 + '" }', Reason.INVALID_VALUE, "routing.session_id"),
        ('parameters_json { key: "temprature" value: "1" }', Reason.UNKNOWN_PARAMETER, "parameters_json.temprature"),
        ('parameters_json { key: "truncation" value: "1" }', Reason.UNKNOWN_PARAMETER, "parameters_json.truncation"),
        ('parameters_json { key: "stream" value: "true" }', Reason.UNKNOWN_PARAMETER, "parameters_json.stream"),
        ('parameters_json { key: "temperature" value: "1" }', Reason.INVALID_VALUE, "parameters_json.temperature"),
        ('parameters_json { key: "max_tokens" value: "1" }', Reason.INVALID_VALUE, "parameters_json.max_tokens"),
        ('parameters_json { key: "tools" value: "[]" }', Reason.INVALID_VALUE, "parameters_json.tools"),
        ('parameters_json { key: "user" value: "{" }', Reason.MALFORMED_JSON, "parameters_json.user"),
        ('parameters_json { key: "user" value: "" }', Reason.MALFORMED_JSON, "parameters_json.user"),
        ('parameters_json { key: "user" value: "NaN" }', Reason.MALFORMED_JSON, "parameters_json.user"),
        (
            'parameters_json { key: "user" value: "' + "[" * 20_000 + '" }',
            Reason.MALFORMED_JSON,
            "parameters_json.user",
        ),
        ('provider_options_json { key: "a" value: "[]" }', Reason.INVALID_VALUE, "provider_options_json.a"),
        ('provider_options_json { key: "a" value: "{\'x\': 1}" }', Reason.MALFORMED_JSON, "provider_options_json.a"),
        ("tools {}", Reason.MISSING_FIELD, "tools[0]"),
        ("tools { function {} }", Reason.MISSING_FIELD, "tools[0].function.name"),
        ('tools { function { name: "a b" } }', Reason.INVALID_VALUE, "tools[0].function.name"),
        ('tools { custom { name: "' + "x" * 65 + '" } }', Reason.INVALID_VALUE, "tools[0].custom.name"),
        (
            'tools { function { name: "f" parameters_json: "[]" } }',
            Reason.INVALID_VALUE,
            "tools[0].function.parameters_json",
        ),
        (
            'tools { function { name: "f" parameters_json: "{" } }',
            Reason.MALFORMED_JSON,
            "tools[0].function.parameters_json",
        ),
        ('tools { built_in_json: "{}" }', Reason.INVALID_VALUE, "tools[0].built_in_json"),
        ('tools { function { name: "f" } } ' * 129, Reason.INVALID_VALUE, "tools"),
        ('tool_choice { function: "" }', Reason.MISSING_FIELD, "tool_choice.function"),
        ('tool_choice { other_json: "1" }', Reason.INVALID_VALUE, "tool_choice.other_json"),
        (
            'tool_choice { other_json: "{\\"type\\":\\"allowed_tools\\"}" }',
            Reason.MISSING_FIELD,
            "tool_choice.other_json.mode",
        ),
        (
            'tools { custom { name: "c" format_json: "{\\"type\\":\\"grammar\\",\\"grammar\\":5}" } }',
            Reason.INVALID_VALUE,
            "tools[0].custom.format_json.grammar",
        ),
        (
            'parameters_json { key: "service_tier" value: "[]" }',
            Reason.INVALID_VALUE,
            "parameters_json.service_tier",
        ),
        ('output_format { json_schema { schema_json: "{}" } }', Reason.MISSING_FIELD, "output_format.json_schema.name"),
        (
            'output_format { json_schema { name: "s" } }',
            Reason.MISSING_FIELD,
            "output_format.json_schema.schema_json",
        ),
        ("messages {}", Reason.MISSING_FIELD, "messages[1].role"),
        ("messages { role: ROLE_USER }", Reason.MISSING_FIELD, "messages[1].parts"),
        ("messages { role: ROLE_USER parts {} }", Reason.MISSING_FIELD, "messages[1].parts[0]"),
        ("messages { role: ROLE_USER parts { image {} } }", Reason.MISSING_FIELD, "messages[1].parts[0].image.source"),
        (
            'messages { role: ROLE_USER parts { image { url: "x" detail: "max" } } }',
            Reason.INVALID_VALUE,
            "messages[1].parts[0].image.detail",
        ),
        (
            'messages { role: ROLE_USER parts { audio { format: "wav" } } }',
            Reason.MISSING_FIELD,
            "messages[1].parts[0].audio.data",
        ),
        (
            'messages { role: ROLE_USER parts { audio { data: "x" format: "ogg" } } }',
            Reason.INVALID_VALUE,
            "messages[1].parts[0].audio.format",
        ),
        ('messages { role: ROLE_USER parts { refusal { text: "x" } } }', Reason.INVALID_VALUE, "messages[1].parts[0]"),
        ('messages { role: ROLE_SYSTEM parts { image { url: "x" } } }', Reason.INVALID_VALUE, "messages[1].parts[0]"),
        ('messages { role: ROLE_TOOL parts { text { text: "x" } } }', Reason.INVALID_VALUE, "messages[1].parts[0]"),
        (
            "messages { role: ROLE_TOOL " + 'parts { tool_result { call_id: "a" } } ' * 2 + "}",
            Reason.INVALID_VALUE,
            "messages[1].parts",
        ),
        (
            "messages { role: ROLE_TOOL parts { tool_result {} } }",
            Reason.MISSING_FIELD,
            "messages[1].parts[0].tool_result.call_id",
        ),
        (
            'messages { role: ROLE_TOOL parts { tool_result { call_id: "a" content { refusal {} } } } }',
            Reason.INVALID_VALUE,
            "messages[1].parts[0].tool_result.content[0]",
        ),
        (
            'messages { role: ROLE_ASSISTANT parts { tool_call { name: "f" } } }',
            Reason.MISSING_FIELD,
            "messages[1].parts[0].tool_call.call_id",
        ),
        (
            'messages { role: ROLE_ASSISTANT parts { tool_call { call_id: "c" } } }',
            Reason.MISSING_FIELD,
            "messages[1].parts[0].tool_call.name",
        ),
        (
            'messages { role: ROLE_USER name: "' + "x" * 65 + '" parts { text {} } }',
            Reason.INVALID_VALUE,
            "messages[1].name",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, reason: Reason, param: str) -> None:
    assert error_of(text) == (reason, param)


def test_what_is_required() -> None:
    assert error_of(USER, base="") == (Reason.MISSING_FIELD, "model")
    assert error_of('model: "m"', base="") == (Reason.MISSING_FIELD, "messages")


def test_an_explicit_default_is_no_parameter() -> None:
    asked = decode("output_format { text {} } reasoning {} sampling {}")
    assert (asked.output_format, asked.reasoning, asked.sampling, asked.parameters) == (None, None, Sampling(), {})
