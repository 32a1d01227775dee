"""The two APIs of the OpenAI dialect: which one carries a request, and what that one cannot say.

Each function here names what is wrong in the client's own spelling, or answers None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from server.domain.catalog import ProviderProfile
from server.domain.parameters import PARAMETERS
from server.domain.request import (
    Audio,
    BuiltInTool,
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
    Turn,
)
from server.providers.tool_call_start import demands_call

Api = Literal["chat", "responses"]

_BLOCKS: Final[dict[type, str]] = {
    Image: "image",
    File: "document",
    Reasoning: "thinking",
    ToolCall: "tool_use",
    ToolResult: "tool_result",
}
"""What a part is called on the Messages surface, whose blocks are not numbered as turns and parts are."""

_USUAL: Final = ProviderProfile()

PATHS: Final[dict[Api, str]] = {"chat": "/chat/completions", "responses": "/responses"}

# The answer to these comes in fields that no event can carry.
_UNANSWERABLE: Final = frozenset({"audio", "functions", "function_call"})

CHAT_PARAMETERS: Final = frozenset(p.name for p in PARAMETERS.values() if p.chat) - _UNANSWERABLE
# `metadata` and `store` are the gateway's own on its Responses surface, but the upstream's API has them.
RESPONSES_PARAMETERS: Final = frozenset(p.name for p in PARAMETERS.values() if p.responses) | {"metadata", "store"}

_KNOWN: Final[dict[Api, frozenset[str]]] = {"chat": CHAT_PARAMETERS, "responses": RESPONSES_PARAMETERS}


def api_for(endpoint: Endpoint, profile: ProviderProfile) -> Api:
    """The API of the client's own surface where the provider speaks it, else the one that it does speak."""
    wanted: Api = "responses" if endpoint is Endpoint.RESPONSES else "chat"
    if wanted in profile.apis or not profile.apis:
        return wanted
    return "chat" if wanted == "responses" else "responses"


def unsupported(request: GenerationRequest, api: Api, profile: ProviderProfile = _USUAL) -> str | None:
    """The client's name of the first thing in `request` that `api` cannot say, or not to that provider."""
    return next(_problems(request, api, profile), None)


def _problems(request: GenerationRequest, api: Api, profile: ProviderProfile) -> Iterator[str]:
    wanted = request.output_format
    if wanted is not None and wanted.kind != "text":
        beside_tools = bool(request.tools) and not profile.format_with_tools
        if beside_tools or wanted.kind not in profile.output_formats:
            yield request.parameters.get("response_format", "response_format")
    if not profile.strict_tools and any(isinstance(tool, FunctionTool) and tool.strict for tool in request.tools):
        yield request.parameters.get("tools", "tools")
    if profile.thinking_switch and demands_call(request) and _thinks(request):
        yield request.parameters.get("tool_choice", "tool_choice")
    for name, spelling in request.parameters.items():
        if name not in _KNOWN[api] or _is_unanswerable(name, request):
            yield spelling
    if api == "chat" or request.endpoint is Endpoint.MESSAGES:  # there a built-in tool is one of Anthropic's
        yield from (tool.param for tool in request.tools if isinstance(tool, BuiltInTool))
        if request.tool_choice is not None and request.tool_choice.mode == "built_in":
            yield request.parameters.get("tool_choice", "tool_choice")
    for number, turn in enumerate(request.turns):
        where = f"messages[{number}]" if request.endpoint is Endpoint.CHAT else "input"
        if turn.name is not None and not (api == "chat" and profile.speaker_names):
            yield f"{where}.name" if request.endpoint is Endpoint.CHAT else where
        for part in turn.parts:
            if not _says(api, turn, part):
                yield _place(part, where, request.endpoint)


def _thinks(request: GenerationRequest) -> bool:
    """Whether the client asks for thinking, in so many words."""
    wanted = request.reasoning
    return wanted is not None and wanted.thinking != "disabled" and wanted.effort not in (None, "none")


def _place(part: Part, where: str, endpoint: Endpoint) -> str:
    if isinstance(part, Opaque):
        return part.param
    if endpoint is Endpoint.MESSAGES:
        return f"messages[].content[].{_BLOCKS.get(type(part), 'text')}"
    return where if endpoint is not Endpoint.CHAT else f"{where}.content"


def _is_unanswerable(name: str, request: GenerationRequest) -> bool:
    """Whether the answer could not be relayed: other outputs than text, or an answer that comes later."""
    raw = bytes(request.passthrough.get(name, b"")).strip()
    match name:
        case "background":
            return raw not in (b"", b"false", b"null")
        case "modalities":
            return raw.replace(b" ", b"") not in (b"", b'["text"]', b"null")
        case _:
            return False


def _says(api: Api, turn: Turn, part: Part) -> bool:
    return _chat_says(turn, part) if api == "chat" else _responses_says(turn, part)


def _chat_says(turn: Turn, part: Part) -> bool:
    match part:
        case Text():
            return True
        case Image():
            return turn.role is Role.USER and part.file_id is None
        case Audio():
            return turn.role is Role.USER
        case File():
            return turn.role is Role.USER and part.url is None
        case Refusal() | Reasoning() | ToolCall():
            return turn.role is Role.ASSISTANT
        case ToolResult():
            return turn.role is Role.TOOL and all(isinstance(piece, Text) for piece in part.content)
        case Opaque():
            return False


def _responses_says(turn: Turn, part: Part) -> bool:
    match part:
        case Text() | Opaque():
            return True
        case Image() | File():
            return turn.role is not Role.ASSISTANT
        case Audio():
            return False
        case Refusal() | Reasoning() | ToolCall():
            return turn.role is Role.ASSISTANT
        case ToolResult():
            return turn.role is Role.TOOL
