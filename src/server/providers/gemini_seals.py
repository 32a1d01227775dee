"""Thought signatures on their way to a client and back.

Gemini signs single parts of a turn (thoughts, text, calls), and wants every signature back on the part that had it. The
surfaces carry one opaque text a message, made of all that `ReasoningDelta.signature` said. So each signature travels as
a seal that tells its place; seals can be joined, and are found again in whatever stands around them.

A call's own id is marked as well: only ids that Gemini gave may go back to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

_HEAD: Final = re.compile(r"gemini/([tcr])(\d{1,9})-(\d{1,9}):(\d{1,9}):")
_NATIVE_ID: Final = "gemini_"

Place = Literal["t", "c", "r"]
"""Text, call, or thought ("reasoning")."""


class Seal(msgspec.Struct, frozen=True, gc=False):
    """The signature of one part. `start` and `end`: which characters of all the text (or thoughts) of the turn the part
    held; for a call `start` is its number among the turn's calls, from 0.
    """

    place: Place
    start: int
    end: int
    signature: str

    def __str__(self) -> str:
        return f"gemini/{self.place}{self.start}-{self.end}:{len(self.signature)}:{self.signature}"


def seals(texts: Iterable[str]) -> Iterator[Seal]:
    """The seals in opaque texts; another provider's signatures are none."""
    for text in texts:
        at = 0
        while (head := _HEAD.match(text, at)) is not None:
            at = head.end() + int(head[4])
            if at > len(text):
                break
            place: Place = "t" if head[1] == "t" else "c" if head[1] == "c" else "r"
            yield Seal(place, int(head[2]), int(head[3]), text[head.end() : at])


def outward_id(native: str, made: str) -> str:
    """The call id that clients see, for Gemini's own or for the lack of one; `made` is unique."""
    return f"{_NATIVE_ID}{native}" if native else f"call_{made}"


def native_id(call_id: str) -> str | None:
    """Gemini's own id behind a call id; None where it gave none, or another provider made it."""
    return call_id.removeprefix(_NATIVE_ID) if call_id.startswith(_NATIVE_ID) else None
