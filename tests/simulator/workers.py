"""Workers of a simulated gateway: each has its own health, and shares it with the others through a board."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from server.domain.catalog import Catalog, Dialect
from server.domain.errors import GatewayError, Reason
from server.domain.events import GenerationStream
from server.domain.health import SharedReport
from server.domain.ports import Clock, ProviderAdapter
from server.domain.request import GenerationRequest
from server.pipeline.attempt import Attempts, TimeLimits
from server.pipeline.health.offers import Health
from server.pipeline.health.router import RankByHealth
from server.pipeline.health.share import Sharing
from server.pipeline.route import candidates
from server.pipeline.shutdown import Shutdown
from tests.simulator.providers import Scripted, worker_id


class Source:
    """Implements `server.domain.ports.CatalogSource`."""

    def __init__(self, catalog: Catalog) -> None:
        self.current = catalog


class Board:
    """What a database keeps of the workers' reports."""

    def __init__(self) -> None:
        self.reports: dict[str, SharedReport] = {}
        self.is_away = False

    def check(self) -> None:
        if self.is_away:
            raise GatewayError(Reason.DATABASE_UNAVAILABLE, "The database is away.")


class Seat:
    """Implements `server.domain.health.HealthExchange` for one worker."""

    def __init__(self, board: Board, name: str) -> None:
        self._board = board
        self._name = name

    async def publish(self, number: int, report: bytes) -> None:
        self._board.check()
        self._board.reports[self._name] = SharedReport(self._name, number, report)

    async def others(self, known: Mapping[str, int]) -> list[SharedReport]:
        self._board.check()
        return [
            one for name, one in self._board.reports.items() if name != self._name and known.get(name) != one.number
        ]


class Worker:
    """One process. `run` shares its health until it is cancelled."""

    def __init__(self, name: str, source: Source, adapter: Scripted, board: Board, clock: Clock, seed: int) -> None:
        self.name = name
        self.health = Health(clock, random.Random(seed).random)
        self._source = source
        self._adapters: dict[Dialect, ProviderAdapter] = {"openai": adapter}
        self._clock = clock
        self._rank = RankByHealth(self.health)
        self._sharing = Sharing(self.health, Seat(board, name), source, clock)

    async def run(self, pause_s: float = 0.0) -> None:
        """Share for ever, from `pause_s` on."""
        worker_id.set(self.name)
        await asyncio.sleep(pause_s)
        await self._sharing.run()

    def breaker(self, provider: str) -> str:
        """The worst state of that provider's breakers."""
        now_s = self._clock.monotonic()
        states = [one.breaker.state(now_s) for one in self.health.entries() if one.key.provider == provider]
        return next((state for state in ("open", "half_open") if state in states), "closed")

    def attempts(self) -> Attempts:
        """Those of one request."""
        return Attempts(self._adapters, self._source.current.routing, self._clock, Shutdown(), self.health)

    def stream(self, attempts: Attempts, request: GenerationRequest) -> GenerationStream:
        """Route it and attempt it, as the gateway does; raises GatewayError."""
        route = candidates(self._source.current, request, self._adapters, self._rank)
        now_s, timeout_s = self._clock.monotonic(), self._source.current.routing.timeout_s
        return attempts.run(route, request, TimeLimits(now_s + timeout_s, now_s + 3600.0))
