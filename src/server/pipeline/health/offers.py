"""The health of every offer that this worker routes to: what is observed goes in, standings come out.

One entry for each offer and endpoint of the catalogue that was ever a candidate, and none for any other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

import structlog

from server.domain.errors import FailureCategory
from server.domain.events import Headroom
from server.domain.ports import Clock
from server.pipeline.health.breaker import ACCOUNT_REASONS, Breaker, Draw, Transition
from server.pipeline.health.figures import MINUTE, WINDOWS_S, Figures, Reading, Sums
from server.pipeline.health.standing import HALF_OPEN_SCORE, RouteKey, Standing, health_score, lately, room

REFRESH_S: Final = 0.25
"""Scores are worked out anew this often, not for every request."""

MIN_RETRY_S: Final = 1.0

BUSY_S: Final = 30.0
"""What another worker said of its attempts under way holds for so long."""

NEUTRAL: Final = frozenset(
    {
        FailureCategory.CALLER_ERROR,
        FailureCategory.CONTEXT_LENGTH,
        FailureCategory.CONTENT_POLICY,
        FailureCategory.NO_CAPACITY,
    }
)
"""Failures that tell nothing about a provider: the caller's, and the gateway's own."""

_log: Final = structlog.get_logger(__name__)


class Pressure(NamedTuple):
    """How much of its rate limit a provider last said is used up, from 0 to 1.

    `told_at` is in seconds since 1970, 0 for never; `until_s`, when it is forgotten, on the monotonic clock.
    """

    used: float = 0.0
    told_at: float = 0.0
    until_s: float = 0.0


class Entry:
    """One offer at one endpoint: own figures, what other workers report, the breaker."""

    __slots__ = (
        "_cached",
        "_cached_s",
        "breaker",
        "changed_at",
        "figures",
        "in_flight",
        "key",
        "others",
        "others_busy",
        "others_s",
        "pressure",
    )

    def __init__(self, key: RouteKey, now_s: float, draw: Draw) -> None:
        self.key = key
        self.figures = Figures(now_s)
        self.breaker = Breaker(draw)
        self.in_flight = 0
        self.changed_at = 0.0
        """When the breaker last opened or closed, wherever that was seen; seconds since 1970, 0 for never."""
        self.pressure = Pressure()
        """What the provider said last, to whichever worker."""
        self.others: Reading | None = None
        self.others_s = now_s
        self.others_busy: tuple[tuple[float, int], ...] = ()
        """Attempts under way at other workers, each with when that was said."""
        self._cached = Standing()
        self._cached_s = -math.inf

    def busy(self, now_s: float) -> int:
        """Attempts under way at all workers; one that has said nothing for long has ended, and its attempts with it."""
        return self.in_flight + sum(count for at_s, count in self.others_busy if now_s - at_s < BUSY_S)

    def reading(self, now_s: float) -> Reading:
        own = self.figures.reading(now_s)
        return own if self.others is None else own.plus(self.others.aged(now_s - self.others_s))

    def heard(self, now_s: float, new: Sums) -> None:
        """Another worker has made these attempts since it last told."""
        self.breaker.heard(now_s, self.per_second(now_s), good=new.ok, bad=new.failed + new.limited)

    def per_second(self, now_s: float) -> float:
        """The traffic of all workers."""
        own = self.figures.counts(MINUTE, now_s)[1]
        if self.others is None:
            return own / WINDOWS_S[MINUTE]
        factor = math.exp(-max(0.0, now_s - self.others_s) / WINDOWS_S[MINUTE])
        return (own + self.others.windows[MINUTE].attempts * factor) / WINDOWS_S[MINUTE]

    def adopted(self) -> None:
        """The breaker was set by what another worker reported."""
        self.figures.forget_short()
        self._cached_s = -math.inf

    def standing(self, now_s: float) -> Standing:
        breaker = self.breaker
        if now_s - self._cached_s >= REFRESH_S:
            self._refresh(now_s)
        state, known = breaker.state(now_s), self._cached
        score, probe = known.score, "free"
        if now_s < self.pressure.until_s:
            score *= room(self.pressure.used)
        if state != "closed":
            score = HALF_OPEN_SCORE if state == "half_open" else 0.0
            is_due, is_free = breaker.is_probe_due(now_s), breaker.is_probe_free(now_s)
            probe = "taken" if not is_free else "due" if is_due else "free"
        return Standing(
            score,
            state,
            breaker.reason,
            breaker.retry_s,
            probe,
            known.first_token_ms,
            known.answer_ms,
            known.throughput_tps,
            self.in_flight,
            breaker.in_a_row,
            breaker.is_told(now_s),
        )

    def _refresh(self, now_s: float) -> None:
        reading = self.reading(now_s)
        sums = lately(reading)
        self._cached = Standing(
            health_score(reading, now_s - self.breaker.closed_s),
            first_token_ms=sums.first_token_ms,
            answer_ms=sums.answer_ms,
            throughput_tps=sums.throughput_tps,
        )
        self._cached_s = now_s


class Watch:
    """One attempt under observation. The first of `succeeded`, `failed` and `dropped` counts, later ones do nothing."""

    __slots__ = ("_clock", "_entry", "_health", "_is_over", "_is_probe")

    def __init__(self, entry: Entry, health: Health, clock: Clock, is_probe: bool) -> None:
        self._entry = entry
        self._health = health
        self._clock = clock
        self._is_probe = is_probe
        self._is_over = False
        entry.in_flight += 1

    def told(self, headroom: Headroom | None) -> None:
        """What the provider has said is left of its rate limits, if anything."""
        if headroom is not None:
            until_s = self._clock.monotonic() + headroom.reset_s
            self._entry.pressure = Pressure(1.0 - headroom.share, self._clock.now(), until_s)

    def shown(self) -> None:
        """It has begun to show output: as much as a probe is there to find out."""
        if self._is_probe:
            self._is_probe = False
            self._changed(self._entry.breaker.passed(self._clock.monotonic()))

    def succeeded(self, *, streamed: bool, latency_ms: float, tokens: int, took_s: float) -> None:
        """As `Figures.succeeded` says."""
        if self._end():
            entry, now_s = self._entry, self._clock.monotonic()
            self._health.version += 1
            entry.figures.succeeded(now_s, streamed=streamed, latency_ms=latency_ms, tokens=tokens, took_s=took_s)
            if self._is_probe:
                self._changed(entry.breaker.passed(now_s))
            else:
                entry.breaker.succeeded(now_s, entry.per_second(now_s))

    def failed(self, category: FailureCategory, retry_after_s: float | None = None, *, of_model: bool = False) -> None:
        """`of_model`: where our account is refused, it is so for this model only."""
        if category in NEUTRAL:
            self.dropped()
        elif self._end():
            entry, now_s = self._entry, self._clock.monotonic()
            self._health.version += 1
            retry_s = entry.breaker.retry_s
            entry.figures.failed(now_s, limited=category is FailureCategory.RATE_LIMITED)
            change = entry.breaker.failed(
                now_s,
                category,
                entry.per_second(now_s),
                of_model=of_model,
                is_probe=self._is_probe,
                retry_after_s=retry_after_s,
            )
            self._changed(change)
            if change is None and entry.breaker.retry_s != retry_s:
                self._stamp()

    def outrun(self, waited_ms: float) -> None:
        """Another provider showed output sooner: this one had shown nothing after `waited_ms`."""
        if self._end():
            self._health.version += 1
            self._entry.figures.outrun(self._clock.monotonic(), waited_ms)
            if self._is_probe:
                self._entry.breaker.dropped()

    def dropped(self) -> None:
        """It ended without telling anything about the provider: the caller went, or was wrong."""
        if self._end() and self._is_probe:
            self._entry.breaker.dropped()

    def _end(self) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        self._entry.in_flight -= 1
        return True

    def _changed(self, change: Transition | None) -> None:
        if change is not None:
            entry = self._entry
            entry.adopted()
            self._stamp()
            tell(entry.key, change)
            if change.reason in ACCOUNT_REASONS:
                self._health.spread(entry)

    def _stamp(self) -> None:
        """What happened to the breaker just now is the latest that did, also where another clock was ahead."""
        self._entry.changed_at = max(self._clock.now(), self._entry.changed_at + 0.001)
        self._health.version += 1


class Health:
    """All entries of one worker. `draw` is a source of numbers from 0 up to 1."""

    def __init__(self, clock: Clock, draw: Draw) -> None:
        self.draw = draw
        self._clock = clock
        self._entries: dict[RouteKey, Entry] = {}
        self.version = 0
        """Ascends with whatever other workers should know."""
        self.drained: frozenset[str] = frozenset()
        """Ids of providers that the operator has taken out of service."""

    @property
    def now_s(self) -> float:
        return self._clock.monotonic()

    def entries(self) -> Iterable[Entry]:
        return self._entries.values()

    def entry(self, key: RouteKey) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key, self.now_s, self.draw)
            for other in self._entries.values():
                if other.key.provider == key.provider and other.breaker.is_open_by_account():
                    self._follow(entry, other)
                    break
        return entry

    def spread(self, source: Entry) -> None:
        """What `source` learnt of its account, refused or accepted again, goes for all offers of that provider.

        But not where the breaker is open for another reason, or changed later.
        """
        for entry in self._entries.values():
            if entry is source or entry.key.provider != source.key.provider or entry.changed_at > source.changed_at:
                continue
            breaker = entry.breaker
            if breaker.is_open_by_account() or (breaker.opened_s is None and source.breaker.opened_s is not None):
                self._follow(entry, source)

    def _follow(self, entry: Entry, source: Entry) -> None:
        known, its, was_open = entry.breaker, source.breaker, entry.breaker.opened_s is not None
        reason = its.reason or known.reason
        known.follow(its)
        entry.changed_at = source.changed_at
        entry.adopted()
        evidence = {"account_used_for": source.key.model}
        if its.opened_s is None:
            tell(entry.key, Transition("closed", reason, evidence=evidence))
        elif not was_open:
            tell(entry.key, Transition("open", reason, round(its.retry_s - self.now_s, 3), evidence))

    def find(self, key: RouteKey) -> Entry | None:
        return self._entries.get(key)

    def keep(self, keys: Collection[RouteKey]) -> None:
        """Forget whatever is not among `keys`: the catalogue has changed."""
        for key in [key for key in self._entries if key not in keys]:
            del self._entries[key]

    def renewed(self, provider_id: str) -> None:
        """The key of this provider is another: that the old one was refused means nothing any more.

        Nobody is told: each worker reads the catalogue itself, and may go on with the old key for a moment.
        """
        for entry in self._entries.values():
            breaker = entry.breaker
            if entry.key.provider == provider_id and breaker.is_open_by_account():
                change = Transition("closed", breaker.reason, evidence={"key": "renewed"})
                breaker.close(self.now_s)
                entry.adopted()
                tell(entry.key, change)

    def standings(self, keys: Iterable[RouteKey]) -> list[Standing]:
        now_s = self.now_s
        return [self.entry(key).standing(now_s) for key in keys]

    def retry_after_s(self, keys: Iterable[RouteKey]) -> float:
        """How long until the first of these may be called again; a second at least."""
        now_s = self.now_s
        waits = (max(entry.breaker.retry_s - now_s, MIN_RETRY_S) for key in keys if (entry := self.find(key)))
        return min(waits, default=MIN_RETRY_S)

    def start(self, key: RouteKey, *, last_resort: bool = False, is_only: bool = False) -> Watch | None:
        """Begin an attempt; None where its breaker lets none through now, or its provider is drained.

        A `last_resort` goes through whatever the breaker says, as a probe that may be before its time; but not to a
        provider that has said when it wants to be called again, unless it is the only one there is: its caller is told
        by the provider itself.
        """
        if key.provider in self.drained:
            return None
        entry, now_s = self.entry(key), self.now_s
        breaker = entry.breaker
        state = breaker.state(now_s)
        if state == "closed":
            return Watch(entry, self, self._clock, is_probe=False)
        if state == "open" and not (last_resort and (is_only or not breaker.is_told(now_s))):
            return None
        return Watch(entry, self, self._clock, is_probe=True) if breaker.start_probe(now_s) or last_resort else None


def tell(key: RouteKey, change: Transition) -> None:
    """Log a transition with what it rests on."""
    _log.warning(
        "breaker",
        provider=key.provider,
        model=key.model,
        endpoint=key.endpoint.value,
        to=change.to,
        reason=change.reason,
        waits_s=change.waits_s,
        **change.evidence,
    )
