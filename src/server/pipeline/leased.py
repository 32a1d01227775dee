"""What workers do that nobody waits for: rows that are due are leased, and each looked after in a task of its own.

One that takes long holds up no other: whoever has its share under way gets no more until some are over. What a dead
worker had leased is due again when its lease is over.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final, Generic, TypeVar

import structlog

from server.domain.errors import GatewayError
from server.domain.ports import Clock

__all__ = ["LeasedRunner"]

INTERVAL_S: Final = 1.0
"""How often it is looked whether something is due: one query, where nothing is."""
LEAST_WAIT_S: Final = 0.05

RowT = TypeVar("RowT")

_log: Final = structlog.get_logger(__name__)


class LeasedRunner(ABC, Generic[RowT]):
    """`run` it; `close` it before the store. `lease_s`: how long after its death a worker's rows are another's.

    At most `max_at_once` are under way, `batch` of them begun at a time, and `max_of_one` for one `_owner`.
    """

    def __init__(
        self, name: str, clock: Clock, *, lease_s: float, max_at_once: int, batch: int, max_of_one: int | None = None
    ) -> None:
        self._name = name
        self._clock = clock
        self._lease_s = lease_s
        self._max_at_once = max_at_once
        self._batch = batch
        self._max_of_one = max_of_one
        self._under_way: dict[asyncio.Task[None], RowT] = {}

    @abstractmethod
    async def _next_due(self, but_of: Collection[str]) -> float | None:
        """When the next row is due, none of the owners `but_of`; None where there is none. Raises GatewayError."""

    @abstractmethod
    async def _claim(self, until: float, limit: int, but_of: Collection[str]) -> Sequence[RowT]:
        """Lease rows that are due, none of the owners `but_of`. Raises GatewayError."""

    @abstractmethod
    async def _look_after(self, row: RowT) -> None:
        """Raises GatewayError where the database is away: the row is due again when its lease is over."""

    @abstractmethod
    def _about(self, row: RowT) -> dict[str, str]:
        """What a log line says of a row."""

    def _owner(self, row: RowT) -> str:
        """Whose share of what is under way it counts for."""
        return ""

    @property
    def under_way(self) -> int:
        """How many rows are being looked after."""
        return len(self._under_way)

    async def run(self) -> None:
        """Look after what is due, for ever; an outage of the database is waited for."""
        while True:
            try:
                wait_s = await self.round()
            except GatewayError:
                wait_s = INTERVAL_S  # the database is away, which `Database` has logged
            except Exception as error:  # the boundary: no row may keep the others from being looked after
                _log.error(f"{self._name}_round_failed", cause=type(error).__name__)
                wait_s = INTERVAL_S
            await asyncio.sleep(wait_s)

    async def round(self) -> float:
        """Begin with what is due; how many seconds until there may be more. Raises GatewayError."""
        room = min(self._batch, self._max_at_once - len(self._under_way))
        if room <= 0:
            return LEAST_WAIT_S
        busy = self._busy()
        due_at, now = await self._next_due(busy), self._clock.now()
        if due_at is None or due_at > now:
            return INTERVAL_S if due_at is None else min(INTERVAL_S, max(LEAST_WAIT_S, due_at - now))
        for row in await self._claim(now + self._lease_s, room, busy):
            task = asyncio.create_task(self._guarded(row))
            self._under_way[task] = row
            task.add_done_callback(self._under_way.pop)
        return LEAST_WAIT_S

    async def idle(self) -> None:
        """Return once everything that was begun is over."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """End what is under way; others take it over when the leases are over."""
        for task in self._under_way:
            task.cancel()
        await self.idle()

    def _busy(self) -> Sequence[str]:
        """Those who have their share under way."""
        if self._max_of_one is None:
            return ()
        counts = Counter(map(self._owner, self._under_way.values()))
        return [owner for owner, count in counts.items() if count >= self._max_of_one]

    async def _guarded(self, row: RowT) -> None:
        try:
            await self._look_after(row)
        except GatewayError:
            pass  # the database is away; the row is due again when its lease is over
        except Exception:
            _log.exception(f"{self._name}_failed", **self._about(row))
