"""Moderation of what goes to a model and what comes from it: what is asked for, and what came of it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Mode: TypeAlias = Literal["flag", "block"]
MODES: Final[tuple[Mode, ...]] = ("flag", "block")
"""From lax to strict; None is laxer still, and does nothing."""


class Guardrail(msgspec.Struct, frozen=True):
    """`flag` tells of what is flagged, `block` keeps it from going in or out. `model` None: the gateway's choice."""

    input: Mode | None = None
    output: Mode | None = None
    model: str | None = None


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found in one direction. `flagged` is None where it could not be judged; `error` is then the reason.

    `unchecked` names kinds of content that were there and that the model cannot judge.
    """

    flagged: bool | None
    categories: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    error: str | None = None


class ModerationReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """`model` is who judged. A direction that nobody asked about is None."""

    model: str
    input: Finding | None = None
    output: Finding | None = None


def stricter(one: Mode | None, other: Mode | None) -> Mode | None:
    return max((one, other), key=lambda mode: -1 if mode is None else MODES.index(mode))
