"""What `generateContent` cannot say, in the client's own spelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from server.domain.request import (
    Audio,
    BuiltInTool,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from server.providers.gemini_contents import is_object
from server.providers.gemini_media import is_inline, says_file, says_image
from server.providers.gemini_models import takes_levels, thinking_config
from server.providers.openai_shapes import allowed_tools

_SAID: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "stop",
        "max_output_tokens",
        "n",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "reasoning_summary",
        "reasoning_encrypted_content",
    }
)
_ASKS_FOR_NOTHING: Final = {
    "background": (b"false", b"null"),
    "modalities": (b'["text"]', b"null"),
    "service_tier": (b'"auto"', b'"default"', b"null"),
    "store": (b"false", b"null"),
    "truncation": (b'"disabled"', b"null"),
}
"""Values of parameters that Gemini does not have which only ask for what it does anyway."""

_DETAILS: Final = {"low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH"}


def unsupported(request: GenerationRequest, model: str) -> str | None:
    """The client's name of the first thing in `request` that cannot be said to `model`; None where all can."""
    return next(_problems(request, model), None)


def media_resolution(request: GenerationRequest) -> str | None:
    """The one resolution that all images are to be read in; `auto` leaves it to the model."""
    return _DETAILS.get(next(iter(_details(request)), ""))


def _details(request: GenerationRequest) -> set[str]:
    images = (part for turn in request.turns for part in turn.parts if isinstance(part, Image))
    return {image.detail or "auto" for image in images}


def _problems(request: GenerationRequest, model: str) -> Iterator[str]:
    yield from _parameters(request, model)
    yield from _tools(request)
    yield from _turns(request, model)


def _parameters(request: GenerationRequest, model: str) -> Iterator[str]:
    for name, spelling in request.parameters.items():
        if name not in _SAID and _raw(request, name) not in _ASKS_FOR_NOTHING.get(name, ()):
            yield spelling
    spelled = request.parameters
    if request.parallel_tool_calls is False and request.tools:
        yield spelled.get("parallel_tool_calls", "parallel_tool_calls")
    if request.reasoning is not None and thinking_config(model, request.reasoning) is None:
        effort = request.reasoning.effort
        name = "reasoning_summary" if effort is None else "reasoning_effort"
        yield spelled.get(name, name)
    wanted = request.output_format
    if wanted is not None and wanted.description is not None:
        yield spelled.get("response_format", "response_format")


def _raw(request: GenerationRequest, name: str) -> bytes:
    return bytes(request.passthrough.get(name, b"")).replace(b" ", b"")


def _tools(request: GenerationRequest) -> Iterator[str]:
    for tool in request.tools:
        if isinstance(tool, BuiltInTool):
            yield tool.param
        elif isinstance(tool, CustomTool):
            yield request.parameters.get("tools", "tools")
    choice = request.tool_choice
    if choice is None:
        return
    functions = {tool.name for tool in request.tools if isinstance(tool, FunctionTool)}
    if (
        choice.mode == "built_in"
        or choice.custom
        or (choice.mode == "allowed" and allowed_tools(choice)[1] - functions)
    ):
        yield request.parameters.get("tool_choice", "tool_choice")


def _turns(request: GenerationRequest, model: str) -> Iterator[str]:
    called: set[str] = set()
    resolutions = _details(request)
    for number, turn in enumerate(request.turns):
        is_chat = request.endpoint is Endpoint.CHAT
        where = f"messages[{number}]" if is_chat else "messages" if request.endpoint is Endpoint.MESSAGES else "input"
        if turn.name is not None:
            yield f"{where}.name" if is_chat else where
        for part in turn.parts:
            if isinstance(part, ToolResult) and part.call_id not in called:
                yield f"{where}.tool_call_id" if is_chat else where
            elif isinstance(part, Opaque):
                yield part.param
            elif not _says(turn.role, part, model) or (isinstance(part, Image) and not resolutions <= _one(part)):
                yield f"{where}.content" if is_chat else where
            if isinstance(part, ToolCall):
                called.add(part.call_id)


def _one(image: Image) -> set[str]:
    """The details that may stand in a request with this image: one for all, of those that Gemini has."""
    detail = image.detail or "auto"
    return {detail} if detail in ("auto", *_DETAILS) else set()


def _says(role: Role, part: Part, model: str) -> bool:
    match part:
        case Text():
            return True
        case Image():
            return role is Role.USER and says_image(part)
        case Audio():
            return role is Role.USER
        case File():
            return role is Role.USER and says_file(part)
        case Refusal() | Reasoning():
            return role is Role.ASSISTANT
        case ToolCall():
            return (
                role is Role.ASSISTANT and not part.custom and (not part.arguments.strip() or is_object(part.arguments))
            )
        case ToolResult():
            return role is Role.TOOL and not part.custom and all(_returns(piece, model) for piece in part.content)
        case Opaque():
            return False


def _returns(piece: Text | Image | File, model: str) -> bool:
    """Whether a function may return it: from the third generation on media as well, inline."""
    if isinstance(piece, Text):
        return True
    says = says_image(piece) if isinstance(piece, Image) else says_file(piece)
    return takes_levels(model) and is_inline(piece) and says
