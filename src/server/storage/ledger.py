"""The ledger: holds credit before a provider is called, and settles what it cost, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import Hold, Settlement
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.ledger_apply import Release
from server.storage.ledger_queue import MAX_BATCH, MAX_PAUSE_S, LedgerQueue

__all__ = ["SqlLedger"]

RESERVE_WAIT_S: Final = 5.0
"""How long a request waits for its reservation before it is refused."""
MAX_QUEUED: Final = 2048
"""Operations that wait; with more, reservations are refused. Settlements beyond it are those of calls under way."""
MAX_RECORDS: Final = 16_384
"""Operations that wait; with more, settlements without money are refused, which only leaves a gap in the record."""
CLOSE_WAIT_S: Final = 10.0
"""How long a worker that ends waits for its last settlements; the sweeper of another ends what is left."""
RETRY_AFTER_S: Final = 1.0

log = structlog.get_logger("server.storage")


class SqlLedger:
    """Implements `server.domain.ledger.Ledger`. Close it before the database."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        worker_id: str,
        *,
        reserve_wait_s: float = RESERVE_WAIT_S,
        max_queued: int = MAX_QUEUED,
        max_records: int = MAX_RECORDS,
        max_batch: int = MAX_BATCH,
        max_pause_s: float = MAX_PAUSE_S,
        close_wait_s: float = CLOSE_WAIT_S,
    ) -> None:
        self.worker_id = worker_id
        self._queue = LedgerQueue(database, clock, worker_id, max_batch=max_batch, max_pause_s=max_pause_s)
        self._reserve_wait_s = reserve_wait_s
        self._max_queued = max_queued
        self._max_records = max_records
        self._close_wait_s = close_wait_s
        self._is_closed = False
        self._is_ended = False
        self._lost = 0

    @property
    def queued(self) -> int:
        """How many operations wait."""
        return len(self._queue)

    @property
    def lost(self) -> int:
        """Settlements that were given up, or of which there is no record."""
        return self._lost + self._queue.unrecorded

    async def reserve(self, hold: Hold) -> None:
        if self._is_closed:
            raise _shutting_down()
        if len(self._queue) >= self._max_queued:
            raise _overloaded()
        future = self._queue.add(hold)
        try:
            async with asyncio.timeout(self._reserve_wait_s):
                await future
        except BaseException as error:
            if future.done() and not future.cancelled() and future.exception() is None:
                # It was granted in the moment in which its caller was told to stop.
                self._queue.add(Release(hold.opening.suffix, hold.opening.team_id))
            if isinstance(error, TimeoutError):
                raise GatewayError(
                    Reason.DATABASE_UNAVAILABLE,
                    "The gateway's database does not answer at the moment. Try again shortly.",
                    retry_after_s=RETRY_AFTER_S,
                ) from None
            raise

    def settle(self, settlement: Settlement) -> asyncio.Future[None]:
        if self._is_ended:
            self._lost += 1
            log.error("settlements_given_up", count=1)
            return _refused(_shutting_down())
        is_record_only = not settlement.held and not settlement.charge_nanos
        if is_record_only and len(self._queue) >= self._max_records:
            self._lost += 1
            return _refused(_overloaded())
        return self._queue.add(settlement)

    async def close(self) -> None:
        """Take no more reservations; return when what was taken over is on disk, or has had its time."""
        self._is_closed = True
        if given_up := await self._queue.drain(self._close_wait_s):
            self._lost += given_up
            log.error("settlements_given_up", count=given_up)
        self._is_ended = True


def _refused(error: GatewayError) -> asyncio.Future[None]:
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    refused.set_exception(error)
    refused.exception()  # nobody need look at it
    return refused


def _shutting_down() -> GatewayError:
    return GatewayError(Reason.SHUTTING_DOWN, "The gateway is shutting down. Try again.")


def _overloaded() -> GatewayError:
    return GatewayError(
        Reason.OVERLOADED,
        "The gateway has more to write than its database takes at the moment. Try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
