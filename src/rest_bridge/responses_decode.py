"""The body of `POST /v1/responses` as a domain request. Everything raises GatewayError naming what is wrong."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from rest_bridge.extras import ExtrasBody
from rest_bridge.guardrail import guardrail_in
from rest_bridge.json import ABSENT, check_object, decode_body, decode_value, encode_raw, invalid, is_set, unsupported
from rest_bridge.responses_input import decode_input
from server.domain.errors import GatewayError, Reason
from server.domain.limits import (
    MAX_TOOLS,
    REASONING_EFFORTS,
    REASONING_SUMMARIES,
    check_choice,
    check_count,
    check_metadata,
    check_range,
    check_tool_name,
    missing_field,
)
from server.domain.request import (
    BuiltInTool,
    CustomTool,
    Endpoint,
    FunctionTool,
    GenerationRequest,
    OutputFormat,
    RawJson,
    ReasoningOptions,
    Sampling,
    Tool,
    ToolChoice,
)
from server.domain.response import ResponseRequest
from server.domain.tool_json import check_allowed_tools, check_custom_format

LOGPROBS: Final = "message.output_text.logprobs"
ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"


_ChoiceMode = Literal["none", "auto", "required"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class _StreamOptions(_Strict, frozen=True, kw_only=True):
    include_obfuscation: bool | None = None


class _TextFormat(_Strict, tag="text", frozen=True, kw_only=True):
    pass


class _JsonObjectFormat(_Strict, tag="json_object", frozen=True, kw_only=True):
    pass


class _JsonSchemaFormat(_Strict, tag="json_schema", frozen=True, kw_only=True):
    name: str
    schema: msgspec.Raw
    description: str | None = None
    strict: bool | None = None


class _TextOptions(_Strict, frozen=True, kw_only=True):
    format: _TextFormat | _JsonObjectFormat | _JsonSchemaFormat | None = None
    verbosity: str | None = None


class _Reasoning(_Strict, frozen=True, kw_only=True):
    """`generate_summary` is the older name of `summary`. `context` and `mode` may only be at their defaults."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class _NamedTool(_Strict, rename={"is_async": "async"}, frozen=True, kw_only=True):
    """The last fields belong to tools that only a native provider runs."""

    type: str
    name: str
    description: str | None = None
    allowed_callers: msgspec.Raw = ABSENT
    defer_loading: bool | None = None
    is_async: bool | None = None


class _Function(_NamedTool, frozen=True, kw_only=True):
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None
    output_schema: msgspec.Raw = ABSENT


class _Custom(_NamedTool, frozen=True, kw_only=True):
    format: msgspec.Raw = ABSENT


class _Typed(msgspec.Struct, frozen=True):
    type: str


class _Choice(_Strict, frozen=True, kw_only=True):
    type: str
    name: str


class ResponsesBody(ExtrasBody, frozen=True, kw_only=True):
    """Every parameter of OpenAI's Responses API, and the extras. A null counts as absent.

    `stop` is none of them; clients that come from chat completions are told so in words.
    """

    model: str
    input: msgspec.Raw = ABSENT
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    include: tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    tools: tuple[msgspec.Raw, ...] | None = None
    tool_choice: msgspec.Raw = ABSENT
    parallel_tool_calls: bool | None = None
    text: _TextOptions | None = None
    reasoning: _Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None
    access_programs: msgspec.Raw = ABSENT
    background_options: msgspec.Raw = ABSENT
    context_management: msgspec.Raw = ABSENT
    conversation: msgspec.Raw = ABSENT
    image: msgspec.Raw = ABSENT
    moderation: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    prompt_cache_options: msgspec.Raw = ABSENT
    stop: msgspec.Raw = ABSENT


_PLAIN: Final = (
    "max_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
)
_OBJECTS: Final = ("access_programs", "background_options", "image", "moderation", "prompt", "prompt_cache_options")
_ANY: Final = ("context_management", "conversation")

TOOLS: Final = (_Function, _Custom)
"""What a tool of the client's own may be."""
_DEFAULT_MODES: Final = {"context": "auto", "mode": "standard"}

_BODY: Final = msgspec.json.Decoder(ResponsesBody)
_TYPED: Final = msgspec.json.Decoder(_Typed)
_FUNCTION: Final = msgspec.json.Decoder(_Function)
_CUSTOM: Final = msgspec.json.Decoder(_Custom)
_CHOICE: Final = msgspec.json.Decoder(_Choice)
_CHOICE_MODE: Final[msgspec.json.Decoder[_ChoiceMode]] = msgspec.json.Decoder(_ChoiceMode)


def decode_request(body: bytes) -> ResponseRequest:
    return _request(decode_body(_BODY, body))


def _request(body: ResponsesBody) -> ResponseRequest:
    if not body.model:
        raise missing_field("model")
    _check_whole(body)
    sampling = _sampling(body)
    tools = _tools(body.tools or ())
    tool_choice = _tool_choice(body.tool_choice) if is_set(body.tool_choice) else None
    output_format = _output_format(body.text)
    reasoning, reasoning_parameters = _reasoning(body.reasoning)
    guardrail = guardrail_in(body.moderation)
    if guardrail is not None:
        body = msgspec.structs.replace(body, moderation=ABSENT)
    passthrough = _passthrough(body)
    set_here = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_output_tokens": body.max_output_tokens,
        "top_logprobs": body.top_logprobs,
        "tools": tools or None,
        "tool_choice": tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
    }
    parameters = {name: name for name, value in set_here.items() if value is not None}
    parameters |= reasoning_parameters | {name: name for name in passthrough} | _included(body)
    if output_format is not None:
        parameters["response_format"] = "text.format"
    if "verbosity" in passthrough:
        parameters["verbosity"] = "text.verbosity"
    generation = GenerationRequest(
        endpoint=Endpoint.RESPONSES,
        model=body.model,
        turns=decode_input(body.input) if is_set(body.input) else (),
        stream=bool(body.stream),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        output_format=output_format,
        sampling=sampling,
        reasoning=reasoning,
        parameters=parameters,
        passthrough=passthrough,
        provider_options=body.options(),
        routing=body.routing(),
        trace=body.wants_trace(),
        guardrail=guardrail,
    )
    return ResponseRequest(
        generation=_with_input(generation, body),
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        store=body.store is not False,
        metadata=body.metadata or {},
        meta=bool(body.meta),
    )


def _check_whole(body: ResponsesBody) -> None:
    """What can be said of the body without looking further into it."""
    if body.metadata is not None:
        check_metadata(body.metadata, "metadata")
    if body.previous_response_id is not None and is_set(body.conversation):
        raise invalid("conversation", "`conversation` cannot be used together with `previous_response_id`.")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise unsupported(param, f"`{param}` is not supported: events carry no obfuscation.")
    if is_set(body.stop):
        raise unsupported("stop", "`stop` is not supported: the Responses API has no stop sequences.")


def _with_input(generation: GenerationRequest, body: ResponsesBody) -> GenerationRequest:
    """`generation` itself, where there is something to answer."""
    elsewhere = body.previous_response_id is not None or is_set(body.conversation) or is_set(body.prompt)
    if not generation.turns and not elsewhere:
        raise missing_field("input")
    return generation


def _sampling(body: ResponsesBody) -> Sampling:
    for name in ("temperature", "top_p", "max_output_tokens", "top_logprobs"):
        value = getattr(body, name)
        if value is not None:
            check_range(name, value, name)
    wants_logprobs = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        max_output_tokens=body.max_output_tokens,
        top_logprobs=body.top_logprobs,
        logprobs=wants_logprobs or None,
    )


def _included(body: ResponsesBody) -> dict[str, str]:
    """The parameters that `include` stands for, apart from what only passes through."""
    included = body.include or ()
    parameters = {}
    if LOGPROBS in included:
        parameters["logprobs"] = "include"
    elif body.top_logprobs:
        parameters["logprobs"] = "top_logprobs"
    if ENCRYPTED_REASONING in included:
        parameters["reasoning_encrypted_content"] = "include"
    return parameters


def _passthrough(body: ResponsesBody) -> dict[str, RawJson]:
    """What means nothing to the gateway, by canonical name. Defaults that ask for nothing are left out."""
    passed: dict[str, RawJson] = {}
    for name in _PLAIN:
        value = getattr(body, name)
        if value is not None:
            passed[name] = encode_raw(value)
    for name in (*_OBJECTS, *_ANY):
        raw = getattr(body, name)
        if is_set(raw):
            passed[name] = check_object(raw, name) if name in _OBJECTS else raw
    others = [name for name in body.include or () if name not in (LOGPROBS, ENCRYPTED_REASONING)]
    optional: dict[str, Any] = {
        "background": body.background or None,
        "include": others or None,
        "truncation": None if body.truncation == "disabled" else body.truncation,
        "verbosity": body.text and body.text.verbosity,
    }
    return passed | {name: encode_raw(value) for name, value in optional.items() if value is not None}


def _tools(raw: tuple[RawJson, ...]) -> tuple[Tool, ...]:
    check_count(len(raw), MAX_TOOLS, "tools")
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(raw))


def _tool(raw: RawJson, param: str) -> Tool:
    match decode_value(_TYPED, raw, param).type:
        case "function":
            function = decode_value(_FUNCTION, raw, param)
            only_native = _only_native(function) or ("output_schema" if is_set(function.output_schema) else None)
            if only_native is not None:
                return BuiltInTool("function", raw, f"{param}.{only_native}")
            check_tool_name(function.name, f"{param}.name")
            parameters = None
            if is_set(function.parameters):
                parameters = check_object(function.parameters, f"{param}.parameters")
            return FunctionTool(function.name, function.description, parameters, function.strict)
        case "custom":
            custom = decode_value(_CUSTOM, raw, param)
            only_native = _only_native(custom)
            if only_native is not None:
                return BuiltInTool("custom", raw, f"{param}.{only_native}")
            check_tool_name(custom.name, f"{param}.name")
            grammar = check_custom_format(custom.format, f"{param}.format") if is_set(custom.format) else None
            return CustomTool(custom.name, custom.description, grammar)
        case other:
            return BuiltInTool(other, raw, param)


def _only_native(tool: _NamedTool) -> str | None:
    """The first field that asks for more than the model of any provider can do."""
    if is_set(tool.allowed_callers):
        return "allowed_callers"
    if tool.defer_loading:
        return "defer_loading"
    return "async" if tool.is_async else None


def _tool_choice(raw: RawJson) -> ToolChoice:
    if memoryview(raw)[:1].tobytes() == b'"':
        mode: _ChoiceMode = decode_value(_CHOICE_MODE, raw, "tool_choice")
        return ToolChoice(mode)
    match decode_value(_TYPED, raw, "tool_choice").type:
        case "function" | "custom" as kind:
            choice = decode_value(_CHOICE, raw, "tool_choice")
            check_tool_name(choice.name, "tool_choice.name")
            return ToolChoice("named", choice.name, custom=kind == "custom")
        case "allowed_tools":
            return ToolChoice("allowed", raw=check_allowed_tools(raw, "tool_choice"))
        case _:
            return ToolChoice("built_in", raw=raw)


def _output_format(text: _TextOptions | None) -> OutputFormat | None:
    """None for free text, which is every provider's default."""
    wanted = None if text is None else text.format
    match wanted:
        case _JsonSchemaFormat():
            check_tool_name(wanted.name, "text.format.name")
            schema = check_object(wanted.schema, "text.format.schema")
            return OutputFormat("json_schema", wanted.name, schema, wanted.description, wanted.strict)
        case _JsonObjectFormat():
            return OutputFormat("json_object")
        case _:
            return None


def _reasoning(wanted: _Reasoning | None) -> tuple[ReasoningOptions | None, dict[str, str]]:
    """The options, and the parameters that they are."""
    if wanted is None:
        return None, {}
    for name, default in _DEFAULT_MODES.items():
        if getattr(wanted, name) not in (None, default):
            param = f"reasoning.{name}"
            raise GatewayError(Reason.UNSUPPORTED_PARAMETER, f"`{param}` is not supported.", param=param)
    parameters: dict[str, str] = {}
    if wanted.effort is not None:
        check_choice(wanted.effort, REASONING_EFFORTS, "reasoning.effort")
        parameters["reasoning_effort"] = "reasoning.effort"
    summary, spelling = wanted.summary, "reasoning.summary"
    if summary is None and wanted.generate_summary is not None:
        summary, spelling = wanted.generate_summary, "reasoning.generate_summary"
    if summary is not None:
        check_choice(summary, REASONING_SUMMARIES, spelling)
        parameters["reasoning_summary"] = spelling
    return ReasoningOptions(wanted.effort, summary) if parameters else None, parameters
