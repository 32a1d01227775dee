"""Where a request may go, in the order in which it should be tried."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from server.domain.catalog import Model, Offer
from server.domain.health import BreakerState
from server.domain.request import Request
from server.domain.trace import Choice
from server.domain.usage import RoutingRow


class Candidate(msgspec.Struct, frozen=True):
    """One offer that can serve the request; `model` differs from the one asked for where it is a fallback model."""

    model: Model
    offer: Offer


class Assessment(msgspec.Struct, frozen=True):
    """Why a candidate stands where it does: its weight from 0 to 1, its breaker, and what weighed most, if anything."""

    score: float
    breaker: BreakerState
    reason: str


class Route(msgspec.Struct, frozen=True):
    """`candidates` is never empty and names no offer twice; `rejected` says why any other is not there.

    `assessments` are those of the candidates, one by one, or empty where nobody assessed them. The candidates from the
    place `resorts_from` on have an open breaker: one of them may be tried where all others have failed. `is_only`:
    there never was another candidate, so that it is called whatever its breaker says. `choice` is there where the
    request wants a trace.
    """

    candidates: tuple[Candidate, ...]
    rejected: tuple[RoutingRow, ...] = ()
    assessments: tuple[Assessment, ...] = ()
    resorts_from: int = sys.maxsize
    is_only: bool = False
    choice: Choice | None = None


Ranker: TypeAlias = Callable[[Sequence[Candidate], Request], Route]
"""Puts candidates, of which there is at least one, in the order to try them; may reject some, but not all."""
