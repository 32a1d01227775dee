"""An event loop whose time passes only by jumping to whatever is due next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.fakes.health import HandClock

T = TypeVar("T")


class _Jump(selectors.DefaultSelector):
    """Waits for nothing outside: turns the clock instead."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is due")
        self._clock.now_s += max(0.0, timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: HandClock) -> None:
        super().__init__(_Jump(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now_s


def play(story: Coroutine[Any, Any, T], clock: HandClock) -> T:
    """Run it to its end in the time of `clock`: hours take as long as what happens in them."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(story)
