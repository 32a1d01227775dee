"""A world of scripted providers, a clock that jumps from event to event, and the real router before them.

Nothing here decides anything: which offers are candidates, their order, whether an attempt may start and what follows
from its outcome is the gateway's own code. One seed, one history.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from structlog.testing import capture_logs

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.errors import FailureCategory
from server.domain.events import ProviderStream
from server.domain.request import Endpoint, GenerationRequest, Role, RoutingPreferences, Text, Turn
from server.domain.routing import Route
from server.pipeline.health.offers import Health
from server.pipeline.health.router import RankByHealth, choices, route_key
from server.pipeline.route import candidates
from tests.fakes.health import HandClock

MODEL = "a/b:free"
MAX_ATTEMPTS = 3


class Mood(NamedTuple):
    """How a provider is at some time. `per_second`: beyond this many calls it answers 429, with `retry_after_s`."""

    errors: float = 0.0
    first_token_s: float = 0.3
    took_s: float = 1.0
    category: FailureCategory = FailureCategory.SERVER_ERROR
    error_s: float = 0.05
    per_second: float = float("inf")
    retry_after_s: float | None = 1.0


Script = Callable[[float], Mood]
"""The mood of a provider at a time, in seconds since the beginning."""


class Attempt(NamedTuple):
    at_s: float
    provider: str
    is_ok: bool


class Outcome(NamedTuple):
    """What became of a user's request: `attempts` is 0 where none was let through."""

    at_s: float
    is_ok: bool
    attempts: int


class Speechless:
    """A dialect that can say all; the world answers in its place."""

    def supports(self, offer: Offer, request: GenerationRequest) -> str | None:
        return None

    def stream(self, offer: Offer, request: GenerationRequest) -> ProviderStream:
        raise NotImplementedError


class World:
    """`workers` gateways share the traffic, each with its own view of health."""

    def __init__(self, scripts: dict[str, Script], *, seed: int = 1, workers: int = 1, **wishes: Any) -> None:
        self.rng = random.Random(seed)
        self.clock = HandClock(0.0)
        self.healths = [Health(self.clock, random.Random(seed + 1 + n).random) for n in range(workers)]
        self.routers = [RankByHealth(health) for health in self.healths]
        self.scripts = scripts
        providers = {name: Provider(name, "openai", "http://upstream") for name in scripts}
        offers = tuple(Offer(provider, "m", frozenset({Endpoint.CHAT})) for provider in providers.values())
        self.catalog = Catalog(providers, {MODEL: Model(MODEL, offers)})
        self.request = GenerationRequest(
            Endpoint.CHAT, MODEL, (Turn(Role.USER, (Text("hi"),)),), stream=True, routing=RoutingPreferences(**wishes)
        )
        self.attempts: list[Attempt] = []
        self.outcomes: list[Outcome] = []
        self.transitions: list[tuple[float, Mapping[str, Any]]] = []
        self._buckets = dict.fromkeys(scripts, (0.0, 1.0))
        self._events: list[tuple[float, int, Iterator[float]]] = []
        self._order = itertools.count()

    def run(self, until_s: float, per_second: Callable[[float], float] | float) -> None:
        """Let requests arrive at random until then, and every one of them end."""
        rate = per_second if callable(per_second) else lambda _: per_second
        self._spawn(self._arrivals(until_s, rate))
        with capture_logs() as logs:
            while self._events:
                at_s, _, process = heapq.heappop(self._events)
                self.clock.now_s = at_s
                self._go_on(process)
                self.transitions += [(at_s, log) for log in logs if log["event"] == "breaker"]
                logs.clear()

    def _spawn(self, process: Iterator[float]) -> None:
        self._go_on(process)

    def _go_on(self, process: Iterator[float]) -> None:
        pause_s = next(process, None)
        if pause_s is not None:
            heapq.heappush(self._events, (self.clock.now_s + pause_s, next(self._order), process))

    def _arrivals(self, until_s: float, rate: Callable[[float], float]) -> Iterator[float]:
        while self.clock.now_s < until_s:
            yield self.rng.expovariate(rate(self.clock.now_s))
            self._spawn(self._one())

    def _one(self) -> Iterator[float]:
        """One user's request, from its routing to its end; yields how long each step takes."""
        worker = self.rng.randrange(len(self.healths))
        health, began_s, made = self.healths[worker], self.clock.now_s, list[str]()
        route: Route = candidates(self.catalog, self.request, {"openai": Speechless()}, self.routers[worker])
        for candidate, last_resort in choices(route, made.__len__):
            watch = health.start(route_key(candidate, Endpoint.CHAT), last_resort=last_resort, is_only=route.is_only)
            if watch is None:
                continue
            name, sent_s = candidate.offer.provider.id, self.clock.now_s
            made.append(name)
            mood = self.scripts[name](sent_s)
            is_limited = not self._has_room(name, mood, sent_s)
            is_ok = not is_limited and self.rng.random() >= mood.errors
            self.attempts.append(Attempt(sent_s, name, is_ok))
            if is_ok:
                yield mood.first_token_s * self.rng.uniform(0.8, 1.2)
                watch.shown()
                shown_s = self.clock.now_s
                yield mood.took_s
                took_s = self.clock.now_s - sent_s
                watch.succeeded(streamed=True, latency_ms=(shown_s - sent_s) * 1000, tokens=50, took_s=took_s)
                self.outcomes.append(Outcome(began_s, True, len(made)))
                return
            yield 0.01 if is_limited else mood.error_s
            if is_limited:
                watch.failed(FailureCategory.RATE_LIMITED, mood.retry_after_s)
            else:
                watch.failed(mood.category)
            if len(made) == MAX_ATTEMPTS:
                break
        self.outcomes.append(Outcome(began_s, False, len(made)))

    def _has_room(self, name: str, mood: Mood, now_s: float) -> bool:
        """A bucket of one second's worth of calls."""
        if mood.per_second == float("inf"):
            return True
        at_s, left = self._buckets[name]
        left = min(mood.per_second, left + (now_s - at_s) * mood.per_second)
        self._buckets[name] = (now_s, max(0.0, left - 1.0))
        return left >= 1.0

    # What was seen.

    def sent(self, name: str, from_s: float = 0.0, to_s: float = float("inf")) -> int:
        return sum(one.provider == name and from_s <= one.at_s < to_s for one in self.attempts)

    def share(self, name: str, from_s: float, to_s: float) -> float:
        all_ = sum(from_s <= one.at_s < to_s for one in self.attempts)
        return self.sent(name, from_s, to_s) / all_ if all_ else 0.0

    def failed_share(self, from_s: float = 0.0, to_s: float = float("inf")) -> float:
        seen = [one.is_ok for one in self.outcomes if from_s <= one.at_s < to_s]
        return 1.0 - sum(seen) / len(seen) if seen else 0.0

    def changes(self, name: str, to: str | None = None) -> list[float]:
        return [at for at, log in self.transitions if log["provider"] == name and to in (None, log["to"])]

    def time_to_stop(self, name: str, from_s: float) -> tuple[float, int]:
        """How long after `from_s` its breaker opened, and how many calls it got until then."""
        opened_s = next((at for at in self.changes(name, "open") if at >= from_s), float("inf"))
        return opened_s - from_s, self.sent(name, from_s, opened_s)

    def busiest_second(self, name: str, from_s: float, to_s: float) -> int:
        seconds = Counter(int(one.at_s) for one in self.attempts if one.provider == name and from_s <= one.at_s < to_s)
        return max(seconds.values(), default=0)


def always(mood: Mood) -> Script:
    return lambda _: mood


def during(from_s: float, to_s: float, mood: Mood, otherwise: Mood | None = None) -> Script:
    usual = otherwise or Mood()
    return lambda now_s: mood if from_s <= now_s < to_s else usual
