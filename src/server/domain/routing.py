"""Where a request may go, in the order in which it should be tried."""

from __future__ import annotations

import msgspec

from server.domain.catalog import Model, Offer
from server.domain.usage import RoutingRow


class Candidate(msgspec.Struct, frozen=True):
    """One offer that can serve the request; `model` differs from the one asked for where it is a fallback model."""

    model: Model
    offer: Offer


class Route(msgspec.Struct, frozen=True):
    """`candidates` is never empty and names no offer twice; `rejected` says why any other is not there."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[RoutingRow, ...] = ()
