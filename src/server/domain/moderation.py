"""Content judged against categories: what a client asks for, and what a provider answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from server.domain.request import Image, Request, Text

Content: TypeAlias = tuple[Text | Image, ...]
"""What is judged as one."""
InputType: TypeAlias = Literal["text", "image"]

CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""OpenAI's. What a provider looks for beside them keeps the provider's own name."""
MAX_INPUTS: Final = 1024
"""Of one request."""
MAX_PARTS: Final = 64
"""Of one input."""


class ModerationRequest(Request, frozen=True, kw_only=True):
    """One verdict is wanted for each of `inputs`, in their order."""

    inputs: tuple[Content, ...]


class Verdict(msgspec.Struct, frozen=True):
    """`categories` says by name what the content is held to be, `scores` how surely, from 0 to 1.

    All three mappings have the same keys: what was looked for. `applied` says in which kinds of input, which may be
    none: nobody looks for `sexual/minors` in a picture.
    """

    flagged: bool
    categories: Mapping[str, bool]
    scores: Mapping[str, float]
    applied: Mapping[str, tuple[InputType, ...]] = {}

    @property
    def found(self) -> tuple[str, ...]:
        """The names of the categories that the content belongs to."""
        return tuple(name for name, belongs in self.categories.items() if belongs)


class Moderations(msgspec.Struct, frozen=True):
    """One verdict for each input, in their order."""

    verdicts: tuple[Verdict, ...]


def merged(verdicts: Sequence[Verdict]) -> Verdict:
    """What several pieces of one content come to: whatever one of them is, the whole is; the highest score counts."""
    if len(verdicts) == 1:
        return verdicts[0]
    categories: dict[str, bool] = {}
    scores: dict[str, float] = {}
    applied: dict[str, tuple[InputType, ...]] = {}
    for verdict in verdicts:
        for name, belongs in verdict.categories.items():
            categories[name] = categories.get(name, False) or belongs
            scores[name] = max(scores.get(name, 0.0), verdict.scores.get(name, 0.0))
            applied[name] = tuple(dict.fromkeys((*applied.get(name, ()), *verdict.applied.get(name, ()))))
    return Verdict(any(verdict.flagged for verdict in verdicts), categories, scores, applied)
