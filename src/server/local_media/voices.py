"""The names that voices are asked for by, and eSpeak NG's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["USUAL_WORDS_PER_MINUTE", "VOICES", "voice_of"]

USUAL_WORDS_PER_MINUTE: Final = 165
VOICES: Final[Mapping[str, str]] = {
    "alloy": "en-us+klatt",
    "ash": "en-us+m3",
    "ballad": "en+m2",
    "cedar": "en-us+m7",
    "coral": "en-us+f2",
    "echo": "en-us+m1",
    "fable": "en+f4",
    "marin": "en-us+f5",
    "nova": "en-us+f3",
    "onyx": "en-us+m4",
    "sage": "en-us+f1",
    "shimmer": "en-us+f4",
    "verse": "en-us+klatt3",
}
"""OpenAI's names, each with a voice of its own. The first is the one that the embedded transcription hears best."""
_OWN: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,12}){0,3}(\+[A-Za-z0-9]{1,12})?")


def voice_of(name: str) -> str | None:
    """What eSpeak NG calls it. It may also be a language and a variant of eSpeak NG's own: `de`, `en-us+f3`."""
    known = VOICES.get(name.lower())
    if known is not None:
        return known
    return name if _OWN.fullmatch(name) else None
