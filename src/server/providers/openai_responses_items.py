"""One output item of the Responses API under way. What cannot be read raises one of `decoding.UNREADABLE`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from server.domain.events import (
    AnnotationAdded,
    OpaqueItem,
    PartKind,
    ProviderEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.domain.ports import IdSource
from server.domain.seals import made_by
from server.providers.decoding import Parts
from server.providers.openai_annotations import flat_annotation
from server.providers.openai_chat_wire import NOTHING, arguments_text, checked, words
from server.providers.openai_errors import protocol_failure
from server.providers.openai_responses_wire import (
    WireItem,
    WireItemHead,
    WirePart,
    decode_item,
    decode_item_head,
    token_array,
)
from server.providers.openai_tool_calls import MAX_ARGUMENT_CHARS

_REASONING: Final = (PartKind.REASONING, PartKind.REASONING_SUMMARY)
_CALLS: Final = {"function_call": PartKind.TOOL_CALL, "custom_tool_call": PartKind.CUSTOM_TOOL_CALL}
_PLAIN: Final = frozenset({"", "message", "reasoning", *_CALLS})


class Item:
    """Deltas go out as they come; `whole` adds what they left out, and closes the item's parts."""

    __slots__ = (
        "_annotations",
        "_call",
        "_call_kind",
        "_done",
        "_early",
        "_early_size",
        "_ids",
        "_parts",
        "_phase",
        "_provider_id",
        "_spoken",
        "_texts",
    )

    def __init__(self, parts: Parts, ids: IdSource, provider_id: str) -> None:
        self._parts = parts
        self._ids = ids
        self._provider_id = provider_id
        self._texts: dict[tuple[PartKind, int], int] = {}
        self._spoken: set[int] = set()
        self._annotations: set[tuple[int, bytes]] = set()
        self._call = -1
        self._call_kind = PartKind.TOOL_CALL
        self._early: list[str] = []
        self._early_size = 0
        self._phase = ""
        self._done = False

    @property
    def is_call(self) -> bool:
        return self._call >= 0

    def text(self, kind: PartKind, index: int, text: str, logprobs: msgspec.Raw, out: list[ProviderEvent]) -> None:
        """More of a text, refusal, reasoning or summary part."""
        tokens = None if logprobs is NOTHING else token_array(logprobs)
        if self._done or (not text and tokens is None):
            return
        part = self._part(kind, index, out)
        self._spoken.add(part)
        if kind in _REASONING:
            out.append(ReasoningDelta(self._parts.choice, part, text))
        else:
            out.append(TextDelta(self._parts.choice, part, text, tokens))

    def missing_text(
        self, kind: PartKind, index: int, text: str, logprobs: msgspec.Raw, out: list[ProviderEvent]
    ) -> None:
        """The whole text of a part: all of it where no delta came."""
        if self._texts.get((kind, index)) not in self._spoken:
            self.text(kind, index, text, logprobs, out)

    def annotate(self, index: int, annotation: Any, out: list[ProviderEvent]) -> None:
        if self._done or not isinstance(annotation, dict):
            return
        part = self._part(PartKind.TEXT, index, out)
        data = msgspec.json.encode(flat_annotation(annotation))
        if (part, data) not in self._annotations:
            self._annotations.add((part, data))
            out.append(AnnotationAdded(self._parts.choice, part, msgspec.Raw(data)))

    def arguments(self, text: str, out: list[ProviderEvent]) -> None:
        """More arguments of a call; kept until its name is known."""
        if self._done or not text:
            return
        if self._call >= 0:
            self._spoken.add(self._call)
            out.append(ToolCallDelta(self._parts.choice, self._call, text))
            return
        self._early_size += len(text)
        if self._early_size > MAX_ARGUMENT_CHARS:
            raise protocol_failure("The provider sent a tool call of excessive size.")
        self._early.append(text)

    def added(self, raw: msgspec.Raw, out: list[ProviderEvent]) -> None:
        """The item as it was announced. Only a call begins before its first delta."""
        item = _item(raw)
        if item is None:
            return
        self._phase = words(item.phase)
        if words(item.type) in _CALLS:
            self._begin_call(item, out)

    def whole(self, raw: msgspec.Raw, out: list[ProviderEvent]) -> None:
        """The finished item. A second time it says nothing new."""
        if self._done:
            return
        kind = words(item_head(raw).type)
        if kind not in _PLAIN:
            out.append(OpaqueItem(checked(raw)))
        elif (item := _item(raw)) is not None:
            self._phase = words(item.phase)
            if kind in _CALLS:
                self._end_call(item, out)
            elif kind == "reasoning":
                self._end_reasoning(item, out)
            else:
                self._end_message(item, out)
        for part in self._texts.values():
            self._parts.end(part, out)
        self._done = True

    def _begin_call(self, item: WireItem, out: list[ProviderEvent]) -> None:
        name = words(item.name)
        if self._call >= 0 or not name:
            return
        self._call_kind = _CALLS[item.type]
        call_id = words(item.call_id) or words(item.id) or f"call_{self._ids.new()}"
        self._call = self._start(self._call_kind, out, call_id, name)
        for text in self._early:
            self.arguments(text, out)
        self._early.clear()

    def _end_call(self, item: WireItem, out: list[ProviderEvent]) -> None:
        self._begin_call(item, out)
        if self._call < 0:
            raise protocol_failure("The provider sent a tool call without a name.")
        if self._call not in self._spoken:
            custom = self._call_kind is PartKind.CUSTOM_TOOL_CALL
            text = words(item.input) if custom else arguments_text(item.arguments)
            self.arguments(text if custom or text.strip() else "{}", out)
        self._parts.end(self._call, out)

    def _end_reasoning(self, item: WireItem, out: list[ProviderEvent]) -> None:
        for index, piece in enumerate(item.summary or ()):
            self.missing_text(PartKind.REASONING_SUMMARY, index, words(piece.text), NOTHING, out)
        for index, piece in enumerate(item.content or ()):
            self.missing_text(PartKind.REASONING, index, words(piece.text), NOTHING, out)
        signature = made_by("responses", self._provider_id, words(item.encrypted_content))
        if signature:
            still_open = [part for part in self._texts.values() if part in self._parts.open]
            part = still_open[-1] if still_open else self._part(PartKind.REASONING, 0, out)
            out.append(ReasoningDelta(self._parts.choice, part, "", signature))

    def _end_message(self, item: WireItem, out: list[ProviderEvent]) -> None:
        for index, piece in enumerate(item.content or ()):
            kind, text = _spoken(piece)
            self.missing_text(kind, index, text, piece.logprobs, out)
            for annotation in piece.annotations if isinstance(piece.annotations, list) else ():
                self.annotate(index, annotation, out)

    def _part(self, kind: PartKind, index: int, out: list[ProviderEvent]) -> int:
        key = (kind, index)
        part = self._texts.get(key)
        if part is None or part not in self._parts.open:
            if kind in _REASONING:
                for earlier in self._texts.values():
                    self._parts.end(earlier, out)
            part = self._texts[key] = self._start(kind, out)
        return part

    def _start(self, kind: PartKind, out: list[ProviderEvent], call_id: str = "", name: str = "") -> int:
        if self._parts.full:
            raise protocol_failure("The provider sent too many parts.")
        return self._parts.start(kind, out, call_id=call_id, name=name, phase=self._phase)


def _spoken(piece: WirePart) -> tuple[PartKind, str]:
    if piece.type == "refusal":
        return PartKind.REFUSAL, words(piece.refusal)
    return PartKind.TEXT, words(piece.text)


def item_head(raw: msgspec.Raw) -> WireItemHead:
    return WireItemHead() if raw is NOTHING else decode_item_head(raw)


def _item(raw: msgspec.Raw) -> WireItem | None:
    return None if raw is NOTHING else decode_item(raw)
