"""Time-decayed figures of one offer at one endpoint: sums over three windows and a histogram of latencies.

A window of t seconds weighs what is s seconds old with exp(-s/t), so that a sum takes no memory of single attempts, and
sums of several workers add up. Times are the clock's monotonic seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate
from typing import Final

import msgspec

WINDOWS_S: Final = (10.0, 60.0, 300.0)
SHORT, MINUTE, LONG = range(3)

_BUCKETS: Final = 40
_RATIO: Final = 1.4
BOUNDS_MS: Final = tuple(_RATIO**power for power in range(_BUCKETS))
"""Upper ends of the histogram's buckets: 1 ms to 8 minutes; what takes longer counts in the last."""
REBASE_S: Final = 100.0
"""Until then nothing weighs more than e¹⁰ times what it weighed first."""


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


_FIELDS: Final = len(Sums.__struct_fields__)
_OK, _FAILED, _LIMITED, _STREAMS, _STREAM_MS, _WHOLES, _WHOLE_MS, _TOKENS, _TOKEN_S = range(_FIELDS)
_SHOWN: Final = {True: (_STREAMS, _STREAM_MS), False: (_WHOLES, _WHOLE_MS)}


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
    """The figures that this worker measures itself.

    Instead of letting all that is there fade with every attempt, what is new is counted the heavier the later it comes:
    everything is kept as it would weigh at `_base_s`, which moves on now and then, before the weights grow too large.
    """

    __slots__ = ("_base_s", "_latencies", "_windows")

    def __init__(self, now_s: float) -> None:
        self._base_s = now_s
        self._windows = [[0.0] * _FIELDS for _ in WINDOWS_S]
        self._latencies = [0.0] * _BUCKETS

    def succeeded(self, now_s: float, *, streamed: bool, latency_ms: float, tokens: int, took_s: float) -> None:
        """`latency_ms`: to the first token of a stream, or to a whole answer. `took_s`: until its end."""
        growths = self._growths(now_s)
        count, total = _SHOWN[streamed]
        for window, growth in zip(self._windows, growths, strict=True):
            window[_OK] += growth
            window[count] += growth
            window[total] += latency_ms * growth
            if tokens and took_s > 0:
                window[_TOKENS] += tokens * growth
                window[_TOKEN_S] += took_s * growth
        self._latencies[min(bisect_left(BOUNDS_MS, latency_ms), _BUCKETS - 1)] += growths[LONG]

    def outrun(self, now_s: float, waited_ms: float) -> None:
        """The first token of a stream had not come after `waited_ms`, and was waited for no longer."""
        growths = self._growths(now_s)
        for window, growth in zip(self._windows, growths, strict=True):
            window[_STREAMS] += growth
            window[_STREAM_MS] += waited_ms * growth
        self._latencies[min(bisect_left(BOUNDS_MS, waited_ms), _BUCKETS - 1)] += growths[LONG]

    def failed(self, now_s: float, *, limited: bool = False) -> None:
        for window, growth in zip(self._windows, self._growths(now_s), strict=True):
            window[_LIMITED if limited else _FAILED] += growth

    def forget_short(self) -> None:
        """Begin the shortest window anew: what it holds has been acted upon."""
        self._windows[SHORT] = [0.0] * _FIELDS

    def counts(self, window: int, now_s: float) -> tuple[float, float]:
        """Failures and attempts of one window, those that were limited among both."""
        ok, failed, limited = self._windows[window][:3]
        fading = math.exp(min(0.0, self._base_s - now_s) / WINDOWS_S[window])
        return (failed + limited) * fading, (ok + failed + limited) * fading

    def reading(self, now_s: float) -> Reading:
        self._rebase(now_s)
        one, two, three = (Sums(*window) for window in self._windows)
        return Reading((one, two, three), tuple(self._latencies))

    def _growths(self, now_s: float) -> tuple[float, float, float]:
        """What an attempt of now weighs in each window."""
        if now_s - self._base_s > REBASE_S:
            self._rebase(now_s)
        elapsed_s = max(0.0, now_s - self._base_s)
        short, minute, long = WINDOWS_S
        return math.exp(elapsed_s / short), math.exp(elapsed_s / minute), math.exp(elapsed_s / long)

    def _rebase(self, now_s: float) -> None:
        elapsed_s = now_s - self._base_s
        if elapsed_s <= 0:
            return
        self._base_s = now_s
        factors = [math.exp(-elapsed_s / window_s) for window_s in WINDOWS_S]
        self._windows = [
            [value * factor for value in window] for window, factor in zip(self._windows, factors, strict=True)
        ]
        self._latencies = [count * factors[LONG] for count in self._latencies]


def _mean(total: float, count: float) -> float | None:
    return total / count if count > 0.001 else None
