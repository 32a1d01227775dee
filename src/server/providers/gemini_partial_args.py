"""Arguments that are streamed in pieces (Vertex AI): each piece says by JSON path where it belongs."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final

import msgspec

from server.providers.gemini_wire import objects, words

_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d{1,6})\]|\['((?:[^'\\]|\\.)*)'\]")
MAX_ITEMS: Final = 10_000
"""Of one array; an upstream that names more has gone mad."""
_VALUES: Final = ("stringValue", "numberValue", "boolValue", "nullValue")


class PartialArgs:
    """One call whose arguments are being told."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}

    def add(self, pieces: Any) -> None:
        """Raises ValueError for a path that makes no sense."""
        for piece in objects(pieces):
            kind = next((kind for kind in _VALUES if kind in piece), None)
            path = _path(words(piece.get("jsonPath")))
            if kind is not None:
                self._put(path, None if kind == "nullValue" else piece[kind])

    def json(self) -> str:
        return msgspec.json.encode(self._root).decode()

    def _put(self, path: list[str | int], value: Any) -> None:
        at: Any = self._root
        for step, following in pairwise(path):
            at = _inside(at, step, [] if isinstance(following, int) else {})
        known = _inside(at, path[-1], None)
        # Text grows from piece to piece; everything else is said once.
        at[path[-1]] = known + value if isinstance(known, str) and isinstance(value, str) else value


def _path(text: str) -> list[str | int]:
    """The steps of `$.a.b[0]['c']`."""
    steps: list[str | int] = []
    at = 1
    while at < len(text) and (found := _STEP.match(text, at)) is not None:
        at = found.end()
        steps.append(int(found[2]) if found[2] else re.sub(r"\\(.)", r"\1", found[1] or found[3] or ""))
    if not text.startswith("$") or at != len(text) or not steps or isinstance(steps[0], int):
        raise ValueError("not a JSON path")
    return steps


def _inside(holder: Any, step: str | int, new: Any) -> Any:
    """What `holder` has at `step`, which becomes `new` where there is nothing."""
    if isinstance(step, str) and isinstance(holder, dict):
        return holder.setdefault(step, new)
    if isinstance(step, int) and isinstance(holder, list) and step < MAX_ITEMS:
        holder.extend([None] * (step + 1 - len(holder)))
        if holder[step] is None:
            holder[step] = new
        return holder[step]
    raise ValueError("a path through something else")
