"""Scripted providers behind an adapter of no dialect at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Final, NamedTuple

from server.domain.catalog import Offer
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import ChoiceEnded, Completed, FinishReason, ProviderEvent, ProviderStream, TextDelta
from server.domain.ports import Clock
from server.domain.request import GENERATING
from server.domain.work import Work

worker_id: Final[ContextVar[str]] = ContextVar("worker_id", default="")
"""Which worker is at work."""
REFUSAL_S: Final = 0.01
_SHOWN: Final[tuple[ProviderEvent, ...]] = (TextDelta(0, 0, "word " * 50),)
_ENDED: Final[tuple[ProviderEvent, ...]] = (ChoiceEnded(0, FinishReason.STOP), Completed())


class Mood(NamedTuple):
    """How a provider is at some time.

    `errors` is the share of calls that fail as `category` says after `error_s`. Beyond `per_second` calls a second all
    others fail at once as `crowded` says, with `retry_after_s`. One that `hangs` takes calls and answers none.
    """

    errors: float = 0.0
    first_token_s: float = 0.3
    took_s: float = 1.0
    category: FailureCategory = FailureCategory.SERVER_ERROR
    error_s: float = 0.05
    per_second: float = float("inf")
    crowded: FailureCategory = FailureCategory.RATE_LIMITED
    retry_after_s: float | None = 1.0
    hangs: bool = False


Script = Callable[[float], Mood]
"""The mood of a provider at a time, in seconds since the beginning."""


class Attempt(NamedTuple):
    at_s: float
    worker: str
    provider: str
    is_ok: bool


class Scripted:
    """Implements `server.domain.ports.ProviderAdapter`; `attempts` are all calls that it got."""

    endpoints = GENERATING

    def __init__(self, scripts: Mapping[str, Script], clock: Clock, rng: random.Random) -> None:
        self.attempts: list[Attempt] = []
        self._scripts = scripts
        self._clock = clock
        self._rng = rng
        self._buckets = dict.fromkeys(scripts, (0.0, 1.0))

    def supports(self, offer: Offer, request: Work) -> str | None:
        return None

    async def stream(self, offer: Offer, request: Work) -> ProviderStream:
        name, now_s = offer.provider.id, self._clock.monotonic()
        mood = self._scripts[name](now_s)
        has_room = self._has_room(name, mood, now_s)
        is_ok = has_room and not mood.hangs and self._rng.random() >= mood.errors
        self.attempts.append(Attempt(now_s, worker_id.get(), name, is_ok))
        if mood.hangs:
            await asyncio.Event().wait()
        if not has_room:
            await asyncio.sleep(REFUSAL_S)
            raise ProviderFailure(mood.crowded, status=429, retry_after_s=mood.retry_after_s)
        if not is_ok:
            await asyncio.sleep(mood.error_s)
            raise ProviderFailure(mood.category, status=500)
        first_token_s = mood.first_token_s * self._rng.uniform(0.8, 1.2)
        if not request.stream:
            await asyncio.sleep(first_token_s + mood.took_s)
            yield (*_SHOWN, *_ENDED)
            return
        await asyncio.sleep(first_token_s)
        yield _SHOWN
        await asyncio.sleep(mood.took_s)
        yield _ENDED

    def _has_room(self, name: str, mood: Mood, now_s: float) -> bool:
        """A bucket of one second's worth of calls."""
        if mood.per_second == float("inf"):
            return True
        at_s, left = self._buckets[name]
        left = min(max(1.0, mood.per_second), left + (now_s - at_s) * mood.per_second)
        self._buckets[name] = (now_s, max(0.0, left - 1.0))
        return left >= 1.0


def always(mood: Mood) -> Script:
    return lambda _: mood


def during(from_s: float, to_s: float, mood: Mood, otherwise: Mood | None = None) -> Script:
    usual = otherwise or Mood()
    return lambda now_s: mood if from_s <= now_s < to_s else usual
