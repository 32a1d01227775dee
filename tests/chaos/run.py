"""One run: gateways and upstream up, clients and killer loose, then quiet, then the reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
import psutil

from tests.chaos import books, prices
from tests.chaos.books import Database, PostgresDatabase, SqliteFile
from tests.chaos.client import Seen, ask
from tests.chaos.plan import DEFAULT, POOR, Plan, plan_of
from tests.chaos.reconcile import Evidence, Violation, reconcile
from tests.chaos.upstream import Upstream
from tests.e2e.gateway import Gateway
from tests.integration.databases import PostgresServer

Kind = Literal["sqlite", "postgres"]
TOP_UPS: Final = {DEFAULT: "500.00", POOR: "1.02"}
QUIET_WITHIN_S: Final = 60.0
"""How long the gateways may take to end every reservation once all clients have gone."""
_RETRY_S: Final = 0.1
_AGAIN_S: Final = 0.3
_AFTER_REFUSAL_S: Final = (1.0, 2.0, 4.0, 8.0)
"""How long a client waits after the first, second ... 503 in a row."""


class Options(msgspec.Struct, frozen=True):
    """`kill_every_s` is the mean time between two kills of a worker; `gateway_kills` how often a whole gateway dies."""

    database: Kind
    directory: Path
    requests: int = 2000
    clients: int = 64
    seed: int = 1
    kill_every_s: float = 3.0
    worker_kills: int | None = None
    gateway_kills: int = 2
    workers: int = 2
    lease_s: float = 5.0


class Kill(msgspec.Struct, frozen=True):
    """`at` in `time.monotonic()` seconds."""

    at: float
    gateway: int
    what: Literal["worker", "gateway"]


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to. Durations are seconds; `quiet_s` is how long the last reservation took to end."""

    options: Options
    evidence: Evidence
    kills: tuple[Kill, ...]
    violations: dict[str, list[Violation]]
    traffic_s: float
    quiet_s: float

    @property
    def is_clean(self) -> bool:
        return not any(self.violations.values())


Report = Callable[[str], None]


async def run(options: Options, report: Report) -> Outcome:
    """The whole of it. Everything that it starts has ended when it returns."""
    plans = {index: plan_of(options.seed, index) for index in range(options.requests)}
    async with Upstream(plans.__getitem__) as upstream, database_of(options.database, options.directory) as database:
        gateways = [_gateway(options, number, upstream.origin, database) for number in range(_gateways(options))]
        try:
            for gateway in gateways:
                await asyncio.to_thread(gateway.start)
            keys = await asyncio.to_thread(fund, gateways[0], TOP_UPS)
            storm = _Storm(options, plans, gateways, keys, report)
            traffic_s = await storm.rage()
            began_s = time.monotonic()
            problems = await quiet(database, report)
            quiet_s = time.monotonic() - began_s
            problems += await verified(gateways)
            read = await books.read(database)
            problems += await stopped(gateways)
        finally:
            for gateway in gateways:
                if gateway.process is not None:
                    await asyncio.to_thread(gateway.kill)
    topped_up = {team: prices.nanos(usd) for team, usd in TOP_UPS.items()}
    kills = [(kill.at, kill.gateway) for kill in storm.kills]
    evidence = Evidence(plans, storm.seen, upstream.attempts, read, topped_up, kills)
    violations = {**reconcile(evidence), "the gateways come to rest, verify and stop": problems}
    return Outcome(options, evidence, tuple(storm.kills), violations, traffic_s, quiet_s)


class _Storm:
    """Clients that ask, and a killer among the gateways, until every plan has been asked."""

    def __init__(
        self, options: Options, plans: dict[int, Plan], gateways: list[Gateway], keys: dict[str, str], report: Report
    ) -> None:
        self.seen: list[Seen] = []
        self.kills: list[Kill] = []
        self._options, self._gateways, self._keys, self._report = options, gateways, keys, report
        self._plans = plans
        self._left = iter(plans.values())
        self._rng = random.Random(f"kills:{options.seed}")
        self._serving = [_Serving(gateway.log_file) for gateway in gateways]

    async def rage(self) -> float:
        """Seconds that it took."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as helpers:
            killing = helpers.create_task(self._kill_on())
            telling = helpers.create_task(self._tell_on(began_s))
            async with asyncio.TaskGroup() as clients:
                for number in range(self._options.clients):
                    clients.create_task(self._client(number))
            took_s = time.monotonic() - began_s
            telling.cancel()
            self._done = True
            await killing
        return took_s

    _done = False

    async def _client(self, number: int) -> None:
        await asyncio.sleep(number / self._options.clients)
        refused = 0
        for plan in self._left:
            seen = await self._ask(plan, 0)
            if plan.key is not None and (seen.left or seen.broken or seen.status == 503):
                await asyncio.sleep(_AGAIN_S)
                seen = await self._ask(msgspec.structs.replace(plan, leave=None), 1)
            if seen.status == 503:
                await asyncio.sleep(_AFTER_REFUSAL_S[min(refused, len(_AFTER_REFUSAL_S) - 1)])
                refused += 1
            else:
                refused = 0

    async def _ask(self, plan: Plan, turn: int) -> Seen:
        """At the plan's gateway, who asks again at the next; or at whichever takes the connection."""
        seen = Seen(plan.index, turn=turn)
        number = plan.index + turn
        while True:
            seen.gateway = number % len(self._gateways)
            gateway = self._gateways[seen.gateway]
            try:
                await ask(plan, seen, gateway.http_port, self._keys[plan.team])
            except ConnectionError:
                seen.refusals += 1
                number += 1
                await asyncio.sleep(_RETRY_S)
            else:
                self.seen.append(seen)
                return seen

    async def _kill_on(self) -> None:
        """Workers at random times, each gateway in turn; whole gateways at even parts of the plans."""
        options = self._options
        whole_at = [options.requests * (n + 1) // (options.gateway_kills + 1) for n in range(options.gateway_kills)]
        next_worker_s = time.monotonic() + self._pause_s()
        turn, workers_killed = 0, 0
        while not self._done:
            await asyncio.sleep(0.05)
            if whole_at and len(self.seen) >= whole_at[0]:
                del whole_at[0]
                await self._kill_gateway(turn % len(self._gateways))
                turn += 1
                next_worker_s = time.monotonic() + self._pause_s()
            elif time.monotonic() >= next_worker_s:
                if options.worker_kills is None or workers_killed < options.worker_kills:
                    workers_killed += await asyncio.to_thread(self._kill_worker, turn % len(self._gateways))
                    turn += 1
                next_worker_s = time.monotonic() + self._pause_s()

    def _pause_s(self) -> float:
        return self._options.kill_every_s * self._rng.uniform(0.6, 1.4)

    def _kill_worker(self, number: int) -> bool:
        """Kill one of those that serve, but never the last of all: with none, requests are only refused."""
        serving = [self._serving_workers(one) for one in range(len(self._gateways))]
        if not serving[number] or sum(map(len, serving)) < 2:
            return False
        victim = self._rng.choice(serving[number])
        self.kills.append(Kill(time.monotonic(), number, "worker"))
        victim.kill()
        return True

    def _serving_workers(self, number: int) -> list[psutil.Process]:
        pids = self._serving[number].pids()
        return [worker for worker in self._gateways[number].workers() if worker.pid in pids]

    async def _kill_gateway(self, number: int) -> None:
        gateway = self._gateways[number]
        self.kills.append(Kill(time.monotonic(), number, "gateway"))
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)

    async def _tell_on(self, began_s: float) -> None:
        while True:
            await asyncio.sleep(1.0)
            whole = sum(kill.what == "gateway" for kill in self.kills)
            self._report(
                f"{self._options.database}: {time.monotonic() - began_s:4.0f} s  {len(self.seen)}/{len(self._plans)}"
                f" requests, {sum(seen.complete for seen in self.seen)} complete,"
                f" {len(self.kills) - whole} workers and {whole} gateways killed"
            )


class _Serving:
    """Which workers have said in a gateway's log that they serve."""

    def __init__(self, log: Path) -> None:
        self._log, self._at = log, 0
        self._pids: set[int] = set()

    def pids(self) -> set[int]:
        with self._log.open("rb") as log:
            log.seek(self._at)
            while (line := log.readline()).endswith(b"\n"):
                self._at = log.tell()
                if b'"event":"serving"' in line:
                    self._pids.add(json.loads(line)["pid"])
        return self._pids


def _gateways(options: Options) -> int:
    return 1 if options.database == "sqlite" else 2


def _gateway(options: Options, number: int, origin: str, database: Database) -> Gateway:
    directory = options.directory / f"gateway-{number}"
    directory.mkdir(parents=True)
    return Gateway(
        directory,
        prices.config(origin),
        workers=options.workers,
        environ={
            "AISTATS_DATABASE_URL": database.url,
            "AISTATS_WORKER_LEASE_S": f"{options.lease_s:g}",
            "AISTATS_GRPC_PORT": "0",
        },
    )


@contextlib.asynccontextmanager
async def database_of(kind: Kind, directory: Path) -> AsyncIterator[Database]:
    """That of a run whose gateways have their directories under `directory`."""
    if kind == "sqlite":
        yield SqliteFile(directory / "gateway-0" / "data" / "gateway.db")
        return
    server = PostgresServer()
    try:
        server.start()
        name = await server.create_database()
        yield PostgresDatabase(server.url(name), server.directory, name)
    finally:
        server.remove()


def fund(gateway: Gateway, top_ups: Mapping[str, str]) -> dict[str, str]:
    """Give each team its credit, in dollars; their keys."""
    gateway.create_team(POOR)
    for team, usd in top_ups.items():
        done = gateway.run("wallet", "top-up", "--team", team, "--usd", usd)
        assert done.returncode == 0, done.stderr
    return {DEFAULT: gateway.key, POOR: gateway.create_key(team=POOR)}


async def quiet(database: Database, report: Report) -> list[Violation]:
    """Wait until no reservation is open."""
    deadline_s = time.monotonic() + QUIET_WITHIN_S
    while held := await books.open_holds(database):
        report(f"waiting for {held} reservations to end")
        if time.monotonic() > deadline_s:
            return [Violation("the sweeper", "reservations", f"{held} are open after {QUIET_WITHIN_S:g} s")]
        await asyncio.sleep(0.25)
    return []


async def verified(gateways: list[Gateway]) -> list[Violation]:
    """What `ledger verify` finds."""
    done = await asyncio.to_thread(gateways[0].run, "ledger", "verify")
    if done.returncode == 0:
        return []
    return [Violation("ledger verify", f"exit {done.returncode}", (done.stdout + done.stderr)[-2000:])]


async def stopped(gateways: list[Gateway]) -> list[Violation]:
    """Stop them; which did not end well."""
    codes = await asyncio.gather(*(asyncio.to_thread(gateway.stop) for gateway in gateways))
    return [
        Violation("a gateway", gateway.directory.name, f"it stopped with exit {code}")
        for gateway, code in zip(gateways, codes, strict=True)
        if code != 0
    ]


def terminal() -> Report:
    """Tells on stderr: one line that changes on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    told_s = [0.0]

    def tell(text: str) -> None:
        if time.monotonic() - told_s[0] >= 5.0:
            told_s[0] = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return tell


def silent(text: str) -> None:
    """Tells nobody."""


def logged(evidence: Evidence) -> Iterator[tuple[str, list[object]]]:
    """The evidence as files of JSON lines: their names, and their lines."""
    yield "plans", list(evidence.plans.values())
    yield "seen", [msgspec.structs.asdict(one) if isinstance(one, msgspec.Struct) else one for one in evidence.seen]
    yield "attempts", [one for index in evidence.plans for one in evidence.attempts(index)]
    yield "entries", list(evidence.books.entries)
    yield "records", list(evidence.books.records)
