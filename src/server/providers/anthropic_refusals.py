"""What the Messages API cannot say, or not to the model in question, by the client's own name of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from server.domain.catalog import Offer
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
    Turn,
)
from server.providers.anthropic_encode import SERVICE_TIERS, max_tokens
from server.providers.anthropic_models import Abilities, abilities
from server.providers.anthropic_schema import Inexpressible, constrained
from server.providers.anthropic_thinking import cannot_think, thinks_by_budget
from server.providers.anthropic_turns import call_input, file_source
from server.providers.openai_shapes import allowed_tools
from server.providers.provider_options import options_for

MAX_TEMPERATURE: Final = 1.0
MIN_THINKING_TOP_P: Final = 0.95

PARAMETERS: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "max_output_tokens",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "reasoning_summary",
        "reasoning_encrypted_content",
        "service_tier",
        "safety_identifier",
        "user",
    }
)
"""What the dialect has words for."""

UNPRICED_OPTIONS: Final = frozenset({"tools", "mcp_servers", "container", "fallbacks", "inference_geo"})
"""Fields that raise the bill by what no price is for: searches, containers, other models, a region's surcharge."""

_ROLES: Final[dict[Role, tuple[type[Part], ...]]] = {
    Role.SYSTEM: (Text,),
    Role.DEVELOPER: (Text,),
    Role.USER: (Text, Image, File),
    Role.ASSISTANT: (Text, Refusal, Reasoning, ToolCall),
    Role.TOOL: (ToolResult,),
}


def unsupported(offer: Offer, request: GenerationRequest) -> str | None:
    """The client's name of the first thing in `request` that cannot be said.

    Raises GatewayError where `provider_options` holds what no client may set.
    """
    return next(_problems(offer, request), None)


def _problems(offer: Offer, request: GenerationRequest) -> Iterator[str]:
    able = abilities(offer.provider_model)
    options = options_for(request, offer.provider.id)
    for name, spelling in request.parameters.items():
        if not _says(name, request, able, max_tokens(offer, request)):
            yield spelling
    yield from (f"provider_options.{offer.provider.id}.{name}" for name in options if name in UNPRICED_OPTIONS)
    if "speed" in options and not _is_priced_speed(offer, options["speed"]):
        yield f"provider_options.{offer.provider.id}.speed"
    yield from (tool.param for tool in request.tools if isinstance(tool, BuiltInTool))
    for number, turn in enumerate(request.turns):
        yield from _turn_problems(turn, f"messages[{number}]", request.endpoint)


def _says(name: str, request: GenerationRequest, able: Abilities, limit: int) -> bool:
    if name not in PARAMETERS:
        return _is_neutral(name, request)
    match name:
        case "temperature" | "top_p":
            return _samples(name, request, able)
        case "top_k":
            return able.sampling and not thinks_by_budget(request, able)
        case "response_format":
            return _formats(request, able)
        case "reasoning_effort":
            return not cannot_think(request, able, limit)
        case "tools":
            return not any(isinstance(tool, CustomTool) for tool in request.tools)
        case "tool_choice":
            return _chooses(request, able)
        case "service_tier":
            tier = msgspec.json.decode(request.passthrough.get("service_tier", b"null"))
            return tier is None or tier in SERVICE_TIERS
        case _:
            return True


def _is_neutral(name: str, request: GenerationRequest) -> bool:
    """Whether a parameter that the API lacks asks for nothing."""
    sampling = request.sampling
    match name:
        case "n":
            return sampling.n == 1
        case "logprobs":
            return not sampling.logprobs
        case "top_logprobs":
            return not sampling.top_logprobs
        case "frequency_penalty":
            return not sampling.frequency_penalty
        case "presence_penalty":
            return not sampling.presence_penalty
        case "modalities":
            return msgspec.json.decode(request.passthrough.get(name, b"null")) in (None, ["text"])
        case "store" | "background":
            return msgspec.json.decode(request.passthrough.get(name, b"null")) in (None, False)
        case _:
            return False


def _samples(name: str, request: GenerationRequest, able: Abilities) -> bool:
    temperature, top_p = request.sampling.temperature, request.sampling.top_p
    thinks = thinks_by_budget(request, able)
    if name == "temperature":
        given = temperature if temperature is not None else 1.0
        return given <= MAX_TEMPERATURE and ((able.sampling and not thinks) or given == 1.0)
    if thinks and top_p is not None and top_p < MIN_THINKING_TOP_P:
        return False
    return (able.sampling and (able.sampling_both or temperature is None)) or top_p == 1.0


def _formats(request: GenerationRequest, able: Abilities) -> bool:
    wanted = request.output_format
    if wanted is None or wanted.kind == "text":
        return True
    if wanted.kind != "json_schema" or wanted.schema is None or not able.schemas:
        return False
    try:
        constrained(wanted.schema, strict=bool(wanted.strict))
    except Inexpressible:
        return False
    return True


def _chooses(request: GenerationRequest, able: Abilities) -> bool:
    choice = request.tool_choice
    if choice is None:
        return True
    if choice.mode == "built_in" or choice.custom:
        return False
    mode, names = (choice.mode, None) if choice.mode != "allowed" else allowed_tools(choice)
    if mode not in ("required", "named"):
        return True
    known = {tool.name for tool in request.tools if isinstance(tool, FunctionTool)}
    wanted = {choice.name} if mode == "named" else known if names is None else names & known
    return bool(wanted & known) and able.forced_tools and not thinks_by_budget(request, able)


def _turn_problems(turn: Turn, where: str, endpoint: Endpoint) -> Iterator[str]:
    if endpoint is not Endpoint.CHAT:
        where = "messages" if endpoint is Endpoint.MESSAGES else "input"
    if turn.name is not None:
        yield f"{where}.name" if endpoint is Endpoint.CHAT else where
    for part in turn.parts:
        if isinstance(part, Opaque):
            yield part.param
        elif not isinstance(part, _ROLES[turn.role]) or not _carries(part):
            field = "tool_calls" if isinstance(part, ToolCall) else "content"
            yield f"{where}.{field}" if endpoint is Endpoint.CHAT else where


def _carries(part: Part) -> bool:
    match part:
        case Image():
            return part.file_id is None
        case File():
            return part.file_id is None and file_source(part) is not None
        case ToolCall():
            return call_input(part) is not None
        case ToolResult():
            return not part.custom and all(_carries(piece) for piece in part.content)
        case Audio() | Opaque():
            return False
        case _:
            return True


def _is_priced_speed(offer: Offer, raw: msgspec.Raw) -> bool:
    """A faster speed is dearer: it is taken as a service tier, which must have a price."""
    speed = msgspec.json.decode(raw)
    if speed in (None, "standard") or not offer.prices.rates:
        return True
    return isinstance(speed, str) and speed in offer.prices.service_tiers
