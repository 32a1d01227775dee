"""A worker keeps up with what is known elsewhere by asking, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from server.domain.errors import GatewayError

INTERVAL_S: Final = 0.75
"""Drains are known everywhere within one of these and the time of a query; an opened breaker is published within one
of them and read within another."""

_log: Final = structlog.get_logger(__name__)


async def poll(step: Callable[[], Awaitable[None]], trouble: str) -> None:
    """Carry out `step` for ever. `trouble` is the event that is logged where one fails for no known reason."""
    while True:
        try:
            await step()
        except GatewayError:
            pass  # what was asked is away, which it has logged itself
        except Exception as error:  # the boundary: routing goes on with what this worker knows
            _log.error(trouble, cause=type(error).__name__)
        await asyncio.sleep(INTERVAL_S)
