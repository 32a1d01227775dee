"""Workers are replaced one after the other, with real processes. With a whole gateway: tests/e2e/test_all_cores.py."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import structlog

from server.places import BehindEnvoy, Places
from server.probes import EnvoyAdmin
from server.processes import RECORDS_LOST, Command
from server.supervisor import Limits, Plan, Relief, StopRequest, Supervisor
from tests.fakes.children import FAST, child, events, pids
from tests.integration.test_supervisor import gone, until

Answer = Callable[[], Awaitable[bool]]
WITHIN_S = 60.0
SLOW = """
import os, signal, sys, time
from server.processes import exit_when_parent_dies

def note(what):
    with open(sys.argv[2], "a") as file:
        file.write(f"{sys.argv[1]} {what} {os.getpid()}\\n")

def end(*_):
    time.sleep(1)
    note("ended")
    os._exit(int(sys.argv[3]))

exit_when_parent_dies()
signal.signal(signal.SIGTERM, end)
note("started")
while True:
    time.sleep(60)
"""
"""A worker that still has something to write down."""


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def fails() -> bool:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Workers:
    """Two, and what is to take their places where that says that it serves, and takes over."""

    limits: Limits = FAST

    def __init__(self, directory: Path, is_ready: Answer = yes, take_over: Answer = yes, *options: str) -> None:
        self.journal = directory / "journal"
        self.stop = StopRequest()
        self.is_up = asyncio.Event()
        self._is_ready, self._take_over, self._options = is_ready, take_over, options
        workers = (self.first(0), self.first(1))
        plan = Plan(workers, None, (), (self._all_started,), self._relief)
        self.supervisor = Supervisor(plan, EnvoyAdmin(directory / "none.sock"), self.stop, limits=self.limits)
        self.running = asyncio.create_task(self.supervisor.run(self._prepare, self.is_up.set))

    def first(self, index: int) -> Command:
        return self.command(index)

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


class SlowWorkers(Workers):
    """Two that take a second to end, which is more than `end_s`; each in an Envoy of its own that has nothing to do."""

    limits = msgspec.structs.replace(FAST, end_s=0.3)
    leaving: EnvoyAdmin | None = None

    def first(self, index: int) -> Command:
        name = f"worker-{index}"
        return Command(name, (sys.executable, "-c", SLOW, name, str(self.journal), str(RECORDS_LOST)))

    def _relief(self, index: int) -> Relief:
        return msgspec.structs.replace(super()._relief(index), leaving=self.leaving)


class FullDisk(Workers):
    """What is to come cannot be written down."""

    def _relief(self, index: int) -> Relief:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


@pytest.mark.parametrize("is_inside", [False, True], ids=["behind Envoy", "inside Envoy"])
async def test_one_that_is_replaced_has_the_whole_time_to_end_and_how_it_ended_is_remembered(
    tmp_path: Path, is_inside: bool
) -> None:
    with structlog.testing.capture_logs() as logs:
        workers = SlowWorkers(tmp_path)
        workers.leaving = EnvoyAdmin(tmp_path / "none.sock") if is_inside else None
        async with kept(workers):
            workers.stop.replace.set()
            await until(lambda: outcomes(logs) == ["workers_replaced"], WITHIN_S)
            assert [entry["exit_code"] for entry in logs if entry["event"] == "worker replaced"] == [RECORDS_LOST] * 2
            assert {("worker-0", RECORDS_LOST), ("worker-1", RECORDS_LOST)} <= workers.supervisor.exits
    assert workers.since(0).count("worker-0 ended") == workers.since(0).count("worker-1 ended") == 1


@pytest.mark.parametrize("is_prepared", [False, True], ids=["before it is started", "when it serves"])
async def test_where_another_cannot_even_be_prepared_all_stays_as_it_is_and_the_next_may_be(
    tmp_path: Path, is_prepared: bool
) -> None:
    with structlog.testing.capture_logs() as logs:
        workers = Workers(tmp_path, yes, fails) if is_prepared else FullDisk(tmp_path)
        async with kept(workers) as before:
            for times in (1, 2):
                workers.stop.replace.set()
                await until(lambda: workers.running.done() or len(outcomes(logs)) == times, WITHIN_S)  # noqa: B023
                assert not workers.running.done()
                assert outcomes(logs) == ["workers_not_replaced"] * times
                assert [worker.pid for worker in workers.supervisor.workers] == before
                assert not any(gone(pid) for pid in before)
        assert any(entry.get("exc_info") for entry in logs)


async def test_one_that_envoy_cannot_be_told_of_has_not_taken_the_place(tmp_path: Path) -> None:
    places = Places(tmp_path, 2)
    behind = BehindEnvoy(places, lambda index, _: Command(f"worker-{index}", ()), EnvoyAdmin(tmp_path / "none.sock"))
    before = places.sockets()
    relief = behind.relief(0)
    behind.endpoints.with_suffix(".new").mkdir()
    with pytest.raises(IsADirectoryError):
        await relief.take_over()
    assert places.sockets() == before


async def test_asked_to_stop_while_replacing_it_ends_the_old_and_the_new(tmp_path: Path) -> None:
    workers = Workers(tmp_path, no)
    async with kept(workers):
        workers.stop.replace.set()
        await until(lambda: len(workers.since(2)) == 1, WITHIN_S)
    assert sorted(workers.since(2)) == ["worker-0 SIGTERM", "worker-0 SIGTERM", "worker-0 started", "worker-1 SIGTERM"]
