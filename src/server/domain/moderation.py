"""Content judged against categories: what a client asks for, and what a provider answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from server.domain.request import Image, Request, Text

Content: TypeAlias = tuple[Text | Image, ...]
"""What is judged as one."""


class ModerationRequest(Request, frozen=True, kw_only=True):
    """One verdict is wanted for each of `inputs`, in their order."""

    inputs: tuple[Content, ...]


class Verdict(msgspec.Struct, frozen=True):
    """`categories` says by name what the content is held to be, `scores` how surely, from 0 to 1."""

    flagged: bool
    categories: Mapping[str, bool]
    scores: Mapping[str, float]


class Moderations(msgspec.Struct, frozen=True):
    """One verdict for each input, in their order."""

    verdicts: tuple[Verdict, ...]
