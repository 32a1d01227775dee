"""The supervisor with real processes: order, limits, failures. What it does with Envoy is in test_supervisor_drain."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import structlog

from server.probes import EnvoyAdmin, accepts
from server.processes import Backoff, Child, ChildOutput, Command, StopStep, describe_exit
from server.supervisor import Limits, Plan, Probe, StartFailed, StopRequest, Supervisor
from tests.fakes.children import FAST, child, events, pids, supervisor_argv

POLITE = [StopStep(signal.SIGTERM, 30.0), StopStep(signal.SIGKILL, 30.0)]


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - the condition is another process's doing
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.asynccontextmanager
async def kept(one: Child) -> AsyncIterator[None]:
    task = asyncio.create_task(one.keep_running())
    try:
        yield
    finally:
        await one.stop(POLITE)
        await asyncio.wait_for(task, 60)


@pytest.mark.parametrize(
    ("previous_s", "lived_s", "expected_s"),
    [(0, 0, 0.5), (0.5, 1, 1.0), (1.0, 1, 2.0), (16.0, 59, 30.0), (30.0, 0, 30.0), (30.0, 60, 0.5)],
)
def test_backoff_doubles_to_a_limit_and_starts_afresh_after_a_minute(
    previous_s: float, lived_s: float, expected_s: float
) -> None:
    assert Backoff().next_delay(previous_s, lived_s) == expected_s


@pytest.mark.parametrize(
    ("returncode", "text"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")],
)
def test_an_exit_is_described(returncode: int, text: str) -> None:
    assert describe_exit(returncode) == text


async def test_a_child_that_ends_is_restarted_later_and_later_and_its_exit_code_is_logged(tmp_path: Path) -> None:
    quick = Command("flaky", (sys.executable, "-S", "-c", "raise SystemExit(3)"))
    one = Child(quick, backoff=Backoff(first_s=0.02, max_s=0.08))
    with structlog.testing.capture_logs() as logs:
        async with kept(one):
            await until(lambda: len(logs) >= 5)
    assert [entry["restart_in_s"] for entry in logs[:5]] == [0.02, 0.04, 0.08, 0.08, 0.08]
    assert {entry["outcome"] for entry in logs[:5]} == {"exit code 3"}
    assert {entry["child"] for entry in logs} == {"flaky"}
    assert one.starts >= 5


async def test_a_killed_child_comes_back_as_another_process(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    one = Child(child("worker", journal), backoff=FAST.backoff)
    async with kept(one):
        await until(lambda: events(journal) == ["worker started"])
        first = one.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: events(journal) == ["worker started"] * 2)
        assert one.pid not in (None, first)
    assert events(journal)[-1] == "worker SIGTERM"
    assert all(gone(pid) for pid in pids(journal))


async def test_a_child_that_ignores_sigterm_is_killed_past_the_limit(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    one = Child(child("stubborn", journal, "--ignore", "SIGTERM"))
    task = asyncio.create_task(one.keep_running())
    await until(lambda: events(journal) == ["stubborn started"])
    before = asyncio.get_running_loop().time()
    with structlog.testing.capture_logs() as logs:
        await one.stop([StopStep(signal.SIGTERM, 0.3), StopStep(signal.SIGKILL, 30.0)])
    await asyncio.wait_for(task, 60)
    assert 0.3 <= asyncio.get_running_loop().time() - before < 60
    assert events(journal) == ["stubborn started", "stubborn SIGTERM"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "child did not stop in time; killing it"
    ]
    assert all(gone(pid) for pid in pids(journal))


async def test_a_child_asked_to_stop_between_two_runs_is_not_started_again() -> None:
    one = Child(Command("flaky", (sys.executable, "-S", "-c", "raise SystemExit(1)")), backoff=Backoff(first_s=30.0))
    task = asyncio.create_task(one.keep_running())
    await until(lambda: one.starts == 1 and one.pid is None)
    await asyncio.sleep(0.1)
    await one.stop(POLITE)
    await asyncio.wait_for(task, 60)
    assert one.starts == 1


async def test_a_cancelled_supervision_leaves_no_process(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    task = asyncio.create_task(Child(child("worker", journal, "--ignore", "SIGTERM")).keep_running())
    await until(lambda: events(journal) == ["worker started"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(gone(pid) for pid in pids(journal))


async def printed(program: str, *, name: str = "talker", width: int | None = 8) -> bytes:
    """What ends up on the terminal when a child runs `program` once."""
    read_end, write_end = os.pipe()
    collected: list[bytes] = []

    def collect() -> None:
        with os.fdopen(read_end, "rb") as source:
            collected.append(source.read())

    reader = threading.Thread(target=collect)
    reader.start()
    with os.fdopen(write_end, "wb", buffering=0) as terminal:
        output = ChildOutput(terminal, width)
        one = Child(Command(name, (sys.executable, "-S", "-c", program)), output=output, backoff=Backoff(first_s=60.0))
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(one.keep_running())
            await until(lambda: bool(logs))  # it has ended, and is to be restarted
        await one.stop(POLITE)
        await asyncio.wait_for(task, 60)
        output.close()
    reader.join(60)
    return b"".join(collected)


async def test_each_line_carries_its_childs_name_and_stderr_comes_too() -> None:
    program = "import sys; print('one'); print('zwö', flush=True); sys.stderr.write('three')"
    assert await printed(program) == "talker   | one\ntalker   | zwö\ntalker   | three\n".encode()


async def test_a_line_written_in_two_pieces_stays_one_line() -> None:
    program = "import sys,time; sys.stdout.write('a'); sys.stdout.flush(); time.sleep(0.1); print('b')"
    assert await printed(program) == b"talker   | ab\n"
    assert await printed(program, width=None) == b"ab\n"


async def test_an_endless_line_is_passed_on_in_bounded_pieces() -> None:
    lines = (await printed("print('x' * 300_000)")).splitlines()
    assert sum(len(line) - len(b"talker   | ") for line in lines) == 300_000
    assert max(map(len, lines)) <= 3 * 64 * 1024


@pytest.mark.parametrize(
    ("width", "notice"),
    [
        (4, rb"w    \| \(\d+ lines dropped: the terminal was stopped\)\n"),
        (None, rb'\{"event":"\d+ lines dropped: the terminal was stopped"\}\n'),
    ],
)
async def test_a_stopped_terminal_costs_lines_and_never_blocks(width: int | None, notice: bytes) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", buffering=0) as terminal, os.fdopen(read_end, "rb") as source:
        output = ChildOutput(terminal, width)
        for number in range(6_000):
            output.write("w", [b"%06d" % number + b" " * 100])
        chunk = source.read1(1 << 20)
        while b"dropped" not in chunk:
            output.write("w", [b"after"])
            chunk = source.read1(1 << 20)
    assert re.search(notice, chunk)


class Scene:
    """A gateway of stand-ins: two workers, a model, and an Envoy whose number of active requests is a file."""

    def __init__(self, directory: Path, *, limits: Limits = FAST) -> None:
        self.journal = directory / "journal"
        self.admin = directory / "admin.sock"
        self.active = directory / "active"
        self.limits = limits
        self.worker_options: tuple[str, ...] = ()
        self.stop = StopRequest()
        self.was_ready = 0
        self.is_prepared = True
        self.supervisor: Supervisor | None = None

    def start(self) -> asyncio.Task[None]:
        envoy = child("envoy", self.journal, "--admin", str(self.admin), "--active", str(self.active))
        workers = tuple(child(f"worker-{n}", self.journal, *self.worker_options) for n in range(2))
        model = child("model", self.journal)
        probes: tuple[Probe, ...] = (functools.partial(accepts, self.admin), self._all_started)
        plan = Plan(workers, envoy, (model,), probes)
        self.supervisor = Supervisor(plan, EnvoyAdmin(self.admin), self.stop, limits=self.limits)
        return asyncio.create_task(self.supervisor.run(self._prepare, self._ready))

    async def _prepare(self) -> None:
        await until(lambda: "model started" in events(self.journal))
        assert not any(event.startswith(("worker", "envoy")) for event in events(self.journal))
        if not self.is_prepared:
            raise StartFailed("the database is not what it should be")

    async def _all_started(self) -> bool:
        return sum(event.endswith("started") for event in events(self.journal)) >= 4

    def _ready(self) -> None:
        self.was_ready += 1

    def since_ready(self) -> list[str]:
        return [event for event in events(self.journal) if not event.endswith("started")]

    def assert_nothing_left(self) -> None:
        assert len(pids(self.journal)) >= 1
        assert all(gone(pid) for pid in pids(self.journal))


async def test_requests_end_before_envoy_envoy_before_workers_workers_before_the_model(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.active.write_text("2")
    running = scene.start()
    await until(lambda: scene.was_ready == 1)
    scene.stop.again()
    await until(lambda: "envoy /drain_listeners" in events(scene.journal))
    await asyncio.sleep(0.3)
    assert scene.since_ready() == ["envoy /drain_listeners?graceful&skip_exit", "envoy /drain_listeners"]
    scene.active.write_text("0")
    await asyncio.wait_for(running, 60)
    order = scene.since_ready()[2:]
    assert order[0] == "envoy SIGTERM"
    assert sorted(order[1:3]) == ["worker-0 SIGTERM", "worker-1 SIGTERM"]
    assert order[3:] == ["model SIGTERM"]
    scene.assert_nothing_left()


@pytest.mark.parametrize("hurried", [False, True], ids=["past the limit", "asked twice"])
async def test_what_does_not_end_is_cut_by_the_workers_while_envoy_still_stands(tmp_path: Path, hurried: bool) -> None:
    scene = Scene(tmp_path, limits=Limits(drain_s=30.0 if hurried else 0.5, announce_s=0.05, cut_s=30.0, end_s=30.0))
    scene.active.write_text("1")
    running = scene.start()
    await until(lambda: scene.was_ready == 1)
    scene.stop.again()
    await until(lambda: "envoy /drain_listeners" in events(scene.journal))
    if hurried:
        scene.stop.again()
    await asyncio.wait_for(running, 60)
    order = scene.since_ready()[2:]
    assert sorted(order[:2]) == ["worker-0 SIGINT", "worker-1 SIGINT"]
    assert order[2:] == ["envoy SIGTERM", "model SIGTERM"]
    scene.assert_nothing_left()


async def test_a_worker_with_native_streams_has_until_the_limit_and_is_then_told_to_cut(tmp_path: Path) -> None:
    scene = Scene(tmp_path, limits=Limits(drain_s=1.5, announce_s=0.05, cut_s=30.0, end_s=0.5))
    scene.worker_options = ("--ignore", "SIGTERM")
    running = scene.start()
    await until(lambda: scene.was_ready == 1)
    scene.stop.again()
    await asyncio.wait_for(running, 60)
    order = scene.since_ready()[2:]
    assert order[0] == "envoy SIGTERM"
    assert sorted(order[1:3]) == ["worker-0 SIGTERM", "worker-1 SIGTERM"]
    assert sorted(order[3:5]) == ["worker-0 SIGINT", "worker-1 SIGINT"]
    assert order[5:] == ["model SIGTERM"]
    scene.assert_nothing_left()


async def test_where_preparing_fails_no_worker_and_no_envoy_is_ever_started(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.is_prepared = False
    with pytest.raises(StartFailed, match="the database is not what it should be"):
        await asyncio.wait_for(scene.start(), 60)
    assert events(scene.journal) == ["model started", "model SIGTERM"]
    assert scene.was_ready == 0
    scene.assert_nothing_left()


async def test_a_worker_that_cannot_start_is_given_up_on_before_the_gateway_is_ready(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.worker_options = ("--exit-code", "7")
    with pytest.raises(StartFailed, match=r"worker-[01] ends as soon as it is started"):
        await asyncio.wait_for(_never_all_started(scene), 60)
    assert scene.was_ready == 0
    scene.assert_nothing_left()


async def _never_all_started(scene: Scene) -> None:
    async def no() -> bool:
        return False

    scene._all_started = no  # type: ignore[method-assign]  # the stand-in's own probe
    await scene.start()


async def test_a_program_that_does_not_exist_is_given_up_on(tmp_path: Path) -> None:
    async def no() -> bool:
        return False

    async def nothing() -> None:
        return None

    plan = Plan((), Command("envoy", (str(tmp_path / "absent"),)), (), (no,))
    supervisor = Supervisor(plan, EnvoyAdmin(tmp_path / "admin.sock"), StopRequest(), limits=FAST)
    with structlog.testing.capture_logs() as logs, pytest.raises(StartFailed, match="envoy"):
        await asyncio.wait_for(supervisor.run(nothing, lambda: None), 60)
    assert logs[0]["outcome"] == "cannot be started: No such file or directory"


async def test_asked_to_stop_while_starting_it_stops_without_ever_being_ready(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    async def no() -> bool:
        return False

    scene._all_started = no  # type: ignore[method-assign]  # the stand-in's own probe
    running = scene.start()
    await until(lambda: "worker-1 started" in events(scene.journal))
    scene.stop.again()
    await asyncio.wait_for(running, 60)
    assert scene.was_ready == 0
    scene.assert_nothing_left()


class Program:
    """A supervisor in a process of its own."""

    def __init__(self, directory: Path, *, log_format: str = "console") -> None:
        self.journal = directory / "journal"
        admin, active = directory / "admin.sock", directory / "active"
        envoy = child("envoy", self.journal, "--admin", str(admin), "--active", str(active))
        workers = [child("worker-0", self.journal, "--say", '{"event":"hello"}'), child("worker-1", self.journal)]
        self.argv = supervisor_argv(
            directory, workers=workers, envoy=envoy, model=child("model", self.journal), log_format=log_format
        )
        self.process: asyncio.subprocess.Process | None = None
        self.starts = 0

    async def start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self.argv, stdin=pipe, stdout=pipe, stderr=pipe)
        self.process = process
        assert process.stdout is not None
        self.said: list[bytes] = []
        async with asyncio.timeout(60):
            while b"ready\n" not in self.said:
                self.said.append(await process.stdout.readline())
                assert self.said[-1], "it ended before it was ready"
        self.starts += 1
        names = ("worker-0", "worker-1", "model", "envoy")
        await until(lambda: all(events(self.journal).count(f"{name} started") == self.starts for name in names))
        return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_either_signal_ends_it_with_code_0(tmp_path: Path, number: signal.Signals) -> None:
    program = Program(tmp_path)
    process = await program.start()
    process.send_signal(number)
    _, shown = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert b"worker-0   | " in shown
    assert b'{"event":"hello"}' in shown
    assert all(gone(pid) for pid in pids(program.journal))


async def test_in_json_a_childs_lines_are_passed_on_untouched(tmp_path: Path) -> None:
    program = Program(tmp_path, log_format="json")
    process = await program.start()
    process.send_signal(signal.SIGTERM)
    out, shown = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert out == b""
    assert b'{"event":"hello"}\n' in [*program.said, *shown.splitlines(keepends=True)]
    assert [line for line in shown.splitlines() if not line.startswith(b"{")] == []


async def test_five_times_started_and_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    program = Program(tmp_path)
    for _ in range(5):
        process = await program.start()
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
    assert len(pids(program.journal)) == 20
    assert all(gone(pid) for pid in pids(program.journal))
    assert len(os.listdir("/proc/self/fd")) <= before + 5


async def test_kill_9_of_the_supervisor_leaves_no_child(tmp_path: Path) -> None:
    program = Program(tmp_path)
    process = await program.start()
    process.kill()
    await asyncio.wait_for(process.communicate(), 60)
    assert len(pids(program.journal)) == 4
    await until(lambda: all(gone(pid) for pid in pids(program.journal)))
