"""Tool choices for servers that do not know all of them, said by sending fewer tools.

llama.cpp takes a named choice for `auto`, shows the tools under `none`, and lets text of any length come before a
call that is required. It goes on from a last assistant message, though: one that starts a call leaves it no choice.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import msgspec

from server.domain.catalog import ProviderProfile, ToolChoiceWord
from server.domain.request import CustomTool, FunctionTool, GenerationRequest, Role, Text, ToolChoice, Turn
from server.providers.openai_shapes import allowed_tools


def in_one_word(request: GenerationRequest, start: str) -> GenerationRequest:
    """`request` with the same meaning and at most `auto` or `required` as its choice; `start` begins a required call.

    A required call leaves no text to be given a format.
    """
    request = in_its_words(request, frozenset())
    choice = request.tool_choice
    if choice is None or choice.mode != "required":
        return request
    turns = (*request.turns, Turn(Role.ASSISTANT, (Text(start),)))
    return msgspec.structs.replace(request, output_format=None, turns=turns)


def in_its_words(request: GenerationRequest, known: AbstractSet[ToolChoiceWord]) -> GenerationRequest:
    """`request` with the same meaning, its choice `auto`, `required` or one that is known; itself where it is already.

    A choice of none is no tools at all, and one among some is no others.
    """
    choice = request.tool_choice
    if not request.tools or choice is None or choice.mode in known:
        return request
    match choice.mode:
        case "none":
            return msgspec.structs.replace(request, tools=(), tool_choice=None, parallel_tool_calls=None)
        case "named":
            mode, names = "required", frozenset({choice.name})
        case "allowed":
            mode, names = allowed_tools(choice)
        case _:
            return request
    tools = tuple(tool for tool in request.tools if isinstance(tool, FunctionTool | CustomTool) and tool.name in names)
    word = ToolChoice("required" if mode == "required" else "auto")
    return msgspec.structs.replace(request, tools=tools, tool_choice=word)


def demands_call(request: GenerationRequest) -> bool:
    """Whether the model must call a tool."""
    choice = in_its_words(request, frozenset()).tool_choice
    return bool(request.tools) and choice is not None and choice.mode == "required"


def no_function(request: GenerationRequest, profile: ProviderProfile) -> str | None:
    """The client's name of its tools where one is custom, which such a server fails on; None where none is."""
    if profile.tool_call_start is None or not any(isinstance(tool, CustomTool) for tool in request.tools):
        return None
    return request.parameters.get("tools", "tools")
