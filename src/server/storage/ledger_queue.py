"""The queue before the ledger: groups operations into transactions, and tries until each has its outcome.

A transaction that fails because the database is away is tried again, for as long as it takes. Whether it was committed
is not always known then; operations are such that a second time changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from functools import partial
from typing import Final

import structlog

from server.domain.errors import GatewayError, Reason, internal_error
from server.domain.ledger import Hold, Settlement
from server.domain.ports import Clock
from server.storage.database import Database
from server.storage.ledger_apply import Operation, Overdrawn, Release, Unrecorded, apply, suffix_of

__all__ = ["LedgerQueue", "Pending"]

MAX_BATCH: Final = 256
"""Operations in one transaction: what bounds how long it holds its locks."""
FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0
CROWD: Final = 5
"""After a group of so many operations the next one waits for more, for as long as they keep coming."""
GATHER_S: Final = 0.002
MAX_GATHERS: Final = 2

log = structlog.get_logger("server.storage")


class Pending:
    """An operation on its way, and the future of whoever waits for it.

    `is_tried`: a transaction with it has been begun, so that it may have happened.
    """

    __slots__ = ("future", "is_tried", "operation")

    def __init__(self, operation: Operation, future: asyncio.Future[None]) -> None:
        self.operation = operation
        self.future = future
        self.is_tried = False

    @property
    def is_forsaken(self) -> bool:
        """A reservation that nobody waits for any longer."""
        return isinstance(self.operation, Hold) and self.future.cancelled()

    def finish(self, refusal: Exception | None) -> None:
        if self.future.done():
            return
        if refusal is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(refusal)
            if not isinstance(self.operation, Hold):
                self.future.exception()  # a settlement's future need not have anybody who looks at it


class LedgerQueue:
    """Operations in the order in which they came; one task carries them out while there are any."""

    def __init__(self, database: Database, clock: Clock, worker_id: str, *, max_batch: int, max_pause_s: float) -> None:
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._max_batch = max_batch
        self._max_pause_s = max_pause_s
        self._pending: deque[Pending] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._last_group = 0
        self.unrecorded = 0
        """Settlements whose record the database refused."""

    def __len__(self) -> int:
        """How many wait for a transaction, without those in one."""
        return len(self._pending)

    def add(self, operation: Operation) -> asyncio.Future[None]:
        """Take it over. The future of a hold raises GatewayError where it is refused; cancelling it voids the hold."""
        pending = Pending(operation, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return pending.future

    async def drain(self, limit_s: float) -> int:
        """Wait until all is done, but not for long; how many settlements were given up."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher], timeout=limit_s)
        if (flusher := self._flusher) is None:
            return 0
        flusher.cancel()
        await asyncio.wait([flusher])
        given_up = sum(not isinstance(pending.operation, Hold) for pending in self._pending)
        for pending in self._pending:
            pending.finish(GatewayError(Reason.SHUTTING_DOWN, "The gateway is shutting down. Try again."))
        self._pending.clear()
        return given_up

    async def _flush(self) -> None:
        pause_s = FIRST_PAUSE_S
        try:
            while self._pending:
                await self._gather()
                batch = self._take()
                try:
                    await self._carry_out(batch)
                    pause_s = FIRST_PAUSE_S
                except GatewayError:
                    # The database is away. What was in the transaction comes first again.
                    self._pending.extendleft(reversed(batch))
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads workers
                    pause_s = min(2 * pause_s, self._max_pause_s)
                except asyncio.CancelledError:
                    self._pending.extendleft(reversed(batch))
                    raise
        finally:
            self._flusher = None

    async def _gather(self) -> None:
        """A group twice as large costs little more, and wakes twice as many together; with few callers none waits."""
        if self._last_group < CROWD:
            return
        for _ in range(MAX_GATHERS):
            waiting = len(self._pending)
            await asyncio.sleep(GATHER_S)
            if len(self._pending) == waiting or len(self._pending) >= self._max_batch:
                return

    def _take(self) -> list[Pending]:
        """The next group: no two about one request, none that nobody wants and nobody has begun."""
        batch: list[Pending] = []
        suffixes: set[str] = set()
        while self._pending and len(batch) < self._max_batch:
            pending = self._pending[0]
            if pending.is_forsaken:
                if not pending.is_tried:
                    self._pending.popleft()
                    continue
                self._pending[0] = pending = self._release(pending.operation)
            suffix = suffix_of(pending.operation)
            if suffix in suffixes:
                break
            suffixes.add(suffix)
            batch.append(self._pending.popleft())
        return batch

    async def _carry_out(self, batch: list[Pending]) -> None:
        """Give each its outcome. Raises GatewayError where the database is away."""
        self._last_group = len(batch)
        if not batch:
            return
        was_tried = any(pending.is_tried for pending in batch)
        for pending in batch:
            pending.is_tried = True
        try:
            outcomes = await self._transact(batch, again=was_tried)
        except GatewayError:
            raise
        except Exception:  # one of them cannot be carried out, or has been before: each for itself then
            await self._carry_out_singly(batch)
            return
        for pending, refusal in zip(batch, outcomes, strict=True):
            self._finish(pending, refusal)

    async def _carry_out_singly(self, batch: list[Pending]) -> None:
        while batch:
            pending = batch[0]
            try:
                [refusal] = await self._transact([pending], again=True)
            except GatewayError:
                raise
            except Exception as error:  # the one that is at fault: its waiter is told of a bug, the others of nothing
                log.error(
                    "ledger_operation_failed",
                    operation=type(pending.operation).__name__,
                    suffix=suffix_of(pending.operation),
                    cause=type(error).__name__,
                )
                if (instead := _instead_of(pending.operation)) is not None:
                    batch.append(Pending(instead, asyncio.get_running_loop().create_future()))
                self.unrecorded += isinstance(pending.operation, Settlement)
                pending.finish(internal_error())
            else:
                self._finish(pending, refusal)
            batch.pop(0)

    async def _transact(self, batch: list[Pending], *, again: bool) -> list[GatewayError | None]:
        operations = [pending.operation for pending in batch]
        work = partial(apply, operations=operations, worker_id=self._worker_id, now=self._clock.now(), again=again)
        # What loses a hold that is not flushed ends the call that it was made for, before anything is charged.
        flush = not all(isinstance(one, Hold) for one in operations)
        try:
            return await self._database.transact(work, flush=flush)
        except Overdrawn:
            return await self._database.transact(partial(work, locked=True), flush=flush)

    def _finish(self, pending: Pending, refusal: GatewayError | None) -> None:
        if pending.is_forsaken and refusal is None and not self._is_being_settled(suffix_of(pending.operation)):
            self._pending.appendleft(self._release(pending.operation))
        pending.finish(refusal)

    def _is_being_settled(self, suffix: str) -> bool:
        """Whether a settlement waits that ends the hold itself, and has the record of it in the same transaction."""
        return any(
            isinstance(pending.operation, Settlement)
            and pending.operation.held
            and suffix_of(pending.operation) == suffix
            for pending in self._pending
        )

    def _release(self, operation: Operation) -> Pending:
        assert isinstance(operation, Hold)
        opening = operation.opening
        return Pending(Release(opening.suffix, opening.team_id), asyncio.get_running_loop().create_future())


def _instead_of(refused: Operation) -> Operation | None:
    """What is done where the database refuses an operation: the money counts without its record, or else is given back.

    Nothing stays reserved for a request that has ended.
    """
    match refused:
        case Settlement():
            return Unrecorded(refused)
        case Unrecorded(settlement=Settlement(record=record)):
            return Release(record.suffix, record.team_id)
        case _:
            return None
