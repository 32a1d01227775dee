"""Turns what a provider says into the events of a response, in the grammar of OpenAI's Responses API. Pure.

An item is announced, then its parts, then their text, and each is ended in the reverse order. Several items may be open
at a time (parallel tool calls); an item keeps the place in the output in which it was announced. The end of a part is
told one event late: only then is it known whether the output was cut there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from server.domain.errors import GatewayError, Reason
from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    Settled,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.request import RawJson
from server.domain.response import (
    AnnotationEvent,
    DeltaEvent,
    DoneEvent,
    ErrorEvent,
    EventType,
    ItemEvent,
    ItemStatus,
    LifecycleEvent,
    MessageItem,
    OpaqueOutput,
    OutputItem,
    OutputRefusal,
    OutputText,
    PartEvent,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseEvent,
    ResponseFailure,
    ResponseStatus,
    SummaryText,
    ToolCallItem,
)

__all__ = ["ResponseAssembler"]

_ItemKind = Literal["message", "reasoning", "function_call", "custom_tool_call"]

_ITEM_OF_PART: Final[dict[PartKind, _ItemKind]] = {
    PartKind.TEXT: "message",
    PartKind.REFUSAL: "message",
    PartKind.REASONING: "reasoning",
    PartKind.REASONING_SUMMARY: "reasoning",
    PartKind.TOOL_CALL: "function_call",
    PartKind.CUSTOM_TOOL_CALL: "custom_tool_call",
}
_ID_PREFIX: Final[dict[_ItemKind, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
}
_DELTA: Final = {
    PartKind.TEXT: EventType.OUTPUT_TEXT_DELTA,
    PartKind.REFUSAL: EventType.REFUSAL_DELTA,
    PartKind.REASONING: EventType.REASONING_TEXT_DELTA,
    PartKind.REASONING_SUMMARY: EventType.REASONING_SUMMARY_TEXT_DELTA,
    PartKind.TOOL_CALL: EventType.FUNCTION_CALL_ARGUMENTS_DELTA,
    PartKind.CUSTOM_TOOL_CALL: EventType.CUSTOM_TOOL_CALL_INPUT_DELTA,
}
_DONE: Final = {
    PartKind.TEXT: EventType.OUTPUT_TEXT_DONE,
    PartKind.REFUSAL: EventType.REFUSAL_DONE,
    PartKind.REASONING: EventType.REASONING_TEXT_DONE,
    PartKind.REASONING_SUMMARY: EventType.REASONING_SUMMARY_TEXT_DONE,
    PartKind.TOOL_CALL: EventType.FUNCTION_CALL_ARGUMENTS_DONE,
    PartKind.CUSTOM_TOOL_CALL: EventType.CUSTOM_TOOL_CALL_INPUT_DONE,
}
_INCOMPLETE_REASON: Final = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}


class _Part:
    """A part as it grows. `index` is -1 until it is announced; tool calls never are."""

    __slots__ = ("annotations", "chunks", "index", "item", "kind", "logprobs")

    def __init__(self, kind: PartKind, item: _Item) -> None:
        self.kind = kind
        self.item = item
        self.index = -1
        self.chunks: list[str] = []
        self.annotations: list[RawJson] = []
        self.logprobs: list[RawJson] = []

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    @property
    def is_summary(self) -> bool:
        return self.kind is PartKind.REASONING_SUMMARY

    def snapshot(self) -> OutputText | OutputRefusal | ReasoningText | SummaryText:
        match self.kind:
            case PartKind.REFUSAL:
                return OutputRefusal(self.text)
            case PartKind.REASONING:
                return ReasoningText(self.text)
            case PartKind.REASONING_SUMMARY:
                return SummaryText(self.text)
            case _:
                return OutputText(self.text, tuple(self.annotations), tuple(self.logprobs))


class _Item:
    """An item as it grows. It may be done once no part of it is open and nothing more can join it (`superseded`).

    Parts know their item, and it does not know them: a cycle would stay, with all its text, until a collection.
    """

    __slots__ = ("call_id", "encrypted", "id", "index", "kind", "name", "open_parts", "phase", "superseded")

    def __init__(self, kind: _ItemKind, item_id: str, index: int, event: PartStarted) -> None:
        self.kind = kind
        self.id = item_id
        self.index = index
        self.call_id = event.call_id
        self.name = event.name
        self.phase = event.phase
        self.open_parts = 0
        self.superseded = kind in ("function_call", "custom_tool_call")
        self.encrypted = ""

    def takes(self, kind: _ItemKind, phase: str) -> bool:
        """Whether another part of that kind joins this item; sealed reasoning is complete."""
        return not self.superseded and self.kind == kind and self.phase == phase and not self.encrypted

    def snapshot(self, status: ItemStatus, parts: Sequence[_Part] = ()) -> OutputItem:
        shown = [part for part in parts if part.index >= 0]
        match self.kind:
            case "message":
                content = tuple(
                    p for p in (part.snapshot() for part in shown) if isinstance(p, OutputText | OutputRefusal)
                )
                return MessageItem(self.id, status, content, self.phase or None)
            case "reasoning":
                return ReasoningItem(
                    self.id,
                    status,
                    summary=tuple(part.text for part in shown if part.is_summary),
                    content=tuple(part.text for part in shown if not part.is_summary),
                    encrypted_content=self.encrypted or None,
                )
            case "function_call" | "custom_tool_call":
                arguments = "".join(part.text for part in parts)
                custom = self.kind == "custom_tool_call"
                return ToolCallItem(self.id, status, self.call_id, self.name, arguments, custom)


class ResponseAssembler:
    """One response as it comes into being.

    Feed it every batch of a generation; once it has `settled`, take the finished `response` and then its `end`; or
    `fail` it. Events are numbered in the order in which they are made, from 0 and without a gap.
    """

    def __init__(self, opening: Response) -> None:
        """`opening`: the response with no output yet, in progress."""
        self.response = opening
        self.settled = False
        self.begun = False
        self._sequence = 0
        self._events: list[ResponseEvent] = []
        self._output: list[_Item | OpaqueOutput] = []
        self._done: dict[int, OutputItem] = {}
        self._parts: dict[int, _Part] = {}
        self._parts_of: dict[int, list[_Part]] = {}
        self._ended: list[_Part] = []
        self._current: _Item | None = None
        self._last_active: _Item | None = None
        self._has_message = False
        self._finish: ChoiceEnded | None = None

    def feed(self, batch: Sequence[GenerationEvent], now_s: float = 0.0) -> Sequence[ResponseEvent]:
        """The events of one batch. `now_s` (seconds since 1970) is when it came, for `completed_at`.

        A response has one answer: of the choices, the first.
        """
        for event in batch:
            if getattr(event, "choice", 0):
                continue
            match event:
                case TextDelta():
                    self._text(event)
                case ToolCallDelta() | ReasoningDelta():
                    self._delta(event)
                case PartStarted():
                    self._part_started(event)
                case PartEnded():
                    self._ended.append(self._parts.pop(event.part))
                case AnnotationAdded():
                    self._annotation(event)
                case OpaqueItem():
                    self._opaque(event)
                case ChoiceEnded():
                    self._choice_ended(event)
                case Started():
                    self._begin()
                case Settled():
                    self._settle(event, int(now_s))
                case UsageReported() | Completed():
                    pass
        events, self._events = self._events, []
        return events

    def end(self) -> LifecycleEvent:
        """The last event of a response that has settled."""
        done = self.response.status is ResponseStatus.COMPLETED
        kind = EventType.COMPLETED if done else EventType.INCOMPLETE
        return LifecycleEvent(kind, self._next(), self.response)

    def fail(self, error: GatewayError) -> Sequence[ResponseEvent]:
        """The last events of a response that has begun and cannot be finished."""
        failure = ResponseFailure(error.code.value, error.description, error.param)
        self.response = msgspec.structs.replace(
            self.response,
            status=ResponseStatus.FAILED,
            output=self._snapshot(),
            error=failure,
            completed_at=None,
            incomplete_reason=None,
        )
        untold, self._events = self._events, []
        return (
            *untold,
            ErrorEvent(EventType.ERROR, self._next(), error),
            LifecycleEvent(EventType.FAILED, self._next(), self.response),
        )

    def _next(self) -> int:
        number = self._sequence
        self._sequence = number + 1
        return number

    def _begin(self) -> None:
        self.begun = True
        self._events.append(LifecycleEvent(EventType.CREATED, self._next(), self.response))
        self._events.append(LifecycleEvent(EventType.IN_PROGRESS, self._next(), self.response))

    def _part_started(self, event: PartStarted) -> None:
        self._end_parts()
        kind = _ITEM_OF_PART[event.kind]
        item = self._current
        if item is None or not item.takes(kind, event.phase):
            item = self._open_item(kind, event)
        part = _Part(event.kind, item)
        self._parts_of[item.index].append(part)
        item.open_parts += 1
        self._parts[event.part] = part
        self._last_active = item
        if item.kind == "message":
            self._announce(part)

    def _open_item(self, kind: _ItemKind, event: PartStarted) -> _Item:
        self._supersede()
        index = len(self._output)
        item_id = f"{_ID_PREFIX[kind]}_{self.response.suffix}"
        if kind != "message" or self._has_message:
            item_id = f"{item_id}_{index}"
        self._has_message = self._has_message or kind == "message"
        item = _Item(kind, item_id, index, event)
        self._output.append(item)
        self._parts_of[index] = []
        self._current = item
        self._events.append(ItemEvent(EventType.OUTPUT_ITEM_ADDED, self._next(), index, item.snapshot("in_progress")))
        return item

    def _announce(self, part: _Part) -> None:
        """Reasoning is announced with its first text: a part that only carries its seal has none."""
        part.index = sum(p.index >= 0 and p.is_summary == part.is_summary for p in self._parts_of[part.item.index])
        added = EventType.REASONING_SUMMARY_PART_ADDED if part.is_summary else EventType.CONTENT_PART_ADDED
        self._events.append(self._part_event(added, part))

    def _part_event(self, kind: EventType, part: _Part) -> PartEvent:
        item = part.item
        return PartEvent(kind, self._next(), item.id, item.index, part.index, part.snapshot())

    def _text(self, event: TextDelta) -> None:
        if self._ended:
            self._end_parts()
        part = self._parts[event.part]
        logprobs: tuple[RawJson, ...] = ()
        if event.logprobs is not None:
            logprobs = _tokens(event.logprobs)
            part.logprobs.extend(logprobs)
        if not event.text and not logprobs:
            return
        self._append(part, event.text, logprobs)

    def _delta(self, event: ToolCallDelta | ReasoningDelta) -> None:
        if self._ended:
            self._end_parts()
        part = self._parts[event.part]
        text = event.arguments if isinstance(event, ToolCallDelta) else event.text
        if isinstance(event, ReasoningDelta) and event.signature:
            part.item.encrypted += event.signature
        if not text:
            return
        if part.item.kind == "reasoning" and part.index < 0:
            self._announce(part)
        self._append(part, text)

    def _append(self, part: _Part, text: str, logprobs: tuple[RawJson, ...] = ()) -> None:
        part.chunks.append(text)
        item = self._last_active = part.item
        self._events.append(
            DeltaEvent(_DELTA[part.kind], self._next(), item.id, item.index, max(part.index, 0), text, logprobs)
        )

    def _annotation(self, event: AnnotationAdded) -> None:
        if self._ended:
            self._end_parts()
        part = self._parts[event.part]
        part.annotations.append(event.annotation)
        self._events.append(
            AnnotationEvent(
                EventType.OUTPUT_TEXT_ANNOTATION_ADDED,
                self._next(),
                part.item.id,
                part.item.index,
                part.index,
                len(part.annotations) - 1,
                event.annotation,
            )
        )

    def _opaque(self, event: OpaqueItem) -> None:
        self._end_parts()
        self._supersede()
        index, item = len(self._output), OpaqueOutput(event.item)
        self._output.append(item)
        self._done[index] = item
        self._events.append(ItemEvent(EventType.OUTPUT_ITEM_ADDED, self._next(), index, item))
        self._events.append(ItemEvent(EventType.OUTPUT_ITEM_DONE, self._next(), index, item))

    def _supersede(self) -> None:
        """Nothing more joins the current item."""
        item, self._current = self._current, None
        if item is None or item.superseded:
            return
        item.superseded = True
        if not item.open_parts:
            self._end_item(item, "completed")

    def _end_parts(self) -> None:
        """Tell the ends that were held back: the output went on after them."""
        ended, self._ended = self._ended, []
        for part in ended:
            self._end_part(part)
            if part.item.superseded and not part.item.open_parts:
                self._end_item(part.item, "completed")

    def _end_part(self, part: _Part) -> None:
        item = part.item
        item.open_parts -= 1
        announced = part.index >= 0
        if announced or item.kind in ("function_call", "custom_tool_call"):
            self._events.append(
                DoneEvent(
                    _DONE[part.kind],
                    self._next(),
                    item.id,
                    item.index,
                    max(part.index, 0),
                    part.text,
                    tuple(part.logprobs),
                    item.name,
                )
            )
        if announced:
            done = EventType.REASONING_SUMMARY_PART_DONE if part.is_summary else EventType.CONTENT_PART_DONE
            self._events.append(self._part_event(done, part))

    def _end_item(self, item: _Item, status: ItemStatus) -> None:
        snapshot = self._done[item.index] = item.snapshot(status, self._parts_of[item.index])
        self._events.append(ItemEvent(EventType.OUTPUT_ITEM_DONE, self._next(), item.index, snapshot))

    def _choice_ended(self, event: ChoiceEnded) -> None:
        """Whatever is still open ends here; where the output was cut, the item that was being written is incomplete."""
        self._finish = event
        cut = event.reason not in (FinishReason.STOP, FinishReason.TOOL_CALLS)
        for part in (*self._ended, *self._parts.values()):
            self._end_part(part)
        self._ended.clear()
        self._parts.clear()
        for item in self._output:
            if isinstance(item, _Item) and item.index not in self._done:
                self._end_item(item, "incomplete" if cut and item is self._last_active else "completed")
        self._current = None

    def _settle(self, event: Settled, at_s: int) -> None:
        if self._finish is None:
            raise GatewayError(Reason.STREAM_INTERRUPTED, "The provider's answer ended without saying why.")
        reason = self._incomplete_reason(self._finish)
        status = ResponseStatus.COMPLETED if reason is None else ResponseStatus.INCOMPLETE
        self.response = msgspec.structs.replace(
            self.response,
            status=status,
            output=self._snapshot(),
            completed_at=at_s if status is ResponseStatus.COMPLETED else None,
            incomplete_reason=reason,
            usage=event.usage,
            meta=event.meta,
            service_tier=event.service_tier,
        )
        self.settled = True

    def _incomplete_reason(self, finish: ChoiceEnded) -> str | None:
        """None for a response that is whole. A reason that nobody knows is told in the provider's own word."""
        if finish.reason is FinishReason.OTHER:
            return finish.native_reason or finish.reason.value
        return _INCOMPLETE_REASON.get(finish.reason)

    def _snapshot(self) -> tuple[OutputItem, ...]:
        return tuple(
            item
            if isinstance(item, OpaqueOutput)
            else self._done.get(item.index) or item.snapshot("incomplete", self._parts_of[item.index])
            for item in self._output
        )


_decode_tokens: Final = msgspec.json.Decoder(tuple[RawJson, ...]).decode


def _tokens(logprobs: RawJson) -> tuple[RawJson, ...]:
    return _decode_tokens(logprobs)
