"""Health among workers: each publishes what it sees about once a second, and merges what the others saw.

Figures add up. Of a breaker the latest opening or closing counts, wherever it happened, but no closing cuts short a
pause that the provider asked for; being half-open is each worker's own affair. Where no exchange answers, a worker goes
on with what it knows itself; and whatever one brings, nothing is taken in that no worker would have sent.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec
import structlog

from server.domain.catalog import Catalog
from server.domain.errors import GatewayError
from server.domain.health import HealthExchange, SharedReport
from server.domain.ports import CatalogSource, Clock
from server.domain.request import Endpoint
from server.pipeline.health.breaker import ACCOUNT_REASONS, MAX_BACK_OFF_S, Transition
from server.pipeline.health.figures import BOUNDS_MS, LONG, SHORT, Reading, Sums
from server.pipeline.health.offers import Entry, Health, Pressure, tell
from server.pipeline.health.polling import poll
from server.pipeline.health.standing import RouteKey
from server.pipeline.health.view import route_keys

RENEW_S: Final = 10.0
"""A worker with attempts under way says so this often, though nothing has changed."""
GOODBYE_S: Final = 1.0
FORGOTTEN_S: Final = 1500.0
"""After so long without a new report a worker's figures have faded, and are dropped."""
STALE_S: Final = 5.0
"""A new report is not older than this, whatever the clock of the machine that made it says."""
TELLING: Final = 0.05
"""Fewer attempts than this, in the longest window, are not worth telling."""

MAX_ROUTES: Final = 10_000
"""Of one report."""
MAX_TOLD: Final = 512
"""Workers whose figures count: those that reported last."""
MAX_KNOWN: Final = 4096
"""Workers whose last report is remembered as read."""
MAX_AHEAD_S: Final = 300.0
"""How far the clock of another machine may be ahead."""
MAX_VALUE: Final = 1e12
MAX_IN_FLIGHT: Final = 1_000_000

_DIGITS: Final = 3
_REASON: Final = re.compile(r"[a-z_]{0,40}")
_log: Final = structlog.get_logger(__name__)


class RouteReport(msgspec.Struct, frozen=True, array_like=True):
    """One entry. Times are seconds since 1970; `opened_at` is 0 where the breaker is closed.

    `used` is how much of a rate limit is used up, as the provider said at `used_told_at`; it holds until `used_until`.
    """

    provider: str
    model: str
    endpoint: str
    reading: Reading
    changed_at: float = 0.0
    opened_at: float = 0.0
    retry_at: float = 0.0
    reason: str = ""
    used: float = 0.0
    used_told_at: float = 0.0
    used_until: float = 0.0
    in_flight: int = 0


class Report(msgspec.Struct, frozen=True, array_like=True):
    at: float
    routes: tuple[RouteReport, ...] = ()


_decoder: Final = msgspec.json.Decoder(Report)


class _Told(msgspec.Struct, frozen=True):
    """A worker's last report: when, by our monotonic clock, and by its own in seconds since 1970."""

    at_s: float
    told_at: float
    routes: dict[RouteKey, RouteReport]


class Sharing:
    """One in each worker."""

    def __init__(self, health: Health, exchange: HealthExchange, catalogs: CatalogSource, clock: Clock) -> None:
        self._health = health
        self._exchange = exchange
        self._catalogs = catalogs
        self._clock = clock
        self._catalog: Catalog | None = None
        self._keys: set[RouteKey] = set()
        self._published: int | None = health.version
        self._number = 0
        self._known: dict[str, int] = {}
        self._published_s = 0.0
        self._told_busy = 0
        self._told: dict[str, _Told] = {}
        self._has_read = False

    async def run(self) -> None:
        """Exchange for ever; an outage is waited for."""
        await poll(self.exchange, "health_not_shared")

    async def close(self) -> None:
        """Publish what is new once more, if it is taken soon."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._publish()
        except (GatewayError, TimeoutError):
            _log.info("health_not_shared", cause="the exchange is away")

    async def exchange(self) -> None:
        """Publish what is new here, take in what is new elsewhere. Raises GatewayError (`database_unavailable`).

        After a failure all is published again: what was there may be lost.
        """
        self._follow_catalogue()
        try:
            await self._publish()
            shared = await self._exchange.others(self._known)
        except GatewayError:
            self._published = None
            raise
        await self._take_in(shared)
        self._has_read = True

    async def _publish(self) -> None:
        version, now_s = self._health.version, self._clock.monotonic()
        busy = sum(entry.in_flight for entry in self._health.entries())
        is_due = busy > 0 and now_s - self._published_s >= RENEW_S
        if version != self._published or busy != self._told_busy or is_due:
            self._number += 1
            await self._exchange.publish(self._number, msgspec.json.encode(self.report()))
            self._published, self._told_busy, self._published_s = version, busy, now_s

    def report(self) -> Report:
        """All entries of this worker that have something to tell."""
        now_s, now = self._clock.monotonic(), self._clock.now()
        routes = []
        for entry in self._health.entries():
            reading = entry.figures.reading(now_s)
            is_used = entry.in_flight or reading.windows[LONG].attempts >= TELLING
            if is_used or entry.changed_at > now - FORGOTTEN_S:
                routes.append(_route_report(entry, reading, now - now_s))
        return Report(now, tuple(routes))

    def _follow_catalogue(self) -> None:
        before, now = self._catalog, self._catalogs.current
        if now is before:
            return
        self._catalog, self._keys = now, route_keys(now)
        self._health.keep(self._keys)
        for id_, provider in now.providers.items():
            was = None if before is None else before.providers.get(id_)
            if was is not None and was.api_key != provider.api_key:
                self._health.renewed(id_)

    async def _take_in(self, shared: list[SharedReport]) -> None:
        now_s = self._clock.monotonic()
        changed: set[RouteKey] = set()
        for one in shared:
            self._known.pop(one.worker_id, None)
            self._known[one.worker_id] = one.number
            try:
                report = _decoder.decode(one.report)
            except (msgspec.MsgspecError, RecursionError):
                continue  # of another release, or nothing of ours
            if len(report.routes) <= MAX_ROUTES:
                changed |= self._note(one.worker_id, report, now_s)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        for worker_id in list(self._told)[:-MAX_TOLD]:
            changed |= self._told.pop(worker_id).routes.keys()
        for worker_id, told in list(self._told.items()):
            if now_s - told.at_s > FORGOTTEN_S:
                del self._told[worker_id]
                changed |= told.routes.keys()
        for key in changed:
            self._add_up(key, now_s)
            await asyncio.sleep(0)  # each takes a while, and requests are waiting

    def _note(self, worker_id: str, report: Report, now_s: float) -> set[RouteKey]:
        """Keep a worker's figures, adopt its breakers; which routes it told of, now or the time before."""
        age_s = max(0.0, self._clock.now() - report.at)
        if self._has_read:
            age_s = min(age_s, STALE_S)
        before, routes = self._told.pop(worker_id, None), dict[RouteKey, RouteReport]()
        for route in report.routes:
            try:
                key = RouteKey(route.provider, route.model, Endpoint(route.endpoint))
            except ValueError:
                continue
            if key in self._keys and _is_sound(route, self._clock.now()):
                routes[key] = route
                entry = self._health.entry(key)
                entry.heard(now_s, _new(before, key, route.reading, report.at, age_s))
                self._adopt(entry, route, worker_id, now_s)
                if route.used_told_at > entry.pressure.told_at:
                    entry.pressure = _pressure(route, now_s - self._clock.now())
        self._told[worker_id] = _Told(now_s - age_s, report.at, routes)
        return {*routes, *(before.routes if before else ())}

    def _adopt(self, entry: Entry, route: RouteReport, worker_id: str, now_s: float) -> None:
        if route.changed_at <= entry.changed_at:
            return
        entry.changed_at = route.changed_at
        offset_s, evidence = now_s - self._clock.now(), {"seen_by": worker_id}
        was_open = entry.breaker.opened_s is not None
        is_of_account = entry.breaker.is_open_by_account() or route.reason in ACCOUNT_REASONS
        if route.opened_at > 0:
            retry_s = min(route.retry_at + offset_s, now_s + MAX_BACK_OFF_S)
            entry.breaker.adopt_open(min(route.opened_at + offset_s, now_s), retry_s, route.reason)
            entry.adopted()
            if not was_open:
                tell(entry.key, Transition("open", route.reason, round(retry_s - now_s, 3), evidence))
        elif was_open and not entry.breaker.is_told(now_s):
            reason = entry.breaker.reason
            entry.breaker.close(now_s)
            entry.adopted()
            tell(entry.key, Transition("closed", reason, evidence=evidence))
        if is_of_account:
            self._health.spread(entry)

    def _add_up(self, key: RouteKey, now_s: float) -> None:
        told = [(one.at_s, one.routes[key]) for one in self._told.values() if key in one.routes]
        entry = self._health.find(key)
        if entry is None:
            return
        entry.others_s = now_s
        entry.others_busy = tuple((at_s, route.in_flight) for at_s, route in told if route.in_flight)
        if not told:
            entry.others = None
            return
        total = Reading()
        for at_s, route in told:
            total = total.plus(route.reading.aged(now_s - at_s))
        entry.others = total


def _new(before: _Told | None, key: RouteKey, reading: Reading, told_at: float, age_s: float) -> Sums:
    """The attempts since a worker's report before; of its first, those of the shortest window."""
    if before is None or key not in before.routes:
        return reading.aged(age_s).windows[SHORT]
    old = before.routes[key].reading.aged(told_at - before.told_at).windows[LONG]
    new = reading.windows[LONG].plus(old, -1.0)
    return Sums(max(0.0, new.ok), max(0.0, new.failed), max(0.0, new.limited))


def _is_sound(route: RouteReport, now: float) -> bool:
    """Whether a worker may have sent it: moments that have come, and figures that add up."""
    sums = [value for window in route.reading.windows for value in msgspec.structs.astuple(window)]
    return (
        0.0 <= route.changed_at <= now + MAX_AHEAD_S
        and 0.0 <= route.opened_at <= now + MAX_AHEAD_S
        and 0.0 <= route.retry_at <= MAX_VALUE
        and 0.0 <= route.used <= 1.0
        and 0.0 <= route.used_told_at <= now + MAX_AHEAD_S
        and 0.0 <= route.used_until <= MAX_VALUE
        and 0 <= route.in_flight <= MAX_IN_FLIGHT
        and _REASON.fullmatch(route.reason) is not None
        and len(route.reading.latencies) <= len(BOUNDS_MS)
        and all(0.0 <= value <= MAX_VALUE for value in (*sums, *route.reading.latencies))
    )


def _pressure(route: RouteReport, offset_s: float) -> Pressure:
    return Pressure(min(max(0.0, route.used), 1.0), route.used_told_at, route.used_until + offset_s)


def _route_report(entry: Entry, reading: Reading, offset_s: float) -> RouteReport:
    breaker, key = entry.breaker, entry.key
    opened_at = 0.0 if breaker.opened_s is None else breaker.opened_s + offset_s
    retry_at = 0.0 if breaker.opened_s is None else breaker.retry_s + offset_s
    return RouteReport(
        key.provider,
        key.model,
        key.endpoint.value,
        _rounded(reading),
        entry.changed_at,
        round(opened_at, _DIGITS),
        round(retry_at, _DIGITS),
        breaker.reason,
        round(entry.pressure.used, _DIGITS),
        entry.pressure.told_at,
        entry.pressure.until_s + offset_s if entry.pressure.told_at else 0.0,
        entry.in_flight,
    )


def _rounded(reading: Reading) -> Reading:
    one, two, three = (
        Sums(*[round(value, _DIGITS) for value in msgspec.structs.astuple(sums)]) for sums in reading.windows
    )
    return Reading((one, two, three), tuple(round(count, _DIGITS) for count in reading.latencies))
