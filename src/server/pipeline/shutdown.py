"""Ending what is under way when a worker must stop now: each call with an error that says so, none in silence."""

from __future__ import annotations

import asyncio

from server.domain.errors import GatewayError, Reason

RETRY_AFTER_S = 1.0


class Shutdown:
    """One per worker. Whoever waits for a provider does so under a timeout that is watched here."""

    def __init__(self) -> None:
        self.has_begun = False
        self._watched: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Let every watched wait end now, and none begin. Idempotent."""
        self.has_begun = True
        now = asyncio.get_running_loop().time()
        for limit in self._watched:
            limit.reschedule(now)

    def watch(self, limit: asyncio.Timeout) -> None:
        """Let `limit`, which has been entered, expire when the shutdown begins."""
        self._watched.add(limit)

    def unwatch(self, limit: asyncio.Timeout) -> None:
        self._watched.discard(limit)

    def check(self) -> None:
        """Raise GatewayError (`shutting_down`) once the shutdown has begun."""
        if self.has_begun:
            raise GatewayError(
                Reason.SHUTTING_DOWN, "This gateway is being stopped. Try again.", retry_after_s=RETRY_AFTER_S
            )
