"""What the choice of a provider costs: ranking, and the figures of health that an attempt leaves behind.

    python -m bench.router

Measured in this process on the gateway's core, in processor time of the thread, so that other programs don't count.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from bench.machine import Cores
from bench.measure import Sample
from server.clock import SystemClock
from server.domain.catalog import Model, Offer, Provider
from server.domain.pricing import PriceList
from server.domain.request import Endpoint, GenerationRequest, Role, Text, Turn
from server.domain.routing import Candidate
from server.pipeline.health.offers import Health
from server.pipeline.health.router import RankByHealth, route_key

COUNTS = (1, 2, 3, 5, 50)
USUAL, MANY = 3, 50
RANK_TARGET_US = 150.0
SHARE_TARGET = 0.03
_REPEATS = 5
_RANKINGS = 2000
"""Candidates ranked in a repeat, in as many calls as that makes."""


class Cost(msgspec.Struct, frozen=True):
    """Microseconds: of one ranking by the number of candidates, and of what is noted of one attempt."""

    rank_us: dict[int, float]
    note_us: float

    def router_us(self, count: int) -> float:
        """Of a request with so many candidates and one attempt."""
        return self.rank_us[count] + self.note_us

    def share(self, sample: Sample, count: int) -> float:
        """Of the processor time that the gateway took for a request."""
        return self.router_us(count) * 1e-6 / (sample.total_cpu_s / sample.load.requests)


def measure(cores: Cores) -> Cost:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores.gateway})
    try:
        return Cost({count: _rank_us(count) for count in COUNTS}, _note_us())
    finally:
        os.sched_setaffinity(0, own)


def _rank_us(count: int) -> float:
    health, found = _scene(count)
    ranker = RankByHealth(health)
    turn = Turn(Role.USER, (Text("Say hello."),))
    request = GenerationRequest(endpoint=Endpoint.CHAT, model=found[0].model.id, turns=(turn,), stream=True)
    return _us(lambda: ranker(found, request), max(1, _RANKINGS // count))


def _note_us() -> float:
    health, found = _scene(1)

    def attempt() -> None:
        watch = health.start(route_key(found[0], Endpoint.CHAT))
        assert watch is not None
        watch.shown()
        watch.succeeded(streamed=True, latency_ms=212.0, tokens=50, took_s=1.8)
        watch.dropped()

    return _us(attempt, _RANKINGS)


def _scene(count: int) -> tuple[Health, list[Candidate]]:
    """Offers that differ in price and in how they have done lately."""
    draw = random.Random(1).random
    offers = tuple(
        Offer(
            Provider(f"provider-{number}", "openai", "http://upstream"),
            "model",
            frozenset({Endpoint.CHAT}),
            prices=PriceList({"input_text_tokens": 100 + number % 7, "output_text_tokens": 400}),
        )
        for number in range(count)
    )
    model = Model("bench/model", offers)
    health = Health(SystemClock(), draw)
    found = [Candidate(model, offer) for offer in offers]
    for candidate in found:
        for _ in range(5):
            watch = health.start(route_key(candidate, Endpoint.CHAT))
            assert watch is not None
            watch.succeeded(streamed=True, latency_ms=100 + 300 * draw(), tokens=50, took_s=1 + draw())
    return health, found


def _us(work: Callable[[], object], times: int) -> float:
    """The least of a few repeats: what disturbs it only ever adds."""
    found = []
    for _ in range(_REPEATS):
        started_s = time.thread_time()
        for _ in range(times):
            work()
        found.append((time.thread_time() - started_s) / times * 1e6)
    return min(found)


HEADER = ("candidates", "ranking µs", "with what an attempt notes µs", "of a request")


def rows(costs: Sequence[Cost], samples: Sequence[Sample] | None) -> list[tuple[str, ...]]:
    """A row for each number of candidates; `samples` are requests of the same rounds, to have a share of."""
    return [
        (
            f"{count}",
            f"{median(cost.rank_us[count] for cost in costs):.1f}",
            f"{median(cost.router_us(count) for cost in costs):.1f}",
            "" if samples is None else f"{share(costs, samples, count):.1%}",
        )
        for count in COUNTS
    ]


def share(costs: Sequence[Cost], samples: Sequence[Sample], count: int) -> float:
    return median(cost.share(sample, count) for cost, sample in zip(costs, samples, strict=True))


def main() -> int:
    from bench.report import table

    print(table(HEADER, rows([measure(Cores.choose()) for _ in range(3)], None)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
