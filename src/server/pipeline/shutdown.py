"""Ending what is under way when a worker must stop now: each call with an error that says so, none in silence."""

from __future__ import annotations

import asyncio

from server.domain.errors import GatewayError, Reason
from server.pipeline.patience import Patience

RETRY_AFTER_S = 1.0


class Shutdown:
    """One per worker. Whoever waits for a provider does so with a patience that is watched here."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        """Set as soon as this worker is to take no more calls: what has no end of its own ends then."""
        self.has_begun = False
        self._watched: set[Patience] = set()

    def begin(self) -> None:
        """Let every watched wait end now, and none begin. Idempotent."""
        self.leaving.set()
        self.has_begun = True
        for patience in self._watched:
            patience.end()

    def watch(self, patience: Patience) -> None:
        """Let its waits end when the shutdown begins, until it is dropped."""
        self._watched.add(patience)

    def drop(self, patience: Patience) -> None:
        """Close it."""
        self._watched.discard(patience)
        patience.close()

    def check(self) -> None:
        """Raise GatewayError (`shutting_down`) once the shutdown has begun."""
        if self.has_begun:
            raise _shutting_down()

    def check_leaving(self) -> None:
        """The same, as soon as this worker is leaving."""
        if self.leaving.is_set():
            raise _shutting_down()


def _shutting_down() -> GatewayError:
    return GatewayError(Reason.SHUTTING_DOWN, "This gateway is being stopped. Try again.", retry_after_s=RETRY_AFTER_S)
