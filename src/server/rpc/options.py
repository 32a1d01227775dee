"""The options that the requests of both typed services share, from protobuf to the domain.

Everything raises GatewayError (`invalid_value`, `missing_field`, `malformed_json`, `unknown_parameter`,
`unsupported_parameter`) naming the field that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from aistats.gateway.v1 import chat_pb2, content_pb2, messages_pb2, responses_pb2
from server.domain import limits
from server.domain.errors import GatewayError, Reason
from server.domain.guardrail import Guardrail, Mode
from server.domain.limits import invalid_value, missing_field
from server.domain.parameters import PARAMETERS
from server.domain.request import (
    BuiltInTool,
    CustomTool,
    FunctionTool,
    MaxPrice,
    OutputFormat,
    RawJson,
    ReasoningOptions,
    RoutingPreferences,
    Tool,
    ToolChoice,
)
from server.domain.tool_json import check_allowed_tools, check_custom_format

Surface: TypeAlias = Literal["chat", "responses", "messages"]
GenerationMessage: TypeAlias = (
    chat_pb2.CreateChatCompletionRequest | responses_pb2.CreateResponseRequest | messages_pb2.CreateMessageRequest
)

_TOOL_CHOICE_MODES: Final[dict[int, Literal["none", "auto", "required"]]] = {
    content_pb2.TOOL_CHOICE_MODE_NONE: "none",
    content_pb2.TOOL_CHOICE_MODE_AUTO: "auto",
    content_pb2.TOOL_CHOICE_MODE_REQUIRED: "required",
}
_MODES: Final[dict[int, Mode]] = {
    content_pb2.MODERATION_MODE_FLAG: "flag",
    content_pb2.MODERATION_MODE_BLOCK: "block",
}
_TYPED_FIELDS: Final[dict[Surface, dict[str, str]]] = {
    "chat": {
        "temperature": "sampling.temperature",
        "top_p": "sampling.top_p",
        "frequency_penalty": "sampling.frequency_penalty",
        "presence_penalty": "sampling.presence_penalty",
        "seed": "sampling.seed",
        "stop": "sampling.stop",
        "max_completion_tokens": "sampling.max_output_tokens",
        "max_tokens": "sampling.max_output_tokens",
        "n": "sampling.n",
        "logprobs": "sampling.logprobs",
        "top_logprobs": "sampling.top_logprobs",
        "logit_bias": "sampling.logit_bias",
        "response_format": "output_format",
        "reasoning_effort": "reasoning.effort",
        "provider": "routing",
        "models": "routing.fallback_models",
        "session_id": "routing.session_id",
        "debug": "routing.trace",
    },
    "responses": {
        "text": "output_format",
        "response_format": "output_format",
        "provider": "routing",
        "models": "routing.fallback_models",
        "session_id": "routing.session_id",
        "debug": "routing.trace",
    },
    "messages": {
        "temperature": "sampling.temperature",
        "top_p": "sampling.top_p",
        "top_k": "sampling.top_k",
        "stop_sequences": "sampling.stop_sequences",
        "output_config": "output_format",
        "thinking": "reasoning.effort",
        "provider": "routing",
        "models": "routing.fallback_models",
        "session_id": "routing.session_id",
        "debug": "routing.trace",
    },
}
"""The REST surface's names of what has a field of its own, and that field's name where it is another."""


class SharedOptions(msgspec.Struct, frozen=True):
    """The options that the requests of both services carry under the same field names.

    `parameters`, `passthrough` and `provider_options` are as in `GenerationRequest`; `parameters` may be added to.
    """

    tools: tuple[Tool, ...]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    output_format: OutputFormat | None
    reasoning: ReasoningOptions | None
    routing: RoutingPreferences
    provider_options: dict[str, dict[str, RawJson]]
    passthrough: dict[str, RawJson]
    parameters: dict[str, str]
    guardrail: Guardrail | None


def decode_shared_options(request: GenerationMessage, surface: Surface) -> SharedOptions:
    """Everything but model, turns and sampling of a request."""
    passthrough, parameters = _decode_parameters(request, surface)
    tools = decode_tools(request.tools)
    tool_choice = decode_tool_choice(request.tool_choice) if request.HasField("tool_choice") else None
    parallel = request.parallel_tool_calls if request.HasField("parallel_tool_calls") else None
    output_format = decode_output_format(request.output_format) if request.HasField("output_format") else None
    reasoning = decode_reasoning_options(request.reasoning, surface) if request.HasField("reasoning") else None
    for name, spelling, is_set in (
        ("tools", "tools", bool(tools)),
        ("tool_choice", "tool_choice", tool_choice is not None),
        ("parallel_tool_calls", "parallel_tool_calls", parallel is not None),
        ("response_format", "output_format", output_format is not None),
        ("reasoning_effort", "reasoning.effort", reasoning is not None and reasoning.effort is not None),
        ("reasoning_summary", "reasoning.summary", reasoning is not None and reasoning.summary is not None),
    ):
        if is_set:
            parameters[name] = spelling
    return SharedOptions(
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        output_format=output_format,
        reasoning=reasoning,
        routing=decode_routing(request.routing),
        provider_options=decode_provider_options(request.provider_options_json),
        passthrough=passthrough,
        parameters=parameters,
        guardrail=decode_guardrail(request.moderation) if request.HasField("moderation") else None,
    )


def decode_guardrail(options: content_pb2.ModerationOptions) -> Guardrail | None:
    """None where nothing is set."""
    given, made = _MODES.get(options.input), _MODES.get(options.output)
    if given is None and made is None:
        if options.model:
            raise missing_field("moderation.input")
        return None
    return Guardrail(given, made, options.model or None)


def decode_tools(tools: Iterable[content_pb2.Tool]) -> tuple[Tool, ...]:
    decoded = tuple(_decode_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools))
    limits.check_count(len(decoded), limits.MAX_TOOLS, "tools")
    return decoded


def _decode_tool(tool: content_pb2.Tool, field: str) -> Tool:
    match tool.WhichOneof("tool"):
        case "function":
            function, field = tool.function, f"{field}.function"
            limits.check_tool_name(function.name, f"{field}.name")
            return FunctionTool(
                name=function.name,
                description=function.description if function.HasField("description") else None,
                parameters=decode_json_object(function.parameters_json, f"{field}.parameters_json")
                if function.HasField("parameters_json")
                else None,
                strict=function.strict if function.HasField("strict") else None,
            )
        case "custom":
            custom, field = tool.custom, f"{field}.custom"
            limits.check_tool_name(custom.name, f"{field}.name")
            return CustomTool(
                name=custom.name,
                description=custom.description if custom.HasField("description") else None,
                format=_decode_format(custom.format_json, f"{field}.format_json")
                if custom.HasField("format_json")
                else None,
            )
        case "built_in_json":
            field = f"{field}.built_in_json"
            return BuiltInTool(_type_of(tool.built_in_json, field), _raw(tool.built_in_json), field)
        case None:
            raise missing_field(field)


def _decode_format(text: str, field: str) -> RawJson:
    return check_custom_format(decode_json_object(text, field), field)


def decode_tool_choice(choice: content_pb2.ToolChoice) -> ToolChoice | None:
    """None where the client leaves it to the provider."""
    match choice.WhichOneof("choice"):
        case "mode":
            mode = _TOOL_CHOICE_MODES.get(choice.mode)
            return None if mode is None else ToolChoice(mode)
        case "function":
            limits.check_tool_name(choice.function, "tool_choice.function")
            return ToolChoice("named", choice.function)
        case "custom":
            limits.check_tool_name(choice.custom, "tool_choice.custom")
            return ToolChoice("named", choice.custom, custom=True)
        case "other_json":
            field, raw = "tool_choice.other_json", _raw(choice.other_json)
            if _type_of(choice.other_json, field) != "allowed_tools":
                return ToolChoice("built_in", raw=raw)
            return ToolChoice("allowed", raw=check_allowed_tools(raw, field))
        case None:
            return None


def decode_output_format(output: content_pb2.OutputFormat) -> OutputFormat | None:
    """None for free text, which is every provider's default."""
    match output.WhichOneof("format"):
        case "text" | None:
            return None
        case "json_object":
            return OutputFormat("json_object")
        case "json_schema":
            schema, field = output.json_schema, "output_format.json_schema"
            limits.check_tool_name(schema.name, f"{field}.name")
            if not schema.schema_json:
                raise missing_field(f"{field}.schema_json")
            return OutputFormat(
                "json_schema",
                name=schema.name,
                schema=decode_json_object(schema.schema_json, f"{field}.schema_json"),
                description=schema.description if schema.HasField("description") else None,
                strict=schema.strict if schema.HasField("strict") else None,
            )


def decode_reasoning_options(options: content_pb2.ReasoningOptions, surface: Surface) -> ReasoningOptions | None:
    """None where nothing is set."""
    effort = options.effort if options.HasField("effort") else None
    summary = options.summary if options.HasField("summary") else None
    if effort is not None:
        limits.check_choice(effort, limits.REASONING_EFFORTS, "reasoning.effort")
    if summary is not None:
        if surface != "responses":
            raise GatewayError(
                Reason.UNSUPPORTED_PARAMETER,
                "reasoning.summary belongs to the Responses service.",
                param="reasoning.summary",
            )
        limits.check_choice(summary, limits.REASONING_SUMMARIES, "reasoning.summary")
    return None if effort is None and summary is None else ReasoningOptions(effort, summary)


def decode_routing(options: content_pb2.RoutingOptions) -> RoutingPreferences:
    sort: Literal["price", "latency", "throughput"] | None
    match options.sort:
        case "price" | "latency" | "throughput" as sort:
            pass
        case "":
            sort = None
        case other:
            raise limits.invalid_choice("routing.sort", limits.SORTS, other)
    limits.check_length(options.session_id, limits.MAX_SESSION_ID_CHARS, "routing.session_id")
    prompt, completion = options.max_prompt_usd or None, options.max_completion_usd or None
    return RoutingPreferences(
        order=tuple(options.order),
        only=tuple(options.only),
        ignore=tuple(options.ignore),
        allow_fallbacks=options.allow_fallbacks if options.HasField("allow_fallbacks") else True,
        require_parameters=options.require_parameters if options.HasField("require_parameters") else True,
        sort=sort,
        max_price=MaxPrice(prompt, completion) if prompt or completion else None,
        fallback_models=tuple(options.fallback_models),
        session_id=options.session_id or None,
    )


def decode_provider_options(options: Mapping[str, str]) -> dict[str, dict[str, RawJson]]:
    """By provider id, the members of the JSON object that goes to it."""
    shown = limits.MAX_SHOWN_CHARS
    return {name: _members(text, f"provider_options_json.{name[:shown]}") for name, text in options.items()}


def _decode_parameters(request: GenerationMessage, surface: Surface) -> tuple[dict[str, RawJson], dict[str, str]]:
    """`parameters_json` by canonical name: the JSON values, and how the client spelt them. A JSON null is unset."""
    values: dict[str, RawJson] = {}
    spellings: dict[str, str] = {}
    for name, text in request.parameters_json.items():
        canonical = _canonical(name, surface, request)
        field = f"parameters_json.{name}"
        value = decode_json(text, field)
        if canonical == "service_tier" and not isinstance(value, str | None):
            raise invalid_value(field, "must be a string")
        if value is not None:
            values[canonical] = _raw(text)
            spellings[canonical] = field
    return values, spellings


def _canonical(name: str, surface: Surface, request: GenerationMessage) -> str:
    known = PARAMETERS.get(name)
    if known is not None and known.passthrough and name != "top_k" and getattr(known, surface):
        return name
    field = f"parameters_json.{name[: limits.MAX_SHOWN_CHARS]}"
    typed = name if name in request.DESCRIPTOR.fields_by_name else _TYPED_FIELDS[surface].get(name)
    if typed is not None:
        raise invalid_value(field, f"is not the place for this parameter: use the field {typed}")
    raise GatewayError(Reason.UNKNOWN_PARAMETER, f"{field}: this API has no such parameter.", param=field)


def decode_json(text: str, field: str) -> Any:
    """The value of a JSON text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise GatewayError(Reason.MALFORMED_JSON, f"{field} must be valid JSON.", param=field) from None


def decode_json_object(text: str, field: str) -> RawJson:
    """The text itself, byte for byte, once it is known to be a JSON object."""
    if not isinstance(decode_json(text, field), dict):
        raise invalid_value(field, "must be a JSON object")
    return _raw(text)


def _members(text: str, field: str) -> dict[str, RawJson]:
    decode_json_object(text, field)
    return msgspec.json.decode(text, type=dict[str, RawJson])


def _type_of(text: str, field: str) -> str:
    """The `type` of a JSON object that must have one."""
    value = decode_json(text, field)
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or not kind:
        raise invalid_value(field, 'must be a JSON object with a "type"')
    return kind


def _raw(text: str) -> RawJson:
    return RawJson(text.encode())
