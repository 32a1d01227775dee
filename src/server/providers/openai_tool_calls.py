"""Putting tool calls together from deltas whose index, id or name may be missing, constant, repeated or late."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from server.domain.events import PartKind, ProviderEvent, ToolCallDelta
from server.domain.ports import IdSource
from server.providers.decoding import Parts
from server.providers.openai_chat_wire import WireToolCall, arguments_text, decode_any, words
from server.providers.openai_errors import protocol_failure

MAX_CALLS: Final = 1024
"""Calls of one choice."""
MAX_ARGUMENT_CHARS: Final = 16 * 1024 * 1024
"""Arguments of one call; more is no call."""

_SEAM: Final = re.compile(r"\}\s*\{")
_json: Final = json.JSONDecoder()


class _Call:
    """A call under construction. `part` is -1 until its name is known; `text` is all arguments so far."""

    __slots__ = ("_pieces", "custom", "name", "native_id", "part", "size")

    def __init__(self, native_id: str) -> None:
        self.native_id = native_id
        self.name = ""
        self.custom = False
        self.part = -1
        self.size = 0
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        self.size += len(text)
        self._pieces.append(text)

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def is_whole(self) -> bool:
        """Whether the arguments so far are one JSON object. That never ends a call: it only tells calls apart."""
        if not self._pieces or not self._pieces[-1].rstrip().endswith("}"):
            return False
        try:
            decode_any(self.text)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class ToolCalls:
    """The tool calls of one choice."""

    __slots__ = ("_by_id", "_by_index", "_calls", "_ids", "_parts")

    def __init__(self, parts: Parts, ids: IdSource) -> None:
        self._parts = parts
        self._ids = ids
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    @property
    def any(self) -> bool:
        return bool(self._calls)

    def add(self, deltas: Sequence[WireToolCall], out: list[ProviderEvent], *, whole: bool) -> None:
        """Deltas of one chunk, in order; `whole`: each is a call by itself. Raises ProviderFailure."""
        for delta in deltas:
            custom = delta.custom
            if custom is not None:
                name, text = words(custom.name), words(custom.input)
            elif delta.function is not None:
                name, text = words(delta.function.name), arguments_text(delta.function.arguments)
            else:
                name, text = "", ""
            index = delta.index if type(delta.index) is int else None
            native_id = words(delta.id)
            known = None if whole else self._find(index, native_id, name, text)
            call = known or self._open(index, native_id)
            if index is not None:
                self._by_index.setdefault(index, call)
            call.custom = call.custom or custom is not None
            if native_id and not call.native_id and native_id not in self._by_id:
                call.native_id = native_id
                self._by_id[native_id] = call
            self._extend(call, name, text, index, out)

    def finish(self, out: list[ProviderEvent]) -> None:
        """Nothing more will come: empty arguments become an empty object. Raises ProviderFailure."""
        for call in self._calls:
            if call.part < 0 and call.size:
                raise protocol_failure("The provider sent a tool call without a name.")
            if call.part >= 0 and not call.custom and not call.text.strip():
                out.append(ToolCallDelta(self._parts.choice, call.part, "{}"))

    def _find(self, index: int | None, native_id: str, name: str, text: str) -> _Call | None:
        """The call that a delta goes on with, None where it begins a new one."""
        known = self._candidate(index, native_id, name, text)
        if known is None or not name or not known.name:
            return known
        if name != known.name:
            return None
        return None if text.lstrip().startswith("{") and known.is_whole else known

    def _candidate(self, index: int | None, native_id: str, name: str, text: str) -> _Call | None:
        last = self._calls[-1] if self._calls else None
        if native_id in self._by_id:
            return self._by_id[native_id]
        if index is not None and index in self._by_index:
            known = self._by_index[index]
            # A constant index for parallel calls: there only the ids tell them apart.
            return None if native_id and known.native_id and name else known
        if native_id or last is None:
            return last if native_id and text and not name and index is None else None
        if index is not None:
            # The index changed between a call's head and its arguments.
            return None if name or last.is_whole else last
        if name:
            return last if last.name == name and last.size and not last.is_whole else None
        return last

    def _open(self, index: int | None, native_id: str) -> _Call:
        if self._parts.full or len(self._calls) >= MAX_CALLS:
            raise protocol_failure("The provider sent too many tool calls.")
        call = _Call("" if native_id in self._by_id else native_id)
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        if call.native_id:
            self._by_id[native_id] = call
        return call

    def _extend(self, call: _Call, name: str, text: str, index: int | None, out: list[ProviderEvent]) -> None:
        if call.size + len(text) > MAX_ARGUMENT_CHARS:
            raise protocol_failure("The provider sent a tool call of excessive size.")
        if name and not call.name:
            call.name = name
        while (seam := _second_object(call, text)) is not None:
            self._emit(call, text[:seam], out)
            call, name, text = self._open(index, ""), call.name, text[seam:].lstrip()
            call.name = name
        self._emit(call, text, out)

    def _emit(self, call: _Call, text: str, out: list[ProviderEvent]) -> None:
        choice = self._parts.choice
        if text:
            call.add(text)
        if call.part >= 0:
            if text:
                out.append(ToolCallDelta(choice, call.part, text))
        elif call.name:
            kind = PartKind.CUSTOM_TOOL_CALL if call.custom else PartKind.TOOL_CALL
            call_id = call.native_id or f"call_{self._ids.new()}"
            call.part = self._parts.start(kind, out, call_id=call_id, name=call.name)
            if call.text:
                out.append(ToolCallDelta(choice, call.part, call.text))


def _second_object(call: _Call, text: str) -> int | None:
    """Where in `text` a second JSON object begins after a whole first one: two calls on one index."""
    if call.custom or "{" not in text:
        return None
    if call.size and text.lstrip().startswith("{") and call.is_whole:
        return 0
    if _SEAM.search(text) is None:
        return None
    before = call.text
    joined = before + text
    try:
        _, end = _json.raw_decode(joined, len(joined) - len(joined.lstrip()))
    except (ValueError, RecursionError):
        return None
    return end - len(before) if end >= len(before) and joined[end:].lstrip().startswith("{") else None
