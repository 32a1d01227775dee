"""Whether what was measured over and over grows: a slope that no outlier moves, and how far the points lie from it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

MAX_POINTS: Final = 400
"""More are thinned out: the slope is the median of those between all pairs."""
NOISES: Final = 3.0
"""So many times the noise may the line rise from its beginning to its end."""
_MAD_TO_SIGMA: Final = 1.4826


class Trend(msgspec.Struct, frozen=True):
    """A line through points in time, over `seconds`. `slope` is by the second, `level` the median, `noise` how far
    points lie from the line (their median distance, as the standard deviation that it is of a normal distribution).
    """

    level: float
    slope: float
    noise: float
    seconds: float

    @property
    def growth(self) -> float:
        """From the first point to the last, along the line."""
        return self.slope * self.seconds

    @property
    def an_hour(self) -> float:
        return self.slope * 3600.0

    def is_flat(self, allowed: float) -> bool:
        """Whether it grows by no more than `allowed`, or than can be told from the noise."""
        return self.growth <= max(allowed, NOISES * self.noise)


def trend(points: Sequence[tuple[float, float]]) -> Trend:
    """Theil and Sen's line through (seconds, value), in order of time; at least two of them."""
    step = -(-len(points) // MAX_POINTS)
    used = points[::step]
    slopes = [
        (later - earlier) / (then - before)
        for number, (before, earlier) in enumerate(used)
        for then, later in used[number + 1 :]
    ]
    slope = median(slopes)
    at = median(value - slope * seconds for seconds, value in used)
    noise = _MAD_TO_SIGMA * median(abs(value - slope * seconds - at) for seconds, value in used)
    return Trend(median(value for _, value in used), slope, noise, used[-1][0] - used[0][0])
