"""A generation request as the body of `POST /responses`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from server.domain.catalog import Offer, Provider, ProviderProfile
from server.domain.request import (
    BuiltInTool,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    Opaque,
    OutputFormat,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from server.domain.seals import own_seals
from server.providers.media import image_data_url, relabelled
from server.providers.openai_chat_encode import file_data, response_format
from server.providers.openai_shapes import flat_grammar, responses_tool_choice
from server.providers.provider_options import options_for
from server.providers.soft import effort_for, hints_for, told_failure

LOGPROBS_INCLUDE: Final = "message.output_text.logprobs"
ENCRYPTED_INCLUDE: Final = "reasoning.encrypted_content"

_KEPT_UPSTREAM: Final = frozenset({"background", "conversation"})
"""With these the provider itself must keep the response."""

_strings: Final = msgspec.json.Decoder(list[str] | None)


def encode_responses(offer: Offer, request: GenerationRequest) -> bytes:
    """The JSON body. What `openai_apis.unsupported` names must not be in `request`. Raises GatewayError."""
    passthrough = dict(request.passthrough)
    verbosity = passthrough.pop("verbosity", None)
    include = _include(request, passthrough.pop("include", None))
    sampling, choice = request.sampling, request.tool_choice
    body: dict[str, Any] = {
        "model": offer.provider_model,
        "input": list(_input(request.turns, offer.provider)),
        **_set(
            {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_output_tokens": sampling.max_output_tokens,
                "top_logprobs": sampling.top_logprobs,
                "tools": [_tool(tool, request) for tool in request.tools] if request.tools else None,
                "tool_choice": None if choice is None else responses_tool_choice(choice),
                "parallel_tool_calls": request.parallel_tool_calls,
                **_text_options(request.output_format, verbosity, offer.provider.profile),
                "reasoning": _reasoning_options(offer, request),
                "include": include,
            }
        ),
        **_storage(passthrough),
        **passthrough,
        **hints_for(offer, request),
    }
    if request.stream:
        body["stream"] = True
    body.update(options_for(request, offer.provider.id))
    return msgspec.json.encode(body)


def _storage(passthrough: Mapping[str, Any]) -> Mapping[str, Any]:
    """The gateway keeps responses itself; nothing stays with the provider that the client did not ask it to keep."""
    return {} if _KEPT_UPSTREAM & passthrough.keys() else {"store": False}


def _include(request: GenerationRequest, raw: msgspec.Raw | None) -> list[str] | None:
    wanted = list((_strings.decode(raw) if raw is not None else None) or ())
    if request.sampling.logprobs:
        wanted.append(LOGPROBS_INCLUDE)
    if "reasoning_encrypted_content" in request.parameters:
        wanted.append(ENCRYPTED_INCLUDE)
    return list(dict.fromkeys(wanted)) if wanted or raw is not None else None


def _reasoning_options(offer: Offer, request: GenerationRequest) -> Mapping[str, Any] | None:
    wanted = request.reasoning
    if wanted is None:
        return None
    return _set({"effort": effort_for(offer, request), "summary": wanted.summary}) or None


def _text_options(
    wanted: OutputFormat | None, verbosity: msgspec.Raw | None, profile: ProviderProfile
) -> Mapping[str, Any]:
    if profile.agent_api:
        return {} if wanted is None else {"response_format": response_format(wanted)}
    fields = _set({"format": None if wanted is None else _format(wanted), "verbosity": verbosity})
    return {"text": fields} if fields else {}


def _format(wanted: OutputFormat) -> Mapping[str, Any]:
    if wanted.kind != "json_schema":
        return {"type": wanted.kind}
    return _set(
        {
            "type": "json_schema",
            "name": wanted.name,
            "description": wanted.description,
            "schema": wanted.schema,
            "strict": wanted.strict,
        }
    )


def _tool(tool: Tool, request: GenerationRequest) -> Any:
    match tool:
        case FunctionTool():
            # Unset means strict here, and not strict on every other surface.
            unset = None if request.endpoint is Endpoint.RESPONSES else False
            return _set(
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": unset if tool.strict is None else tool.strict,
                }
            )
        case CustomTool():
            grammar = None if tool.format is None else flat_grammar(tool.format)
            return _set({"type": "custom", "name": tool.name, "description": tool.description, "format": grammar})
        case BuiltInTool():
            return tool.tool


def _input(turns: Iterable[Turn], provider: Provider) -> Iterator[Any]:
    plain = provider.profile.agent_api
    for turn in turns:
        role = turn.role.value
        if turn.role in (Role.SYSTEM, Role.DEVELOPER):
            role = provider.profile.system_role or role
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            items = () if plain and isinstance(part, Reasoning) else _items(part, provider.id)
            if items is None:
                content.append(_content_part(part, assistant=turn.role is Role.ASSISTANT))
                continue
            if items and content:
                yield _message(role, content, turn.phase, plain=plain)
                content = []
            yield from items
        if content or not turn.parts:
            yield _message(role, content, turn.phase, plain=plain)


def _message(role: str, content: list[dict[str, Any]], phase: str | None, *, plain: bool) -> dict[str, Any]:
    """`plain`: an assistant's content is one text, and there are no phases."""
    if plain and role == Role.ASSISTANT:
        said = "".join(part.get("text", part.get("refusal", "")) for part in content)
        return {"type": "message", "role": role, "content": said}
    message = {"type": "message", "role": role, "content": content}
    return message if plain or phase is None else {**message, "phase": phase}


def _items(part: Part, provider_id: str) -> Sequence[Any] | None:
    """The input items that a part is by itself, or None where it belongs into a message."""
    if isinstance(part, Reasoning):
        return list(_reasoning_items(part, provider_id))
    item = _item(part)
    return None if item is None else (item,)


def _item(part: Part) -> Any:
    """The input item that a part other than reasoning is by itself, or None where it belongs into a message.

    Items go without their ids: the gateway's own mean nothing to the provider, and the provider's are only good with
    the account that stored them.
    """
    match part:
        case ToolCall(custom=True):
            return {
                "type": "custom_tool_call",
                "call_id": part.call_id,
                "name": part.name,
                "input": part.arguments,
            }
        case ToolCall():
            return {
                "type": "function_call",
                "call_id": part.call_id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case ToolResult():
            kind = "custom_tool_call_output" if part.custom else "function_call_output"
            return {"type": kind, "call_id": part.call_id, "output": _tool_output(told_failure(part))}
        case Opaque():
            return part.item
        case _:
            return None


def _reasoning_items(part: Reasoning, provider_id: str) -> Iterator[dict[str, Any]]:
    """A thought as its summary, for OpenAI refuses any `content` of one that comes back; and an item for each seal.

    A seal that is not this account's cannot be opened there, and is left out.
    """
    texts = (*part.summary, part.text) if part.text else part.summary
    summary = [{"type": "summary_text", "text": text} for text in texts]
    for seal in own_seals("responses", provider_id, part.encrypted or part.signature):
        yield {"type": "reasoning", "summary": summary, "encrypted_content": seal}
        summary = []
    if summary:
        yield {"type": "reasoning", "summary": summary}


def _tool_output(result: ToolResult) -> str | list[dict[str, Any]]:
    first = result.content[0] if len(result.content) == 1 else None
    if isinstance(first, Text):
        return first.text
    return [_content_part(piece, assistant=False) for piece in result.content]


def _content_part(part: Part, *, assistant: bool) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "output_text" if assistant else "input_text", "text": part.text}
        case Refusal():
            return {"type": "refusal", "refusal": part.text}
        case Image():
            return _set(
                {
                    "type": "input_image",
                    "image_url": _image_url(part),
                    "file_id": part.file_id,
                    "detail": part.detail or "auto",
                }
            )
        case File():
            return _set(
                {
                    "type": "input_file",
                    "file_url": part.url,
                    "file_data": file_data(part),
                    "file_id": part.file_id,
                    "filename": part.filename,
                }
            )
        case _:
            raise ValueError(f"responses messages cannot carry {type(part).__name__}")


def _image_url(part: Image) -> str | None:
    if part.url is not None:
        return relabelled(part.url)
    return None if part.data is None else image_data_url(part.data, part.media_type)


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    """Only what is there: None is never sent."""
    return {name: value for name, value in fields.items() if value is not None}
