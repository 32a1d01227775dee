"""A generation request as the body of `POST /chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from server.domain.catalog import Offer, ProviderProfile
from server.domain.request import (
    Audio,
    CustomTool,
    Endpoint,
    File,
    FunctionTool,
    GenerationRequest,
    Image,
    OutputFormat,
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
from server.providers.openai_shapes import chat_tool_choice, nested_grammar
from server.providers.provider_options import options_for
from server.providers.soft import effort_for, hints_for, told_failure
from server.providers.tool_call_start import demands_call, in_its_words, in_one_word


def encode_chat(offer: Offer, request: GenerationRequest) -> bytes:
    """The JSON body. What `openai_apis.unsupported` names must not be in `request`. Raises GatewayError."""
    profile = offer.provider.profile
    if profile.tool_call_start is not None:
        request = in_one_word(request, profile.tool_call_start)
    request = in_its_words(request, profile.tool_choices)
    body: dict[str, Any] = {
        "model": offer.provider_model,
        "messages": list(_messages(request, offer)),
        **_sampling(request, profile),
        **_tools(request, profile),
        **_output(offer, request),
        **request.passthrough,
        **hints_for(offer, request),
    }
    if request.stream:
        body["stream"] = True
        if profile.stream_usage:
            body["stream_options"] = {"include_usage": True}
    body.update(options_for(request, offer.provider.id))
    return msgspec.json.encode(body)


def _sampling(request: GenerationRequest, profile: ProviderProfile) -> Mapping[str, Any]:
    sampling = request.sampling
    return _set(
        {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            profile.seed_field: sampling.seed,
            "stop": sampling.stop,
            profile.max_tokens_field: sampling.max_output_tokens,
            "n": sampling.n,
            "logprobs": sampling.logprobs,
            "top_logprobs": sampling.top_logprobs,
            "logit_bias": sampling.logit_bias,
        }
    )


def _tools(request: GenerationRequest, profile: ProviderProfile) -> Mapping[str, Any]:
    choice = request.tool_choice
    return _set(
        {
            "tools": [_tool(tool, profile) for tool in request.tools] if request.tools else None,
            "tool_choice": None if choice is None else chat_tool_choice(choice),
            "parallel_tool_calls": request.parallel_tool_calls,
        }
    )


def _output(offer: Offer, request: GenerationRequest) -> Mapping[str, Any]:
    wanted, effort = request.output_format, effort_for(offer, request)
    switched_off = offer.provider.profile.thinking_switch and (effort == "none" or demands_call(request))
    return _set(
        {
            "response_format": None if wanted is None else response_format(wanted),
            "reasoning_effort": None if switched_off else effort,
            "thinking": {"type": "disabled"} if switched_off else None,
        }
    )


def response_format(wanted: OutputFormat) -> Any:
    """A format as chat asks for it."""
    if wanted.kind != "json_schema":
        return {"type": wanted.kind}
    schema = _set(
        {
            "name": wanted.name,
            "description": wanted.description,
            "schema": wanted.schema,
            "strict": wanted.strict,
        }
    )
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: Tool, profile: ProviderProfile) -> Any:
    match tool:
        case FunctionTool():
            function = _set(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": tool.strict if profile.strict_tools else None,
                }
            )
            return {"type": "function", "function": function}
        case CustomTool():
            grammar = None if tool.format is None else nested_grammar(tool.format)
            custom = _set({"name": tool.name, "description": tool.description, "format": grammar})
            return {"type": "custom", "custom": custom}
        case _:
            raise ValueError(f"chat upstreams have no built-in tools: {tool.type}")


def _turns(request: GenerationRequest) -> Iterator[Turn]:
    """The turns as messages; those of surfaces that split an assistant's turn into items are joined again."""
    if request.endpoint is Endpoint.CHAT:
        yield from request.turns
        return
    pending: Turn | None = None
    for turn in request.turns:
        if pending is not None and _continues(pending, turn):
            pending = Turn(Role.ASSISTANT, pending.parts + turn.parts, pending.name)
            continue
        if pending is not None:
            yield pending
        pending = turn
    if pending is not None:
        yield pending


def _continues(before: Turn, turn: Turn) -> bool:
    """Whether two assistant turns are one message: tool calls must stand right before their results."""
    if before.role is not Role.ASSISTANT or turn.role is not Role.ASSISTANT:
        return False
    return _has(before, ToolCall) or not (_has(before, Text) and _has(turn, Text))


def _has(turn: Turn, kind: type) -> bool:
    return any(isinstance(part, kind) for part in turn.parts)


def _messages(request: GenerationRequest, offer: Offer) -> Iterator[dict[str, Any]]:
    for turn in _turns(request):
        message = _message(turn, offer)
        says_nothing = turn.role is Role.ASSISTANT and not message["content"] and "tool_calls" not in message
        if offer.provider.profile.empty_turns or not says_nothing:
            yield message


def _message(turn: Turn, offer: Offer) -> dict[str, Any]:
    match turn.role:
        case Role.ASSISTANT:
            return _assistant(turn, offer)
        case Role.TOOL:
            result = turn.parts[0]
            if not isinstance(result, ToolResult):
                raise ValueError("a tool turn holds a tool result")
            call_id = _call_id(result.call_id, offer.provider.profile)
            content = _content(told_failure(result).content, offer.provider.profile)
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        case Role.USER:
            role = "user"
        case _:
            role = offer.provider.profile.system_role or turn.role.value
    message: dict[str, Any] = {"role": role, "content": _content(turn.parts, offer.provider.profile)}
    if turn.name is not None:
        message["name"] = turn.name
    return message


def _assistant(turn: Turn, offer: Offer) -> dict[str, Any]:
    profile = offer.provider.profile
    texts = [part for part in turn.parts if isinstance(part, Text)]
    refusals = [part.text for part in turn.parts if isinstance(part, Refusal)]
    if profile.refusals == "text":
        texts, refusals = [*texts, *map(Text, refusals)], []
    thoughts = [part for part in turn.parts if isinstance(part, Reasoning)]
    calls = [_call(part, profile) for part in turn.parts if isinstance(part, ToolCall)]
    empty = None if calls or refusals else ""
    message: dict[str, Any] = {"role": "assistant", "content": _content(texts, profile) if texts else empty}
    if turn.name is not None:
        message["name"] = turn.name
    if refusals:
        message["refusal"] = "".join(refusals)
    _think(message, thoughts, offer)
    if calls:
        message["tool_calls"] = calls
    return message


def _think(message: dict[str, Any], thoughts: Sequence[Reasoning], offer: Offer) -> None:
    """Earlier reasoning, where the provider takes it back."""
    profile = offer.provider.profile
    match profile.reasoning_field:
        case "none":
            pass
        case "blocks":
            if "reasoning_effort" in (offer.params or ()):
                _think_in_blocks(message, thoughts, offer.provider.id)
        case name:
            if thoughts or profile.needs_reasoning:
                message[name] = "\n\n".join(filter(None, map(_thought, thoughts)))


def _think_in_blocks(message: dict[str, Any], thoughts: Sequence[Reasoning], provider_id: str) -> None:
    blocks: list[dict[str, Any]] = []
    for part in thoughts:
        if text := _thought(part):
            signature = next(iter(own_seals("chat", provider_id, part.encrypted or part.signature)), None)
            thinking = [{"type": "text", "text": text}]
            blocks.append(_set({"type": "thinking", "thinking": thinking, "signature": signature}))
    if blocks:
        content = message["content"]
        texts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
        message["content"] = [*blocks, *texts]


def _thought(part: Reasoning) -> str:
    return part.text or "\n\n".join(part.summary)


def _call(call: ToolCall, profile: ProviderProfile) -> dict[str, Any]:
    call_id = _call_id(call.call_id, profile)
    if call.custom:
        return {"id": call_id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id, "type": "function", "function": function}


def _call_id(call_id: str, profile: ProviderProfile) -> str:
    """The id as the provider takes it: the same one for a call and its result, whoever made it up."""
    length = profile.tool_call_id_length
    if length is None or (len(call_id) == length and call_id.isascii() and call_id.isalnum()):
        return call_id
    return sha256(call_id.encode()).hexdigest()[:length]


def _content(parts: Any, profile: ProviderProfile) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_part(part, profile) for part in parts]


def _part(part: object, profile: ProviderProfile) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            url = relabelled(part.url) if part.url is not None else _image_url(part)
            return {"type": "image_url", "image_url": _set({"url": url, "detail": part.detail})}
        case Audio():
            sound = part.data if profile.audio == "bare" else {"data": part.data, "format": part.format}
            return {"type": "input_audio", "input_audio": sound}
        case File():
            fields = {"file_data": file_data(part), "file_id": part.file_id, "filename": part.filename}
            return {"type": "file", "file": _set(fields)}
        case _:
            raise ValueError(f"chat messages cannot carry {type(part).__name__}")


def _image_url(part: Image) -> str:
    return image_data_url(part.data or "", part.media_type)


def file_data(part: File) -> str | None:
    """A file's content as both APIs take it: a data URL, or bare base64 where the client named no type."""
    if part.data is None or part.media_type is None:
        return part.data
    return f"data:{part.media_type};base64,{part.data}"


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    """Only what is there: None is never sent."""
    return {name: value for name, value in fields.items() if value is not None}
