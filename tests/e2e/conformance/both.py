"""One test for an SDK's two clients: what the asynchronous one makes its users await, the other just returns."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


async def got(result: Any) -> Any:
    """What a call returned."""
    return await result if inspect.isawaitable(result) else result


async def each(stream: Any) -> AsyncIterator[Any]:
    """What a stream gives, from its start."""
    stream = await got(stream)
    if hasattr(stream, "__aiter__"):
        async for one in stream:
            yield one
    else:
        for one in stream:
            yield one


async def all_of(stream: Any) -> list[Any]:
    return [one async for one in each(stream)]


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Inside of a context manager."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value
