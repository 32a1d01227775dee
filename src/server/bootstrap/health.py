"""What a worker knows of providers, and tells other workers and load balancers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final

import msgspec

from server.bootstrap.background import purging, running
from server.bootstrap.base import Base
from server.domain.health import HealthExchange
from server.hosts.host import Host
from server.pipeline.health.drained import FollowDrained
from server.pipeline.health.offers import Health
from server.pipeline.health.share import Sharing
from server.pipeline.health.view import MeasuredHealth
from server.rpc.readiness import endpoints_served, is_ready
from server.storage.drained import SqlDrained
from server.storage.health_reports import SqlHealthExchange
from server.storage.valkey_health import ValkeyHealthExchange

__all__ = ["Knowledge", "follow_health", "tell_ready"]

READINESS_S: Final = 0.5
"""How often it is looked which services can do their work."""


class Knowledge(msgspec.Struct, frozen=True):
    """`health` is added to by every attempt, `measured` is what is told of it."""

    health: Health
    drained: FollowDrained
    measured: MeasuredHealth


async def follow_health(stack: AsyncExitStack, base: Base) -> Knowledge:
    """Shared with other workers until `stack` ends."""
    health = Health(base.clock, random.random)
    exchange = await stack.enter_async_context(_exchange(base))
    sharing = Sharing(health, exchange, base.catalog, base.clock)
    stack.push_async_callback(sharing.close)
    drained = FollowDrained(health, SqlDrained(base.stores.database, base.clock))
    await drained.start()
    await stack.enter_async_context(running(sharing.run(), drained.run()))
    return Knowledge(health, drained, MeasuredHealth(base.catalog, health, base.clock))


@asynccontextmanager
async def _exchange(base: Base) -> AsyncGenerator[HealthExchange, None]:
    """Where workers tell each other how providers are: Valkey if there is one, or else the database."""
    if base.settings.valkey is not None:
        stores = base.stores
        exchange = ValkeyHealthExchange(base.settings.valkey, stores.database, base.clock, stores.ledger.worker_id)
        try:
            yield exchange
        finally:
            exchange.close()
    else:
        reports = SqlHealthExchange(*base.rows)
        async with running(purging(reports.purge)):
            yield reports


async def tell_ready(host: Host, base: Base, knowledge: Knowledge) -> None:
    """Keep `grpc.health.v1` up to date, until the worker leaves."""
    leaving, health, drained = base.shutdown.leaving, knowledge.health, knowledge.drained
    while not leaving.is_set():
        endpoints, has_database = endpoints_served(base.catalog.current, health.drained), drained.answers
        host.tell_ready(partial(is_ready, endpoints=endpoints, has_database=has_database))
        with suppress(TimeoutError):
            async with asyncio.timeout(READINESS_S):
                await leaving.wait()
    host.leave()
