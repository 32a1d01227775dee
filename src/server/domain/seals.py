"""How sealed thoughts travel through a client that keeps one text and one opaque value for all of them.

Some surfaces keep the two for each thought, some for all of a turn joined together. The first thought of a turn travels
with its seal as it is; any other seal is wrapped with its kind and the lengths of its text and its seal, so that what
was joined can be told apart again. A `redacted` thought has no text, and its seal is all that there is of it.

Only its maker can open a seal, and another refuses the request that holds it. So a seal that is not Claude's says
whose it is: Gemini's begin with `gemini/`, those of OpenAI's APIs with the API and the provider, for they are good with
one account. A bare seal is taken for Claude's, which are good with every provider of Claude; or OpenAI's, by its looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

SealKind = Literal["thinking", "redacted"]
SealingApi = Literal["chat", "responses"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9+/=_-]*")
_WRAPPED: Final = re.compile(r"\.([tr])(\d{1,9}),(\d{1,9})\.")
_MADE: Final = re.compile(r"(chat|responses)/([a-z0-9][a-z0-9._-]{0,63}):(\d{1,9}):")
_GEMINI: Final = "gemini/"
_OPENAI: Final = "gAAAA"
"""How the seals of OpenAI itself begin."""
_KINDS: Final[dict[str, SealKind]] = {"t": "thinking", "r": "redacted"}


class SealedThought(msgspec.Struct, frozen=True):
    kind: SealKind
    text: str
    seal: str


def sealed(kind: SealKind, text_chars: int, seal: str, *, first: bool) -> str:
    """The opaque value that a thought travels as; `text_chars` is the length of its text, `first`: of its turn."""
    if first and kind == "thinking" and _PLAIN.fullmatch(seal):
        return seal
    return f".{'t' if kind == 'thinking' else 'r'}{text_chars},{len(seal)}.{seal}"


def unsealed(text: str, value: str) -> Iterator[SealedThought]:
    """The thoughts in a text and the value beside it; none where the text is not the one that was sealed."""
    head, wrapped = _split(value)
    spare = len(text) - sum(chars for _, chars, _ in wrapped)
    if spare < 0:
        return
    if head:
        yield SealedThought("thinking", text[:spare], head)
    for kind, chars, seal in wrapped:
        start, spare = spare, spare + chars
        yield SealedThought(kind, text[start:spare], seal)


def is_wrapped(value: str) -> bool:
    """Whether a value says by itself what kind of thought it seals."""
    return _WRAPPED.match(value) is not None


def unwrapped(value: str) -> tuple[SealKind, str]:
    """The kind and the seal in a value that wraps one thought's; any other value is the seal of a thought itself."""
    head, wrapped = _split(value)
    if head or len(wrapped) != 1:
        return "thinking", value
    kind, _, seal = wrapped[0]
    return kind, seal


def made_by(api: SealingApi, provider: str, seal: str) -> str:
    """The opaque value that a seal of one of OpenAI's APIs travels as; values can be joined. Empty where it is."""
    return f"{api}/{provider}:{len(seal)}:{seal}" if seal else ""


def own_seals(api: SealingApi, provider: str, value: str) -> list[str]:
    """The seals in a value that may go back to that API of that provider."""
    if value.startswith(_OPENAI):
        return [value] if api == "responses" else []
    found: list[str] = []
    at = 0
    while (head := _MADE.match(value, at)) is not None:
        at = head.end() + int(head[3])
        if at <= len(value) and head[1] == api and head[2] == provider:
            found.append(value[head.end() : at])
    return found


def is_claudes(value: str) -> bool:
    """Whether nothing speaks against a value being seals of Claude's."""
    return bool(value) and not value.startswith((_OPENAI, _GEMINI)) and _MADE.match(value) is None


def _split(value: str) -> tuple[str, list[tuple[SealKind, int, str]]]:
    """A bare seal at the beginning, and every wrapped one: its kind, the length of its text, the seal."""
    found = _WRAPPED.search(value)
    if found is None:
        return value, []
    head = value[: found.start()]
    wrapped: list[tuple[SealKind, int, str]] = []
    while found is not None:
        end = found.end() + int(found[3])
        wrapped.append((_KINDS[found[1]], int(found[2]), value[found.end() : end]))
        found = _WRAPPED.match(value, end)
    return head, wrapped
