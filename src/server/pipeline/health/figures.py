"""Time-decayed figures of one offer at one endpoint: sums over three windows and a histogram of latencies.

A window of t seconds weighs what is s seconds old with exp(-s/t), so that a sum takes no memory of single attempts, and
sums of several workers add up. Times are the clock's monotonic seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec

WINDOWS_S: Final = (10.0, 60.0, 300.0)
SHORT, MINUTE, LONG = range(3)

_BUCKETS: Final = 40
_RATIO: Final = 1.4
BOUNDS_MS: Final = tuple(_RATIO**power for power in range(_BUCKETS))
"""Upper ends of the histogram's buckets: 1 ms to 8 minutes; what takes longer counts in the last."""


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """What one window holds. Attempts are counted in exactly one of `ok`, `failed` and `limited` (429)."""

    ok: float = 0.0
    failed: float = 0.0
    limited: float = 0.0
    streams: float = 0.0
    stream_ms: float = 0.0
    wholes: float = 0.0
    whole_ms: float = 0.0
    tokens: float = 0.0
    token_s: float = 0.0

    @property
    def attempts(self) -> float:
        return self.ok + self.failed + self.limited

    def plus(self, other: Sums, factor: float = 1.0) -> Sums:
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Sums(*[one + two * factor for one, two in zip(mine, others, strict=True)])

    def success_rate(self, prior: float = 0.0) -> float:
        """Of attempts that were not limited; `prior` is how many successes are taken for granted. 1 where none."""
        all_ = self.ok + self.failed + prior
        return (self.ok + prior) / all_ if all_ > 0 else 1.0

    def limited_share(self, prior: float = 0.0) -> float:
        all_ = self.attempts + prior
        return self.limited / all_ if all_ > 0 else 0.0

    @property
    def first_token_ms(self) -> float | None:
        """Mean time to the first token of a stream; None where nothing is known."""
        return _mean(self.stream_ms, self.streams)

    @property
    def answer_ms(self) -> float | None:
        """Mean time to a whole answer that was not streamed."""
        return _mean(self.whole_ms, self.wholes)

    @property
    def throughput_tps(self) -> float | None:
        return _mean(self.tokens, self.token_s)


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """All figures at one moment: a `Sums` for each of `WINDOWS_S`, and the histogram of the longest."""

    windows: tuple[Sums, Sums, Sums] = (Sums(), Sums(), Sums())
    latencies: tuple[float, ...] = ()

    def aged(self, seconds: float) -> Reading:
        factors = [math.exp(-max(0.0, seconds) / window_s) for window_s in WINDOWS_S]
        nothing = Sums()
        one, two, three = (nothing.plus(sums, factor) for sums, factor in zip(self.windows, factors, strict=True))
        return Reading((one, two, three), tuple(count * factors[LONG] for count in self.latencies))

    def plus(self, other: Reading) -> Reading:
        one, two, three = (mine.plus(its) for mine, its in zip(self.windows, other.windows, strict=True))
        if not (self.latencies and other.latencies):
            return Reading((one, two, three), self.latencies or other.latencies)
        both = zip(self.latencies, other.latencies, strict=False)
        return Reading((one, two, three), tuple(mine + its for mine, its in both))

    def percentile_ms(self, share: float) -> float:
        """An upper bound of the latency that `share` of all attempts stayed below, within 40 %; 0 where none."""
        total = sum(self.latencies)
        if total <= 0:
            return 0.0
        reached = bisect_left(list(accumulate(self.latencies)), share * total)
        return BOUNDS_MS[min(reached, _BUCKETS - 1)]


class Figures:
    """The figures that this worker measures itself; aged lazily, whenever they are written or read."""

    __slots__ = ("_at_s", "_latencies", "_windows")

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._windows = [[0.0] * len(Sums.__struct_fields__) for _ in WINDOWS_S]
        self._latencies = [0.0] * _BUCKETS

    def succeeded(self, now_s: float, *, streamed: bool, latency_ms: float, tokens: int, took_s: float) -> None:
        """`latency_ms`: to the first token of a stream, or to a whole answer. `took_s`: until its end."""
        self._age(now_s)
        shown = (1.0, latency_ms, 0.0, 0.0) if streamed else (0.0, 0.0, 1.0, latency_ms)
        spoken = (float(tokens), took_s) if tokens and took_s > 0 else (0.0, 0.0)
        self._add((1.0, 0.0, 0.0, *shown, *spoken))
        self._latencies[min(bisect_left(BOUNDS_MS, latency_ms), _BUCKETS - 1)] += 1.0

    def failed(self, now_s: float, *, limited: bool = False) -> None:
        self._age(now_s)
        self._add((0.0, 0.0, 1.0) if limited else (0.0, 1.0, 0.0))

    def forget_short(self) -> None:
        """Begin the shortest window anew: what it holds has been acted upon."""
        self._windows[SHORT] = [0.0] * len(Sums.__struct_fields__)

    def counts(self, window: int, now_s: float) -> tuple[float, float]:
        """Failures and attempts of one window, those that were limited among both."""
        self._age(now_s)
        ok, failed, limited = self._windows[window][:3]
        return failed + limited, ok + failed + limited

    def reading(self, now_s: float) -> Reading:
        self._age(now_s)
        one, two, three = (Sums(*window) for window in self._windows)
        return Reading((one, two, three), tuple(self._latencies))

    def _add(self, counts: Sequence[float]) -> None:
        for window in self._windows:
            for index, count in enumerate(counts):
                window[index] += count

    def _age(self, now_s: float) -> None:
        elapsed_s = now_s - self._at_s
        if elapsed_s <= 0:
            return
        self._at_s = now_s
        factors = [math.exp(-elapsed_s / window_s) for window_s in WINDOWS_S]
        self._windows = [
            [value * factor for value in window] for window, factor in zip(self._windows, factors, strict=True)
        ]
        self._latencies = [count * factors[LONG] for count in self._latencies]


def _mean(total: float, count: float) -> float | None:
    return total / count if count > 0.001 else None
