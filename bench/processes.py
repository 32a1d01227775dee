"""Whether two gateways on one PostgreSQL do twice what one does, and whether the books are right: bench/PROCESSES.md.

    python -m bench.processes [--host in-envoy] [--share 0.3] [--rounds 5] [--seconds 3] [--quick] [--output FILE]

About a minute and a half; `--quick` takes half a minute. Two cores cannot give two gateways a core each beside
PostgreSQL, the stand-in and the load. So each gateway gets a share of a core, by a control group of the kernel, and one
and two of them are measured in turns, all paid by one team. Where control groups cannot be made, gateways take
each other's core, and only what a request costs tells something.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import psutil
import uvloop

from bench.command import written
from bench.machine import Cores, cpu_s, description
from bench.measure import Scenario, run
from bench.money import postgresql
from bench.report import judged, table
from bench.stack import ROOT, Failed, Target, gateway, upstream
from server.storage.database import Database
from server.storage.ledger_verify import Problem, Verification, verify_ledger

OUTPUT: Final = ROOT / "bench" / "PROCESSES.md"
TARGET: Final = 1.8
PERIOD_US: Final = 10_000
GATEWAYS: Final = 2
_SETTLING_S: Final = 1.0


class Run(msgspec.Struct, frozen=True):
    """Processor time in microseconds a request: of the gateways that had load, and of PostgreSQL."""

    requests: int
    rate: float
    gateway_us: float
    postgresql_us: float
    core_share: float


class Scaled(msgspec.Struct, frozen=True):
    """By how many gateways had load. `counted` are the requests that were answered, warming up included."""

    host: str
    share: float | None
    rounds: int
    runs: dict[int, list[Run]]
    counted: int
    books: Verification


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.processes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", choices=("grpc.aio", "in-envoy"), default="in-envoy", help="[in-envoy]")
    parser.add_argument("--share", type=float, default=0.3, help="of a core, for each gateway [0.3]")
    parser.add_argument("--rounds", type=int, default=5, help="of which the medians are shown [5]")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure [3]")
    parser.add_argument("--quick", action="store_true", help="one round of a second each; rough figures")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write [bench/PROCESSES.md]")
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    scaled = written(lambda cores: measure(cores, options.host, options.share, rounds, seconds), page, options.output)
    return 0 if scaled is not None and _are_exact(scaled) else 1


def measure(cores: Cores, host: str, share: float, rounds: int, seconds: float) -> Scaled:
    """In each round each gateway by itself, then both together."""
    with ExitStack() as stack:
        url = stack.enter_context(postgresql(cores))
        if url is None:
            raise Failed("PostgreSQL is not installed")
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistats-processes-")))
        stand_in = stack.enter_context(upstream(cores))
        # One data directory: the first to start leaves the team's key there.
        environ = {"AISTATS_HOST": host, "AISTATS_DATABASE_URL": url, "AISTATS_DATA_DIR": str(directory / "data")}
        targets = [
            stack.enter_context(gateway(cores, directory / f"gateway-{number}", stand_in.port, environ=environ))
            for number in range(GATEWAYS)
        ]
        limited = [
            stack.enter_context(limit_to(share, f"aistats-bench-{number}", _pids(target)))
            for number, target in enumerate(targets)
        ]
        counted = 0
        runs: dict[int, list[Run]] = {1: [], GATEWAYS: []}
        for target in targets:
            counted += _load([target], cores, 1.0).requests
        for number in range(rounds):
            for together in (*([target] for target in targets), targets):
                tell(f"round {number + 1} of {rounds}: {len(together)} with load")
                done = _load(together, cores, seconds)
                counted += done.requests
                runs[len(together)].append(done)
        time.sleep(_SETTLING_S)
        books = uvloop.run(_verify(url))
    return Scaled(host, share if all(limited) else None, rounds, runs, counted, books)


def _load(targets: Sequence[Target], cores: Cores, seconds: float) -> Run:
    """Against all of them at once."""
    database = [child.pid for child in psutil.Process().children(recursive=True) if child.name() == "postgres"]
    before = sum(map(_cpu_s, database))
    with ThreadPoolExecutor(len(targets)) as pool:
        scenario = Scenario("paid", "", model="paid")
        samples = list(pool.map(lambda target: run(scenario, target, cores, seconds), targets))
    requests = sum(sample.load.requests for sample in samples)
    return Run(
        requests,
        sum(sample.load.requests / sample.load.elapsed_s for sample in samples),
        sum(sample.total_cpu_s for sample in samples) / requests * 1e6,
        (sum(map(_cpu_s, database)) - before) / requests * 1e6,
        sum(sample.core_share for sample in samples),
    )


def _cpu_s(pid: int) -> float:
    """0 of one that has gone: PostgreSQL starts and ends helpers."""
    try:
        return cpu_s(pid)
    except FileNotFoundError:
        return 0.0


def _pids(target: Target) -> list[int]:
    return [part.pid for part in target.parts]


@contextmanager
def limit_to(share: float, name: str, pids: Sequence[int]) -> Iterator[bool]:
    """These processes get at most this share of a core together; False where the kernel has no groups to make."""
    root = Path("/sys/fs/cgroup")
    is_one = (root / "cpu" / "cpu.cfs_quota_us").exists()
    group = (root / "cpu" if is_one else root) / name
    quota_us = round(share * PERIOD_US)
    try:
        group.mkdir()
    except OSError:
        yield False
        return
    try:
        try:
            if is_one:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
            else:
                (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            for pid in pids:
                (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            yield False
        else:
            yield True
    finally:
        for pid in pids:
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(str(pid))
        with suppress(OSError):
            group.rmdir()


async def _verify(url: str) -> Verification:
    database = Database.open(url)
    try:
        return await verify_ledger(database, lambda problem: tell(_told(problem)))
    finally:
        await database.close()


def _told(problem: Problem) -> str:
    return f"{problem.kind} {problem.subject}: {problem.text}"


def tell(text: str) -> None:
    print(f"bench: processes, {text}", file=sys.stderr, flush=True)


def _are_exact(scaled: Scaled) -> bool:
    """Every request that was answered has one record and one reservation, which is no longer open."""
    books = scaled.books
    return books.problems == books.open == 0 and scaled.counted == books.generations == books.reservations


def _times(scaled: Scaled) -> list[float]:
    """What both did over what each did by itself in the same round, on average."""
    alone, together = scaled.runs[1], scaled.runs[GATEWAYS]
    return [
        both.rate / (sum(one.rate for one in alone[GATEWAYS * number : GATEWAYS * (number + 1)]) / GATEWAYS)
        for number, both in enumerate(together)
    ]


def page(scaled: Scaled) -> str:
    """bench/PROCESSES.md."""
    times, books = _times(scaled), scaled.books
    limited = (
        f"Each gateway has at most {scaled.share:.0%} of the first core; PostgreSQL (commits are durable), the stand-in"
        " and the load have the last."
        if scaled.share is not None
        else "No gateway could be held to a share of a core: both share one, and two can do no more than one."
    )
    judged_times = median(times) >= TARGET if scaled.share is not None else None
    rows = [
        judged("two gateways, over one", f"≥ {TARGET} ×", f"{median(times):.2f} ×", judged_times),
        judged(
            "ledger: requests answered, of them recorded, still open, problems",
            f"{scaled.counted:,}, all, 0, 0",
            f"{scaled.counted:,}, {books.generations:,}, {books.open}, {books.problems}",
            _are_exact(scaled),
        ),
    ]
    figures = [
        [
            str(count),
            f"{median(one.rate for one in runs):,.0f}",
            f"{median(one.core_share for one in runs):.0%}",
            f"{median(one.gateway_us for one in runs):,.0f}",
            f"{median(one.postgresql_us for one in runs):,.0f}",
        ]
        for count, runs in scaled.runs.items()
    ]
    header = ("gateways", "requests/s", "of a core", "gateways' µs a request", "PostgreSQL's µs a request")
    return (
        "\n\n".join(
            (
                "# Two gateways on one PostgreSQL\n\nWritten by `python -m bench.processes`;"
                " [docs/benchmarks.md](../docs/benchmarks.md) says how to read it.",
                f"{description()}; AISTATS_HOST={scaled.host}, one worker each, {scaled.rounds} rounds, medians."
                f" {limited} Each has 32 connections of its own; all requests are paid for by one team.",
                table(("what", "target", "measured", ""), rows),
                f"The rounds lay between {min(times):.2f} and {max(times):.2f} ×.",
                table(header, figures),
            )
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
