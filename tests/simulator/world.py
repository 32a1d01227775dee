"""A world of scripted providers, a clock that jumps from event to event, and the real gateway's choices before them.

Nothing here decides anything: which offers are candidates, their order, whether and how an attempt is made, what
follows from its outcome and what workers tell each other is the gateway's own code. One seed, one history.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from structlog.testing import capture_logs

from server.domain.catalog import Catalog, Model, Offer, Provider, Routing
from server.domain.errors import GatewayError
from server.domain.request import Endpoint, GenerationRequest, Role, Text, Turn
from server.pipeline.health.polling import INTERVAL_S
from tests.fakes.health import HandClock
from tests.simulator.providers import Script, Scripted, worker_id
from tests.simulator.virtual import play
from tests.simulator.workers import Board, Source, Worker

MODEL = "a/b:free"


class Outcome(NamedTuple):
    """What became of a user's request: `attempts` is 0 where none was let through.

    `waited_s`: until it was shown something, or was over.
    """

    at_s: float
    is_ok: bool
    attempts: int
    waited_s: float


class Transition(NamedTuple):
    """A breaker opened (`to` is open) or closed. `adopted`: by what another worker saw."""

    at_s: float
    worker: str
    provider: str
    to: str
    reason: str
    adopted: bool


class World:
    """`workers` gateways share the traffic; each has its own view of health, and tells the others."""

    def __init__(
        self,
        scripts: Mapping[str, Script],
        *,
        seed: int = 1,
        workers: int = 1,
        routing: Routing | None = None,
        stream: bool = True,
    ) -> None:
        self.clock = HandClock(0.0)
        self.board = Board()
        self.outcomes: list[Outcome] = []
        self.transitions: list[Transition] = []
        self.killed_s: dict[str, float] = {}
        self._rng = random.Random(seed)
        self._adapter = Scripted(scripts, self.clock, self._rng)
        self.attempts = self._adapter.attempts
        providers = {name: Provider(name, "openai", "http://upstream") for name in scripts}
        offers = tuple(Offer(provider, "m", frozenset({Endpoint.CHAT})) for provider in providers.values())
        self._source = Source(Catalog(providers, {MODEL: Model(MODEL, offers)}, routing=routing or Routing()))
        self._request = GenerationRequest(
            endpoint=Endpoint.CHAT, model=MODEL, turns=(Turn(Role.USER, (Text("hi"),)),), stream=stream
        )
        self.ends_s = 0.0
        self._made = 0
        self._plans: list[tuple[float, Callable[[], None]]] = []
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self.workers = [self._new_worker() for _ in range(workers)]

    def at(self, at_s: float, what: Callable[[], None]) -> None:
        """Let something happen then. Before `run`."""
        self._plans.append((at_s, what))

    def run(self, until_s: float, per_second: float) -> None:
        """Let requests arrive at random until then, and every one of them end."""
        self.ends_s = until_s
        with capture_logs(processors=[self._listen]):
            play(self._story(until_s, per_second), self.clock)

    def restart(self, index: int) -> None:
        """Kill that worker, which says nothing any more, and start another in its place."""
        self._tasks.pop(self.workers[index]).cancel()
        self.killed_s[self.workers[index].name] = self.clock.now_s
        self.workers[index] = self._new_worker()
        self._start(self.workers[index])

    def _new_worker(self) -> Worker:
        self._made += 1
        seed = self._rng.randrange(1 << 32)
        return Worker(f"w{self._made}", self._source, self._adapter, self.board, self.clock, seed)

    def _start(self, worker: Worker, pause_s: float = 0.0) -> None:
        self._tasks[worker] = asyncio.get_running_loop().create_task(worker.run(pause_s))

    async def _story(self, until_s: float, per_second: float) -> None:
        loop = asyncio.get_running_loop()
        for at_s, what in self._plans:
            loop.call_at(at_s, what)
        if len(self.workers) > 1:  # one alone has nobody to tell
            for worker in self.workers:
                self._start(worker, self._rng.uniform(0.0, INTERVAL_S))
        async with asyncio.TaskGroup() as requests:
            while self.clock.now_s < until_s:
                await asyncio.sleep(self._rng.expovariate(per_second))
                requests.create_task(self._one(self._rng.choice(self.workers)))
        for task in self._tasks.values():
            task.cancel()

    async def _one(self, worker: Worker) -> None:
        """One user's request."""
        worker_id.set(worker.name)
        began_s, attempts, is_ok = self.clock.now_s, worker.attempts(), True
        waited_s: float | None = None
        try:
            async with aclosing(worker.stream(attempts, self._request)) as batches:
                async for _ in batches:
                    waited_s = self.clock.now_s - began_s if waited_s is None else waited_s
        except GatewayError:
            is_ok = False
        waited_s = self.clock.now_s - began_s if waited_s is None else waited_s
        self.outcomes.append(Outcome(began_s, is_ok, len(attempts.made), waited_s))

    def _listen(self, _: Any, __: str, log: Any) -> Any:
        if log["event"] == "breaker":
            one = Transition(
                self.clock.now_s, worker_id.get(), log["provider"], log["to"], log["reason"], "seen_by" in log
            )
            self.transitions.append(one)
        elif log.get("log_level") == "error":
            raise AssertionError(log)
        return log

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
        """When its breaker opened or closed, leaving out what workers only heard of."""
        return [
            one.at_s for one in self.transitions if one.provider == name and to in (None, one.to) and not one.adopted
        ]

    def time_to_stop(self, name: str, from_s: float, workers: int | None = None) -> tuple[float, int]:
        """How long after `from_s` its breaker had opened at so many workers, or all, and its calls until then."""
        opened: dict[str, float] = {}
        for one in self.transitions:
            if one.provider == name and one.to == "open" and one.at_s >= from_s:
                opened.setdefault(one.worker, one.at_s)
        needed = workers or len(self.workers)
        if len(opened) < needed:
            return float("inf"), self.sent(name, from_s)
        opened_s = sorted(opened.values())[needed - 1]
        return opened_s - from_s, self.sent(name, from_s, opened_s)

    def shares(self, name: str, step_s: float) -> list[float | None]:
        """Its share of the calls in each `step_s`; None where there were none."""
        steps = [0] * math.ceil(self.ends_s / step_s)
        own = list(steps)
        for one in self.attempts:
            if one.at_s < self.ends_s:
                steps[int(one.at_s / step_s)] += 1
                own[int(one.at_s / step_s)] += one.provider == name
        return [mine / all_ if all_ else None for mine, all_ in zip(own, steps, strict=True)]

    def open_spans(self, name: str) -> list[tuple[float, float]]:
        """From when to when its breaker was other than closed, at any worker that lived."""
        spans: list[tuple[float, float]] = []
        opened: dict[str, float] = {}
        for one in self.transitions:
            if one.provider == name and one.to == "open":
                opened.setdefault(one.worker, one.at_s)
            elif one.provider == name and one.worker in opened:
                spans.append((opened.pop(one.worker), one.at_s))
        return spans + [(at_s, self.killed_s.get(worker, self.ends_s)) for worker, at_s in opened.items()]

    def busiest_second(self, name: str, from_s: float, to_s: float) -> int:
        seconds = Counter(int(one.at_s) for one in self.attempts if one.provider == name and from_s <= one.at_s < to_s)
        return max(seconds.values(), default=0)
