"""A chat completion request: OpenAI's JSON, and how it becomes a `GenerationRequest`.

Every parameter of OpenAI's is known here. One that the gateway could not keep its promise about is refused by its name,
and so is one that nobody knows; none is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from rest_bridge.chat_body import (
    ChatBody,
    ChooseAllowed,
    ChooseCustom,
    ChooseFunction,
    CustomToolBody,
    FunctionToolBody,
    JsonObjectFormat,
    JsonSchemaFormat,
    StreamOptions,
    TextFormat,
)
from rest_bridge.chat_messages import decode_messages
from rest_bridge.guardrail import guardrail_of
from rest_bridge.json import check_object, decode_body, encode_raw, invalid, is_set, unsupported
from server.domain import limits
from server.domain.parameters import PARAMETERS
from server.domain.request import (
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
from server.domain.tool_json import check_allowed_tools, check_custom_format

MAX_IDENTIFIER_CHARS: Final = 512
"""Of `user`, `safety_identifier` and `prompt_cache_key`."""


class ChatOrder(msgspec.Struct, frozen=True):
    """What is to be generated, and how the client wants to be told of it."""

    request: GenerationRequest
    wants_meta: bool
    wants_usage: bool
    """Of a stream only: whether its last chunk tells the usage."""


_DECODER: Final = msgspec.json.Decoder(ChatBody)

REFUSED: Final[Mapping[str, str]] = {
    "audio": "spoken output is not supported",
    "functions": "it is out of use: send `tools`",
    "function_call": "it is out of use: send `tool_choice`",
}
"""What is known and refused, and why: its effect on the reply could not be passed on."""

_SPELLINGS: Final = tuple(
    (parameter.name, spelling, parameter.passthrough)
    for parameter in PARAMETERS.values()
    for spelling in parameter.chat
    if spelling not in REFUSED
)
_NO_OPS: Final[Mapping[str, Any]] = {
    "n": 1,
    "logprobs": False,
    "stop": (),
    "tools": (),
    "modalities": ("text",),
    "logit_bias": {},
    "response_format": TextFormat(),
}
"""Values that ask for what every provider does anyway; no provider need support the parameter for their sake."""


def decode_chat(body: bytes) -> ChatOrder:
    """The order that a request's body holds. Raises GatewayError naming the field that is wrong."""
    chat = decode_body(_DECODER, body)
    _check(chat)
    options = chat.stream_options or _NO_STREAM_OPTIONS
    return ChatOrder(_request(chat), bool(chat.meta), bool(options.include_usage or chat.usage))


_NO_STREAM_OPTIONS: Final = StreamOptions()


def _request(chat: ChatBody) -> GenerationRequest:
    guardrail = guardrail_of(chat.moderation)
    if guardrail is not None:
        chat = msgspec.structs.replace(chat, moderation=None)
    parameters, passthrough = _parameters(chat)
    return GenerationRequest(
        endpoint=Endpoint.CHAT,
        model=chat.model,
        turns=decode_messages(chat.messages),
        stream=bool(chat.stream),
        tools=tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(chat.tools or ())),
        tool_choice=_tool_choice(chat),
        parallel_tool_calls=chat.parallel_tool_calls,
        output_format=_output_format(chat),
        sampling=_sampling(chat),
        reasoning=None if chat.reasoning_effort is None else ReasoningOptions(effort=chat.reasoning_effort),
        parameters=parameters,
        passthrough=passthrough,
        provider_options=chat.options(),
        routing=chat.routing(),
        trace=chat.wants_trace(),
        guardrail=guardrail,
    )


def _parameters(chat: ChatBody) -> tuple[dict[str, str], dict[str, RawJson]]:
    """Canonical names of what a provider must honour, with the client's spelling; and what only passes through."""
    parameters: dict[str, str] = {}
    passthrough: dict[str, RawJson] = {}
    for name, spelling, passes_through in _SPELLINGS:
        value = getattr(chat, spelling)
        if value is None or (spelling in _NO_OPS and value == _NO_OPS[spelling]):
            continue
        parameters.setdefault(name, spelling)
        if passes_through:
            passthrough[name] = encode_raw(value)
    return parameters, passthrough


def _sampling(chat: ChatBody) -> Sampling:
    stop = (chat.stop,) if isinstance(chat.stop, str) else chat.stop
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    return Sampling(
        temperature=chat.temperature,
        top_p=chat.top_p,
        frequency_penalty=chat.frequency_penalty,
        presence_penalty=chat.presence_penalty,
        seed=chat.seed,
        stop=stop or None,
        max_output_tokens=limit,
        n=None if chat.n == 1 else chat.n,
        logprobs=chat.logprobs or None,
        top_logprobs=chat.top_logprobs,
        logit_bias=encode_raw(chat.logit_bias) if chat.logit_bias else None,
    )


def _tool(tool: FunctionToolBody | CustomToolBody, param: str) -> Tool:
    if isinstance(tool, CustomToolBody):
        custom = tool.custom
        limits.check_tool_name(custom.name, f"{param}.custom.name")
        grammar = check_custom_format(custom.format, f"{param}.custom.format") if is_set(custom.format) else None
        return CustomTool(custom.name, custom.description, grammar)
    function = tool.function
    limits.check_tool_name(function.name, f"{param}.function.name")
    schema = check_object(function.parameters, f"{param}.function.parameters") if is_set(function.parameters) else None
    return FunctionTool(function.name, function.description, schema, function.strict)


def _tool_choice(chat: ChatBody) -> ToolChoice | None:
    match chat.tool_choice:
        case None:
            return None
        case "none" | "auto" | "required" as mode:
            return ToolChoice(mode)
        case ChooseFunction(function=function):
            return ToolChoice("named", function.name)
        case ChooseCustom(custom=custom):
            return ToolChoice("named", custom.name, custom=True)
        case ChooseAllowed() as allowed:
            return ToolChoice("allowed", raw=check_allowed_tools(encode_raw(allowed), "tool_choice"))


def _output_format(chat: ChatBody) -> OutputFormat | None:
    """None for free text, which is every provider's default."""
    match chat.response_format:
        case None | TextFormat():
            return None
        case JsonObjectFormat():
            return OutputFormat("json_object")
        case JsonSchemaFormat(json_schema=wanted):
            limits.check_tool_name(wanted.name, "response_format.json_schema.name")
            schema = check_object(wanted.schema, "response_format.json_schema.schema")
            return OutputFormat("json_schema", wanted.name, schema, wanted.description, wanted.strict)


def _check(chat: ChatBody) -> None:
    """Everything that types alone cannot say. Raises for the first thing that is wrong."""
    if not chat.model:
        raise limits.missing_field("model")
    for spelling, why in REFUSED.items():
        if is_set(getattr(chat, spelling)):
            raise unsupported(spelling, f"`{spelling}`: {why}.")
    if chat.modalities is not None and "audio" in chat.modalities:
        raise unsupported("modalities", f"`modalities`: {REFUSED['audio']}.")
    _check_ranges(chat)
    _check_tools(chat)
    _check_stream_options(chat)
    _check_labels(chat)
    if chat.reasoning_effort is not None:
        limits.check_choice(chat.reasoning_effort, limits.REASONING_EFFORTS, "reasoning_effort")


def _check_ranges(chat: ChatBody) -> None:
    for name, spelling in _RANGED:
        value = getattr(chat, spelling)
        if value is not None:
            limits.check_range(name, value, spelling)
    for bias in (chat.logit_bias or {}).values():
        limits.check_range("logit_bias", bias, "logit_bias")
    if chat.max_tokens != chat.max_completion_tokens and None not in (chat.max_tokens, chat.max_completion_tokens):
        raise invalid("max_tokens", "`max_tokens` and `max_completion_tokens` must not differ: send only one.")
    if chat.top_logprobs is not None and not chat.logprobs:
        raise invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")
    if isinstance(chat.stop, tuple):
        limits.check_count(len(chat.stop), limits.MAX_STOP_SEQUENCES, "stop")
    if chat.stop == "" or (isinstance(chat.stop, tuple) and "" in chat.stop):
        raise invalid("stop", "`stop` must not hold an empty string.")


_RANGED: Final = tuple(
    (name, spelling)
    for name in limits.RANGES
    if name in PARAMETERS and name != "logit_bias"
    for spelling in PARAMETERS[name].chat
)


def _check_tools(chat: ChatBody) -> None:
    tools = chat.tools or ()
    limits.check_count(len(tools), limits.MAX_TOOLS, "tools")
    names = {tool.custom.name if isinstance(tool, CustomToolBody) else tool.function.name for tool in tools}
    match chat.tool_choice:
        case ChooseFunction(function=wanted) | ChooseCustom(custom=wanted) if wanted.name not in names:
            shown = wanted.name[: limits.MAX_SHOWN_CHARS]
            raise invalid("tool_choice", f'`tool_choice` names "{shown}", which is not among `tools`.')
        case "required" if not tools:
            raise invalid("tool_choice", "`tool_choice` requires a tool, and `tools` has none.")
        case _:
            pass


def _check_stream_options(chat: ChatBody) -> None:
    if chat.stream_options is None:
        return
    if not chat.stream:
        raise invalid("stream_options", "`stream_options` needs `stream` to be true.")
    if chat.stream_options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise unsupported(param, f"`{param}` is not supported: leave it out or set it to false.")


def _check_labels(chat: ChatBody) -> None:
    for spelling in ("user", "safety_identifier", "prompt_cache_key"):
        limits.check_length(getattr(chat, spelling) or "", MAX_IDENTIFIER_CHARS, spelling)
    if chat.metadata is not None:
        limits.check_metadata(chat.metadata, "metadata")
