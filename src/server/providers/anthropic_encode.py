"""A generation request as the body of `POST /messages`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.domain.catalog import Offer
from server.domain.request import FunctionTool, GenerationRequest
from server.providers.anthropic_models import DEFAULT_MAX_TOKENS, Abilities, abilities
from server.providers.anthropic_schema import constrained
from server.providers.anthropic_thinking import thinking_fields
from server.providers.anthropic_turns import cache_control, encode_turns
from server.providers.openai_shapes import allowed_tools
from server.providers.provider_options import options_for

MAX_WHOLE_TOKENS: Final = 21_333
"""With a greater output limit an answer may take over ten minutes, and the API wants it asked for as a stream."""

SERVICE_TIERS: Final = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
"""The client's word to the API's; any other cannot be said."""

_EMPTY_SCHEMA: Final = {"type": "object", "properties": {}}
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_limit: Final = msgspec.json.Decoder(int)


def encode_messages(offer: Offer, request: GenerationRequest) -> tuple[bytes, bool]:
    """The JSON body, and whether it asks for a stream. What `unsupported` names must not be in `request`.

    Raises GatewayError.
    """
    able = abilities(offer.provider_model)
    options = options_for(request, offer.provider.id)
    system, messages = encode_turns(request, able)
    limit = max_tokens(offer, request)
    thinking = dict(thinking_fields(request, able, limit))
    output_config = {**thinking.pop("output_config", {}), **_format(request)}
    body: dict[str, Any] = {
        "model": offer.provider_model,
        "max_tokens": limit,
        **({"system": system} if system else {}),
        "messages": messages,
        **_tools(request),
        **thinking,
        **({"output_config": output_config} if output_config else {}),
        **_sampling(request, able),
        **_set(
            {
                "stop_sequences": request.sampling.stop or None,
                "service_tier": _service_tier(request),
                "metadata": _metadata(request),
                "cache_control": None if request.cache is None else cache_control(request.cache),
            }
        ),
    }
    body.update(options)
    streamed = request.stream or _asked_limit(options, limit) > MAX_WHOLE_TOKENS
    if streamed:
        body["stream"] = True
    return msgspec.json.encode(body), streamed


def max_tokens(offer: Offer, request: GenerationRequest) -> int:
    """The output limit: the API has no default of its own."""
    asked = request.sampling.max_output_tokens
    return asked if asked is not None else offer.max_output_tokens or DEFAULT_MAX_TOKENS


def _sampling(request: GenerationRequest, able: Abilities) -> Mapping[str, Any]:
    """Defaults go unsaid to a model that takes only one of the two, or none."""
    sampling = request.sampling
    top_k = request.passthrough.get("top_k")
    chosen = _set({"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": top_k})
    if able.sampling and able.sampling_both:
        return chosen
    return {name: value for name, value in chosen.items() if value != 1.0}


def _asked_limit(options: Mapping[str, msgspec.Raw], limit: int) -> int:
    try:
        return _limit.decode(options["max_tokens"]) if "max_tokens" in options else limit
    except msgspec.DecodeError:
        return limit


def _format(request: GenerationRequest) -> Mapping[str, Any]:
    wanted = request.output_format
    if wanted is None or wanted.kind != "json_schema" or wanted.schema is None:
        return {}
    return {"format": {"type": "json_schema", "schema": constrained(wanted.schema, strict=bool(wanted.strict))}}


def _tools(request: GenerationRequest) -> Mapping[str, Any]:
    choice = request.tool_choice
    word: str = "auto" if choice is None else choice.mode
    names: frozenset[str] | None = None
    if choice is not None and choice.mode == "allowed":
        word, names = allowed_tools(choice)
    tools = [
        _tool(tool)
        for tool in request.tools
        if isinstance(tool, FunctionTool) and (names is None or tool.name in names)
    ]
    if not tools:
        return {}
    wanted: dict[str, Any] = {"type": {"required": "any", "named": "tool"}.get(word, word)}
    if choice is not None and word == "named":
        wanted["name"] = choice.name
    one_by_one = request.parallel_tool_calls is False and word != "none"
    if one_by_one:
        wanted["disable_parallel_tool_use"] = True
    return {"tools": tools, **({"tool_choice": wanted} if choice is not None or one_by_one else {})}


def _tool(tool: FunctionTool) -> Mapping[str, Any]:
    return _set(
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": _input_schema(tool.parameters),
            "strict": tool.strict or None,
            "cache_control": None if tool.cache is None else cache_control(tool.cache),
        }
    )


def _input_schema(parameters: msgspec.Raw | None) -> Any:
    """The schema as it is; where it does not say that it is of an object, it must."""
    if parameters is None:
        return _EMPTY_SCHEMA
    fields = _object.decode(parameters)
    if "type" in fields:
        return parameters
    return {"type": "object", **fields} if fields else _EMPTY_SCHEMA


def _service_tier(request: GenerationRequest) -> str | None:
    raw = request.passthrough.get("service_tier", request.hints.get("service_tier"))
    return None if raw is None else SERVICE_TIERS.get(msgspec.json.decode(raw))


def _metadata(request: GenerationRequest) -> Mapping[str, Any] | None:
    """The end user, whom the gateway has given a pseudonym."""
    given = {**request.hints, **request.passthrough}
    user = given.get("safety_identifier", given.get("user"))
    return None if user is None else {"user_id": user}


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    """Only what is there: None is never sent."""
    return {name: value for name, value in fields.items() if value is not None}
