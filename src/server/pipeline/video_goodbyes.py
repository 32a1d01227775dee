"""Goodbyes that could not be said: providers are told again that a job may stop, or be forgotten, and pay for none."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from server.domain.errors import GatewayError
from server.domain.ports import Clock
from server.domain.video import VideoStatus
from server.domain.video_jobs import Goodbye, GoodbyeStore
from server.pipeline.video_looks import GOODBYE_S, Looks

__all__ = ["Goodbyes"]

INTERVAL_S: Final = 5.0
LEAST_PAUSE_S: Final = 10.0
MOST_PAUSE_S: Final = 600.0
MAX_TRIES: Final = 12
"""About an hour after the first."""
AT_ONCE: Final = 16

_log: Final = structlog.get_logger(__name__)


class Goodbyes:
    """`run` it."""

    def __init__(self, store: GoodbyeStore, looks: Looks, clock: Clock) -> None:
        self._store = store
        self._looks = looks
        self._clock = clock

    async def run(self) -> None:
        """Say what is due, for ever; an outage of the database is waited for."""
        while True:
            try:
                while await self.round():
                    pass
            except GatewayError:
                pass  # the database is away, which `Database` has logged
            except Exception as error:  # the boundary: the next round may fare better
                _log.error("video_goodbyes_failed", cause=type(error).__name__)
            await asyncio.sleep(INTERVAL_S)

    async def round(self) -> int:
        """How many were due. Raises GatewayError."""
        now, due_at = self._clock.now(), await self._store.next_due()
        if due_at is None or due_at > now:
            return 0
        goodbyes = await self._store.claim(now + 3 * GOODBYE_S, AT_ONCE)
        await asyncio.gather(*map(self._say, goodbyes))
        return len(goodbyes)

    async def _say(self, goodbye: Goodbye) -> None:
        job, verb = goodbye.job, goodbye.verb
        goes_on = verb == "delete" and job.status in (VideoStatus.CANCELLED, VideoStatus.EXPIRED)
        has_stopped = not goes_on or await self._looks.told(job, "cancel")
        if has_stopped and await self._looks.told(job, verb):
            await self._store.said(job.suffix, verb)
        elif goodbye.tries >= MAX_TRIES:
            _log.error("video_goodbye_given_up", id=f"video_{job.suffix}", verb=verb, provider=job.provider)
            await self._store.said(job.suffix, verb)
        else:
            pause_s = min(MOST_PAUSE_S, LEAST_PAUSE_S * 2.0**goodbye.tries)
            await self._store.later(job.suffix, verb, self._clock.now() + pause_s)
