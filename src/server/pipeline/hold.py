"""A stream held back to the ends of its sentences, so that each can be judged before anybody sees it.

A choice's events keep their order. Text is held until its sentence has ended, a tool call until it is whole; what was
held too much of, or too long, is let go unfinished, and is judged again together with its end.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from server.domain.events import (
    ChoiceEnded,
    FinishReason,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)

MAX_HELD_CHARS: Final = 1000
"""Of a choice; a sentence that is longer is judged in pieces."""
MAX_PIECES: Final = 32
"""That are judged at once; of more sentences than that, several make a piece."""

_SENTENCE_END: Final = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n+")
_CALLS: Final = frozenset({PartKind.TOOL_CALL, PartKind.CUSTOM_TOOL_CALL})
_Delta: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta


class Piece(NamedTuple):
    """Events that can be shown when their texts have been judged, each part's for itself."""

    texts: list[str]
    events: list[ProviderEvent]


class Hold:
    """What has come of one choice and may not be shown yet."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._events: list[ProviderEvent] = []
        self._ends: list[int] = []
        self._unfinished: dict[int, str] = {}
        self._calls: set[int] = set()
        self._begun: dict[int, str] = {}
        self._shown: set[int] = set()
        self._chars = 0

    @property
    def has_whole(self) -> bool:
        """Whether there is something to show that ends where a sentence does."""
        return bool(self._ends)

    @property
    def is_empty(self) -> bool:
        return not self._events

    @property
    def is_full(self) -> bool:
        return self._chars >= MAX_HELD_CHARS

    def add(self, event: ProviderEvent) -> None:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                self._add_text(event)
            case PartStarted():
                self._events.append(event)
                if event.kind in _CALLS:
                    self._calls.add(event.part)
                else:
                    self._end_of_sentence(event.part)
            case PartEnded():
                self._calls.discard(event.part)
                self._events.append(event)
                self._end_of_sentence(event.part)
            case _:
                self._events.append(event)
                self._mark()

    def take(self, *, unfinished: bool = False) -> list[Piece]:
        """What may be shown once it has been judged: whole sentences, or with `unfinished` all there is."""
        ends = [*self._ends, len(self._events)] if unfinished else self._ends
        if len(ends) > MAX_PIECES:
            step = -(-len(ends) // MAX_PIECES)
            ends = [*ends[step - 1 : -1 : step], ends[-1]]
        pieces = [self._piece(start, end) for start, end in pairwise((0, *ends)) if end > start]
        self._events = self._events[ends[-1] :] if ends else self._events
        self._ends = []
        self._chars = sum(len(_text(event)) for event in self._events)
        if unfinished:
            for part, rest in self._unfinished.items():
                self._begun[part] = (self._begun.get(part, "") + rest)[-MAX_HELD_CHARS:]
            self._unfinished.clear()
        return pieces

    def _piece(self, start: int, end: int) -> Piece:
        events, texts = self._events[start:end], dict[int, str]()
        for event in events:
            if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta) and (text := _text(event)):
                texts[event.part] = texts.get(event.part, "") + text
        return Piece([self._begun.pop(part, "") + text for part, text in texts.items()], events)

    def show(self, events: list[ProviderEvent]) -> None:
        """These were shown, so that their parts must be closed."""
        for event in events:
            if isinstance(event, PartStarted):
                self._shown.add(event.part)
            elif isinstance(event, PartEnded):
                self._shown.discard(event.part)

    def end(self, native_reason: str) -> list[ProviderEvent]:
        """What closes the choice where it is, as one that a content filter has cut."""
        closed: list[ProviderEvent] = [PartEnded(self._choice, part) for part in sorted(self._shown)]
        return [*closed, ChoiceEnded(self._choice, FinishReason.CONTENT_FILTER, native_reason)]

    def _add_text(self, event: _Delta) -> None:
        """One delta for each sentence that ends in it, and one for what is left."""
        text, part = _text(event), event.part
        self._chars += len(text)
        before, start = self._unfinished.get(part, ""), 0
        for end in () if part in self._calls else _sentence_ends(before + text):
            cut = end - len(before)
            self._events.append(_first(event, text[start:cut]) if cut < len(text) else _rest(event, text[start:]))
            self._end_of_sentence(part)
            start = cut
        if start < len(text) or not text:
            self._events.append(_rest(event, text[start:]))
            self._unfinished[part] = text[start:] if start else before + text
            self._mark()

    def _end_of_sentence(self, part: int) -> None:
        self._unfinished.pop(part, None)
        self._mark()

    def _mark(self) -> None:
        """All that is held may go, where no part is in the middle of something."""
        if not self._calls and not any(self._unfinished.values()):
            self._ends.append(len(self._events))


def _sentence_ends(text: str) -> list[int]:
    return [found.end() for found in _SENTENCE_END.finditer(text)]


def _text(event: ProviderEvent) -> str:
    match event:
        case TextDelta() | ReasoningDelta():
            return event.text
        case ToolCallDelta():
            return event.arguments
        case _:
            return ""


def _first(event: _Delta, text: str) -> ProviderEvent:
    """The beginning of a delta: what belongs to all of it goes with its end."""
    match event:
        case TextDelta():
            return TextDelta(event.choice, event.part, text)
        case ReasoningDelta():
            return ReasoningDelta(event.choice, event.part, text)
        case ToolCallDelta():
            return replace(event, arguments=text)


def _rest(event: _Delta, text: str) -> ProviderEvent:
    return replace(event, arguments=text) if isinstance(event, ToolCallDelta) else replace(event, text=text)
