"""Workers are replaced one after the other, with real processes. With a whole gateway: tests/e2e/test_all_cores.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import structlog

from server.probes import EnvoyAdmin
from server.processes import Command
from server.supervisor import Plan, Relief, StopRequest, Supervisor
from tests.fakes.children import FAST, child, events, pids
from tests.integration.test_supervisor import gone, until

Answer = Callable[[], Awaitable[bool]]
WITHIN_S = 60.0


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


class Workers:
    """Two, and what is to take their places where that says that it serves, and takes over."""

    def __init__(self, directory: Path, is_ready: Answer = yes, take_over: Answer = yes, *options: str) -> None:
        self.journal = directory / "journal"
        self.stop = StopRequest()
        self.is_up = asyncio.Event()
        self._is_ready, self._take_over, self._options = is_ready, take_over, options
        workers = (self.command(0), self.command(1))
        plan = Plan(workers, None, (), (self._all_started,), self._relief)
        self.supervisor = Supervisor(plan, EnvoyAdmin(directory / "none.sock"), self.stop, limits=FAST)
        self.running = asyncio.create_task(self.supervisor.run(self._prepare, self.is_up.set))

    def command(self, index: int, *options: str) -> Command:
        return child(f"worker-{index}", self.journal, *options)

    async def _prepare(self) -> None:
        return None

    async def _all_started(self) -> bool:
        return len(events(self.journal)) == 2

    def _relief(self, index: int) -> Relief:
        return Relief(self.command(index, *self._options), self._is_ready, self._take_over, yes)

    def since(self, count: int) -> list[str]:
        return events(self.journal)[count:]


@contextlib.asynccontextmanager
async def kept(workers: Workers) -> AsyncIterator[list[int]]:
    """Two that serve, by process id; in the end nothing is left of any."""
    await asyncio.wait_for(workers.is_up.wait(), WITHIN_S)
    try:
        yield [worker.pid or 0 for worker in workers.supervisor.workers]
    finally:
        workers.stop.again()
        await asyncio.wait_for(workers.running, WITHIN_S)
    assert all(gone(pid) for pid in pids(workers.journal))


def outcomes(logs: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("workers_")]


async def test_each_is_ended_when_another_serves_in_its_place_and_no_two_at_once(tmp_path: Path) -> None:
    serving: list[int] = []

    async def is_ready() -> bool:
        started = sum(event.endswith("started") for event in events(workers.journal))
        if started == len(pids(workers.journal)) == 3 + len(serving):
            serving.append(started)
            return True
        return False

    with structlog.testing.capture_logs() as logs:
        workers = Workers(tmp_path, is_ready)
        async with kept(workers) as before:
            workers.stop.replace.set()
            await until(lambda: outcomes(logs) == ["workers_replaced"], WITHIN_S)
            told = workers.since(2)
            assert told == ["worker-0 started", "worker-0 SIGTERM", "worker-1 started", "worker-1 SIGTERM"]
            now = [worker.pid for worker in workers.supervisor.workers]
            assert len(now) == 2
            assert set(now).isdisjoint(before)
            assert all(gone(pid) for pid in before)
            os.kill(now[0] or 0, signal.SIGKILL)
            await until(lambda: workers.since(6) == ["worker-0 started"], WITHIN_S)


async def test_one_that_ends_as_it_starts_leaves_all_as_it_is(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        workers = Workers(tmp_path, no, yes, "--exit-code", "7")
        async with kept(workers) as before:
            workers.stop.replace.set()
            await until(lambda: outcomes(logs) == ["workers_not_replaced"], WITHIN_S)
            assert [worker.pid for worker in workers.supervisor.workers] == before
            assert not any(gone(pid) for pid in before)


async def test_one_that_cannot_take_over_leaves_all_as_it_is(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        workers = Workers(tmp_path, yes, no)
        async with kept(workers) as before:
            workers.stop.replace.set()
            await until(lambda: outcomes(logs) == ["workers_not_replaced"], WITHIN_S)
            assert [worker.pid for worker in workers.supervisor.workers] == before


async def test_asked_to_stop_while_replacing_it_ends_the_old_and_the_new(tmp_path: Path) -> None:
    workers = Workers(tmp_path, no)
    async with kept(workers):
        workers.stop.replace.set()
        await until(lambda: len(workers.since(2)) == 1, WITHIN_S)
    assert sorted(workers.since(2)) == ["worker-0 SIGTERM", "worker-0 SIGTERM", "worker-0 started", "worker-1 SIGTERM"]
