"""How long may be waited. One timer serves all the waits of an attempt: one for each would cost more than an event."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any, Final

LOOKS_EVERY_S: Final = 10.0
"""The timer rings so often at least: set for the end of a long wait, it would be set anew for the shorter one after."""


class Patience:
    """Ends the wait that is under way when it has lasted too long, or when told to. One wait at a time, in any task.

        with patience.lasting(timeout_s):
            ... await ...

    raises TimeoutError when it ends a wait. Cancelled by anybody else, the wait ends in CancelledError.
    """

    def __init__(self, *, looks_every_s: float = LOOKS_EVERY_S) -> None:
        self._looks_every_s = looks_every_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_s = math.inf
        self._due_s = math.inf
        self._waiting: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._has_ended = False

    def lasting(self, timeout_s: float) -> Patience:
        """The next wait may last so long; the timer, once set, is only set again where it would ring too late."""
        self._due_s = self._loop.time() + timeout_s
        if self._due_s < self._rings_s:
            self._set_timer()
        return self

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can wait")
        self._waiting, self._cancelling, self._has_ended = task, task.cancelling(), False

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        task, self._waiting = self._waiting, None
        if not self._has_ended or task is None:
            return
        # As asyncio.Timeout does: our own cancellation is taken back, and only where there is no other a timeout.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError

    def end(self) -> None:
        """Let the wait that is under way end now."""
        if self._waiting is not None and not self._has_ended:
            self._has_ended = True
            self._waiting.cancel()

    def close(self) -> None:
        """No wait will follow."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self.close()
        self._rings_s = min(self._due_s, self._loop.time() + self._looks_every_s)
        self._timer = self._loop.call_at(self._rings_s, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_s = None, math.inf
        if self._waiting is None:
            return
        if self._loop.time() < self._due_s:
            self._set_timer()
        else:
            self.end()
