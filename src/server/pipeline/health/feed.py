"""How providers are, told to those who watch: as soon as it matters, and no more often than it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import structlog

from server.domain.health import HealthView, ProviderHealth
from server.domain.ports import Clock
from server.pipeline.shutdown import Shutdown

LOOK_S: Final = 0.5
"""How often it is looked whether anything has changed, as long as anybody watches."""
FIGURES_S: Final = 5.0
"""Changes of mere figures are told this often at most."""

_log: Final = structlog.get_logger(__name__)

Snapshot = tuple[ProviderHealth, ...]


class Feed:
    """Implements `server.domain.health.HealthFeed`. One snapshot is kept, the newest, for all who watch."""

    def __init__(self, health: HealthView, clock: Clock, shutdown: Shutdown) -> None:
        self._health = health
        self._clock = clock
        self._shutdown = shutdown
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._newest: Snapshot = ()
        self._told_s = 0.0

    async def watch(self) -> AsyncGenerator[Snapshot, None]:
        """As the port says."""
        self._shutdown.check_leaving()
        self._enter()
        try:
            news = self._news
            yield self._health.providers()
            while True:
                await news.wait()
                self._shutdown.check_leaving()
                news = self._news
                yield self._newest
        finally:
            self._leave()

    def _enter(self) -> None:
        self._watchers += 1
        if self._looking is None:
            self._tell(self._health.providers())
            self._looking = asyncio.create_task(self._look_again_and_again())

    def _leave(self) -> None:
        self._watchers -= 1
        if not self._watchers and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look_again_and_again(self) -> None:
        while not self._shutdown.leaving.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._shutdown.leaving.wait()
            try:
                self._look()
            except Exception as error:  # the boundary: who watches learns of the next change
                _log.error("health_not_told", cause=type(error).__name__)
        self._news.set()

    def _look(self) -> None:
        found, since_s = self._health.providers(), self._clock.monotonic() - self._told_s
        if _matters(found) != _matters(self._newest) or (found != self._newest and since_s >= FIGURES_S):
            self._tell(found)

    def _tell(self, found: Snapshot) -> None:
        self._newest, self._told_s = found, self._clock.monotonic()
        news, self._news = self._news, asyncio.Event()
        news.set()


def _matters(snapshot: Snapshot) -> list[Any]:
    """What is told at once."""
    return [
        (one.id, one.status, one.breaker.state, [(route.model, route.endpoint, route.breaker) for route in one.routes])
        for one in snapshot
    ]
