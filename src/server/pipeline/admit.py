"""The door to the providers: what must hold before any of them is called.

This is where a request's upper bound is reserved from the team's credit, once wallets are kept. A reservation ends
exactly once, whatever ends the request: `settle` charges what was used; leaving without it voids the reservation.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from server.domain.events import Settled
from server.domain.identity import Call
from server.domain.request import GenerationRequest
from server.domain.routing import Route


class Reservation:
    """Credit held for one request, as an async context manager."""

    def __init__(self) -> None:
        self.settled: Settled | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Void what was not settled."""

    async def settle(self, settled: Settled) -> None:
        """Charge what was used; durable when this returns."""
        self.settled = settled


async def admit(call: Call, request: GenerationRequest, route: Route) -> Reservation:
    """Hold the credit that `request` may cost at most on any candidate of `route`."""
    return Reservation()
