"""Several calls for one request, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, TypeVar

from server.domain.errors import ProviderFailure

__all__ = ["as_they_end"]

_T = TypeVar("_T")


async def as_they_end(
    jobs: Sequence[Callable[[], Coroutine[Any, Any, _T]]], at_once: int
) -> AsyncGenerator[tuple[int, _T], None]:
    """The result of each job with its number, as they end. The first ProviderFailure ends them all, after what ended
    together with it; so does closing the generator.
    """
    running: dict[asyncio.Task[_T], int] = {}
    todo = iter(enumerate(jobs))
    try:
        while True:
            for number, job in islice(todo, at_once - len(running)):
                running[asyncio.create_task(job())] = number
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            failure: ProviderFailure | None = None
            for task in done:
                number = running.pop(task)
                try:
                    result = task.result()
                except ProviderFailure as error:
                    failure = failure or error
                    continue
                yield number, result
            if failure is not None:
                raise failure
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
