"""Chat requests: every parameter, every content part, and every refusal by the name of the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.chat_decode import ChatOrder, decode_chat
from server.domain.errors import GatewayError, Reason
from server.domain.request import (
    Audio,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    Image,
    MaxPrice,
    OutputFormat,
    Part,
    Reasoning,
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

USER = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "function": {"name": "look_up"}}


def order(**fields: Any) -> ChatOrder:
    return decode_chat(json.dumps({"model": "acme/test-1", "messages": [USER], **fields}).encode())


def failure(**fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        order(**fields)
    return caught.value


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    return order(messages=list(messages)).request.turns


def parts(*content: dict[str, Any], role: str = "user") -> tuple[Part, ...]:
    return turns({"role": role, "content": list(content)})[0].parts


def test_the_least_request() -> None:
    decoded = order()
    request = decoded.request
    assert (request.endpoint, request.model) == (Endpoint.CHAT, "acme/test-1")
    assert request.turns == (Turn(Role.USER, (Text("hi"),)),)
    assert request.sampling == Sampling()
    assert request.routing == RoutingPreferences()
    assert (request.stream, decoded.wants_meta, decoded.wants_usage) == (False, False, False)
    assert not request.parameters
    assert not request.passthrough
    assert not request.provider_options


def test_sampling_parameters_arrive_and_are_named_as_the_client_names_them() -> None:
    request = order(
        temperature=0,
        top_p=0.9,
        frequency_penalty=-2,
        presence_penalty=2,
        seed=-5,
        stop=["a", "b"],
        max_completion_tokens=7,
        n=3,
        logprobs=True,
        top_logprobs=4,
        logit_bias={"50256": -100, "1": 1.5},
    ).request
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p) == (0.0, 0.9)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-2.0, 2.0)
    assert (sampling.seed, sampling.stop, sampling.max_output_tokens, sampling.n) == (-5, ("a", "b"), 7, 3)
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 4)
    assert sampling.logit_bias is not None
    assert bytes(sampling.logit_bias) == b'{"50256":-100,"1":1.5}'
    assert request.parameters == {
        "temperature": "temperature",
        "top_p": "top_p",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "seed": "seed",
        "stop": "stop",
        "max_output_tokens": "max_completion_tokens",
        "n": "n",
        "logprobs": "logprobs",
        "top_logprobs": "top_logprobs",
        "logit_bias": "logit_bias",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verbosity", "low"),
        ("service_tier", "flex"),
        ("prompt_cache_key", "key"),
        ("prompt_cache_options", {"mode": "explicit", "ttl": "30m"}),
        ("prompt_cache_retention", "24h"),
        ("safety_identifier", "someone"),
        ("user", "someone"),
        ("metadata", {"b": "1", "a": "2"}),
        ("store", False),
        ("store", True),
        ("moderation", {"model": "m", "policy": {"input": {"mode": "block"}}}),
        ("prediction", {"type": "content", "content": "x"}),
        ("prediction", {"type": "content", "content": [{"type": "text", "text": "x"}]}),
        ("web_search_options", {}),
        ("web_search_options", {"user_location": {"type": "approximate", "approximate": {"city": "Rome"}}}),
    ],
)
def test_what_only_passes_through_keeps_its_value(name: str, value: Any) -> None:
    request = order(**{name: value}).request
    assert request.parameters == {name: name}
    assert list(request.passthrough) == [name]
    assert json.loads(bytes(request.passthrough[name])) == value


@pytest.mark.parametrize(
    "no_op",
    [
        {"n": 1},
        {"logprobs": False},
        {"stop": []},
        {"tools": []},
        {"modalities": ["text"]},
        {"logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"stream": False},
    ],
)
def test_what_asks_for_what_happens_anyway_needs_no_support(no_op: dict[str, Any]) -> None:
    assert order(**no_op).request == order().request


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            "audio",
            "frequency_penalty",
            "function_call",
            "functions",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "metadata",
            "modalities",
            "moderation",
            "n",
            "parallel_tool_calls",
            "prediction",
            "presence_penalty",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "response_format",
            "safety_identifier",
            "seed",
            "service_tier",
            "stop",
            "store",
            "stream",
            "stream_options",
            "temperature",
            "tool_choice",
            "tools",
            "top_logprobs",
            "top_p",
            "user",
            "verbosity",
            "web_search_options",
            "meta",
            "usage",
            "provider",
            "models",
            "provider_options",
            "session_id",
            "debug",
        }
    ),
)
def test_null_counts_as_absent(name: str) -> None:
    assert order(**{name: None}).request == order().request


@pytest.mark.parametrize("limit", [{"max_tokens": 5}, {"max_completion_tokens": 5, "max_tokens": 5}])
def test_both_names_of_the_output_limit(limit: dict[str, int]) -> None:
    request = order(**limit).request
    assert request.sampling.max_output_tokens == 5
    assert request.parameters == {"max_output_tokens": next(iter(limit))}


def test_a_stop_text_is_one_sequence() -> None:
    assert order(stop="END").request.sampling.stop == ("END",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k": 5}}, "metadata"),
        ({"user": 5}, "user"),
        ({"user": "u" * 513}, "user"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"verbosity": "chatty"}, "verbosity"),
        ({"modalities": ["smell"]}, "modalities[0]"),
        ({"stream": "true"}, "stream"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "tool_call_id": 5, "content": ""}]}, "messages[0].tool_call_id"),
        ({"model": 5}, "model"),
        ({"tools": [FUNCTION] * 129}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": "{}"}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a", "format": []}}]}, "tools[0].custom.format"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "grammar", "grammar": 5}}}]},
            "tools[0].custom.format.grammar",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": 7}]}}},
            "tool_choice.allowed_tools.tools[0].type",
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": "x"}]},
                }
            },
            "tool_choice.allowed_tools.tools[0].function",
        ),
        ({"tools": [FUNCTION], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"provider": {"sort": "beauty"}}, "provider.sort"),
        ({"provider": {"max_price": {"prompt": "cheap"}}}, "provider.max_price.prompt"),
        ({"session_id": "s" * 257}, "session_id"),
        ({"models": "other"}, "models"),
    ],
)
def test_a_wrong_value_is_named(fields: dict[str, Any], param: str) -> None:
    error = failure(**fields)
    assert (error.reason, error.param) == (Reason.INVALID_VALUE, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [USER]}, "model"),
        ({"model": "", "messages": [USER]}, "model"),
        ({"model": "a/b"}, "messages"),
        ({"model": "a/b", "messages": [{"role": "user"}]}, "messages[0].content"),
        ({"model": "a/b", "messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"model": "a/b", "messages": [USER, {"role": "assistant"}]}, "messages[1].content"),
        ({"model": "a/b", "messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"model": "a/b", "messages": [USER], "tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {
                "model": "a/b",
                "messages": [USER],
                "response_format": {"type": "json_schema", "json_schema": {"name": "a"}},
            },
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_missing_field_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_chat(json.dumps(body).encode())
    assert (caught.value.reason, caught.value.param) == (Reason.MISSING_FIELD, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"input": "hi"}, "input"),
        ({"max_output_tokens": 5}, "max_output_tokens"),
        ({"base_url": "http://evil.example"}, "base_url"),
        ({"api_base": "http://evil.example"}, "api_base"),
        ({"api_key": "sk-stolen"}, "api_key"),
        ({"provider_options": {"acme": {"base_url": "http://evil.example"}}}, "provider_options.acme.base_url"),
        ({"provider_options": {"acme": {"API_KEY": "sk"}}}, "provider_options.acme.API_KEY"),
        ({"messages": [{**USER, "weight": 1}]}, "messages[0].weight"),
        (
            {"messages": [USER, {"role": "user", "content": [{"type": "text", "text": "a", "lang": "en"}]}]},
            "messages[1].content[0].lang",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "size": 1}}]}]},
            "messages[0].content[0].image_url.size",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f", "schema": {}}}]}, "tools[0].function.schema"),
        ({"response_format": {"type": "json_object", "strict": True}}, "response_format.strict"),
        ({"stream": True, "stream_options": {"every": 1}}, "stream_options.every"),
        ({"provider": {"prefer": []}}, "provider.prefer"),
        ({"web_search_options": {"depth": 1}}, "web_search_options.depth"),
        ({"debug": {"verbose": True}}, "debug.verbose"),
    ],
)
def test_an_unknown_field_is_named_at_any_depth(fields: dict[str, Any], param: str) -> None:
    error = failure(**fields)
    assert (error.reason, error.param) == (Reason.UNKNOWN_PARAMETER, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}]},
            "messages[0].function_call",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}],
                    }
                ]
            },
            "messages[0].content[0].prompt_cache_breakpoint",
        ),
    ],
)
def test_what_is_known_and_not_supported_is_named(fields: dict[str, Any], param: str) -> None:
    error = failure(**fields)
    assert (error.reason, error.param) == (Reason.UNSUPPORTED_PARAMETER, param)


def test_roles_and_names() -> None:
    decoded = turns(
        {"role": "system", "content": "s", "name": "rules"},
        {"role": "developer", "content": [{"type": "text", "text": "d"}]},
        {"role": "user", "content": "u", "name": "ann"},
        {"role": "assistant", "content": "a", "name": "bot"},
    )
    assert [(turn.role, turn.name) for turn in decoded] == [
        (Role.SYSTEM, "rules"),
        (Role.DEVELOPER, None),
        (Role.USER, "ann"),
        (Role.ASSISTANT, "bot"),
    ]
    assert [turn.parts for turn in decoded] == [(Text("s"),), (Text("d"),), (Text("u"),), (Text("a"),)]


def test_text_is_byte_exact() -> None:
    text = ' "quotes" \\ 你好🙂\u2028\t"stream": true\x7f '
    assert turns({"role": "user", "content": text})[0].parts == (Text(text),)


def test_a_prompt_that_talks_of_streaming_stays_unary() -> None:
    decoded = order(messages=[{"role": "user", "content": 'Say {"stream": true}, "stream": true'}])
    assert decoded.request.stream is False


def test_images() -> None:
    assert parts(
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "DATA:image/PNG;name=a;base64,iVBORw0KGgo="}},
    ) == (
        Image(url="https://example.com/a.png", detail="high"),
        Image(data="iVBORw0KGgo=", media_type="image/png"),
        Image(data="iVBORw0KGgo=", media_type="image/png"),
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "example.com/a.png",
        "https://",
        "gs://bucket/a.png",
        "data:image/png,plain",
        "data:image/png;base64,",
        "data:image/png;base64,not base64!",
        "data:;base64,iVBORw0KGgo=",
        "data:text/plain;base64,aGk=",
    ],
)
def test_other_image_urls_are_refused_by_name(url: str) -> None:
    error = failure(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert (error.reason, error.param) == (Reason.INVALID_VALUE, "messages[0].content[0].image_url.url")


def test_audio_and_files() -> None:
    assert parts(
        {"type": "text", "text": "listen"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "JVBERg==", "filename": "b.pdf"}},
    ) == (
        Text("listen"),
        Audio("UklGRg==", "wav"),
        File(file_id="file-1"),
        File(data="JVBERg==", media_type="application/pdf", filename="a.pdf"),
        File(data="JVBERg==", filename="b.pdf"),
    )


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}, "input_audio.data"),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "ogg"}}, "input_audio.format"),
        ({"type": "file", "file": {}}, "file"),
        ({"type": "file", "file": {"file_id": "a", "file_data": "JVBERg=="}}, "file"),
        ({"type": "file", "file": {"file_data": "%PDF"}}, "file.file_data"),
    ],
)
def test_wrong_audio_and_files_are_named(part: dict[str, Any], param: str) -> None:
    error = failure(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    assert (error.reason, error.param) == (Reason.INVALID_VALUE, f"messages[0].content[1].{param}")


def test_a_reply_can_be_sent_back_as_it_was() -> None:
    """The assistant message of a reply, as SDKs put it back into the conversation, with the nulls that we print."""
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"b": 1,  "a": 2}'}}
    odd = {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": "I should look.",
        "reasoning_signature": "c2ln+/==",
        "tool_calls": [call, odd],
    }
    results = (
        {"role": "tool", "tool_call_id": "call_1", "content": "found", "name": "look_up"},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
    )
    assert turns(USER, message, *results)[1:] == (
        Turn(
            Role.ASSISTANT,
            (
                Reasoning("I should look.", signature="c2ln+/=="),
                ToolCall("call_1", "look_up", '{"b": 1,  "a": 2}'),
                ToolCall("call_2", "shell", "ls -l", custom=True),
            ),
        ),
        Turn(Role.TOOL, (ToolResult("call_1", (Text("found"),)),)),
        Turn(Role.TOOL, (ToolResult("call_2", (Text("a"), Text("b")), custom=True),)),
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "a", "refusal": "no"}, (Text("a"), Refusal("no"))),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}]},
            (Text("a"), Refusal("no")),
        ),
        ({"content": ""}, (Text(""),)),
        ({"refusal": "no"}, (Refusal("no"),)),
        ({"reasoning": "hm", "content": "a"}, (Reasoning("hm"), Text("a"))),
        (
            {"content": "", "tool_calls": [{"id": "c", **FUNCTION, "function": {"name": "f", "arguments": ""}}]},
            (ToolCall("c", "f", ""),),
        ),
    ],
)
def test_what_an_assistant_said(message: dict[str, Any], expected: tuple[Part, ...]) -> None:
    assert turns(USER, {"role": "assistant", **message})[1].parts == expected


def test_tools_keep_their_schema_as_it_was_written() -> None:
    schema = '{ "type": "object", "properties": {"z": {"minimum": 1.50}, "a": {}}, "required": ["z"] }'
    body = (
        '{"model":"a/b","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f",'
        '"description":"d","strict":true,"parameters":' + schema + '}},{"type":"custom","custom":{"name":"g","format":'
        '{"type":"grammar","grammar":{"syntax":"regex","definition":"a+"}}}}]}'
    )
    function, custom = decode_chat(body.encode()).request.tools
    assert isinstance(function, FunctionTool)
    assert function.parameters is not None
    assert bytes(function.parameters) == schema.encode()
    assert (function.name, function.description, function.strict) == ("f", "d", True)
    assert isinstance(custom, CustomTool)
    assert custom.format is not None
    assert json.loads(bytes(custom.format))["grammar"]["definition"] == "a+"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ToolChoice("none")),
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "look_up"}}, ToolChoice("named", "look_up")),
    ],
)
def test_tool_choices(choice: Any, expected: ToolChoice) -> None:
    request = order(tools=[FUNCTION], tool_choice=choice, parallel_tool_calls=False).request
    assert request.tool_choice == expected
    assert request.parallel_tool_calls is False
    assert set(request.parameters) == {"tools", "tool_choice", "parallel_tool_calls"}


def test_custom_and_allowed_tool_choices() -> None:
    custom = {"type": "custom", "custom": {"name": "shell"}}
    assert order(tools=[custom], tool_choice=custom).request.tool_choice == ToolChoice("named", "shell", custom=True)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FUNCTION]}}
    chosen = order(tools=[FUNCTION], tool_choice=allowed).request.tool_choice
    assert chosen is not None
    assert (chosen.mode, chosen.raw is not None and json.loads(bytes(chosen.raw))) == ("allowed", allowed)


def test_output_formats() -> None:
    assert order(response_format={"type": "json_object"}).request.output_format == OutputFormat("json_object")
    schema = '{"$defs": {"b": {}, "a": {}}, "additionalProperties": false}'
    body = (
        '{"model":"a/b","messages":[{"role":"user","content":"hi"}],"response_format":{"type":"json_schema",'
        '"json_schema":{"name":"answer","strict":true,"description":"d","schema":' + schema + "}}}"
    )
    request = decode_chat(body.encode()).request
    wanted = request.output_format
    assert wanted is not None
    assert wanted.schema is not None
    assert (wanted.kind, wanted.name, wanted.description, wanted.strict) == ("json_schema", "answer", "d", True)
    assert bytes(wanted.schema) == schema.encode()
    assert request.parameters == {"response_format": "response_format"}


def test_extras() -> None:
    decoded = order(
        meta=True,
        usage=True,
        stream=True,
        provider={
            "order": ["b", "a"],
            "only": ["a", "b"],
            "ignore": ["c"],
            "allow_fallbacks": False,
            "require_parameters": False,
            "sort": "price",
            "max_price": {"prompt": 0.1, "completion": "2.50"},
        },
        models=["acme/test-2"],
        provider_options={"acme": {"top_k": 5, "z": {"b": 1, "a": 2}}},
        session_id="s-1",
        debug={"enabled": True, "trace": True},
        reasoning_effort="high",
    )
    assert (decoded.wants_meta, decoded.wants_usage) == (True, True)
    assert decoded.request.routing == RoutingPreferences(
        order=("b", "a"),
        only=("a", "b"),
        ignore=("c",),
        allow_fallbacks=False,
        require_parameters=False,
        sort="price",
        max_price=MaxPrice("0.1", "2.50"),
        fallback_models=("acme/test-2",),
        session_id="s-1",
    )
    options = decoded.request.provider_options["acme"]
    assert {name: bytes(value) for name, value in options.items()} == {"top_k": b"5", "z": b'{"b": 1, "a": 2}'}
    assert decoded.request.trace
    assert decoded.request.reasoning is not None
    assert decoded.request.reasoning.effort == "high"


def test_stream_options() -> None:
    assert order(stream=True, stream_options={"include_usage": True}).wants_usage
    assert not order(stream=True, stream_options={"include_usage": False, "include_obfuscation": False}).wants_usage
    assert not order(debug={"enabled": False, "trace": True}).request.trace
