"""Whether the wallet of one team holds its workers up: reservations and settlements on one PostgreSQL, by processes.

    python -m bench.ledger [--seconds 3] [--lanes 32] [--rounds 3] [--quick]

About a minute and a half; `--quick` takes fifteen seconds. Each process is a worker's ledger by itself, with `lanes`
requests at a time that reserve, settle and begin anew: more than a worker asks of it that also serves. With one team
all of them lock one row; with a team each, none waits for another. All begin at the same moment. Commits are durable,
and the books are verified at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack
from statistics import median

import uvloop

from bench.machine import Cores
from bench.money import postgresql
from server.clock import SystemClock
from server.storage.database import Database
from server.storage.ledger_verify import Problem, verify_ledger
from tests.integration.databases import migrated
from tests.integration.ledger_world import USD, Request, make_teams, opened

PROCESSES = (1, 2, 4)
TEAMS = tuple(f"team-{number}" for number in range(max(PROCESSES)))
CREDIT = 1_000_000 * USD
CHARGE = 1000
POOL_SIZE = 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ledger", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure [3]")
    parser.add_argument("--lanes", type=int, default=32, help="requests at a time in each process [32]")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown [3]")
    parser.add_argument("--quick", action="store_true", help="one round of a second each; rough figures")
    parser.add_argument("--one", nargs=2, metavar=("URL", "TEAM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(uvloop.run(_requests(*options.one, seconds=options.seconds, lanes=options.lanes)))
        return 0
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    with ExitStack() as stack:
        url = stack.enter_context(postgresql(Cores.choose()))
        if url is None:
            print("PostgreSQL is not installed", file=sys.stderr)
            return 1
        uvloop.run(_prepare(url))
        rates: dict[tuple[int, bool], list[float]] = {}
        for _ in range(rounds):
            for processes in PROCESSES:
                for shared in (True, False):
                    rate = _rate(url, processes, seconds, options.lanes, shared=shared)
                    rates.setdefault((processes, shared), []).append(rate)
        problems = uvloop.run(_verify(url))
    print("\n".join(_table(rates)))
    print(f"\nledger verify: {problems} problems")
    return 1 if problems else 0


async def _prepare(url: str) -> None:
    async with migrated(url) as database:
        await make_teams(database, SystemClock(), CREDIT, TEAMS)


async def _verify(url: str) -> int:
    database = Database.open(url)
    try:
        problems: list[Problem] = []
        await verify_ledger(database, problems.append)
        return len(problems)
    finally:
        await database.close()


def _rate(url: str, processes: int, seconds: float, lanes: int, *, shared: bool) -> float:
    """Requests a second of all processes together."""
    print(
        f"bench: ledger, {processes} processes, {'one team' if shared else 'a team each'}", file=sys.stderr, flush=True
    )
    own = [sys.executable, "-m", "bench.ledger", "--seconds", str(seconds), "--lanes", str(lanes)]
    running = [
        subprocess.Popen(
            [*own, "--one", url, TEAMS[0 if shared else number]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process failed")
    return sum(map(float, told))


async def _requests(url: str, team: str, *, seconds: float, lanes: int) -> float:
    """Requests a second of this process."""
    database, clock = Database.open(url, pool_size=POOL_SIZE), SystemClock()
    try:
        async with opened(database, clock, f"{team}-{time.monotonic_ns()}") as ledger:
            done, end_at = 0, 0.0

            async def lane() -> None:
                nonlocal done
                while time.monotonic() < end_at:
                    request = Request(team)
                    await ledger.reserve(request.hold(CHARGE))
                    await ledger.settle(request.settlement(CHARGE))
                    done += 1

            print("ready", flush=True)
            sys.stdin.readline()
            began = time.monotonic()
            end_at = began + seconds
            await asyncio.gather(*(lane() for _ in range(lanes)))
            return done / (time.monotonic() - began)
    finally:
        await database.close()


def _table(rates: dict[tuple[int, bool], list[float]]) -> list[str]:
    lines = [
        "| processes | one team, requests/s | of one process | a team each, requests/s | one team, of a team each |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    alone = rates[PROCESSES[0], True]
    for processes in PROCESSES:
        shared, apart = rates[processes, True], rates[processes, False]
        lines.append(
            f"| {processes} | {median(shared):,.0f} | {_ratio(shared, alone)} | {median(apart):,.0f} |"
            f" {_ratio(shared, apart)} |"
        )
    return lines


def _ratio(rates: list[float], others: list[float]) -> str:
    """Of the same rounds: the median, and the extremes."""
    ratios = [rate / other for rate, other in zip(rates, others, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main())
