"""The standard service grpc.health.v1: whether this worker, and each of its services, takes calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.rpc.status import RpcFailure

__all__ = ["WORKER", "ServiceHealth"]

T = TypeVar("T")

WORKER: Final = ""
"""The name under which the worker as a whole is asked for."""
MAX_WATCHERS: Final = 256
"""Watches, and conversations with reflection, at a time. They need no key, so that each holds a call that somebody with
a key may need."""
_LEAVING: Final = "This worker is being stopped."

_Status = health_pb2.HealthCheckResponse


class ServiceHealth(health_pb2_grpc.HealthServicer):
    """All that it was told of is NOT_SERVING until it is told otherwise. Needs no key.

    Who watches is told the newest, whatever was between, and sent away with UNAVAILABLE when the worker is leaving.
    """

    def __init__(self) -> None:
        self._ready: dict[str, bool] = {WORKER: False}
        self._has_left = False
        self._watchers = 0
        self._news = asyncio.Event()
        self._waits: set[asyncio.Timeout] = set()

    def tell(self, ready: Mapping[str, bool]) -> None:
        """Which services take calls now. Without effect after `leave`."""
        if not self._has_left and not ready.items() <= self._ready.items():
            self._ready.update(ready)
            self._wake()

    def leave(self) -> None:
        """Nothing takes calls from now on, for good."""
        self.tell(dict.fromkeys(self._ready, False))
        self._has_left = True
        self._wake()
        while self._waits:
            self._waits.pop().reschedule(0)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Be one of `MAX_WATCHERS`. Raises RpcFailure where there are so many."""
        if self._watchers >= MAX_WATCHERS:
            told = "Too many clients watch this worker, or are told what it has: for health use Check."
            raise RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, told, ())
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def or_left(self, news: Awaitable[T]) -> T:
        """What is waited for. Raises RpcFailure where the worker leaves before it comes."""
        try:
            async with asyncio.timeout(0 if self._has_left else None) as wait:
                self._waits.add(wait)
                try:
                    return await news
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            raise RpcFailure(grpc.StatusCode.UNAVAILABLE, _LEAVING, ()) from None

    async def Check(self, request: Any, context: Any) -> Any:
        if request.service not in self._ready:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return _Status(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> None:
        async with self.watching():
            await self._watch(request.service, context)

    async def _watch(self, service: str, context: Any) -> None:
        told = None
        while True:
            news, status, has_left = self._news, self._status(service), self._has_left
            if status != told:
                told = status
                await context.write(_Status(status=status))
                continue  # it may have changed while that was on its way
            if has_left:
                await context.abort(grpc.StatusCode.UNAVAILABLE, _LEAVING)
            await news.wait()

    def _status(self, service: str) -> Any:
        ready = self._ready.get(service)
        return _Status.SERVICE_UNKNOWN if ready is None else _Status.SERVING if ready else _Status.NOT_SERVING

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
