"""What keys, reservations, settlements and the record cost: the gateway beside itself without them.

    python -m bench.money [--rounds 6] [--seconds 1.5] [--profile FILE]

Both are up at the same time on the same core, and load runs against one after the other, in changing order. Prints the
section of bench/RESULTS.md. `--profile` also writes what the worker's threads did while requests were paid for.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from threading import Thread

import msgspec

from bench import profiling
from bench.machine import Cores
from bench.measure import Sample, Scenario, run
from bench.stack import Failed, Target, gateway, upstream
from server.tuning import prefer_grpc_polling, raise_file_limit

OFF, ON, ON_POSTGRESQL = "off", "on, SQLite", "on, PostgreSQL"
RATIO_TARGET = 0.75
ADDED_TARGET_MS = 3.0


class Load(msgspec.Struct, frozen=True):
    """One way of sending paid requests."""

    name: str
    model: str = "paid"
    stream: bool = False
    connections: int = 32

    def scenario(self, target: str) -> Scenario:
        return Scenario(
            f"{self.name}, {target}", target, model=self.model, stream=self.stream, connections=self.connections
        )


UNARY = Load("unary REST chat")
LONE = Load("unary REST chat, 1 connection", connections=1)
LOADS = (UNARY, LONE, Load("unary REST chat, 4 connections", connections=4), Load("SSE, 10 events", "paid-short", True))


class Money(msgspec.Struct, frozen=True):
    """By load and by target, a sample of each round."""

    rounds: int
    samples: dict[tuple[str, str], list[Sample]]
    targets: tuple[str, ...]


def measure(cores: Cores, targets: dict[str, Target], rounds: int, run_s: float) -> Money:
    """Every load against every target in each round; the order turns round with each, so that no place is a favour."""
    names = list(targets)
    samples: dict[tuple[str, str], list[Sample]] = {(load.name, name): [] for load in LOADS for name in names}
    for load in LOADS:
        for name in names:
            run(load.scenario(name), targets[name], cores, 0.3)
    for number in range(rounds):
        print(f"bench: money, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for load in LOADS:
            for name in names if number % 2 else reversed(names):
                samples[load.name, name].append(run(load.scenario(name), targets[name], cores, run_s))
    return Money(rounds, samples, tuple(names))


@contextmanager
def gateways(cores: Cores, directory: Path, upstream_port: int) -> Iterator[dict[str, Target]]:
    """The gateway without money, with it on a file, and with it on PostgreSQL where that is installed."""
    with ExitStack() as stack:
        off = gateway(cores, directory / "unmetered", upstream_port, module="bench.unmetered")
        targets = {OFF: stack.enter_context(off)}
        targets[ON] = stack.enter_context(gateway(cores, directory / "metered", upstream_port))
        if (url := stack.enter_context(postgresql(cores))) is not None:
            environ = {"AISTATS_DATABASE_URL": url}
            on = gateway(cores, directory / "postgresql", upstream_port, environ=environ)
            targets[ON_POSTGRESQL] = stack.enter_context(on)
        yield targets


@contextmanager
def postgresql(cores: Cores) -> Iterator[str | None]:
    """A server on the load's core, as on another machine; None where PostgreSQL is not installed."""
    from tests.integration.databases import PostgresServer

    try:
        server = PostgresServer()
    except AssertionError:
        yield None
        return
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cores.load})
        try:
            server.start(durable=True)
        finally:
            os.sched_setaffinity(0, own)
        yield server.url("postgres")
    finally:
        server.remove()


def ratios(money: Money, load: Load, target: str) -> list[float]:
    """Requests a second over those of the same round without money."""
    pairs = zip(money.samples[load.name, target], money.samples[load.name, OFF], strict=True)
    return [_rate(on) / _rate(off) for on, off in pairs]


def added_ms(money: Money, load: Load, target: str) -> list[float]:
    """The median latency over that of the same round without money."""
    pairs = zip(money.samples[load.name, target], money.samples[load.name, OFF], strict=True)
    return [(on.load.latency.p50 - off.load.latency.p50) * 1000 for on, off in pairs]


def rows(money: Money) -> Sequence[tuple[str, ...]]:
    """The table's rows, one for each load and target."""
    found = []
    for load in LOADS:
        for target in money.targets:
            samples = money.samples[load.name, target]
            per_core = median(sample.per_core for sample in samples)
            row = [
                f"{load.name}: {target}",
                f"{median(map(_rate, samples)):,.0f}",
                f"{median(sample.core_share for sample in samples):.0%}",
                f"{per_core:,.0f}",
                f"{median(sample.cpu_us('envoy', sample.load.requests) for sample in samples):,.0f}",
                f"{median(sample.cpu_us('worker', sample.load.requests) for sample in samples):,.0f}",
                f"{median(sample.load.latency.p50 for sample in samples) * 1000:.1f}",
            ]
            if target == OFF:
                row += ["", "", ""]
            else:
                of, added = ratios(money, load, target), added_ms(money, load, target)
                bare = median(sample.per_core for sample in money.samples[load.name, OFF])
                row += [
                    f"{median(of):.2f} ({min(of):.2f} to {max(of):.2f})",
                    f"{per_core / bare:.2f}",
                    f"{median(added):.1f} ({min(added):.1f} to {max(added):.1f})",
                ]
            found.append(tuple(row))
    return found


HEADER = (
    *("", "requests/s", "of its core", "a core", "Envoy µs", "worker µs", "p50 ms"),
    *("of off", "a core, of off", "p50 added ms"),
)


def _rate(sample: Sample) -> float:
    return sample.load.requests / sample.load.elapsed_s


def _profile(target: Target, cores: Cores, output: Path) -> None:
    load = Thread(target=run, args=(UNARY.scenario(ON), target, cores, 7.0))
    load.start()
    stacks = profiling.folded(target.pid("worker"), 6.0)
    load.join()
    output.write_text("".join(f"{stack} {count}\n" for stack, count in stacks))


def main() -> int:
    from bench.report import table

    parser = argparse.ArgumentParser(prog="python -m bench.money", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    parser.add_argument("--profile", type=Path, help="where to write folded stacks")
    options = parser.parse_args()
    raise_file_limit()
    prefer_grpc_polling()
    cores = Cores.choose()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="aistats-bench-") as path,
            upstream(cores) as stand_in,
            gateways(cores, Path(path), stand_in.port) as targets,
        ):
            print(table(HEADER, rows(measure(cores, targets, options.rounds, options.seconds))))
            if options.profile:
                _profile(targets[ON], cores, options.profile)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
