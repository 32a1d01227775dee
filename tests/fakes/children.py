"""Children for the supervisor to keep: small programs that write what happens to them into a journal.

`python -m tests.fakes.children child …` is one child; `… supervisor PLAN.json` is a supervisor in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import structlog

from server.logs import configure_logging
from server.probes import EnvoyAdmin, accepts
from server.processes import Backoff, ChildOutput, Command, exit_when_parent_dies
from server.supervisor import Limits, Plan, StartFailed, StopRequest, Supervisor

FAST = Limits(
    drain_s=30.0, announce_s=0.05, cut_s=30.0, end_s=30.0, ready_s=60.0, backoff=Backoff(first_s=0.05, max_s=0.2)
)


def child(name: str, journal: Path, *options: str) -> Command:
    """A child called `name` that writes `<name> <what> <pid>` lines into the journal."""
    argv = (sys.executable, "-m", "tests.fakes.children", "child", "--name", name, "--journal", str(journal), *options)
    return Command(name, argv)


def events(journal: Path) -> list[str]:
    """What has happened so far, as `<name> <what>`."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [line.rsplit(" ", 1)[0] for line in lines]


def pids(journal: Path) -> list[int]:
    """The pids of all children that ever started."""
    return [int(line.rsplit(" ", 1)[1]) for line in journal.read_text().splitlines() if " started " in line]


def supervisor_argv(
    directory: Path,
    *,
    workers: list[Command],
    envoy: Command,
    model: Command | None = None,
    log_format: str = "console",
) -> list[str]:
    """A supervisor as a program; it says `ready` on stdout, and its children's sockets lie in `directory`."""
    plan = {
        "admin": str(directory / "admin.sock"),
        "workers": [[command.name, *command.argv] for command in workers],
        "envoy": [envoy.name, *envoy.argv],
        "model": [model.name, *model.argv] if model else None,
        "log_format": log_format,
    }
    path = directory / "plan.json"
    path.write_text(json.dumps(plan))
    return [sys.executable, "-m", "tests.fakes.children", "supervisor", str(path)]


def _run_child() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--journal", required=True, type=Path)
    parser.add_argument("--say", action="append", default=[], help="print this at the start")
    parser.add_argument("--exit-code", type=int, help="end at once")
    parser.add_argument("--ignore", action="append", default=[], help="a signal to note and ignore")
    parser.add_argument("--listen", help="a Unix socket to accept connections on")
    parser.add_argument("--admin", help="answer as Envoy's admin on this Unix socket")
    parser.add_argument("--active", help="the file that holds the number of active requests")
    options = parser.parse_args(sys.argv[2:])

    def note(what: str) -> None:
        with options.journal.open("a") as file:
            file.write(f"{options.name} {what} {os.getpid()}\n")

    def on_signal(number: int, _: object) -> None:
        name = signal.Signals(number).name
        note(name)
        if name not in options.ignore:
            os._exit(0)

    exit_when_parent_dies(grace_s=1.0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    note("started")
    for text in options.say:
        print(text, flush=True)
    if options.exit_code is not None:
        sys.exit(options.exit_code)
    if options.listen:
        listener = socket.socket(socket.AF_UNIX)
        _remove(Path(options.listen))
        listener.bind(options.listen)
        listener.listen()
    if options.admin:
        asyncio.run(_serve_admin(Path(options.admin), Path(options.active), note))
    while True:
        time.sleep(60)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _serve_admin(path: Path, active: Path, note: object) -> None:
    assert callable(note)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:  # a probe that only wanted to be accepted
            writer.close()
            return
        method, target, _ = head.split(" ", 2)
        if method == "POST":
            note(target)
        count = _read(active) or "0"
        body = f"http.admin.downstream_rq_active: 1\nhttp.gateway.downstream_rq_active: {count}\n"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    _remove(path)
    server = await asyncio.start_unix_server(answer, path)
    await server.serve_forever()


async def _supervise(path: Path) -> int:
    plan = json.loads(_read(path))
    configure_logging(plan["log_format"])
    admin = Path(plan["admin"])
    commands = [Command(name, tuple(argv)) for name, *argv in plan["workers"]]
    envoy = Command(plan["envoy"][0], tuple(plan["envoy"][1:]))
    models = (Command(plan["model"][0], tuple(plan["model"][1:])),) if plan["model"] else ()
    output = ChildOutput(sys.stderr.buffer, 10 if plan["log_format"] == "console" else None)
    stop = StopRequest()
    probes = (functools.partial(accepts, admin),)
    supervisor = Supervisor(
        Plan(tuple(commands), envoy, models, probes), EnvoyAdmin(admin), stop, limits=FAST, output=output
    )

    async def prepare() -> None:
        return None

    with stop.on_signals():
        try:
            await supervisor.run(prepare, lambda: print("ready", flush=True))
        except StartFailed as failure:
            structlog.get_logger().error("start failed", reason=str(failure))
            return 1
    output.close()
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        if sys.argv[1] == "child":
            _run_child()
        else:
            sys.exit(asyncio.run(_supervise(Path(sys.argv[2]))))
