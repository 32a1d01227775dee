"""A generation as Anthropic's named events tell it: a message that opens, one block after another, and its end.

Providers may have several parts open at a time, this surface has one block. A text that something else interrupts goes
on in a block of its own; what belongs to a later part waits while the arguments of a tool call are under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, assert_never

import msgspec

from rest_bridge.messages_decode import MessagesOrder
from rest_bridge.messages_encode import (
    THINKING,
    cannot_carry,
    citation,
    message_id,
    messages_usage,
    stop_reason,
)
from rest_bridge.messages_errors import messages_error_body
from server.domain.errors import GatewayError
from server.domain.events import (
    AnnotationAdded,
    AudioDelta,
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    ImagePartial,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    Produced,
    ReasoningDelta,
    Settled,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.identity import Arrival
from server.domain.seals import unwrapped
from server.domain.usage import Usage

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'

_HEAD: Final = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b_delta","%b":'
)

_json: Final = msgspec.json.Encoder().encode

_Delta: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta | AnnotationAdded


class _Part:
    """One part of the provider's, and what of it waits for its turn."""

    __slots__ = ("ended", "start", "waiting")

    def __init__(self, start: PartStarted) -> None:
        self.start = start
        self.waiting: list[_Delta] = []
        self.ended = False


class MessagesStreamEncoder:
    """Implements `rest_bridge.sse.StreamEncoder` for messages."""

    def __init__(self, order: MessagesOrder, arrival: Arrival) -> None:
        self._order = order
        self._arrival = arrival
        self._parts: dict[int, _Part] = {}
        self._queue: list[_Part] = []
        """Parts that begin once the open tool call has ended."""
        self._open: _Part | None = None
        self._index = -1
        self._head = b""
        """Of a delta of the open block's text, before the text itself."""
        self._seal = ""
        """Of the open block: told once, at its end, for the SDKs keep only the last that they hear."""
        self._refused = False
        self._end = ChoiceEnded(0, FinishReason.OTHER)
        self._settled: Settled | None = None

    def encode(self, events: Sequence[GenerationEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is TextDelta and self._open is not None and self._open is self._parts.get(event.part):
                if event.text and not event.choice:
                    out += (self._head, _json(event.text), b"}}\n\n")
            else:
                self._other(event, events, out)
        return b"".join(out)

    def end(self) -> bytes:
        settled = self._settled
        if settled is None:
            raise ValueError("the generation has not ended")
        out: list[bytes] = []
        self._finish(out)
        told: dict[str, Any] = {
            "type": "message_delta",
            "delta": {
                "stop_reason": stop_reason(self._end, refused=self._refused),
                "stop_sequence": self._end.stop_sequence,
            },
            "usage": messages_usage(settled.usage, settled.service_tier),
        }
        if self._order.wants_meta:
            told["meta"] = settled.meta
        return b"".join((*out, _frame(told), _frame({"type": "message_stop"})))

    def fail(self, error: GatewayError) -> bytes:
        return _frame(messages_error_body(error, self._arrival))

    def _other(self, event: GenerationEvent, batch: Sequence[GenerationEvent], out: list[bytes]) -> None:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta() | AnnotationAdded():
                if event.choice == 0:
                    self._delta(event, out)
            case PartStarted():
                if event.choice == 0:
                    self._begin(event, out)
            case PartEnded():
                if event.choice == 0:
                    self._part_ended(self._parts[event.part], out)
            case ChoiceEnded():
                if event.choice == 0:
                    self._end = event
            case Started():
                reported = (other.usage for other in batch if isinstance(other, UsageReported))
                out.append(self._opening(next(reported, Usage())))
            case Settled():
                self._settled = event
            case OpaqueItem():
                raise cannot_carry()
            case AudioDelta() | ImagePartial() | Produced():
                raise TypeError("no generation")
            case UsageReported() | Completed():
                pass
            case _:
                assert_never(event)

    def _opening(self, usage: Usage) -> bytes:
        """What is known at the beginning; the counts at the end take the place of these."""
        message = {
            "id": message_id(self._arrival),
            "type": "message",
            "role": "assistant",
            "model": self._order.request.model,
            "content": (),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(usage),
        }
        return _frame({"type": "message_start", "message": message})

    def _begin(self, start: PartStarted, out: list[bytes]) -> None:
        if start.kind is PartKind.CUSTOM_TOOL_CALL:
            raise cannot_carry()
        part = self._parts[start.part] = _Part(start)
        self._refused |= start.kind is PartKind.REFUSAL
        if start.kind is PartKind.TOOL_CALL:
            if self._is_busy(part):
                self._queue.append(part)
            else:
                self._open_call(part, out)

    def _delta(self, delta: _Delta, out: list[bytes]) -> None:
        part = self._parts[delta.part]
        if part is not self._open and (part in self._queue or self._is_busy(part)):
            if part not in self._queue:
                self._queue.append(part)
            part.waiting.append(delta)
            return
        match delta:
            case TextDelta(text=text):
                if text:
                    self._enter(part, {"type": "text", "text": "", "citations": None}, out)
                    out += (self._head, _json(text), b"}}\n\n")
            case ReasoningDelta():
                self._think(part, delta, out)
            case ToolCallDelta(arguments=arguments):
                out += (self._head, _json(arguments), b"}}\n\n")
            case AnnotationAdded(annotation=annotation):
                self._enter(part, {"type": "text", "text": "", "citations": None}, out)
                self._say({"type": "citations_delta", "citation": citation(annotation)}, out)

    def _think(self, part: _Part, delta: ReasoningDelta, out: list[bytes]) -> None:
        text = "" if self._order.hides_thinking else delta.text
        kind, seal = unwrapped(delta.signature)
        if kind == "redacted":
            self._close(out)
            self._index += 1
            out.append(self._start({"type": "redacted_thinking", "data": seal}))
            out.append(_frame({"type": "content_block_stop", "index": self._index}))
            return
        if text or seal:
            self._enter(part, {"type": "thinking", "thinking": "", "signature": ""}, out)
        if text:
            out += (self._head, _json(text), b"}}\n\n")
        self._seal += seal

    def _part_ended(self, part: _Part, out: list[bytes]) -> None:
        part.ended = True
        if part is self._open:
            self._close(out)
            self._let_in(out)

    def _let_in(self, out: list[bytes]) -> None:
        """Tell what waited, up to a tool call that is still under way."""
        while self._queue and not self._is_busy(self._queue[0]):
            part = self._queue.pop(0)
            if part.start.kind is PartKind.TOOL_CALL:
                self._open_call(part, out)
            for delta in part.waiting:
                self._delta(delta, out)
            part.waiting.clear()
            if part.ended and part is self._open:
                self._close(out)

    def _finish(self, out: list[bytes]) -> None:
        """No part goes on beyond the end."""
        for part in self._parts.values():
            part.ended = True
        self._close(out)
        self._let_in(out)
        self._close(out)

    def _is_busy(self, part: _Part) -> bool:
        """Whether a tool call other than `part` is under way."""
        return self._open is not None and self._open is not part and self._open.start.kind is PartKind.TOOL_CALL

    def _open_call(self, part: _Part, out: list[bytes]) -> None:
        start = part.start
        self._enter(part, {"type": "tool_use", "id": start.call_id, "name": start.name, "input": {}}, out)

    def _enter(self, part: _Part, block: Mapping[str, Any], out: list[bytes]) -> None:
        """Make sure that the part's block is the open one."""
        if part is self._open:
            return
        self._close(out)
        self._open = part
        self._index += 1
        kind = part.start.kind
        name = "thinking" if kind in THINKING else "input_json" if kind is PartKind.TOOL_CALL else "text"
        field = "partial_json" if name == "input_json" else name
        self._head = _HEAD % (self._index, name.encode(), field.encode())
        out.append(self._start(block))

    def _start(self, block: Mapping[str, Any]) -> bytes:
        return _frame({"type": "content_block_start", "index": self._index, "content_block": block})

    def _say(self, delta: Mapping[str, Any], out: list[bytes]) -> None:
        out.append(_frame({"type": "content_block_delta", "index": self._index, "delta": delta}))

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            if self._seal:
                self._say({"type": "signature_delta", "signature": self._seal}, out)
                self._seal = ""
            self._open = None
            out.append(_frame({"type": "content_block_stop", "index": self._index}))


def _frame(told: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), _json(told))
