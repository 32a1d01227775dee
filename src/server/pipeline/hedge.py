"""Hedging: where a provider shows nothing for a while, another is called beside it, and the first to show output wins.

Off unless `routing.hedge_after_s` is set. The one that is outrun is cancelled at once; both are on the record, and what
either provider bills is charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from server.domain.catalog import Routing
from server.domain.errors import ProviderFailure
from server.domain.events import ProviderEvent
from server.domain.request import Request
from server.domain.routing import Route
from server.domain.work import LATE


class Runner(Protocol):
    @property
    def batches(self) -> AsyncGenerator[Sequence[ProviderEvent], None]:
        """What it has to show, nothing empty; raises ProviderFailure."""
        ...


RunnerT = TypeVar("RunnerT", bound=Runner)


class Finish(NamedTuple, Generic[RunnerT]):
    """Who was first and what it showed; or, with a `failure`, who decided that there is nothing to show."""

    first: RunnerT
    shown: Sequence[ProviderEvent] = ()
    failure: ProviderFailure | None = None


def may_hedge(route: Route, request: Request, routing: Routing) -> bool:
    """Whether two providers may be called for `request` at the same time.

    Never where the client wants no fallback, nor for a whole answer, whose first byte tells nothing, or for pictures
    and transcripts, which all take long to show anything and cost as much.
    """
    if routing.hedge_after_s is None or not (request.stream and request.routing.allow_fallbacks):
        return False
    if isinstance(request, LATE):
        return False
    usual = route.candidates[: route.resorts_from]
    return routing.max_attempts > 1 and len({candidate.offer.provider.id for candidate in usual}) > 1


async def race(
    slow: RunnerT,
    after_s: float,
    other: Callable[[], RunnerT | None],
    outrun: Callable[[RunnerT], None],
) -> Finish[RunnerT]:
    """Let `slow` run, and beside it whatever `other` begins where `slow` has shown nothing after `after_s`.

    Whoever did not finish first is closed when this returns, however that happens; `outrun` is told of it before. Where
    one fails, the other is waited for. Raises what is no ProviderFailure at once.
    """
    racing = {asyncio.create_task(_first_batch(slow)): slow}
    finish: Finish[RunnerT] | None = None
    try:
        done, _ = await asyncio.wait(racing, timeout=after_s)
        if not done and (beside := other()) is not None:
            racing[asyncio.create_task(_first_batch(beside))] = beside
        finish = await _finish(racing)
        return finish
    finally:
        losers = {task: one for task, one in racing.items() if finish is None or one is not finish.first}
        for task, loser in losers.items():
            if finish is not None and finish.failure is None and not _has_failed(task):
                outrun(loser)
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)
        for loser in losers.values():
            await loser.batches.aclose()


async def _first_batch(runner: Runner) -> Sequence[ProviderEvent]:
    return await anext(runner.batches, ())


async def _finish(racing: dict[asyncio.Task[Sequence[ProviderEvent]], RunnerT]) -> Finish[RunnerT]:
    pending = set(racing)
    failed: Finish[RunnerT] | None = None
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in (one for one in racing if one in done):
            try:
                return Finish(racing[task], task.result())
            except ProviderFailure as failure:
                if failed is None or failed.failure is None or not failed.failure.is_final:
                    failed = Finish(racing[task], failure=failure)
    assert failed is not None, "somebody runs"
    return failed


def _has_failed(task: asyncio.Task[Sequence[ProviderEvent]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
