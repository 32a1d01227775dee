"""Providers that the operator has taken out of service, as every worker learns of them: by asking, again and again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from server.domain.errors import GatewayError
from server.domain.health import DrainedProviders
from server.pipeline.health.offers import Health
from server.pipeline.health.polling import poll

START_S: Final = 1.0

_log: Final = structlog.get_logger(__name__)


class FollowDrained:
    """One in each worker. While the database is away, what it said last holds."""

    def __init__(self, health: Health, drained: DrainedProviders) -> None:
        self._health = health
        self._drained = drained
        self.answers = True
        """Whether the database did, when it was asked last."""

    async def start(self) -> None:
        """Know what is drained before the first request comes, if the database answers soon."""
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(START_S):
                await self.follow()

    async def run(self) -> None:
        """Follow for ever; an outage of the database is waited for."""
        await poll(self.follow, "drained_unknown")

    async def follow(self) -> None:
        """Ask once. Raises GatewayError (`database_unavailable`)."""
        try:
            found = {one.provider: one.reason for one in await self._drained.list()}
        except GatewayError:
            self.answers = False
            raise
        self.answers = True
        before = self._health.drained
        self._health.drained = frozenset(found)
        for provider in sorted(found.keys() - before):
            _log.warning("provider_drained", provider=provider, reason=found[provider])
        for provider in sorted(before - found.keys()):
            _log.warning("provider_undrained", provider=provider)
            self._welcome(provider)

    def _welcome(self, provider: str) -> None:
        """It comes back as after a breaker: with little of its weight at first."""
        for entry in self._health.entries():
            if entry.key.provider == provider and entry.breaker.opened_s is None:
                entry.breaker.close(self._health.now_s)
                entry.adopted()
