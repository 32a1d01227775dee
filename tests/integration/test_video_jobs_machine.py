"""Any order of everything that may happen to video jobs, on both databases: the books agree after every step."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.errors import GatewayError, Reason
from server.domain.ledger import MINIMUM_NANOS, Settlement
from server.domain.video import TERMINAL, JobReport, VideoStatus
from server.domain.video_jobs import VideoJob
from server.pipeline.video_account import EXPIRED, OUTCOME_UNKNOWN, ended
from server.storage import migrate
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.ledger import SqlLedger
from server.storage.sweeper import Sweeper
from server.storage.tables import generations, ledger_entries, metadata, video_jobs
from server.storage.video_jobs import SqlVideoJobs
from tests.integration.databases import ManualClock, PostgresServer
from tests.integration.ledger_world import Fate, Forgetful, make_teams, problems, rows, wallet
from tests.integration.video_rows import LEASE_S, NANOS_PER_SECOND, hold_of, new_job

T = TypeVar("T")

CREDIT = 6_000_000_000
ENDS = {"settle", "void", "expire"}

workers = st.integers(0, 2)
picks = st.integers(0, 20)
endings = st.sampled_from(sorted(TERMINAL))
fates: st.SearchStrategy[list[Fate]] = st.lists(st.sampled_from(["answered", "lost before", "lost after"]), max_size=1)


class Known:
    """A job as it should be, beside the database."""

    def __init__(self, job: VideoJob) -> None:
        self.job = job
        self.status: VideoStatus | None = None
        self.charged = 0
        self.is_withdrawn = False

    @property
    def is_open(self) -> bool:
        return self.status is None and not self.is_withdrawn


class JobsMachine(RuleBasedStateMachine):
    """Three workers that are killed and come back, and copies of jobs in the hands of those that live and died."""

    url: str = ""
    template: Path | None = None
    target: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.known: dict[str, Known] = {}
        self.hands: list[tuple[SqlVideoJobs, VideoJob]] = []
        """What somebody believes to have a lease of, be it over or not."""
        self.made = 0

    @initialize()
    def open(self) -> None:
        if self.template is not None and self.target is not None:
            for file in self.target.parent.glob(self.target.name + "*"):
                file.unlink()
            shutil.copy(self.template, self.target)
        self.run(self._open())

    async def _open(self) -> None:
        database = Forgetful.open(self.url, quiet=True)
        assert isinstance(database, Forgetful)
        self.database = database
        if self.template is None:

            async def clear(connection: AsyncConnection) -> None:
                for table in reversed(metadata.sorted_tables):
                    await connection.execute(delete(table))

            await self.database.write(clear)
        await make_teams(self.database, self.clock, CREDIT)
        self.commits = GroupCommit(self.database)
        self.stores = [self._worker() for _ in range(3)]

    def _worker(self) -> SqlVideoJobs:
        self.made += 1
        return SqlVideoJobs(self.database, self.commits, self.clock, f"worker{self.made}")

    def run(self, work: Coroutine[Any, Any, T], fates: list[Fate] | None = None) -> T:
        coming = iter(fates or [])
        answered: Fate = "answered"
        if fates is not None:
            self.database.fate = lambda: next(coming, answered)
        return self.runner.run(work)

    @rule(worker=workers, is_free=st.booleans(), fates=fates)
    def create(self, worker: int, is_free: bool, fates: list[Fate]) -> None:
        job = new_job(self.clock, held=None if is_free else 8 * NANOS_PER_SECOND)
        available = CREDIT - sum(one.charged for one in self.known.values()) - self._held()
        try:
            self.run(self.stores[worker].open(job, hold_of(job)), fates)
        except GatewayError as error:
            if error.reason is Reason.INSUFFICIENT_FUNDS:
                assert available < max(MINIMUM_NANOS, job.held_nanos or 0)
                return
            if self.run(self.stores[0].get(job.team_id, job.suffix), []) is None:
                return
        else:
            self.hands.append((self.stores[worker], job))
        self.known[job.suffix] = Known(job)

    @rule(pick=picks)
    def submit(self, pick: int) -> None:
        """A provider has taken it; that is written down, unless the lease has gone to another."""
        if self.hands:
            store, job = self.hands.pop(pick % len(self.hands))
            if job.native_id is None:
                job = replace(job, native_id=f"native_{job.suffix}", due_at=self.clock.now() + 5)
                is_saved = self.run(store.save(job))
                assert self.known[job.suffix].is_open or not is_saved

    @rule(worker=workers, limit=st.integers(1, 3), but_of=st.sampled_from([(), ("first",), ("other",)]))
    def claim(self, worker: int, limit: int, but_of: tuple[str, ...]) -> None:
        store, now = self.stores[worker], self.clock.now()
        leased = [job.suffix for one, job in self.hands if one is store and job.due_at > now]
        claimed = self.run(store.claim(now + LEASE_S, limit, but_of))
        assert len(claimed) <= limit
        assert not (claimed and "first" in but_of)
        for job in claimed:
            assert self.known[job.suffix].is_open
            assert job.due_at == now + LEASE_S
            assert job.suffix not in leased
            self.hands.append((store, job))

    @rule(worker=workers)
    def claim_at_once(self, worker: int) -> None:
        """No two get the same."""
        now = self.clock.now()

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(store.claim(now + LEASE_S, 2) for store in self.stores))

        found = self.run(all_at_once())
        suffixes = [job.suffix for jobs in found for job in jobs]
        assert len(suffixes) == len(set(suffixes))
        self.hands += [(store, job) for store, jobs in zip(self.stores, found, strict=True) for job in jobs]

    @rule(pick=picks, wait_s=st.sampled_from([0, 1, 40]))
    def progress(self, pick: int, wait_s: int) -> None:
        if self.hands:
            store, job = self.hands.pop(pick % len(self.hands))
            job = replace(job, progress=job.progress + 1, due_at=self.clock.now() + wait_s)
            is_saved = self.run(store.save(job))
            assert self.known[job.suffix].is_open or not is_saved

    @rule(pick=picks, status=endings, seconds=st.sampled_from([None, 8.04, 12.0]), times=st.integers(1, 3), fates=fates)
    def finish(self, pick: int, status: VideoStatus, seconds: float | None, times: int, fates: list[Fate]) -> None:
        """Whoever believes to have it ends it, several at once, whatever has become of it meanwhile."""
        if self.hands:
            store, job = self.hands[pick % len(self.hands)]
            report = JobReport(job.native_id or f"native_{job.suffix}", status, seconds=seconds)
            self._finish(store, *ended(job, status, self.clock.now(), report=report), times=times, fates=fates)

    @rule(pick=picks, fates=fates)
    def never_submitted(self, pick: int, fates: list[Fate]) -> None:
        if self.hands:
            store, job = self.hands[pick % len(self.hands)]
            outcome = ended(job, VideoStatus.FAILED, self.clock.now(), fault=OUTCOME_UNKNOWN)
            self._finish(store, *outcome, times=1, fates=fates, unsubmitted=True)

    def _finish(
        self,
        store: SqlVideoJobs,
        job: VideoJob,
        settlement: Settlement,
        *,
        times: int,
        fates: list[Fate],
        unsubmitted: bool = False,
    ) -> None:
        known = self.known[job.suffix]
        before = self.run(self._row(job.suffix), [])

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(
                *(store.finish(job, settlement, unsubmitted=unsubmitted) for _ in range(times)), return_exceptions=True
            )

        results = self.run(all_at_once(), fates)
        after = self.run(self._row(job.suffix), [])
        has_ended = bool(before and after and before.ended_at is None and after.ended_at is not None)
        assert results.count(True) <= int(has_ended)
        if unsubmitted and before is not None and before.native_id is not None:
            assert not has_ended
        if has_ended:
            assert known.is_open
            known.status, known.charged = job.status, job.charged_nanos or 0
            assert (known.charged > 0) == (job.status is VideoStatus.COMPLETED and job.held_nanos is not None)

    async def _row(self, suffix: str) -> Any:
        async def work(connection: AsyncConnection) -> Any:
            return (await connection.execute(select(video_jobs).where(video_jobs.c.suffix == suffix))).one_or_none()

        return await self.database.read(work)

    @rule(pick=picks, fates=fates)
    def withdraw(self, pick: int, fates: list[Fate]) -> None:
        """No provider took it; its worker writes its record, or is gone before it can."""
        if self.hands:
            store, job = self.hands[pick % len(self.hands)]
            try:
                is_gone = self.run(store.withdraw(job.suffix), fates)
            except GatewayError:
                is_gone = self.run(self._row(job.suffix), []) is None
            if is_gone and not self.known[job.suffix].is_withdrawn:
                assert self.known[job.suffix].is_open
                self.known[job.suffix].is_withdrawn = True
                if not fates:
                    self.run(self._void(job))

    async def _void(self, job: VideoJob) -> None:
        ledger = SqlLedger(self.database, self.clock, "settler")
        await ledger.settle(Settlement(replace(job.opening, success=False), job.held_nanos is not None))
        await ledger.close()

    @rule(pick=picks)
    def forget(self, pick: int) -> None:
        if self.known:
            known = list(self.known.values())[pick % len(self.known)]
            was_deleted = self.run(self.stores[0].delete("team", known.job.suffix))
            assert not (was_deleted and known.is_open)
            if was_deleted:
                assert self.run(self.stores[0].get("team", known.job.suffix)) is None

    @rule(worker=workers)
    def kill(self, worker: int) -> None:
        """It is gone without a word, or so it seems: what it has in hand it may still try to write."""
        self.stores[worker] = self._worker()

    @rule(seconds=st.sampled_from([1, 10, 31]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        """No worker lives, as the sweeper sees it; what belongs to jobs is not its business."""
        self.run(Sweeper(self.database, self.clock, "sweeper", lease_s=1).sweep(), [])

    def _held(self) -> int:
        return sum(one.job.held_nanos or 0 for one in self.known.values() if one.is_open)

    @invariant()
    def the_books_agree(self) -> None:
        if self.made:
            self.run(self._check(), [])

    async def _check(self) -> None:
        assert await problems(self.database) == []
        balance, reserved = await wallet(self.database)
        assert balance == CREDIT - sum(one.charged for one in self.known.values())
        assert reserved == self._held()
        recorded = [row["suffix"] for row in await rows(self.database, generations)]
        assert set(recorded) >= {suffix for suffix, one in self.known.items() if one.status is not None}
        assert not set(recorded) & {suffix for suffix, one in self.known.items() if one.is_open}

    def teardown(self) -> None:
        if self.made:
            self.run(self._end(), [])
        self.runner.close()

    async def _end(self) -> None:
        """Whoever is left expires what is left: then nothing is held, and each job has ended once."""
        self.clock.advance(4000)
        [store, *_] = self.stores
        while claimed := await store.claim(self.clock.now() + LEASE_S, 100):
            for job in claimed:
                outcome = ended(job, VideoStatus.EXPIRED, self.clock.now(), fault=EXPIRED)
                assert await store.finish(*outcome)
                self.known[job.suffix].status = VideoStatus.EXPIRED
        assert await store.next_due() is None
        await Sweeper(self.database, self.clock, "sweeper", lease_s=1).sweep()
        assert await wallet(self.database) == (CREDIT - sum(one.charged for one in self.known.values()), 0)
        kinds: dict[str, list[str]] = {}
        for entry in await rows(self.database, ledger_entries):
            kinds.setdefault(entry["reservation_id"], []).append(entry["kind"])
        for suffix, one in self.known.items():
            has_settled = one.status is VideoStatus.COMPLETED
            if one.job.held_nanos is not None:
                assert kinds[suffix].count("reserve") == 1
                assert sum(kind in ENDS for kind in kinds[suffix]) == 1
                assert ("settle" in kinds[suffix]) == has_settled
        assert await problems(self.database) == []
        await self.commits.close()
        await self.database.close()


SETTINGS = settings(
    max_examples=12,
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

    class OnSqlite(JobsMachine):
        pass

    OnSqlite.url, OnSqlite.template, OnSqlite.target = f"sqlite+aiosqlite:///{target}", template, target
    run_state_machine_as_test(OnSqlite, settings=SETTINGS)


@pytest.mark.timeout(240)
def test_any_order_on_postgresql(postgres: PostgresServer) -> None:
    async def prepare() -> str:
        url = postgres.url(await postgres.create_database())
        await migrate.upgrade(url)
        return url

    class OnPostgres(JobsMachine):
        pass

    OnPostgres.url = asyncio.run(prepare())
    run_state_machine_as_test(OnPostgres, settings=SETTINGS)
