"""Putting tool calls together from deltas whose index, id or name may be missing, constant, repeated or late."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from server.domain.events import PartKind, ProviderEvent, ToolCallDelta
from server.domain.ports import IdSource
from server.providers.decoding import Parts
from server.providers.openai_chat_wire import WireToolCall, arguments_text, words
from server.providers.openai_errors import protocol_failure

MAX_CALLS: Final = 1024
"""Calls of one choice."""
MAX_ARGUMENT_CHARS: Final = 16 * 1024 * 1024
"""Arguments of one call; more is no call."""

_SEAM: Final = re.compile(r"\}\s*\{")
_SPACE: Final = re.compile(r"\s*+")
_STRING: Final = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The rest of a string, up to its quote or to half an escape."""
_FLAT: Final = rf'[^{{}}"]++|"{_STRING.pattern}"'
_CODE: Final = re.compile(rf"(?:{_FLAT}|\{{(?:{_FLAT})*+\}})*+", re.DOTALL)
"""JSON up to the end of the object that it is in, to a brace within, or to a string without its end."""
_MAX_DEPTH: Final = 1000
"""Objects in each other; no decoder takes more."""
_json: Final = json.JSONDecoder()


class _State(Enum):
    OPEN = auto()
    WHOLE = auto()
    NONE = auto()
    """It is no object, or more than one."""


class _Call:
    """A call under construction. `part` is -1 until its name is known; `text` is all arguments so far.

    Its arguments are read only where it matters whether they are one JSON object, and then each piece once.
    """

    __slots__ = ("_depth", "_in_escape", "_in_string", "_pieces", "_read", "_state", "custom", "name", "native_id",
                 "part", "size")  # fmt: skip

    def __init__(self, native_id: str) -> None:
        self.native_id = native_id
        self.name = ""
        self.custom = False
        self.part = -1
        self.size = 0
        self._pieces: list[str] = []
        self._read = 0
        self._state = _State.OPEN
        self._depth = 0
        self._in_string = self._in_escape = False

    def add(self, text: str, at: int) -> int:
        """Add `text` from `at` on, up to where a second object begins after a whole first one; that place, or its end.

        Two objects are two calls on one index.
        """
        end = self._end(text, at)
        if end > at:
            self.size += end - at
            self._pieces.append(text[at:end])
        return end

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments so far are one JSON object. That never ends a call: it only tells calls apart."""
        tail = self._pieces[-1][-64:].rstrip() if self._pieces else "-"
        if tail and not tail.endswith("}"):
            return False
        self._catch_up()
        return self._state is _State.WHOLE

    def _end(self, text: str, at: int) -> int:
        if self.custom or text.find("{", at) < 0:
            return len(text)
        if self.size and text.startswith("{", _after_space(text, at)) and self.is_whole:
            return at
        if _SEAM.search(text, at) is None:
            return len(text)
        self._catch_up()
        end = self._read_on(text, at)
        self._read += 1  # it will be the next piece
        after = _after_space(text, end)
        if after < len(text):
            if self._state is _State.WHOLE and text[after] == "{":
                return end
            self._state = _State.NONE
        return len(text)

    def _catch_up(self) -> None:
        while self._read < len(self._pieces):
            piece = self._pieces[self._read]
            if _after_space(piece, self._read_on(piece, 0)) < len(piece):
                self._state = _State.NONE
            self._read += 1

    def _read_on(self, text: str, at: int) -> int:
        """Read `text` from `at` on: where the object ends, or the end of `text` where it goes on. Sets the state."""
        if self._state is not _State.OPEN:
            return at
        start = at
        if not self._depth:
            at = _after_space(text, at)
            if at < len(text) and text[at] != "{":
                self._state = _State.NONE
            if at == len(text) or text[at] != "{":
                return at
            self._depth = 1
            at += 1
        while at < len(text):
            if self._in_string:
                at = _end_of(_STRING, text, at + self._in_escape)
                self._in_escape = at < len(text) and text[at] == "\\"
                if at == len(text) or self._in_escape:
                    return len(text)
                self._in_string = False
            elif (at := _end_of(_CODE, text, at)) == len(text):
                return at
            elif text[at] == '"':
                self._in_string = True
            else:
                self._depth += 1 if text[at] == "{" else -1
                if not self._depth:
                    so_far = "".join(self._pieces[: self._read]) + text[start : at + 1]
                    self._state = _State.WHOLE if _is_json(so_far) else _State.NONE
                    return at + 1
                if self._depth > _MAX_DEPTH:
                    self._state = _State.NONE
                    return at
            at += 1
        return at


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _after_space(text: str, at: int) -> int:
    return _end_of(_SPACE, text, at)


def _is_json(text: str) -> bool:
    try:
        _json.decode(text.strip())
    except (ValueError, RecursionError):
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
        at = 0
        while (end := call.add(text, at)) < len(text):
            self._emit(call, text[at:end], out)
            call, name, at = self._open(index, ""), call.name, _after_space(text, end)
            call.name = name
        self._emit(call, text[at:], out)

    def _emit(self, call: _Call, text: str, out: list[ProviderEvent]) -> None:
        """Tell of `text`, which has been added."""
        choice = self._parts.choice
        if call.part >= 0:
            if text:
                out.append(ToolCallDelta(choice, call.part, text))
        elif call.name:
            kind = PartKind.CUSTOM_TOOL_CALL if call.custom else PartKind.TOOL_CALL
            call_id = call.native_id or f"call_{self._ids.new()}"
            call.part = self._parts.start(kind, out, call_id=call_id, name=call.name)
            if call.text:
                out.append(ToolCallDelta(choice, call.part, call.text))
