"""What a worker does beside its calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final

import structlog

from server.domain.errors import GatewayError

__all__ = ["purging", "running"]

PURGE_INTERVAL_S: Final = 3600.0
PURGE_PAUSE_S: Final = 1.0

log = structlog.get_logger("server.worker")


@asynccontextmanager
async def running(*jobs: Coroutine[None, None, None]) -> AsyncGenerator[None, None]:
    """Jobs that run as long as the worker serves."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def purging(purge: Callable[[], Awaitable[int]]) -> None:
    """Forget what has expired, in bounded batches, about once an hour."""
    while True:
        await asyncio.sleep(PURGE_INTERVAL_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers, guards nothing
        try:
            while await purge():  # noqa: ASYNC110 - a pause between batches, not a wait for an event
                await asyncio.sleep(PURGE_PAUSE_S)
        except GatewayError as error:
            log.warning("purge failed", reason=error.reason)
