"""Added latency at constant arrival, on both hosts, at a tenth to nine tenths of what each can do: bench/LATENCY.md.

    python -m bench.latency [--quick] [--rounds 3] [--requests 1000] [--output FILE] [--picture FILE]

About eleven minutes; `--quick` takes half a minute. Keys, ledger and record are on, and every request is paid for. In
each round a closed loop of 32 connections measures the most that a host does; then requests come at a constant rate,
set before the run, and the latency of each counts from when it was due (`bench/open_loop.py`). The stand-in is called
directly on the same schedule right before, and what it takes is taken off.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.command import written
from bench.curve import draw
from bench.machine import Cores, description
from bench.measure import CHAT, LOAD_LIMIT_S, Scenario, body, run, send
from bench.open_loop import OpenLoopResult, OpenLoopSpec
from bench.report import OWN_CORE, judged, table
from bench.stack import ROOT, Target, gateway, upstream

OUTPUT: Final = ROOT / "bench" / "LATENCY.md"
PICTURE: Final = ROOT / "docs" / "images" / "latency.png"
HOSTS: Final = ("grpc.aio", "in-envoy")
PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
TARGET_AT: Final = 50
AT_TARGET: Final = 3
"""So many times as many requests where the targets are."""
TARGETS_MS: Final = {"p99": 10.0, "p99.9": 25.0}
PAID: Final = "paid"


class Plan(msgspec.Struct, frozen=True):
    """How much is measured. `shares` are of the most that a host does, in per cent."""

    rounds: int
    requests: int
    most_s: float
    shares: tuple[int, ...]

    def seconds(self, share: int, rate: float) -> float:
        """How long requests come, so that a tail of them means as much at any rate; more where there is a target."""
        return self.requests * (AT_TARGET if share == TARGET_AT else 1) / rate


class Point(msgspec.Struct):
    """One host at one share of its most, over all rounds: latencies from when each was due, and the stand-in's own."""

    rates: list[float] = []
    latencies_s: list[float] = []
    direct_s: list[float] = []
    left_after_s: list[float] = []
    core_shares: list[float] = []

    def add(self, its: OpenLoopResult, direct: OpenLoopResult, rate: float, core_share: float) -> None:
        self.rates.append(rate)
        self.latencies_s += its.latencies_s
        self.direct_s += direct.latencies_s
        self.left_after_s += its.left_after_s
        self.core_shares.append(core_share)

    def added_ms(self, percentile: str) -> float:
        share = PERCENTILES[percentile]
        return (at(self.latencies_s, share) - at(self.direct_s, share)) * 1000


class Latency(msgspec.Struct, frozen=True):
    """Everything of one run. `most` and `core_shares` are each round's, of the closed loop."""

    machine: str
    plan: Plan
    points: dict[tuple[str, int], Point]
    most: dict[str, list[float]]
    core_shares: dict[str, list[float]]


def at(values: Sequence[float], share: float) -> float:
    """The value that this share of all is no greater than."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which all latencies count [3]")
    parser.add_argument("--requests", type=int, default=1000, help="at each rate in each round [1000]")
    parser.add_argument("--quick", action="store_true", help="three rates, once, and few requests; rough figures")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write [bench/LATENCY.md]")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to draw [docs/images/latency.png]")
    options = parser.parse_args()
    plan = Plan(options.rounds, options.requests, 2.0, tuple(range(10, 100, 10)))
    if options.quick:
        plan = Plan(1, 60, 1.0, (20, 50, 80))
    latency = written(lambda cores: measure(plan, cores), page, options.output)
    if latency is None:
        return 1
    draw(options.picture, curves(latency), TARGET_AT, TARGETS_MS)
    return 0


def measure(plan: Plan, cores: Cores) -> Latency:
    """Hosts take turns, in an order that turns round with each rate."""
    points: dict[tuple[str, int], Point] = {}
    most: dict[str, list[float]] = {host: [] for host in HOSTS}
    core_shares: dict[str, list[float]] = {host: [] for host in HOSTS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistats-latency-")))
        stand_in = stack.enter_context(upstream(cores))
        targets = {
            host: stack.enter_context(gateway(cores, directory / host, stand_in.port, environ={"AISTATS_HOST": host}))
            for host in HOSTS
        }
        for host in HOSTS:
            run(Scenario(host, host, model=PAID), targets[host], cores, 0.5)
        for number in range(plan.rounds):
            for host in HOSTS:
                tell(plan, number, f"the most that {host} does")
                sample = run(Scenario(host, host, model=PAID), targets[host], cores, plan.most_s)
                most[host].append(sample.load.requests / sample.load.elapsed_s)
                core_shares[host].append(sample.core_share)
            for index, share in enumerate(plan.shares):
                for host in HOSTS if (index + number) % 2 else reversed(HOSTS):
                    rate = most[host][-1] * share / 100
                    tell(plan, number, f"{host}, {share} % of it, {rate:,.0f} requests/s")
                    seconds = plan.seconds(share, rate)
                    direct = arrive(stand_in, rate, seconds, cores)
                    before = sum(targets[host].cpu_s().values())
                    its = arrive(targets[host], rate, seconds, cores)
                    spent_s = sum(targets[host].cpu_s().values()) - before
                    points.setdefault((host, share), Point()).add(its, direct, rate, spent_s / seconds)
    return Latency(description(), plan, points, most, core_shares)


def arrive(target: Target, rate: float, seconds: float, cores: Cores) -> OpenLoopResult:
    spec = OpenLoopSpec(target.port, CHAT, body("chat", PAID, stream=False), rate, seconds, target.headers)
    return send("bench.open_loop", spec, OpenLoopResult, cores, seconds + LOAD_LIMIT_S)


def tell(plan: Plan, number: int, text: str) -> None:
    print(f"bench: latency, round {number + 1} of {plan.rounds}: {text}", file=sys.stderr, flush=True)


def curves(latency: Latency) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    """By host and percentile: share of the most, requests a second, milliseconds added."""
    return {
        host: {
            percentile: [
                (share, median(latency.points[host, share].rates), latency.points[host, share].added_ms(percentile))
                for share in latency.plan.shares
            ]
            for percentile in PERCENTILES
            if percentile != "max"
        }
        for host in HOSTS
    }


def page(latency: Latency) -> str:
    """bench/LATENCY.md."""
    plan = latency.plan
    blocks = [
        "# Added latency at constant arrival\n\nWritten by `python -m bench.latency`;"
        " [docs/benchmarks.md](../docs/benchmarks.md) says how to read it.",
        f"{latency.machine}; rounds: {plan.rounds}, with {plan.requests:,} requests at each rate, and"
        f" {AT_TARGET * plan.requests:,} at {TARGET_AT} %. Small chat bodies that are paid for; keys, ledger and record"
        " on; one worker, SQLite.",
        "![The curves](../docs/images/latency.png)",
        "## Targets\n\n" + table(("what", "target", "measured", ""), _targets(latency)) + _note(latency),
    ]
    blocks += [
        f"## {host}: {median(latency.most[host]):,.0f} requests/s at the most\n\n"
        + table(_HEADER, _rows(latency, host))
        for host in HOSTS
    ]
    return "\n\n".join([*blocks, _READING]) + "\n"


_HEADER: Final = (
    *("of the most", "requests/s", "of its core", "requests"),
    *(f"{percentile} added ms" for percentile in PERCENTILES),
    *("p50 ms", "p99 ms", "stand-in p50 ms", "p99 ms", "left late, p99 ms"),
)
_READING: Final = (
    "*Added*: a percentile of the gateway's latencies less that of the stand-in's on the same schedule, both counted"
    " from when a request was due. *Left late*: how long after that requests left the load, be it that all connections"
    " were busy or that the load itself was."
)


def _note(latency: Latency) -> str:
    if _had_their_core(latency):
        return ""
    return "\n\nOther programs had part of the gateway's core in this run: time is not judged."


def _had_their_core(latency: Latency) -> bool:
    return all(median(shares) >= OWN_CORE for shares in latency.core_shares.values())


def _targets(latency: Latency) -> list[tuple[str, ...]]:
    rows = []
    for host in HOSTS:
        for percentile, target_ms in TARGETS_MS.items():
            added_ms = latency.points[host, TARGET_AT].added_ms(percentile)
            met = added_ms <= target_ms if _had_their_core(latency) else None
            what = f"{host}: {percentile} added at {TARGET_AT} % of the most"
            rows.append(judged(what, f"≤ {target_ms:g} ms", f"{added_ms:.1f} ms", met))
    return rows


def _rows(latency: Latency, host: str) -> list[list[str]]:
    rows = []
    for share in latency.plan.shares:
        point = latency.points[host, share]
        own = [(point.latencies_s, 0.5), (point.latencies_s, 0.99), (point.direct_s, 0.5), (point.direct_s, 0.99)]
        rows.append(
            [
                f"{share} %",
                f"{median(point.rates):,.0f}",
                f"{median(point.core_shares):.0%}",
                f"{len(point.latencies_s):,}",
                *(f"{point.added_ms(percentile):.1f}" for percentile in PERCENTILES),
                *(f"{at(values, share_of) * 1000:.1f}" for values, share_of in own),
                f"{at(point.left_after_s, 0.99) * 1000:.1f}",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
