"""Any order of everything that may happen to the ledger, on both databases: the books agree after every step."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import MINIMUM_NANOS
from server.storage import migrate
from server.storage.database import Database
from server.storage.ledger import SqlLedger
from server.storage.sweeper import Sweeper
from server.storage.tables import ledger_entries, metadata, wallets
from server.storage.wallets import AmountRefused, Wallets
from tests.integration.databases import ManualClock, PostgresServer
from tests.integration.ledger_world import Fate, Forgetful, Request, make_teams, problems

TEAMS = ("red", "blue")
CREDIT = 4_000_000_000
LEASE_S = 30.0
ENDS = {"settle", "void", "expire"}

amounts = st.sampled_from([0, 1, 400_000_000, 1_000_000_000, 1_500_000_000])
teams_ = st.sampled_from(TEAMS)
fates: st.SearchStrategy[list[Fate]] = st.lists(st.sampled_from(["answered", "lost before", "lost after"]), max_size=3)


class Books:
    """What every request should have led to, kept beside the database."""

    def __init__(self) -> None:
        self.balance = dict.fromkeys(TEAMS, CREDIT)
        self.held: dict[str, dict[str, tuple[Request, int]]] = {}
        """By worker, what is open."""
        self.ended: list[tuple[Request, int | None]] = []
        self.late: list[Request] = []

    def reserved(self, team: str) -> int:
        return sum(
            nanos for of_worker in self.held.values() for request, nanos in of_worker.values() if request.team == team
        )


class LedgerMachine(RuleBasedStateMachine):
    """Two workers that come and go, two teams, a database that may lose its answers."""

    url: str = ""
    template: Path | None = None
    target: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.books = Books()
        self.workers: list[SqlLedger] = []
        self.made = 0

    @initialize()
    def open(self) -> None:
        if self.template is not None and self.target is not None:
            for file in self.target.parent.glob(self.target.name + "*"):
                file.unlink()
            shutil.copy(self.template, self.target)
        self.runner.run(self._open())

    async def _open(self) -> None:
        database = Forgetful.open(self.url, quiet=True)
        assert isinstance(database, Forgetful)
        self.database = database
        if self.template is None:

            async def clear(connection: AsyncConnection) -> None:
                for table in reversed(metadata.sorted_tables):
                    await connection.execute(delete(table))

            await self.database.write(clear)
        await make_teams(self.database, self.clock, CREDIT, TEAMS)
        self.wallets = Wallets(self.database, self.clock)
        for _ in range(2):
            self._begin_worker()

    def _begin_worker(self) -> None:
        self.made += 1
        worker = SqlLedger(self.database, self.clock, f"worker{self.made}", max_pause_s=0.001)
        self.workers.append(worker)
        self.books.held.setdefault(worker.worker_id, {})

    def _suffer(self, fates: list[Fate]) -> None:
        coming = iter(fates)
        answered: Fate = "answered"
        self.database.fate = lambda: next(coming, answered)

    @rule(team=teams_, nanos=amounts)
    def top_up(self, team: str, nanos: int) -> None:
        if nanos:
            self._suffer([])
            self.runner.run(self.wallets.top_up(team, nanos))
            self.books.balance[team] += nanos

    @rule(team=teams_, nanos=amounts)
    def take_back(self, team: str, nanos: int) -> None:
        self._suffer([])
        available = self.books.balance[team] - self.books.reserved(team)
        try:
            self.runner.run(self.wallets.adjust(team, -nanos - 1, "taken back"))
        except AmountRefused:
            assert nanos >= available
        else:
            self.books.balance[team] -= nanos + 1
            assert nanos < available

    @rule(
        asked=st.lists(st.tuples(st.integers(0, 1), teams_, amounts), min_size=1, max_size=6),
        fates=fates,
    )
    def reserve(self, asked: list[tuple[int, str, int]], fates: list[Fate]) -> None:
        """Several at once: what is granted was there, what is refused was not when all is counted."""
        self._suffer(fates)
        before = {team: self.books.balance[team] - self.books.reserved(team) for team in TEAMS}
        requests = [(self.workers[worker], Request(team), nanos) for worker, team, nanos in asked]

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(
                *(ledger.reserve(request.hold(nanos)) for ledger, request, nanos in requests), return_exceptions=True
            )

        outcomes = self.runner.run(all_at_once())
        for (ledger, request, nanos), outcome in zip(requests, outcomes, strict=True):
            if outcome is None:
                self.books.held[ledger.worker_id][request.suffix] = (request, nanos)
                assert before[request.team] >= MINIMUM_NANOS
        for (_, request, nanos), outcome in zip(requests, outcomes, strict=True):
            if outcome is not None:
                assert isinstance(outcome, GatewayError)
                assert outcome.reason is Reason.INSUFFICIENT_FUNDS
                assert self._available(request.team) < max(MINIMUM_NANOS, nanos)
        for team in TEAMS:
            assert self._available(team) >= 0 or before[team] < 0

    def _available(self, team: str) -> int:
        return self.books.balance[team] - self.books.reserved(team)

    @rule(charge=st.one_of(st.none(), amounts), worker=st.integers(0, 1), times=st.integers(1, 2), fates=fates)
    def settle(self, charge: int | None, worker: int, times: int, fates: list[Fate]) -> None:
        ledger = self.workers[worker]
        held = self.books.held[ledger.worker_id]
        if not held:
            return
        request, _ = held.pop(next(iter(held)))
        self._settle(ledger, request, charge, times, fates)
        self.books.balance[request.team] -= charge or 0
        self.books.ended.append((request, charge))

    @rule(pick=st.integers(0, 10), fates=fates)
    def settle_again(self, pick: int, fates: list[Fate]) -> None:
        if self.books.ended:
            request, charge = self.books.ended[pick % len(self.books.ended)]
            self._settle(self.workers[0], request, charge, 1, fates)

    @rule(charge=st.one_of(st.none(), amounts), fates=fates)
    def settle_late(self, charge: int | None, fates: list[Fate]) -> None:
        """A worker that was only thought dead comes back with the outcome."""
        if self.books.late:
            request = self.books.late.pop()
            self._settle(self.workers[0], request, charge, 2, fates)
            self.books.balance[request.team] -= charge or 0
            self.books.ended.append((request, charge))

    def _settle(self, ledger: SqlLedger, request: Request, charge: int | None, times: int, fates: list[Fate]) -> None:
        self._suffer(fates)

        async def settle() -> None:
            await asyncio.gather(*(ledger.settle(request.settlement(charge)) for _ in range(times)))

        self.runner.run(settle())

    @rule(team=teams_, worker=st.integers(0, 1), fates=fates)
    def settle_free(self, team: str, worker: int, fates: list[Fate]) -> None:
        self._suffer(fates)

        async def settle() -> None:
            await self.workers[worker].settle(Request(team).settlement(None, held=False))

        self.runner.run(settle())

    @rule(team=teams_, nanos=amounts, worker=st.integers(0, 1), turns=st.integers(0, 5), fates=fates)
    def reserve_and_leave(self, team: str, nanos: int, worker: int, turns: int, fates: list[Fate]) -> None:
        """The caller is cancelled before, while or after its hold is granted; nothing stays held."""
        self._suffer(fates)
        ledger, request = self.workers[worker], Request(team)

        async def leave() -> None:
            task = asyncio.create_task(ledger.reserve(request.hold(nanos)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                await ledger.settle(Request(team).settlement(None, held=False))
            elif task.exception() is None:
                await ledger.settle(request.settlement(None))

        self.runner.run(leave())

    @rule(asked=st.tuples(st.integers(0, 1), teams_, amounts), charge=amounts, fates=fates, is_swept=st.booleans())
    def crash(self, asked: tuple[int, str, int], charge: int, fates: list[Fate], is_swept: bool) -> None:
        """A worker is gone without a word, in the middle of a request; another takes its place."""
        self.reserve([asked], fates)
        self.workers.pop(asked[0])
        self._begin_worker()
        if is_swept:
            self.sweep()
            self.settle_late(charge, fates)

    @rule()
    def sweep(self) -> None:
        """The dead have had their lease; the living have shown themselves."""
        self._suffer([])
        self.clock.advance(LEASE_S + 1)

        async def sweep() -> int:
            for worker in self.workers:
                await Sweeper(self.database, self.clock, worker.worker_id, lease_s=LEASE_S).beat()
            first, second = (Sweeper(self.database, self.clock, name, lease_s=LEASE_S, batch=2) for name in "ab")
            return max(await asyncio.gather(first.sweep(), second.sweep()))

        self.runner.run(sweep())
        living = {worker.worker_id for worker in self.workers}
        for worker_id in [name for name in self.books.held if name not in living]:
            self.books.late += [request for request, _ in self.books.held.pop(worker_id).values()]

    @invariant()
    def the_books_agree(self) -> None:
        if not self.workers:
            return
        self._suffer([])
        self.runner.run(self._check())

    async def _check(self) -> None:
        assert await problems(self.database) == []

        async def read(connection: AsyncConnection) -> tuple[dict[str, tuple[int, int]], dict[str, list[str]]]:
            found = {
                row.team_id: (row.balance_nanos, row.reserved_nanos)
                for row in await connection.execute(select(wallets))
            }
            kinds: dict[str, list[str]] = {}
            query = select(ledger_entries.c.reservation_id, ledger_entries.c.kind).order_by(ledger_entries.c.id)
            for suffix, kind in await connection.execute(query):
                kinds.setdefault(suffix, []).append(kind)
            return found, kinds

        found, kinds = await self.database.read(read)
        for team in TEAMS:
            assert found.get(team, (0, 0)) == (self.books.balance[team], self.books.reserved(team))
        open_now = {suffix for of_worker in self.books.held.values() for suffix in of_worker}
        for suffix, of_request in kinds.items():
            if suffix is not None:
                ends = [kind for kind in of_request if kind in ENDS]
                assert len(ends) == (0 if suffix in open_now else 1)
                assert of_request[0] == "reserve"

    def teardown(self) -> None:
        async def close() -> None:
            for worker in self.workers:
                await worker.close()
            await self.database.close()

        if self.workers:
            self._suffer([])
            self.runner.run(close())
        self.runner.close()


SETTINGS = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.timeout(240)
def test_any_order_on_sqlite(tmp_path: Path) -> None:
    template, target = tmp_path / "template.db", tmp_path / "gateway.db"

    async def prepare() -> None:
        await migrate.upgrade(f"sqlite+aiosqlite:///{template}")
        database = Database.open(f"sqlite+aiosqlite:///{template}")
        await database.close()

    asyncio.run(prepare())

    class OnSqlite(LedgerMachine):
        pass

    OnSqlite.url, OnSqlite.template, OnSqlite.target = f"sqlite+aiosqlite:///{target}", template, target
    run_state_machine_as_test(OnSqlite, settings=SETTINGS)


@pytest.mark.timeout(240)
def test_any_order_on_postgresql(postgres: PostgresServer) -> None:
    async def prepare() -> str:
        return await postgres.copy_database()

    class OnPostgres(LedgerMachine):
        pass

    OnPostgres.url = asyncio.run(prepare())
    run_state_machine_as_test(OnPostgres, settings=SETTINGS)
