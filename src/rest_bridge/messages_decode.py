"""An Anthropic Messages request: its JSON, and how it becomes a `GenerationRequest`.

Every parameter of Anthropic's is known here. One that the gateway could not keep its promise about is refused by its
name, and so is one that nobody knows. Left out where a provider has no word for it is only what changes nothing in the
reply: cache marks, `metadata.user_id`, `service_tier`, and thinking that is turned off or left to the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from rest_bridge.guardrail import own_guardrail
from rest_bridge.json import check_object, decode_body, decode_value, encode_raw, invalid, is_set, unsupported
from rest_bridge.messages_blocks import cache_mark, decode_turns
from rest_bridge.messages_body import (
    ChooseAny,
    ChooseAuto,
    ChooseNone,
    ChooseTool,
    CountTokensBody,
    CustomToolBody,
    JsonOutput,
    MessagesBody,
    ThinkingAdaptive,
    ThinkingBetweenTools,
    ThinkingDisabled,
    ThinkingEnabled,
)
from server.domain import limits
from server.domain.request import (
    BuiltInTool,
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

MIN_BUDGET_TOKENS: Final = 1024
EFFORT_OF_BUDGET: Final = ((4096, "low"), (16_384, "medium"))
"""A thinking budget below this many tokens is that effort; any greater one is `high`."""
SCHEMA_NAME: Final = "output"
"""Of an output schema, which has no name on this surface."""
MAX_USER_ID_CHARS: Final = 512

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
REFUSED: Final[Mapping[str, str]] = {
    "container": "Anthropic's containers are not supported",
    "diagnostics": "it is not supported",
    "inference_geo": "where a provider runs is not known here: use `provider.only`",
    "mcp_servers": "servers of tools are not supported: call them yourself and send `tools`",
    "thread": "conversations are not kept here; send all of the messages",
    "user_profile_id": "it belongs to an account that all teams share",
    "workspace_id": "it belongs to an account that all teams share",
}
"""What is known and refused, and why."""


class MessagesOrder(msgspec.Struct, frozen=True):
    """What is to be generated, and how the client wants to be told of it. `hides_thinking`: only its seal is told."""

    request: GenerationRequest
    wants_meta: bool = False
    hides_thinking: bool = False


class _Kind(msgspec.Struct, frozen=True):
    type: str | None = None


_MESSAGES: Final = msgspec.json.Decoder(MessagesBody)
_COUNT: Final = msgspec.json.Decoder(CountTokensBody)
_KIND: Final = msgspec.json.Decoder(_Kind)
_TOOL: Final = msgspec.json.Decoder(CustomToolBody)


def decode_messages(body: bytes) -> MessagesOrder:
    """The order that a request's body holds. Raises GatewayError naming the field that is wrong."""
    asked = decode_body(_MESSAGES, body)
    _check(asked)
    _check_sampling(asked)
    parameters = _spellings(asked)
    passthrough: dict[str, RawJson] = {} if asked.top_k is None else {"top_k": encode_raw(asked.top_k)}
    request = msgspec.structs.replace(
        _prompt(asked),
        stream=bool(asked.stream),
        sampling=Sampling(
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=asked.stop_sequences or None,
            max_output_tokens=asked.max_tokens,
        ),
        parameters=parameters,
        passthrough=passthrough,
        hints=_hints(asked),
        provider_options=asked.options(),
        trace=asked.wants_trace(),
        guardrail=None if asked.moderation is None else own_guardrail(asked.moderation),
    )
    hides = isinstance(asked.thinking, ThinkingEnabled | ThinkingAdaptive) and asked.thinking.display == "omitted"
    return MessagesOrder(request, bool(asked.meta), hides)


def decode_count_tokens(body: bytes) -> GenerationRequest:
    """The prompt whose tokens are to be counted. Raises GatewayError naming the field that is wrong."""
    asked = decode_body(_COUNT, body)
    _check(asked)
    asked.options()
    return _prompt(asked)


def _prompt(asked: MessagesBody | CountTokensBody) -> GenerationRequest:
    return GenerationRequest(
        endpoint=Endpoint.MESSAGES,
        model=asked.model,
        turns=decode_turns(asked.system, asked.messages),
        tools=_tools(asked),
        tool_choice=_tool_choice(asked),
        parallel_tool_calls=False if _one_by_one(asked) else None,
        output_format=_output_format(asked),
        reasoning=_reasoning(asked),
        cache=cache_mark(asked.cache_control),
        routing=asked.routing(),
    )


def _spellings(asked: MessagesBody) -> dict[str, str]:
    """Canonical names of what a provider must honour, with the client's spelling."""
    wanted = (
        ("max_output_tokens", "max_tokens", True),
        ("temperature", "temperature", asked.temperature is not None),
        ("top_p", "top_p", asked.top_p is not None),
        ("top_k", "top_k", asked.top_k is not None),
        ("stop", "stop_sequences", bool(asked.stop_sequences)),
        ("tools", "tools", bool(asked.tools)),
        ("tool_choice", "tool_choice", _tool_choice(asked) is not None),
        ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use", _one_by_one(asked)),
        ("response_format", "output_format", asked.output_format is not None),
        ("response_format", "output_config.format", asked.output_config is not None and asked.output_config.format),
        ("reasoning_effort", "thinking", isinstance(asked.thinking, ThinkingEnabled)),
        ("reasoning_effort", "output_config.effort", asked.output_config is not None and asked.output_config.effort),
    )
    return {name: spelling for name, spelling, is_there in wanted if is_there}


def _hints(asked: MessagesBody) -> dict[str, RawJson]:
    hints: dict[str, RawJson] = {}
    if asked.metadata is not None and asked.metadata.user_id is not None:
        limits.check_length(asked.metadata.user_id, MAX_USER_ID_CHARS, "metadata.user_id")
        hints["user"] = encode_raw(asked.metadata.user_id)
    if asked.service_tier == "standard_only":
        hints["service_tier"] = encode_raw("default")
    return hints


def _tools(asked: MessagesBody | CountTokensBody) -> tuple[Tool, ...]:
    raws = asked.tools or ()
    limits.check_count(len(raws), limits.MAX_TOOLS, "tools")
    return tuple(_tool(raw, f"tools[{index}]") for index, raw in enumerate(raws))


def _tool(raw: RawJson, param: str) -> Tool:
    kind = decode_value(_KIND, raw, param).type
    if kind not in (None, "custom"):
        return BuiltInTool(kind, raw, param)
    tool = decode_value(_TOOL, raw, param)
    if not _TOOL_NAME.fullmatch(tool.name):
        where = f"{param}.name"
        raise invalid(where, f"`{where}` must be 1 to 128 letters, digits, underscores and dashes.")
    for name, why in _unkept(tool):
        raise unsupported(f"{param}.{name}", f"`{param}.{name}`: {why}.")
    schema = check_object(tool.input_schema, f"{param}.input_schema")
    return FunctionTool(tool.name, tool.description, schema, tool.strict, cache_mark(tool.cache_control))


def _unkept(tool: CustomToolBody) -> Iterator[tuple[str, str]]:
    """What a tool asks for that no provider would be told, and why. Early streaming is what there is anyway."""
    if tool.defer_loading:
        yield "defer_loading", "tools are always sent whole"
    if any(caller != "direct" for caller in tool.allowed_callers or ()):
        yield "allowed_callers", "only the model itself calls tools"
    if tool.input_examples:
        yield "input_examples", "put examples into the description"


def _tool_choice(asked: MessagesBody | CountTokensBody) -> ToolChoice | None:
    """None for `auto`, which is every provider's default."""
    match asked.tool_choice:
        case None | ChooseAuto():
            return None
        case ChooseAny():
            return ToolChoice("required")
        case ChooseNone():
            return ToolChoice("none")
        case ChooseTool(name=name):
            return ToolChoice("named", name)


def _one_by_one(asked: MessagesBody | CountTokensBody) -> bool:
    choice = asked.tool_choice
    return choice is not None and not isinstance(choice, ChooseNone) and bool(choice.disable_parallel_tool_use)


def _output_format(asked: MessagesBody | CountTokensBody) -> OutputFormat | None:
    within = asked.output_config.format if asked.output_config is not None else None
    if within is not None and asked.output_format is not None:
        raise invalid("output_format", "`output_format` and `output_config.format` are the same: send only one.")
    if within is not None:
        return _schema(within, "output_config.format.schema")
    return None if asked.output_format is None else _schema(asked.output_format, "output_format.schema")


def _schema(wanted: JsonOutput, param: str) -> OutputFormat:
    return OutputFormat("json_schema", SCHEMA_NAME, check_object(wanted.schema, param), strict=True)


def _reasoning(asked: MessagesBody | CountTokensBody) -> ReasoningOptions | None:
    effort = asked.output_config.effort if asked.output_config is not None else None
    match asked.thinking:
        case ThinkingEnabled(budget_tokens=budget):
            return ReasoningOptions(effort or effort_of(budget), thinking="enabled", budget_tokens=budget)
        case ThinkingAdaptive():
            return ReasoningOptions(effort, thinking="adaptive")
        case ThinkingDisabled():
            return ReasoningOptions(effort, thinking="disabled")
        case _:
            return None if effort is None else ReasoningOptions(effort)


def effort_of(budget_tokens: int) -> str:
    """The effort that a thinking budget comes to, for providers that know no budgets."""
    return next((effort for below, effort in EFFORT_OF_BUDGET if budget_tokens < below), "high")


def _check(asked: MessagesBody | CountTokensBody) -> None:
    """Everything that types alone cannot say. Raises for the first thing that is wrong."""
    if not asked.model:
        raise limits.missing_field("model")
    for name, why in REFUSED.items():
        if is_set(getattr(asked, name, msgspec.Raw(b"null"))):
            raise unsupported(name, f"`{name}`: {why}.")
    if asked.speed == "fast":
        raise unsupported("speed", '`speed`: only "standard" is supported.')
    if isinstance(asked.thinking, ThinkingBetweenTools):
        raise unsupported("thinking.type", '`thinking.type`: "between_tools" is not supported.')
    _check_context_management(asked)
    _check_tool_choice(asked)


def _check_context_management(asked: MessagesBody | CountTokensBody) -> None:
    """An edit that keeps everything asks for nothing; any other would have to be made by the provider."""
    edits = () if asked.context_management is None else asked.context_management.edits or ()
    for index, edit in enumerate(edits):
        if not (edit.type.startswith("clear_thinking_") and bytes(edit.keep) == b'"all"'):
            param = f"context_management.edits[{index}]"
            raise unsupported(param, f"`{param}`: the conversation is sent as it is, and nothing of it cleared.")


def _check_tool_choice(asked: MessagesBody | CountTokensBody) -> None:
    tools = asked.tools or ()
    if isinstance(asked.tool_choice, ChooseAny) and not tools:
        raise invalid("tool_choice", "`tool_choice` requires a tool, and `tools` has none.")
    if isinstance(asked.tool_choice, ChooseTool):
        wanted = asked.tool_choice.name
        if all(decode_value(_NAMED, raw, "tools").name != wanted for raw in tools):
            shown = wanted[: limits.MAX_SHOWN_CHARS]
            raise invalid("tool_choice.name", f'`tool_choice.name` names "{shown}", which is not among `tools`.')


class _Named(msgspec.Struct, frozen=True):
    name: Any = None


_NAMED: Final = msgspec.json.Decoder(_Named)


def _check_sampling(asked: MessagesBody) -> None:
    limits.check_range("max_output_tokens", asked.max_tokens, "max_tokens")
    if asked.temperature is not None and not 0 <= asked.temperature <= 1:
        raise limits.invalid_value("temperature", f"must be from 0 to 1, not {asked.temperature:g}")
    if asked.top_p is not None:
        limits.check_range("top_p", asked.top_p, "top_p")
    if asked.top_k is not None and asked.top_k < 0:
        raise limits.invalid_value("top_k", f"must be at least 0, not {asked.top_k}")
    stops = asked.stop_sequences or ()
    limits.check_count(len(stops), limits.MAX_STOP_SEQUENCES, "stop_sequences")
    if "" in stops:
        raise invalid("stop_sequences", "`stop_sequences` must not hold an empty string.")
    if isinstance(asked.thinking, ThinkingEnabled):
        budget, param = asked.thinking.budget_tokens, "thinking.budget_tokens"
        if budget < MIN_BUDGET_TOKENS:
            raise limits.invalid_value(param, f"must be at least {MIN_BUDGET_TOKENS}, not {budget}")
        if budget >= asked.max_tokens:
            raise limits.invalid_value(param, f"must be less than max_tokens, which is {asked.max_tokens}")
