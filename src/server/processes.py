"""One supervised child process: started, restarted with back-off, stopped in steps, its output passed on line by line.

A child's standard input is a pipe that nothing is written to. It closes with the supervisor, however that ends, and
a child that called `exit_when_parent_dies` goes with it; a program that is not ours is `tied` instead. Not even kill -9
of the supervisor leaves orphans.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

MAX_LINE_BYTES: Final = 64 * 1024
"""A longer line of a child's output is passed on in pieces."""
GATHER_S: Final = 0.05
"""How long output gathers in the pipe, which holds 64 KiB. A supervisor that is woken more often takes processor time
and caches from a busy worker: every 20 ms cost a request 8 % and more, each line a tenth.
"""
MAX_QUEUED_WRITES: Final = 4096
"""What a stalled terminal may hold up before lines are dropped."""
ORPHAN_GRACE_S: Final = 5.0
RECORDS_LOST: Final = 3
"""The exit code of a worker that answered requests of which there is no record."""
LAST_WORDS_S: Final = 1.0
"""How long output is awaited from a child that has ended, should something else hold its end of the pipe."""

log = structlog.get_logger()


class Command(msgspec.Struct, frozen=True):
    """What to run. `environ` is added to the supervisor's own environment."""

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = {}


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before a crashed child is started again: doubling, and afresh after a long enough life."""

    first_s: float = 0.5
    max_s: float = 30.0
    reset_after_s: float = 60.0

    def next_delay(self, previous_s: float, lived_s: float) -> float:
        """Seconds to wait, given the wait before the last start (0 at first) and how long that run lived."""
        if previous_s <= 0 or lived_s >= self.reset_after_s:
            return self.first_s
        return min(previous_s * 2, self.max_s)


LEAVE: Final = signal.SIGURG
"""Tells a worker that it will be stopped soon. A process that does not know it, or is only starting, ignores it."""
ASIDE: Final = signal.SIGWINCH
"""Tells a worker that another has taken its place: it is to be given no more connections. Ignored as LEAVE is."""
CUT: Final = signal.SIGUSR2
"""Tells a worker inside Envoy to end the calls that are left; it goes on serving until Envoy is told to end."""


class StopStep(msgspec.Struct, frozen=True):
    """Send a signal, then wait so long for the child to end before the next step."""

    signal: signal.Signals
    wait_s: float


class ChildOutput:
    """Writes children's lines, each whole, from a thread of its own: Envoy writes its log in pieces that end anywhere.

    With a `name_width` the child's name stands in front of each line; without, lines are JSON and stay as they are.
    A terminal that has been stopped stops neither children nor supervisor: lines without room are dropped, counted.
    """

    def __init__(self, stream: BinaryIO, name_width: int | None) -> None:
        self._stream = stream
        self._width = name_width
        self._queue: queue.Queue[bytes | None] = queue.Queue(MAX_QUEUED_WRITES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="child-output", daemon=True)
        self._thread.start()

    def write(self, name: str, lines: Sequence[bytes]) -> None:
        """Queue whole lines, without their line ends."""
        prefix = b"" if self._width is None else name.ljust(self._width).encode() + b" | "
        if self._dropped:
            lines = [self._notice(), *lines]
        try:
            self._queue.put_nowait(b"".join(prefix + line + b"\n" for line in lines))
        except queue.Full:
            self._dropped += len(lines)
        else:
            self._dropped = 0

    def _notice(self) -> bytes:
        said = f"{self._dropped} lines dropped: the terminal was stopped"
        return f"({said})".encode() if self._width is not None else msgspec.json.encode({"event": said})

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for so long at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
            self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                self._stream.write(data)
                self._stream.flush()
            except (OSError, ValueError):  # the terminal is gone; children must not notice
                continue


class Child:
    """One command, kept running until it is stopped.

    `output` None lets the child write to the supervisor's own stdout and stderr. `starts` counts runs so far.
    """

    def __init__(self, command: Command, *, output: ChildOutput | None = None, backoff: Backoff | None = None) -> None:
        self.command = command
        self.starts = 0
        self._output = output
        self._backoff = backoff or Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._stopped: asyncio.subprocess.Process | None = None
        self._is_stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the present run; None between runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """How the run ended that `stop` found under way, negative where a signal did it; None where there was none."""
        return self._stopped.returncode if self._stopped else None

    async def keep_running(self) -> None:
        """Run the command, again and again, until `stop`. A cancelled call kills the child first."""
        delay_s = 0.0
        while not self._is_stopping.is_set():
            started = asyncio.get_running_loop().time()
            outcome = await self._run_once()
            if self._is_stopping.is_set():
                log.debug("child stopped", child=self.command.name, outcome=outcome)
                return
            lived_s = asyncio.get_running_loop().time() - started
            delay_s = self._backoff.next_delay(delay_s, lived_s)
            log.warning("child ended; restarting it", child=self.command.name, outcome=outcome, restart_in_s=delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), delay_s)

    def tell(self, number: signal.Signals) -> None:
        """Send the present run a signal, if there is one."""
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, steps: Sequence[StopStep]) -> None:
        """End the child step by step and start it no more. Returns when it is gone, or after the last step."""
        self._is_stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._stopped = process
        for step in steps:
            if step.signal is signal.SIGKILL:
                log.warning("child did not stop in time; killing it", child=self.command.name)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(step.signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), step.wait_s)
                return

    async def _run_once(self) -> str:
        """One run, from start to end; says how it ended."""
        piped = asyncio.subprocess.PIPE if self._output else None
        self.starts += 1
        try:
            # A session of its own keeps Ctrl-C in the terminal from reaching the child before the supervisor.
            process = await asyncio.create_subprocess_exec(
                *self.command.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=piped,
                stderr=asyncio.subprocess.STDOUT if piped else None,
                env={**os.environ, **self.command.environ},
                start_new_session=True,
                limit=1,  # nothing is read ahead of `_pass_on`
            )
        except OSError as failure:
            return f"cannot be started: {failure.strerror}"
        self._process = process
        passing_on = asyncio.ensure_future(self._pass_on(process.stdout))
        try:
            if self._is_stopping.is_set():  # asked while the child was being started
                return "stopped before it began"
            outcome = describe_exit(await process.wait())
            await asyncio.wait({passing_on}, timeout=LAST_WORDS_S)
            return outcome
        finally:
            passing_on.cancel()
            if process.stdin:
                process.stdin.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _pass_on(self, source: asyncio.StreamReader | None) -> None:
        output, rest = self._output, b""
        if source is None or output is None:
            return
        while data := await source.read(MAX_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) >= MAX_LINE_BYTES:
                lines.append(rest)
                rest = b""
            if lines:
                output.write(self.command.name, lines)
            await asyncio.sleep(GATHER_S)
        if rest:
            output.write(self.command.name, [rest])


def describe_exit(returncode: int) -> str:
    """`exit code 3`, or `killed by SIGSEGV`."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def tied(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command line that runs `argv` so that it dies with this process, for programs that cannot see to it."""
    return (sys.executable, "-IS", str(Path(__file__).with_name("tied.py")), str(os.getpid()), *argv)


def exit_when_parent_dies(grace_s: float = ORPHAN_GRACE_S) -> None:
    """For a child: end this process when its standard input does, politely at first and by force after `grace_s`."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
