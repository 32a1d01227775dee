"""Responses and their events as OpenAI's JSON and server-sent events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from rest_bridge.errors import error_body
from rest_bridge.pricing_json import usage_pricing
from rest_bridge.sse import DONE
from server.domain.errors import GatewayError
from server.domain.response import (
    AnnotationEvent,
    DeltaEvent,
    DoneEvent,
    ErrorEvent,
    EventType,
    ItemEvent,
    LifecycleEvent,
    MessageItem,
    OpaqueOutput,
    OutputItem,
    OutputPart,
    OutputRefusal,
    OutputText,
    PartEvent,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseEvent,
    SummaryText,
    ToolCallItem,
)
from server.domain.usage import Usage

_INDEX_FIELD: Final = {
    EventType.REASONING_SUMMARY_PART_ADDED: "summary_index",
    EventType.REASONING_SUMMARY_PART_DONE: "summary_index",
    EventType.REASONING_SUMMARY_TEXT_DELTA: "summary_index",
    EventType.REASONING_SUMMARY_TEXT_DONE: "summary_index",
    EventType.FUNCTION_CALL_ARGUMENTS_DELTA: None,
    EventType.FUNCTION_CALL_ARGUMENTS_DONE: None,
    EventType.CUSTOM_TOOL_CALL_INPUT_DELTA: None,
    EventType.CUSTOM_TOOL_CALL_INPUT_DONE: None,
}
"""How an event names a part's place in its item, where it is not `content_index`; None where it has none."""

_TEXT_FIELD: Final = {
    EventType.REFUSAL_DONE: "refusal",
    EventType.FUNCTION_CALL_ARGUMENTS_DONE: "arguments",
    EventType.CUSTOM_TOOL_CALL_INPUT_DONE: "input",
}
"""How a done event names the whole text, where it is not `text`."""

_encode: Final = msgspec.json.Encoder().encode


def encode_response(response: Response) -> bytes:
    return _encode(response_object(response))


def encode_deletion(response_id: str) -> bytes:
    return _encode({"id": response_id, "object": "response", "deleted": True})


def response_object(response: Response) -> Mapping[str, Any]:
    """The documented fields first, then the rest of OpenAI's; what has no value is null."""
    error, incomplete = response.error, response.incomplete_reason
    fields: dict[str, Any] = {
        "id": response.id,
        "object": "response",
        "created_at": response.created_at,
        "status": response.status,
        "completed_at": response.completed_at,
        "model": response.model,
        "output": [_item(item, response.wants_logprobs) for item in response.output],
        "usage": None if response.usage is None else response_usage(response.usage),
        "error": None if error is None else {"code": error.code, "message": error.message, "param": error.param},
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "previous_response_id": response.previous_response_id,
        "metadata": response.metadata,
        "service_tier": response.service_tier,
        **response.echo,
    }
    if response.wants_meta and response.meta is not None:
        fields["meta"] = response.meta
    return fields


def response_usage(usage: Usage) -> Mapping[str, Any]:
    """Usage in this surface's words."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
        "pricing": usage_pricing(usage),
    }


def _item(item: OutputItem, logprobs: bool) -> Any:
    match item:
        case MessageItem():
            message: dict[str, Any] = {
                "type": "message",
                "id": item.id,
                "status": item.status,
                "role": "assistant",
                "content": [_part(part, logprobs) for part in item.content],
            }
            return message if item.phase is None else {**message, "phase": item.phase}
        case ReasoningItem():
            return {
                "type": "reasoning",
                "id": item.id,
                "status": item.status,
                "summary": [{"type": "summary_text", "text": text} for text in item.summary],
                "content": [{"type": "reasoning_text", "text": text} for text in item.content],
                "encrypted_content": item.encrypted_content,
            }
        case ToolCallItem():
            return {
                "type": "custom_tool_call" if item.custom else "function_call",
                "id": item.id,
                "status": item.status,
                "call_id": item.call_id,
                "name": item.name,
                "input" if item.custom else "arguments": item.arguments,
            }
        case OpaqueOutput():
            return item.item


def _part(part: OutputPart, logprobs: bool) -> Mapping[str, Any]:
    match part:
        case OutputText():
            text: dict[str, Any] = {"type": "output_text", "text": part.text, "annotations": part.annotations}
            return {**text, "logprobs": part.logprobs} if logprobs else text
        case OutputRefusal():
            return {"type": "refusal", "refusal": part.refusal}
        case ReasoningText():
            return {"type": "reasoning_text", "text": part.text}
        case SummaryText():
            return {"type": "summary_text", "text": part.text}


class ResponseStreamEncoder:
    """One response's events as server-sent events; implements `rest_bridge.sse.StreamEncoder`."""

    def __init__(self, generation_id: str, *, logprobs: bool) -> None:
        """`logprobs`: whether the client asked to see them."""
        self._generation_id = generation_id
        self._logprobs = logprobs
        self._delta_heads: dict[tuple[EventType, str, int], tuple[bytes, bytes, bytes]] = {}
        self._sequence = 0
        self._failed = False

    def encode(self, events: Sequence[ResponseEvent]) -> bytes:
        if events:
            self._sequence = events[-1].sequence_number + 1
        return b"".join([self._delta(e) if isinstance(e, DeltaEvent) else self._other(e) for e in events])

    def end(self) -> bytes:
        return DONE

    def fail(self, error: GatewayError) -> bytes:
        """A response that failed has told so in its own last events."""
        return b"" if self._failed else self._error(ErrorEvent(EventType.ERROR, self._sequence, error))

    def _delta(self, event: DeltaEvent) -> bytes:
        key = (event.type, event.item_id, event.part_index)
        head, place, tail = self._delta_heads.get(key) or self._new_head(key, event)
        if event.logprobs and self._logprobs:
            tail = b',"logprobs":%b}\n\n' % _encode(event.logprobs)
        return b"%b%d%b%b%b" % (head, event.sequence_number, place, _encode(event.delta), tail)

    def _new_head(self, key: tuple[EventType, str, int], event: DeltaEvent) -> tuple[bytes, bytes, bytes]:
        """All of a delta's frame but its number and its text: of one part's many deltas it is always the same."""
        name = event.type.encode()
        place = _encode(_place(event))[1:-1]
        parts = (
            b'event: %b\ndata: {"type":"%b","sequence_number":' % (name, name),
            b',%b,"delta":' % place,
            b',"logprobs":[]}\n\n' if event.type is EventType.OUTPUT_TEXT_DELTA else b"}\n\n",
        )
        self._delta_heads[key] = parts
        return parts

    def _other(self, event: ResponseEvent) -> bytes:
        match event:
            case LifecycleEvent():
                return _frame(event, {"response": response_object(event.response)})
            case ItemEvent():
                return _frame(event, {"output_index": event.output_index, "item": _item(event.item, self._logprobs)})
            case PartEvent():
                return _frame(event, {**_place(event), "part": _part(event.part, self._logprobs)})
            case DoneEvent():
                return _frame(event, self._done(event))
            case AnnotationEvent():
                where = {**_place(event), "annotation_index": event.annotation_index}
                return _frame(event, {**where, "annotation": event.annotation})
            case ErrorEvent():
                return self._error(event)
            case DeltaEvent():
                return self._delta(event)

    def _done(self, event: DoneEvent) -> Mapping[str, Any]:
        fields = _place(event)
        if event.name:
            fields["name"] = event.name
        fields[_TEXT_FIELD.get(event.type, "text")] = event.text
        if event.type is EventType.OUTPUT_TEXT_DONE:
            fields["logprobs"] = event.logprobs if self._logprobs else ()
        return fields

    def _error(self, event: ErrorEvent) -> bytes:
        """OpenAI documents the flat fields, and sends the nested ones; its SDKs read the nested ones."""
        self._failed = True
        error = event.error
        told = error_body(error, self._generation_id)
        flat = {"code": error.reason.value, "message": told.description, "param": told.param}
        nested = {"type": error.code.value, **flat, **msgspec.to_builtins(told)}
        return _frame(event, {**flat, "error": nested})


def _place(event: DeltaEvent | DoneEvent | PartEvent | AnnotationEvent) -> dict[str, Any]:
    fields: dict[str, Any] = {"item_id": event.item_id, "output_index": event.output_index}
    index_field = _INDEX_FIELD.get(event.type, "content_index")
    if index_field is not None:
        fields[index_field] = event.part_index
    return fields


def _frame(event: ResponseEvent, fields: Mapping[str, Any]) -> bytes:
    data = _encode({"type": event.type, "sequence_number": event.sequence_number, **fields})
    if b"\n" in data or b"\r" in data:
        # A client's own JSON is repeated as it was written, but a line end would end the event.
        data = msgspec.json.format(data, indent=-1)
    return b"event: %b\ndata: %b\n\n" % (event.type.encode(), data)
