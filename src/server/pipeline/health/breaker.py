"""The breaker of one offer at one endpoint: closed, open, half-open. Times are the clock's monotonic seconds.

It opens on the share of failures among the latest attempts, where our account or a model is refused, or for as long as
a 429 asks. Once its time has passed it is half-open: one probe at a time, and as many as are needed must pass in a row.
What other workers find out is adopted, the latest transition winning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from server.domain.errors import FailureCategory
from server.domain.health import BreakerState

ERROR_SHARE: Final = 0.5
MIN_ATTEMPTS: Final = 10.0
"""The latest attempts that count are this many, or a second's worth of the traffic where that is more."""
FLOOR: Final = 0.38
"""The share of those that must have been seen before anything is concluded: five failures out of five at least."""
MEMORY_S: Final = 300.0
SETTLED_S: Final = 5.0
"""After it closed, what other workers still report of the time before is left aside for so long."""

BACK_OFF_S: Final = 30.0
MAX_BACK_OFF_S: Final = 900.0
JITTER: Final = 0.2
LIMITED_BACK_OFF_S: Final = 1.0
MAX_LIMITED_BACK_OFF_S: Final = 30.0
"""Of a provider that says when to come back, and then says so again."""
RELAPSE_S: Final = 60.0
"""Opening again within this time of closing, or within twice the last back-off, is the same trouble still."""

PROBES: Final = 3
EARLY_PROBES: Final = 20
"""So many attempts in a row must go well to close it before its time: last resorts, with nobody else left to call."""
PROBE_LIMIT_S: Final = 60.0
"""A probe that has shown nothing for so long holds up no other."""
PROBE_INTERVAL_S: Final = 2.0

ACCOUNT: Final = frozenset({FailureCategory.CREDENTIALS, FailureCategory.QUOTA_EXHAUSTED})
ACCOUNT_REASONS: Final = frozenset(category.value for category in ACCOUNT)
"""Why it is open where the provider refuses our account, hence all of our requests."""
MODEL_REFUSED: Final = "model_refused"
"""Our account is refused this model only, or its quota for it is used up."""
ERROR_RATE: Final = "error_rate"
RATE_LIMITED: Final = "rate_limited"
_REFUSALS: Final = ACCOUNT_REASONS | {MODEL_REFUSED}

Draw = Callable[[], float]
"""A random number from 0 up to 1."""


class Transition(msgspec.Struct, frozen=True):
    """One change of state and what it rests on. `waits_s` is None where it closes."""

    to: BreakerState
    reason: str
    waits_s: float | None = None
    evidence: dict[str, Any] = {}


class Breaker:
    __slots__ = (
        "_bad",
        "_draw",
        "_good",
        "_level",
        "_noted_s",
        "_probe_s",
        "_probed_s",
        "_told_s",
        "_waited_s",
        "closed_s",
        "in_a_row",
        "opened_s",
        "reason",
        "retry_s",
    )

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.opened_s: float | None = None
        self.retry_s = 0.0
        self.reason = ""
        self.closed_s = -math.inf
        self._level = 0
        self._told_s = -math.inf
        self._waited_s = 0.0
        self._good = self._bad = 0.0
        self._noted_s = 0.0
        self.in_a_row = 0
        self._probe_s: float | None = None
        self._probed_s = -math.inf

    def is_open_by_account(self) -> bool:
        return self.opened_s is not None and self.reason in ACCOUNT_REASONS

    def state(self, now_s: float) -> BreakerState:
        if self.opened_s is None:
            return "closed"
        return "open" if now_s < self.retry_s else "half_open"

    def is_told(self, now_s: float) -> bool:
        """Whether the provider itself asked not to be called yet."""
        return self.opened_s is not None and now_s < self._told_s

    def is_probe_free(self, now_s: float) -> bool:
        return self._probe_s is None or now_s - self._probe_s >= PROBE_LIMIT_S

    def is_probe_due(self, now_s: float) -> bool:
        """Whether the last probe is so long ago that the next request should be one."""
        return now_s - self._probed_s >= PROBE_INTERVAL_S

    def start_probe(self, now_s: float) -> bool:
        """Whether this attempt may be the probe; it must end with `passed`, `failed` or `dropped`."""
        if not self.is_probe_free(now_s):
            return False
        self._probe_s = self._probed_s = now_s
        return True

    def dropped(self) -> None:
        """A probe ended without telling anything."""
        self._probe_s = None

    def passed(self, now_s: float) -> Transition | None:
        """A probe went well."""
        self._probe_s = None
        if self.opened_s is None:
            return None
        self.in_a_row += 1
        if self.in_a_row < self._needed(now_s):
            return None
        reason, open_s, passed = self.reason, now_s - self.opened_s, self.in_a_row
        self.close(now_s)
        return Transition("closed", reason, evidence={"probes_passed": passed, "open_s": round(open_s, 3)})

    def _needed(self, now_s: float) -> int:
        """How many must pass in a row: who was refused, and is no more, has shown all there is to show."""
        if self.reason in _REFUSALS:
            return 1
        if now_s < self.retry_s:
            return EARLY_PROBES
        return 1 if self.reason == RATE_LIMITED else PROBES

    def succeeded(self, now_s: float, per_second: float) -> None:
        """An ordinary attempt went well."""
        self._note(now_s, per_second, good=1.0)

    def heard(self, now_s: float, per_second: float, *, good: float, bad: float) -> None:
        """Other workers' attempts are among the latest as well; what follows from them the next failure here tells."""
        if good + bad > 0 and self.opened_s is None and now_s - self.closed_s >= SETTLED_S:
            self._note(now_s, per_second, good=good, bad=bad)

    def failed(
        self,
        now_s: float,
        category: FailureCategory,
        per_second: float,
        *,
        of_model: bool = False,
        is_probe: bool = False,
        retry_after_s: float | None = None,
    ) -> Transition | None:
        """An attempt failed by its provider's fault.

        `per_second` is the traffic; `of_model`: a refusal that goes for this model only.
        """
        if is_probe:
            self._probe_s = None
            self.in_a_row = 0
        if category is FailureCategory.RATE_LIMITED and retry_after_s is not None:
            return self._limit(now_s, retry_after_s, is_probe)
        state = self.state(now_s)
        if state == "half_open" and is_probe:
            return self._open(now_s, _reason(category, of_model), retry_after_s, {"probe": category.value})
        if state != "closed":
            return None
        if category in ACCOUNT:
            return self._open(now_s, _reason(category, of_model), retry_after_s, {"failure": category.value})
        self._note(now_s, per_second, bad=1.0)
        evidence = self._evidence(per_second)
        return None if evidence is None else self._open(now_s, ERROR_RATE, retry_after_s, evidence)

    def adopt_open(self, opened_s: float, retry_s: float, reason: str) -> None:
        """Another worker has opened it."""
        if self.opened_s is None:
            self._trouble_again(opened_s)
            self._waited_s = max(0.0, retry_s - opened_s)
        self.opened_s, self.reason = opened_s, reason
        self.retry_s = retry_s
        self._told_s = retry_s if reason == RATE_LIMITED else -math.inf
        self.in_a_row = 0
        self._forget()

    def follow(self, other: Breaker) -> None:
        """What refused or accepts the account of `other` does so with this one as well: the account is the same."""
        if other.opened_s is None:
            self.close(other.closed_s)
            return
        self.opened_s, self.retry_s, self.reason = other.opened_s, other.retry_s, other.reason
        self._level, self._waited_s = other._level, other._waited_s
        self.in_a_row = 0
        self._forget()

    def close(self, now_s: float) -> None:
        """Probes have passed here, or at another worker."""
        self.opened_s, self.reason = None, ""
        self.closed_s = now_s
        self.in_a_row = 0
        self._forget()

    def _limit(self, now_s: float, retry_after_s: float, is_probe: bool) -> Transition | None:
        """The provider says until when; the latest time that it ever said counts."""
        self._told_s = max(self._told_s, now_s + min(retry_after_s, MAX_BACK_OFF_S))
        if self.state(now_s) == "open":
            self.retry_s = max(self.retry_s, now_s + min(retry_after_s, MAX_BACK_OFF_S))
            return None
        if self.opened_s is not None and not is_probe:
            return None
        if self.opened_s is None:
            self._trouble_again(now_s)
        else:
            self._level += 1
        patience_s = min(LIMITED_BACK_OFF_S * 2.0 ** (self._level - 1), MAX_LIMITED_BACK_OFF_S) if self._level else 0.0
        wait_s = min(max(retry_after_s, patience_s), MAX_BACK_OFF_S)
        return self._opened(now_s, RATE_LIMITED, wait_s, {"retry_after_s": retry_after_s})

    def _open(self, now_s: float, reason: str, retry_after_s: float | None, evidence: dict[str, Any]) -> Transition:
        if self.opened_s is None:
            self._trouble_again(now_s)
        else:
            self._level += 1
        back_off_s = min(BACK_OFF_S * 2.0 ** min(self._level, 10), MAX_BACK_OFF_S / (1 + JITTER))
        wait_s = back_off_s * (1 + JITTER * self._draw())
        return self._opened(now_s, reason, max(wait_s, min(retry_after_s or 0.0, MAX_BACK_OFF_S)), evidence)

    def _opened(self, now_s: float, reason: str, wait_s: float, evidence: dict[str, Any]) -> Transition:
        self.opened_s, self.retry_s, self.reason = now_s, now_s + wait_s, reason
        self._waited_s = wait_s
        self.in_a_row = 0
        self._forget()
        return Transition("open", reason, round(wait_s, 3), {**evidence, "level": self._level})

    def _trouble_again(self, now_s: float) -> None:
        is_relapse = now_s - self.closed_s < max(RELAPSE_S, 2 * self._waited_s)
        self._level = self._level + 1 if is_relapse else 0

    def _evidence(self, per_second: float) -> dict[str, Any] | None:
        seen = self._good + self._bad
        if seen >= FLOOR * max(MIN_ATTEMPTS, per_second) and self._bad >= ERROR_SHARE * seen:
            return {"failed": round(self._bad, 1), "of": round(seen, 1)}
        return None

    def _note(self, now_s: float, per_second: float, *, good: float = 0.0, bad: float = 0.0) -> None:
        latest, new = max(MIN_ATTEMPTS, per_second), good + bad
        kept = (1 - 1 / latest) ** new
        weight = latest * (1 - kept) / new
        kept *= math.exp(-max(0.0, now_s - self._noted_s) / MEMORY_S)
        self._noted_s = now_s
        self._good = self._good * kept + good * weight
        self._bad = self._bad * kept + bad * weight

    def _forget(self) -> None:
        self._good = self._bad = 0.0


def _reason(category: FailureCategory, of_model: bool) -> str:
    if category not in ACCOUNT:
        return ERROR_RATE
    return MODEL_REFUSED if of_model else category.value
