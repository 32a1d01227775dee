"""Group commit: many small writes, one transaction and one flush to disk.

While a transaction is on its way to the disk the writes that arrive queue up, and the next transaction takes them all.
An idle database so commits each write at once, a busy one hundreds together, and there is no delay to tune.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.storage.database import Database, Work, translate

__all__ = ["GroupCommit"]

T = TypeVar("T")

MAX_BATCH: Final = 256
"""Writes in one transaction: what bounds how long it holds the write lock."""
MAX_QUEUED: Final = 2048
QUEUE_WAIT_S: Final = 5.0
"""How long a write waits for room in a full queue before it is refused."""
RETRY_AFTER_S: Final = 1.0


class _Entry:
    """A write that was accepted, and the future of its outcome."""

    __slots__ = ("future", "work")

    def __init__(self, work: Work[Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future

    def finish(self, outcome: Any) -> None:
        if isinstance(outcome, _Failure):
            self.fail(outcome.error)
        elif not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class GroupCommit:
    """Commits writes in groups, in the order in which they came.

    A write is a callable that is given a connection within a transaction and returns its result. It does nothing
    outside that connection, because a group in which one write fails is run a second time.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_batch: int = MAX_BATCH,
        max_queued: int = MAX_QUEUED,
        queue_wait_s: float = QUEUE_WAIT_S,
    ) -> None:
        self._database = database
        self._max_batch = max_batch
        self._room = asyncio.Semaphore(max_queued)
        self._queue_wait_s = queue_wait_s
        self._queue: deque[_Entry] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._is_closed = False

    async def submit(self, work: Work[T]) -> T:
        """Have `work` committed; its result, once that is on disk.

        A write that was taken into the queue is carried out even if its caller is cancelled meanwhile. Raises what
        `work` raises, which fails no other write; GatewayError: `overloaded` where the queue stays full,
        `shutting_down` after `close`, `database_unavailable`.
        """
        await self._wait_for_room()
        if self._is_closed:
            self._room.release()
            raise GatewayError(Reason.SHUTTING_DOWN, "The gateway is shutting down. Try again.")
        entry = _Entry(work, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        result: T = await entry.future
        return result

    async def close(self) -> None:
        """Take no more writes; return when those in the queue have been committed or have failed."""
        self._is_closed = True
        if self._flusher is not None:
            await asyncio.shield(self._flusher)

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(self._queue_wait_s):
                await self._room.acquire()
        except TimeoutError:
            raise GatewayError(
                Reason.OVERLOADED,
                "The gateway has more to write than its database takes at the moment. Try again shortly.",
                retry_after_s=RETRY_AFTER_S,
            ) from None

    async def _flush(self) -> None:
        """Commit until nothing is queued. At most one of these runs."""
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(self._max_batch, len(self._queue)))]
                try:
                    await self._commit(batch)
                finally:
                    for entry in batch:
                        entry.future.cancel()  # of those without an outcome, which only a cancelled flush leaves
                        self._room.release()
        finally:
            self._flusher = None

    async def _commit(self, batch: list[_Entry]) -> None:
        """One transaction without savepoints; if any write in it fails, one more that keeps them apart."""
        try:
            try:
                outcomes = await self._database.write(lambda connection: _run_together(connection, batch))
            except _WriteFailed:
                outcomes = await self._database.write(lambda connection: _run_apart(connection, batch))
        except Exception as error:  # the boundary: a failure of the transaction is every caller's, and goes to each
            for entry in batch:
                entry.fail(error)
            return
        for entry, outcome in zip(batch, outcomes, strict=True):
            entry.finish(outcome)


class _WriteFailed(Exception):
    """One write of a group raised; which one, and what, the second run tells."""


class _Failure:
    """The outcome of a write that raised."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


async def _run_together(connection: AsyncConnection, batch: list[_Entry]) -> list[Any]:
    results = []
    for entry in batch:
        try:
            results.append(await entry.work(connection))
        except Exception as error:
            raise _WriteFailed from error
    return results


async def _run_apart(connection: AsyncConnection, batch: list[_Entry]) -> list[Any]:
    outcomes: list[Any] = []
    for entry in batch:
        try:
            async with connection.begin_nested():
                outcomes.append(await entry.work(connection))
        except Exception as error:  # what a write raises belongs to its caller alone
            if connection.invalidated:
                raise
            outcomes.append(_Failure(translate(error)))
    return outcomes
