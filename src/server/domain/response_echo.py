"""The request as its response repeats it: JSON by the name of OpenAI's field, schemas byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.domain.request import (
    BuiltInTool,
    CustomTool,
    FunctionTool,
    GenerationRequest,
    OutputFormat,
    RawJson,
    Tool,
    ToolChoice,
)
from server.domain.response import ResponseRequest

_DEFAULTS: Final[dict[str, Any]] = {
    "background": False,
    "max_tool_calls": None,
    "prompt": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "truncation": "disabled",
    "user": None,
}
"""What only passes through the gateway, and what stands in the response where the client did not set it."""


def echo(request: ResponseRequest) -> dict[str, RawJson]:
    generation, sampling = request.generation, request.generation.sampling
    fields: dict[str, Any] = {
        "instructions": request.instructions,
        "max_output_tokens": sampling.max_output_tokens,
        "parallel_tool_calls": generation.parallel_tool_calls is not False,
        "reasoning": _reasoning(generation),
        "store": request.store,
        "temperature": sampling.temperature,
        "text": _text(generation),
        "tool_choice": _tool_choice(generation.tool_choice),
        "tools": [_tool(tool) for tool in generation.tools],
        "top_logprobs": sampling.top_logprobs,
        "top_p": sampling.top_p,
        **{name: generation.passthrough.get(name, default) for name, default in _DEFAULTS.items()},
    }
    return {name: RawJson(msgspec.json.encode(value)) for name, value in fields.items()}


def _reasoning(request: GenerationRequest) -> Mapping[str, Any]:
    wanted = request.reasoning
    if wanted is None:
        return {"effort": None, "summary": None}
    return {"effort": wanted.effort, "summary": wanted.summary}


def _text(request: GenerationRequest) -> Mapping[str, Any]:
    text: dict[str, Any] = {"format": _format(request.output_format)}
    if "verbosity" in request.passthrough:
        text["verbosity"] = request.passthrough["verbosity"]
    return text


def _format(wanted: OutputFormat | None) -> Mapping[str, Any]:
    if wanted is None or wanted.kind != "json_schema":
        return {"type": "text" if wanted is None else wanted.kind}
    return {
        "type": "json_schema",
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema,
        "strict": wanted.strict,
    }


def _tool_choice(choice: ToolChoice | None) -> Any:
    if choice is None:
        return "auto"
    if choice.raw is not None:
        return choice.raw
    if choice.mode == "named":
        return {"type": "custom" if choice.custom else "function", "name": choice.name}
    return choice.mode


def _tool(tool: Tool) -> Any:
    match tool:
        case FunctionTool():
            return {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": tool.strict,
            }
        case CustomTool():
            custom = {"type": "custom", "name": tool.name, "description": tool.description}
            return custom if tool.format is None else {**custom, "format": tool.format}
        case BuiltInTool():
            return tool.tool
