"""A generation as Anthropic's Messages tell it whole: one object. The words here serve its stream as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from rest_bridge.messages_decode import MessagesOrder
from rest_bridge.pricing_json import PricingJson, usage_pricing
from server.domain.errors import GatewayError, Reason
from server.domain.events import ChoiceEnded, FinishReason, OpaqueItem, PartKind
from server.domain.fold import WholeGeneration, WholePart
from server.domain.identity import Arrival
from server.domain.request import RawJson
from server.domain.seals import unwrapped
from server.domain.usage import Meta, Usage

THINKING: Final = frozenset({PartKind.REASONING, PartKind.REASONING_SUMMARY})

_STOP_REASONS: Final[Mapping[FinishReason, str]] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}
_OWN_WORDS: Final = frozenset({"pause_turn", "model_context_window_exceeded", "stop_sequence", "refusal"})
"""Anthropic's stop reasons that say more than ours; a provider that uses them is taken at its word."""
_TIERS: Final = {"default": "standard", "auto": "standard"}

_json: Final = msgspec.json.Encoder().encode
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _OutputDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class MessagesUsage(msgspec.Struct, frozen=True, kw_only=True):
    """`input_tokens` are those that came neither from a cache nor went into one, as Anthropic counts."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: _OutputDetails
    cache_creation: None = None
    server_tool_use: None = None
    service_tier: str | None
    pricing: PricingJson


class MessageJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: tuple[Mapping[str, Any], ...]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage
    meta: Meta | msgspec.UnsetType


def message_id(arrival: Arrival) -> str:
    return f"msg_{arrival.suffix}"


def messages_usage(usage: Usage, service_tier: str | None = None) -> MessagesUsage:
    """Usage in this surface's words, and what it cost."""
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    return MessagesUsage(
        input_tokens=max(0, usage.input_tokens - cached - written),
        cache_creation_input_tokens=written,
        cache_read_input_tokens=cached,
        output_tokens=usage.output_tokens,
        output_tokens_details=_OutputDetails(usage.reasoning_tokens),
        service_tier=None if service_tier is None else _TIERS.get(service_tier, service_tier),
        pricing=usage_pricing(usage),
    )


def stop_reason(end: ChoiceEnded, *, refused: bool) -> str:
    """Anthropic's word; where the tables know none, the provider's own, never an `end_turn` that it didn't say."""
    if end.stop_sequence is not None:
        return "stop_sequence"
    if end.native_reason in _OWN_WORDS and end.native_reason != "stop_sequence":
        return end.native_reason
    if end.reason is FinishReason.STOP and refused:
        return "refusal"
    return _STOP_REASONS.get(end.reason) or end.native_reason or end.reason.value


def encode_message(whole: WholeGeneration, order: MessagesOrder, arrival: Arrival) -> bytes:
    """The body of a unary reply. Raises GatewayError where it holds what this surface has no word for."""
    if any(isinstance(item, OpaqueItem) for item in whole.output):
        raise cannot_carry()
    choice, settled = next((choice for choice in whole.choices if choice.index == 0), None), whole.settled
    parts = () if choice is None else choice.parts
    end = ChoiceEnded(0, FinishReason.OTHER)
    if choice is not None:
        end = ChoiceEnded(0, choice.reason, choice.native_reason, choice.stop_sequence)
    is_cut = end.reason is FinishReason.LENGTH
    return _json(
        MessageJson(
            id=message_id(arrival),
            model=order.request.model,
            content=tuple(block for part in parts for block in _blocks(part, order, is_cut=is_cut)),
            stop_reason=stop_reason(end, refused=any(part.kind is PartKind.REFUSAL for part in parts)),
            stop_sequence=end.stop_sequence,
            usage=messages_usage(settled.usage, settled.service_tier),
            meta=settled.meta if order.wants_meta else msgspec.UNSET,
        )
    )


def _blocks(part: WholePart, order: MessagesOrder, *, is_cut: bool) -> Iterator[Mapping[str, Any]]:
    """The block that a part is; none where it says nothing, as an empty block may not be sent back."""
    if part.kind in THINKING:
        kind, seal = unwrapped(part.signature)
        text = "" if order.hides_thinking else part.text
        if kind == "redacted":
            yield {"type": "redacted_thinking", "data": seal}
        elif text or seal:
            yield {"type": "thinking", "thinking": text, "signature": seal}
    elif part.kind is PartKind.TOOL_CALL:
        yield _tool_use(part, is_cut=is_cut)
    elif part.kind is PartKind.CUSTOM_TOOL_CALL:
        raise cannot_carry()
    elif part.text or part.annotations:
        found = [citation(annotation) for annotation in part.annotations]
        yield {"type": "text", "text": part.text, "citations": found or None}


def _tool_use(part: WholePart, *, is_cut: bool) -> Mapping[str, Any]:
    """A call; where the output limit cut its arguments, what there is of them stands in `partial_json`."""
    block: dict[str, Any] = {"type": "tool_use", "id": part.call_id, "name": part.name}
    text = part.text.strip() or "{}"
    try:
        _object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        if not is_cut:
            raise _bad_arguments() from None
        return {**block, "input": {}, "partial_json": part.text}
    return {**block, "input": msgspec.Raw(text.encode())}


def citation(annotation: RawJson) -> Any:
    """A citation in Anthropic's words where it is of a page on the web; any other as it is."""
    told = msgspec.json.decode(annotation)
    if not isinstance(told, dict) or told.get("type") != "url_citation":
        return told
    return {
        "type": "web_search_result_location",
        "url": told.get("url") or "",
        "title": told.get("title"),
        "cited_text": "",
        "encrypted_index": "",
    }


def cannot_carry() -> GatewayError:
    return GatewayError(Reason.STREAM_INTERRUPTED, "The provider sent an output item that messages cannot carry.")


def _bad_arguments() -> GatewayError:
    return GatewayError(Reason.STREAM_INTERRUPTED, "The provider sent arguments of a tool that are not a JSON object.")
