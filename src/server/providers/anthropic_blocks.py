"""One content block of a message under way, and what becomes of it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from server.domain.events import (
    AnnotationAdded,
    PartKind,
    ProviderEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.domain.ports import IdSource
from server.domain.seals import SealKind, sealed
from server.providers.anthropic_wire import NOTHING, WireBlock, WireDelta, words
from server.providers.decoding import Parts
from server.providers.openai_errors import protocol_failure

MAX_ARGUMENT_CHARS: Final = 16 * 1024 * 1024
"""Arguments of one call; more is no call."""

_NO_INPUT: Final = (b"", b"null", b"{}")


class Text:
    """Text blocks in a row are one part, whose annotations stand for the block that they are about."""

    __slots__ = ("_chars", "_parts", "part")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.part = -1
        self._chars = 0

    def say(self, text: str, out: list[ProviderEvent]) -> None:
        if text:
            self._open(out)
            self._chars += len(text)
            out.append(TextDelta(0, self.part, text))

    def cite(self, citation: Any, start: int, out: list[ProviderEvent]) -> None:
        """`start` is where the block of the citation began. Only what has an address can be told."""
        url = _address(citation)
        if url:
            self._open(out)
            annotation = {
                "type": "url_citation",
                "start_index": start,
                "end_index": self._chars,
                "url": url,
                "title": words(citation.get("title")),
            }
            out.append(AnnotationAdded(0, self.part, msgspec.Raw(msgspec.json.encode(annotation))))

    @property
    def chars(self) -> int:
        return self._chars

    def end(self, out: list[ProviderEvent]) -> None:
        if self.part >= 0:
            self._parts.end(self.part, out)
            self.part, self._chars = -1, 0

    def _open(self, out: list[ProviderEvent]) -> None:
        if self.part < 0:
            self.part = start_part(self._parts, PartKind.TEXT, out)


class TextBlock:
    __slots__ = ("_citations", "_start", "_text")

    def __init__(self, text: Text) -> None:
        self._text = text
        self._start = text.chars
        self._citations: list[Any] = []

    def begin(self, block: WireBlock, out: list[ProviderEvent]) -> None:
        self._text.say(words(block.text), out)
        if isinstance(block.citations, list):
            self._citations += block.citations

    def delta(self, delta: WireDelta, out: list[ProviderEvent]) -> None:
        if delta.type == "citations_delta":
            self._citations.append(delta.citation)
        else:
            self._text.say(words(delta.text), out)

    def end(self, out: list[ProviderEvent]) -> None:
        for citation in self._citations:
            self._text.cite(citation, self._start, out)
        self._citations.clear()


class ThinkingBlock:
    """`first`: no other block of the message has been sealed before it."""

    __slots__ = ("_chars", "_first", "_kind", "_parts", "_seal", "part")

    def __init__(self, parts: Parts, kind: SealKind, *, first: bool) -> None:
        self._parts = parts
        self._kind: SealKind = kind
        self._first = first
        self._chars = 0
        self._seal = ""
        self.part = -1

    def begin(self, block: WireBlock, out: list[ProviderEvent]) -> None:
        self.part = start_part(self._parts, PartKind.REASONING, out)
        self._think(words(block.thinking), out)
        self._seal = words(block.data) if self._kind == "redacted" else words(block.signature)

    def delta(self, delta: WireDelta, out: list[ProviderEvent]) -> None:
        self._think(words(delta.thinking), out)
        self._seal += words(delta.signature)

    def end(self, out: list[ProviderEvent]) -> None:
        if self._seal:
            value = sealed(self._kind, self._chars, self._seal, first=self._first)
            out.append(ReasoningDelta(0, self.part, "", value))
        self._parts.end(self.part, out)

    def _think(self, text: str, out: list[ProviderEvent]) -> None:
        if text:
            self._chars += len(text)
            out.append(ReasoningDelta(0, self.part, text))


class CallBlock:
    """A tool call. Its input comes with its beginning, or in pieces after an empty one."""

    __slots__ = ("_chars", "_ids", "_parts", "_whole", "part")

    def __init__(self, parts: Parts, ids: IdSource) -> None:
        self._parts = parts
        self._ids = ids
        self._chars = 0
        self._whole = "{}"
        self.part = -1

    def begin(self, block: WireBlock, out: list[ProviderEvent]) -> None:
        name = words(block.name)
        if not name:
            raise protocol_failure("The provider sent a tool call without a name.")
        call_id = words(block.id) or f"toolu_{self._ids.new()}"
        self.part = start_part(self._parts, PartKind.TOOL_CALL, out, call_id=call_id, name=name)
        if block.input is not NOTHING and bytes(block.input) not in _NO_INPUT:
            self._whole = bytes(block.input).decode()

    def delta(self, delta: WireDelta, out: list[ProviderEvent]) -> None:
        text = words(delta.partial_json)
        if not text:
            return
        self._chars += len(text)
        if self._chars > MAX_ARGUMENT_CHARS:
            raise protocol_failure("The provider sent a tool call of excessive size.")
        out.append(ToolCallDelta(0, self.part, text))

    def end(self, out: list[ProviderEvent]) -> None:
        if not self._chars:
            out.append(ToolCallDelta(0, self.part, self._whole))
        self._parts.end(self.part, out)


class UnknownBlock:
    """A built-in tool's call or result, or a kind that is newer than this gateway: nothing that can be relayed."""

    __slots__ = ()

    def begin(self, block: WireBlock, out: list[ProviderEvent]) -> None: ...
    def delta(self, delta: WireDelta, out: list[ProviderEvent]) -> None: ...
    def end(self, out: list[ProviderEvent]) -> None: ...


Block = TextBlock | ThinkingBlock | CallBlock | UnknownBlock


def start_part(parts: Parts, kind: PartKind, out: list[ProviderEvent], *, call_id: str = "", name: str = "") -> int:
    if parts.full:
        raise protocol_failure("The provider sent too many parts.")
    return parts.start(kind, out, call_id=call_id, name=name)


def _address(citation: Any) -> str:
    if not isinstance(citation, dict):
        return ""
    url = words(citation.get("url")) or words(citation.get("source"))
    return url if url.startswith(("https://", "http://")) else ""
