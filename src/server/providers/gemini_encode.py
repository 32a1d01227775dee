"""A generation request as the body of `generateContent`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from server.domain.catalog import Offer
from server.domain.request import FunctionTool, GenerationRequest, OutputFormat
from server.providers.gemini_contents import contents, instruction
from server.providers.gemini_models import thinking_config
from server.providers.gemini_options import gemini_options, merge
from server.providers.gemini_supports import media_resolution
from server.providers.openai_shapes import allowed_tools

_JSON: Final = "application/json"


def encode(offer: Offer, request: GenerationRequest) -> bytes:
    """The JSON body. What `gemini_supports.unsupported` names must not be in `request`. Raises GatewayError."""
    body: dict[str, Any] = {"contents": contents(request.turns, offer.provider_model)}
    if system := instruction(request.turns):
        if body["contents"]:
            body["systemInstruction"] = {"parts": system}
        else:  # nothing but instructions: there must be somebody who says something
            body["contents"] = [{"role": "user", "parts": system}]
    if config := _config(request, offer.provider_model):
        body["generationConfig"] = config
    declarations = [_declaration(tool) for tool in request.tools if isinstance(tool, FunctionTool)]
    if declarations:
        body["tools"] = [{"functionDeclarations": declarations}]
        if calling := _calling(request):
            body["toolConfig"] = {"functionCallingConfig": calling}
    merge(body, gemini_options(request, offer.provider.id))
    return msgspec.json.encode(body)


def _config(request: GenerationRequest, model: str) -> dict[str, Any]:
    sampling = request.sampling
    return _set(
        {
            "temperature": sampling.temperature,
            "topP": sampling.top_p,
            "topK": request.passthrough.get("top_k"),
            "frequencyPenalty": sampling.frequency_penalty,
            "presencePenalty": sampling.presence_penalty,
            "seed": sampling.seed,
            "stopSequences": sampling.stop,
            "maxOutputTokens": sampling.max_output_tokens,
            "candidateCount": sampling.n,
            "responseLogprobs": sampling.logprobs or None,
            "logprobs": sampling.top_logprobs or None,
            **_output(request.output_format),
            "thinkingConfig": (thinking_config(model, request.reasoning) if request.reasoning else None) or None,
            "mediaResolution": media_resolution(request),
        }
    )


def _output(wanted: OutputFormat | None) -> dict[str, Any]:
    """The client's schema goes as it is: `responseSchema` would take only a part of JSON Schema."""
    if wanted is None or wanted.kind == "text":
        return {}
    return {"responseMimeType": _JSON, "responseJsonSchema": wanted.schema}


def _declaration(tool: FunctionTool) -> dict[str, Any]:
    return _set({"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters})


def _calling(request: GenerationRequest) -> dict[str, Any] | None:
    """Which functions may be called. `VALIDATED` is `AUTO` whose calls must fit their schema, and may be named."""
    is_strict = any(isinstance(tool, FunctionTool) and tool.strict for tool in request.tools)
    auto = "VALIDATED" if is_strict else "AUTO"
    choice = request.tool_choice
    if choice is None:
        return {"mode": auto} if is_strict else None
    match choice.mode:
        case "none":
            return {"mode": "NONE"}
        case "required":
            return {"mode": "ANY"}
        case "named":
            return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
        case "allowed":
            mode, names = allowed_tools(choice)
            return {"mode": "ANY" if mode == "required" else "VALIDATED", "allowedFunctionNames": sorted(names)}
        case _:
            return {"mode": auto}


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    """Only what is there: None is never sent."""
    return {name: value for name, value in fields.items() if value is not None}
