"""One run: two gateways on one PostgreSQL, killed in turn while clients make videos; then quiet, then the reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from tests.chaos import books, prices
from tests.chaos.books import Database, PostgresDatabase
from tests.chaos.plan import DEFAULT
from tests.chaos.reconcile import Violation
from tests.chaos.run import Report
from tests.chaos.videos.books import events, jobs, open_jobs, untold
from tests.chaos.videos.client import Clients, Told
from tests.chaos.videos.plan import PROVIDERS, FilmPlan, plans_of
from tests.chaos.videos.receiver import Receiver
from tests.chaos.videos.reconcile import Evidence, reconcile
from tests.chaos.videos.studio import Studio, config
from tests.e2e.gateway import Gateway
from tests.integration.databases import PostgresServer

TOP_UP: Final = "500.00"
QUIET_WITHIN_S: Final = 60.0
"""How long jobs, reservations and goodbyes may take to end once all clients have gone."""


class Options(msgspec.Struct, frozen=True):
    """`spread_s`: over how long the videos begin, but for those that hang `at_once` at the most. `kill_every_s`: a
    gateway is killed so often, in turn, once it has served for `lives_s` and given `answers`, or a busy machine would
    never be done; after `kills` of them no more. `hangs`: whether some go on until the deadline.
    """

    directory: Path
    videos: int = 200
    seed: int = 1
    spread_s: float = 75.0
    kill_every_s: float = 2.0
    at_once: int = 24
    lives_s: float = 1.0
    answers: int = 30
    kills: int | None = None
    lease_s: float = 4.0
    deadline_s: int = 90
    hangs: bool = True


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to. `kills` has when each was, in seconds after the beginning, and of which gateway."""

    options: Options
    evidence: Evidence
    kills: tuple[tuple[float, int], ...]
    violations: dict[str, list[Violation]]
    traffic_s: float
    quiet_s: float

    @property
    def is_clean(self) -> bool:
        return not any(self.violations.values())


async def run(options: Options, report: Report) -> Outcome:
    """The whole of it. Everything that it starts has ended when it returns."""
    hang_until_s = options.spread_s / 2 if options.hangs else 0.0
    plans = plans_of(options.seed, options.videos, options.spread_s, hang_until_s=hang_until_s)
    studios = {name: Studio(name, plans) for name in PROVIDERS}
    receiver = Receiver()
    async with contextlib.AsyncExitStack() as stack:
        for server in (receiver, *studios.values()):
            await stack.enter_async_context(server)
        database = await stack.enter_async_context(_postgres())
        gateways = [_gateway(options, number, config(studios), database) for number in range(2)]
        stack.push_async_callback(_killed, gateways)
        await asyncio.to_thread(gateways[0].start)
        await asyncio.to_thread(gateways[1].start)
        done = gateways[0].run("wallet", "top-up", "--team", DEFAULT, "--usd", TOP_UP)
        assert done.returncode == 0, done.stderr
        key = gateways[0].create_key(scopes=("inference", "management"))
        clients = Clients([gateway.url for gateway in gateways], key)
        stack.push_async_callback(clients.aclose)
        receiver.secret = await clients.subscribe(f"{receiver.origin}/events")
        storm = _Storm(options, plans, gateways, clients, report)
        traffic_s = await storm.rage()
        began_s = time.monotonic()
        problems = await _quiet(database, report)
        for told in storm.told:
            if told.suffix is not None:
                await clients.look(told)
        listed = await clients.ids()
        quiet_s = time.monotonic() - began_s
        for arguments in (("ledger", "verify"),):
            done = await asyncio.to_thread(gateways[0].run, *arguments)
            if done.returncode != 0:
                problems.append(Violation("ledger verify", f"exit {done.returncode}", done.stdout[-2000:]))
        read, rows, noted = await books.read(database), await jobs(database), await events(database)
        codes = await asyncio.gather(*(asyncio.to_thread(gateway.stop) for gateway in gateways))
        problems += [Violation("a gateway", "stopped", f"with exit {code}") for code in codes if code != 0]
    submits: dict[str, int] = {}
    for studio in studios.values():
        submits |= studio.submits
    begun = [job for studio in studios.values() for job in studio.begun]
    topped_up = {DEFAULT: prices.nanos(TOP_UP)}
    evidence = Evidence(
        *(plans, storm.told, begun, submits, rows, read, topped_up, listed), noted, receiver.taken, receiver.forged
    )
    violations = {**reconcile(evidence), "the gateways come to rest, verify and stop": problems}
    return Outcome(options, evidence, tuple(storm.kills), violations, traffic_s, quiet_s)


class _Storm:
    """Clients that make videos, and a killer among the gateways, until every video has ended."""

    def __init__(
        self,
        options: Options,
        plans: dict[int, FilmPlan],
        gateways: list[Gateway],
        clients: Clients,
        report: Report,
    ) -> None:
        self.told = [Told(index) for index in plans]
        self.kills: list[tuple[float, int]] = []
        self._options, self._plans, self._gateways = options, plans, gateways
        self._clients, self._report = clients, report
        self._started: list[tuple[float, int] | None] = [(0.0, 0)] * len(gateways)
        """When each gateway was, and what it had answered before; None while it is not there."""
        self._room = asyncio.Semaphore(options.at_once)
        self._done = False

    async def rage(self) -> float:
        """Seconds that it took."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as helpers:
            killing = helpers.create_task(self._kill_on(began_s))
            telling = helpers.create_task(self._tell_on(began_s))
            async with asyncio.TaskGroup() as clients:
                for told in self.told:
                    clients.create_task(self._client(told))
            took_s = time.monotonic() - began_s
            telling.cancel()
            self._done = True
            await killing
        return took_s

    async def _client(self, told: Told) -> None:
        plan = self._plans[told.index]
        await asyncio.sleep(plan.begins_at_s)
        async with contextlib.nullcontext() if plan.fate == "hangs" else self._room:
            await self._clients.follow(plan, told)

    async def _kill_on(self, began_s: float) -> None:
        options, last_s = self._options, time.monotonic()
        async with asyncio.TaskGroup() as starting:
            while not self._done:
                await asyncio.sleep(0.05)
                number, now_s = len(self.kills) % len(self._gateways), time.monotonic()
                started = self._started[number]
                if options.kills is not None and len(self.kills) >= options.kills:
                    continue
                if started is None or now_s < max(last_s + options.kill_every_s, started[0] + options.lives_s):
                    continue
                if self._clients.answers[self._gateways[number].url] < started[1] + options.answers:
                    continue
                self._started[number] = None
                self.kills.append((now_s - began_s, number))
                last_s = now_s
                await asyncio.to_thread(self._gateways[number].kill)
                starting.create_task(self._start(number))

    async def _start(self, number: int) -> None:
        await asyncio.to_thread(self._gateways[number].start)
        self._started[number] = time.monotonic(), self._clients.answers[self._gateways[number].url]

    async def _tell_on(self, began_s: float) -> None:
        while True:
            await asyncio.sleep(1.0)
            now_s = time.monotonic() - began_s
            begun, over = sum(one.suffix is not None for one in self.told), sum(one.done for one in self.told)
            self._report(
                f"videos: {now_s:4.0f} s  {begun}/{len(self._plans)} begun, {over} over,"
                f" {sum(one.sha is not None for one in self.told)} downloaded, {len(self.kills)} gateways killed"
            )


def _gateway(options: Options, number: int, config: str, database: Database) -> Gateway:
    directory = options.directory / f"gateway-{number}"
    directory.mkdir(parents=True)
    environ = {
        "AISTATS_DATABASE_URL": database.url,
        "AISTATS_WORKER_LEASE_S": f"{options.lease_s:g}",
        "AISTATS_VIDEO_DEADLINE_S": str(options.deadline_s),
        "AISTATS_WEBHOOKS_ALLOW_HTTP": "1",
        "AISTATS_WEBHOOKS_ALLOW_PRIVATE": "1",
        "AISTATS_CONTENT_STORE": str(options.directory / "content"),
        "AISTATS_GRPC_PORT": "0",
        "CHAOS_VIDEO_KEY": "sk-video-canary",
    }
    return Gateway(directory, config, workers=1, environ=environ)


@contextlib.asynccontextmanager
async def _postgres() -> AsyncIterator[Database]:
    server = PostgresServer()
    try:
        server.start()
        name = await server.create_database()
        yield PostgresDatabase(server.url(name), server.directory, name)
    finally:
        server.remove()


async def _quiet(database: Database, report: Report) -> list[Violation]:
    """Wait until no job and no reservation is open, and no event untold."""
    deadline_s = time.monotonic() + QUIET_WITHIN_S
    for what, count in (("jobs", open_jobs), ("reservations", books.open_holds), ("events", untold)):
        while left := await count(database):
            report(f"waiting for {left} {what}")
            if time.monotonic() > deadline_s:
                return [Violation("the end", what, f"{left} are open after {QUIET_WITHIN_S:g} s")]
            await asyncio.sleep(0.25)
    return []


async def _killed(gateways: list[Gateway]) -> None:
    for gateway in gateways:
        if gateway.process is not None:
            await asyncio.to_thread(gateway.kill)
