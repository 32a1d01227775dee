"""Reading an upstream to its end after the client has gone, so that what is charged is its own account of the usage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import structlog

from server.domain.events import GenerationEvent, GenerationStream
from server.domain.identity import Call, Progress
from server.domain.routing import Route

DRAIN_LIMIT_S: Final = 60.0
"""How long an upstream is read after its client has gone; then the call is cancelled, and what was relayed counts."""
MAX_DRAINS: Final = 256
"""Upstreams that one worker reads for nobody at a time; any further one is cancelled at once."""
_AHEAD: Final = 4
"""Batches that are read ahead of the client."""

_log: Final = structlog.get_logger(__name__)


def wants_drain(call: Call, route: Route) -> bool:
    """Whether the team, or else any provider that may serve the request, wants its stream read to the end."""
    policy = call.principal.policy.on_disconnect
    if policy is not None:
        return policy == "drain"
    return any(candidate.offer.provider.on_disconnect == "drain" for candidate in route.candidates)


class Drains:
    """The generations of a worker that outlive their clients."""

    def __init__(self, *, limit_s: float = DRAIN_LIMIT_S, max_drains: int = MAX_DRAINS) -> None:
        self._limit_s = limit_s
        self._max_drains = max_drains
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = 0

    async def detached(self, stream: GenerationStream, progress: Progress) -> GenerationStream:
        """The same batches, from a task that goes on when this generator is closed."""
        ahead: asyncio.Queue[Sequence[GenerationEvent] | BaseException | None] = asyncio.Queue(_AHEAD)
        task = asyncio.create_task(_pump(stream, ahead, progress))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while (item := await ahead.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if not task.done():
                self._abandon(task, ahead, progress)

    def _abandon(
        self,
        task: asyncio.Task[None],
        ahead: asyncio.Queue[Sequence[GenerationEvent] | BaseException | None],
        progress: Progress,
    ) -> None:
        progress.client_gone = True
        if self._draining >= self._max_drains:
            _log.warning("drain_refused", limit=self._max_drains)
            task.cancel()
            return
        self._draining += 1
        limit = asyncio.get_running_loop().call_later(self._limit_s, task.cancel)
        task.add_done_callback(lambda _: self._drained(limit))
        while not ahead.empty():  # the pump may be waiting for room
            ahead.get_nowait()

    def _drained(self, limit: asyncio.TimerHandle) -> None:
        limit.cancel()
        self._draining -= 1

    async def close(self) -> None:
        """Wait for those under way; the worker's shutdown makes them end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._limit_s)


async def _pump(
    stream: GenerationStream,
    ahead: asyncio.Queue[Sequence[GenerationEvent] | BaseException | None],
    progress: Progress,
) -> None:
    end: BaseException | None = None
    try:
        async with aclosing(stream) as batches:
            async for batch in batches:
                if not progress.client_gone:
                    await ahead.put(batch)
    except Exception as error:  # it is the reader's to handle
        end = error
    if not progress.client_gone:
        await ahead.put(end)
