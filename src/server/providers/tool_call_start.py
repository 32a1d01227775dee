"""Tool choices for a server whose choice is a word, and which writes what it likes before a required call.

llama.cpp takes a named choice for `auto`, shows the tools under `none`, and lets text of any length come before a
call that is required. It goes on from a last assistant message, though: one that starts a call leaves it no choice.
"""

from __future__ import annotations

import msgspec

from server.domain.catalog import ProviderProfile
from server.domain.request import CustomTool, FunctionTool, GenerationRequest, Role, Text, ToolChoice, Turn
from server.providers.openai_shapes import allowed_tools


def in_one_word(request: GenerationRequest, start: str) -> GenerationRequest:
    """`request` with the same meaning and at most `auto` or `required` as its choice; `start` begins a required call.

    A required call leaves no text to be given a format.
    """
    choice = request.tool_choice
    if not request.tools or choice is None:
        return request
    mode, names = (choice.mode, None) if choice.mode != "allowed" else allowed_tools(choice)
    if mode == "named":
        mode, names = "required", frozenset({choice.name})
    if mode == "none":
        return msgspec.structs.replace(request, tools=(), tool_choice=None, parallel_tool_calls=None)
    tools = tuple(
        tool
        for tool in request.tools
        if names is None or (isinstance(tool, FunctionTool | CustomTool) and tool.name in names)
    )
    if mode != "required":
        return msgspec.structs.replace(request, tools=tools, tool_choice=ToolChoice("auto"))
    return msgspec.structs.replace(
        request,
        tools=tools,
        tool_choice=ToolChoice("required"),
        output_format=None,
        turns=(*request.turns, Turn(Role.ASSISTANT, (Text(start),))),
    )


def no_function(request: GenerationRequest, profile: ProviderProfile) -> str | None:
    """The client's name of its tools where one is custom, which such a server fails on; None where none is."""
    if profile.tool_call_start is None or not any(isinstance(tool, CustomTool) for tool in request.tools):
        return None
    return request.parameters.get("tools", "tools")
