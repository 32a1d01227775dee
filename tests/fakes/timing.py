"""Measures of time that a busy machine cannot spoil."""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 20
PAUSE_S = 0.05


def soonest(measure: Callable[[], float], *, within_s: float) -> float:
    """The shortest of at most TRIES measurements, in seconds; the first that is short enough is the last.

    A process that had to wait for its turn is slow once. What is slow by itself is slow every time.
    """
    took_s = measure()
    for tried in range(1, TRIES):
        if took_s < within_s:
            break
        time.sleep(tried * PAUSE_S)
        took_s = min(took_s, measure())
    return took_s
