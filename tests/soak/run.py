"""One soak: a gateway at part of what it can do for a long time, then rest, and the reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from server.probes import unused_port
from tests.chaos import books, prices
from tests.chaos.books import Database
from tests.chaos.plan import DEFAULT, POOR
from tests.chaos.reconcile import Evidence, Violation, reconcile
from tests.chaos.run import Kind, Report, database_of, fund, quiet, stopped, verified
from tests.chaos.upstream import Upstream
from tests.e2e.gateway import Gateway
from tests.soak.gauges import Gauges, Reading
from tests.soak.load import Load
from tests.soak.trend import Trend, trend

Host = Literal["grpc.aio", "in-envoy"]
TOP_UPS: Final = {DEFAULT: "100000.00", POOR: "1.02"}
MIB: Final = 1024 * 1024
REST_WITHIN_S: Final = 120.0
"""How long everything may take to return to what it was before the load."""
REST_FOR_S: Final = 10.0
"""Before the load it is at rest once it has held the same for so long."""
KEEP_ALIVE_S: Final = 4.0
"""After which providers close connections that the gateway keeps for the next request."""


SPARE_BLOCKS: Final = 0.1
"""What Python's objects may be more at rest: what is remembered up to a limit may not have reached it before."""


class Options(msgspec.Struct, frozen=True):
    """`minutes` of load, of which the first `warm_up_s` say nothing of growth.

    `rate` in requests a second; None for `share` of what a closed loop of `clients` comes to in `calibrate_s`. At most
    twice as many requests as clients are under way, and for `crowd_s` before the load so many of each worker: memory is
    what the most at a time have needed. `flat_share` and `flat_mib`: what a process may grow by and still be flat, of
    its own size or in all, whichever is more. `spare_fds`: descriptors that it may have more, such as those of another
    connection to its database.
    """

    directory: Path
    host: Host = "grpc.aio"
    database: Kind = "sqlite"
    minutes: float = 30.0
    warm_up_s: float = 300.0
    share: float = 0.7
    rate: float | None = None
    clients: int = 64
    calibrate_s: float = 15.0
    crowd_s: float = 10.0
    seed: int = 1
    workers: int = 2
    sample_s: float = 5.0
    tell_s: float = 15.0
    flat_share: float = 0.02
    flat_mib: float = 4.0
    spare_fds: int = 8

    @property
    def most(self) -> int:
        """Requests under way at a time."""
        return 2 * self.clients


class Sample(msgspec.Struct, frozen=True):
    """`at` in seconds since the load began. `stored` are bytes by file of the database."""

    at: float
    processes: dict[str, Reading]
    open_holds: int
    in_flight: int
    stored: dict[str, int]


class Outcome(msgspec.Struct, frozen=True):
    """What a soak came to. `maximum` and `rate` are requests a second, `rest_s` how long it took to come to rest."""

    options: Options
    maximum: float
    rate: float
    load: Load
    evidence: Evidence
    before: Sample
    samples: tuple[Sample, ...]
    after: Sample
    rest_s: float
    rss: dict[str, Trend]
    fds: dict[str, Trend]
    violations: dict[str, list[Violation]]

    @property
    def is_clean(self) -> bool:
        return not any(self.violations.values())


async def run(options: Options, report: Report) -> Outcome:
    """The whole of it. Everything that it starts has ended when it returns."""
    async with contextlib.AsyncExitStack() as stack:
        known: list[Load] = []
        upstream = await stack.enter_async_context(Upstream(lambda index: known[0].plans[index], KEEP_ALIVE_S))
        database = await stack.enter_async_context(database_of(options.database, options.directory))
        gateway = _gateway(options, upstream.origin, database)
        try:
            await asyncio.to_thread(gateway.start)
            load = Load(options.seed, gateway, await asyncio.to_thread(fund, gateway, TOP_UPS))
            known.append(load)
            watch = _Watch(options, gateway, database, load, report)
            report(f"{options.host}, {options.database}: what it can do, for {options.calibrate_s:g} s")
            maximum = await load.closed(options.clients, options.calibrate_s)
            rate = options.rate or options.share * maximum
            await load.closed(options.most * options.workers, options.crowd_s)
            before = await watch.rest(None)
            report(f"{maximum:.0f} requests/s at most; {rate:.0f} for {options.minutes:g} min")
            await watch.follow(load.open(rate, options.minutes * 60, most=options.most))
            ended_s = time.monotonic()
            problems = await quiet(database, report)
            after = await watch.rest(before)
            rest_s = time.monotonic() - ended_s
            problems += await verified([gateway])
            read = await books.read(database)
            problems += await stopped([gateway])
        finally:
            if gateway.process is not None:
                await asyncio.to_thread(gateway.kill)
    report("holding the accounts against each other")
    topped_up = {team: prices.nanos(usd) for team, usd in TOP_UPS.items()}
    evidence = Evidence(load.plans, load.seen, upstream.attempts, read, topped_up)
    settled = [sample for sample in watch.samples if sample.at >= options.warm_up_s]
    rss = {name: trend([(one.at, one.processes[name].rss) for one in settled]) for name in before.processes}
    fds = {name: trend([(one.at, one.processes[name].fds) for one in settled]) for name in before.processes}
    violations = {
        **reconcile(evidence),
        "mistakes are refused as they should be": load.wrong,
        "memory is flat": list(_grown(options, rss)),
        "descriptors are flat": [
            Violation("descriptors", name, f"{line.growth:+.1f} in {line.seconds:.0f} s, noise {line.noise:.1f}")
            for name, line in fds.items()
            if not line.is_flat(options.spare_fds)
        ],
        "descriptors, tasks and objects are at rest what they were": list(_left_behind(options, before, after)),
        "the gateway comes to rest, verifies and stops": problems,
    }
    return Outcome(
        options, maximum, rate, load, evidence, before, tuple(watch.samples), after, rest_s, rss, fds, violations
    )


class _Watch:
    """Samples the gateway while something goes on, and tells of it."""

    def __init__(self, options: Options, gateway: Gateway, database: Database, load: Load, report: Report) -> None:
        self.samples: list[Sample] = []
        self._options, self._database, self._load, self._report = options, database, load, report
        self._gauges = Gauges(gateway)
        self._began_s = time.monotonic()

    async def follow(self, work: Coroutine[None, None, None]) -> None:
        """Until it has ended."""
        self._began_s = time.monotonic()
        told_s = 0.0
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            while not working.done():
                self.samples.append(sample := await self._sample())
                if sample.at - told_s >= self._options.tell_s:
                    told_s = sample.at
                    self._report(self._line(sample))
                await asyncio.wait([working], timeout=self._options.sample_s)

    async def rest(self, before: Sample | None) -> Sample:
        """When it holds what it held `before` or less; where that is not known, when what it holds changes no more."""
        now = await self._sample()
        give_up_s, same_since = now.at + REST_WITHIN_S, now.at
        while now.at < give_up_s:
            if before is not None and not any(True for _ in _left_behind(self._options, before, now)):
                break
            await asyncio.sleep(1.0)
            last, now = now, await self._sample()
            if now.open_holds or _held(now) != _held(last):
                same_since = now.at
            if before is None and now.at - same_since >= REST_FOR_S:
                break
        return now

    async def _sample(self) -> Sample:
        processes = await asyncio.to_thread(self._gauges.read)
        return Sample(
            at=time.monotonic() - self._began_s,
            processes=processes,
            open_holds=await books.open_holds(self._database),
            in_flight=self._load.in_flight,
            stored=self._gauges.stored(),
        )

    def _line(self, sample: Sample) -> str:
        load = self._load
        held = "; ".join(
            f"{name} {one.rss / MIB:.0f} MiB {one.fds} fds {one.threads} threads"
            + (f" {one.tasks} tasks {one.blocks // 1000}k blocks" if one.tasks else "")
            for name, one in sample.processes.items()
        )
        return (
            f"{sample.at:5.0f} s  {load.offered} offered, {load.shed} shed, {sample.in_flight} in flight,"
            f" {sample.open_holds} reserved; {held}"
        )


def _held(sample: Sample) -> dict[str, tuple[int, int]]:
    return {name: (one.fds, one.tasks) for name, one in sample.processes.items()}


def _left_behind(options: Options, before: Sample, after: Sample) -> Iterator[Violation]:
    """What a process holds at rest that it did not hold at rest before the load."""
    for name, was in before.processes.items():
        now = after.processes[name]
        if now.fds > was.fds + options.spare_fds:
            yield Violation("at rest", name, f"{was.fds} descriptors before, {now.fds} after")
        if now.tasks > was.tasks:
            yield Violation("at rest", name, f"{was.tasks} tasks before, {now.tasks} after")
        if now.blocks > was.blocks * (1 + SPARE_BLOCKS):
            yield Violation("at rest", name, f"{was.blocks} blocks of Python's before, {now.blocks} after")
    if after.open_holds:
        yield Violation("at rest", "reservations", f"{after.open_holds} are open")


def _grown(options: Options, rss: dict[str, Trend]) -> Iterator[Violation]:
    for name, line in rss.items():
        if not line.is_flat(max(options.flat_mib * MIB, options.flat_share * line.level)):
            how = f"{line.growth / MIB:+.1f} MiB in {line.seconds:.0f} s, noise {line.noise / MIB:.1f} MiB"
            yield Violation("memory", name, how)


def _gateway(options: Options, origin: str, database: Database) -> Gateway:
    directory = options.directory / "gateway-0"
    directory.mkdir(parents=True)
    return Gateway(
        directory,
        prices.config(origin),
        workers=options.workers,
        environ={
            "AISTATS_HOST": options.host,
            "AISTATS_DATABASE_URL": database.url,
            "AISTATS_GRPC_PORT": "0",
            "AISTATS_METRICS_PORT": str(unused_port()),
        },
    )
