"""Ten thousand streams at a time on one machine, half of them slow, half of them silent: bench/STREAMS.md.

    python -m bench.many_streams [--streams 10000] [--workers 2] [--host grpc.aio] [--quick] [--output FILE]

About three minutes a host; `--quick` has 400 streams and takes half a minute. A slow stream has an event every 8 s, a
silent one every 24 s, and the gateway's pings between. All are paid for. The gateway may use every core; load and
stand-in share the last.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from bench.command import written
from bench.load import LoadResult, LoadSpec
from bench.machine import Cores, description
from bench.measure import CHAT, SAMPLE_INTERVAL_S, Scenario, body, run, send
from bench.report import MEMORY_TARGET_KB, judged, table
from bench.stack import ROOT, Target, gateway, upstream
from server.settings import available_cores

OUTPUT: Final = ROOT / "bench" / "STREAMS.md"
HOSTS: Final = ("grpc.aio", "in-envoy")
LIMIT_S: Final = 600.0


class Kind(msgspec.Struct, frozen=True):
    """So many events, one every so many seconds."""

    name: str
    events: int
    every_s: float

    @property
    def upstream_model(self) -> str:
        return f"slow-{self.events}-{self.every_s * 1000:.0f}"


class Plan(msgspec.Struct, frozen=True):
    """Half of `streams` are of each kind; all are opened within `ramp_s`, before the first of them ends."""

    streams: int
    workers: int
    ramp_s: float
    kinds: tuple[Kind, Kind]
    hosts: tuple[str, ...]

    @property
    def events(self) -> int:
        return sum(kind.events * (self.streams // 2) for kind in self.kinds)


FULL: Final = (Kind("slow", 11, 8.0), Kind("silent", 4, 24.0))
QUICK: Final = (Kind("slow", 6, 1.0), Kind("silent", 2, 3.0))


class Held(msgspec.Struct, frozen=True):
    """What one host did. Memory is that of each part, in bytes a stream, at the most of both together."""

    host: str
    loads: list[LoadResult]
    memory: dict[str, float]
    cpu_s: dict[str, float]

    @property
    def alive(self) -> int:
        return sum(load.requests for load in self.loads)

    @property
    def delivered(self) -> int:
        return sum(load.stamped for load in self.loads)

    @property
    def all_open_s(self) -> float:
        """How long all were open at once."""
        return min(load.full_until_s for load in self.loads) - max(load.full_from_s for load in self.loads)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.many_streams", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=10_000, help="at a time [10000]")
    parser.add_argument(
        "--workers", type=int, default=max(2, available_cores()), help="of the gateway [a core each, 2 at the least]"
    )
    parser.add_argument("--ramp", type=float, default=50.0, help="seconds within which they are opened [50]")
    parser.add_argument("--host", choices=HOSTS, help="this one only [both, one after the other]")
    parser.add_argument("--quick", action="store_true", help="400 streams of six seconds")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write [bench/STREAMS.md]")
    options = parser.parse_args()
    hosts = (options.host,) if options.host else HOSTS
    plan = Plan(options.streams, options.workers, options.ramp, FULL, hosts)
    if options.quick:
        plan = Plan(400, options.workers, 2.0, QUICK, hosts)
    return (
        0
        if written(lambda cores: [hold(plan, host, cores) for host in hosts], partial(page, plan), options.output)
        is not None
        else 1
    )


def hold(plan: Plan, host: str, cores: Cores) -> Held:
    """Raises Failed where a stream was refused or cut."""
    with tempfile.TemporaryDirectory(prefix="aistats-streams-") as path, upstream(cores) as stand_in:
        models = {kind.name: kind.upstream_model for kind in plan.kinds}
        made = gateway(
            cores,
            Path(path) / host,
            stand_in.port,
            environ={"AISTATS_HOST": host},
            workers=plan.workers,
            pinned=False,
            paid_models=models,
        )
        with made as target:
            run(Scenario(host, host, model="paid-short", stream=True), target, cores, 1.0)
            return _hold(plan, host, target, cores)


def _hold(plan: Plan, host: str, target: Target, cores: Cores) -> Held:
    base, before = target.rss_by_part(), target.cpu_s()
    most: dict[str, float] = base
    with ThreadPoolExecutor(len(plan.kinds)) as pool:
        sent = [
            pool.submit(send, "bench.load", _spec(plan, kind, target), LoadResult, cores, LIMIT_S)
            for kind in plan.kinds
        ]
        began_s = told_s = time.monotonic()
        while not all(one.done() for one in sent):
            threading.Event().wait(SAMPLE_INTERVAL_S)
            now = target.rss_by_part()
            most = max(most, now, key=lambda parts: sum(parts.values()))
            if time.monotonic() - told_s >= 10:
                told_s = time.monotonic()
                tell(f"{host}: {told_s - began_s:.0f} s, {sum(now.values()) / 1e6:,.0f} MB")
        loads = [one.result() for one in sent]
    memory = {part: (most[part] - held) / plan.streams for part, held in base.items() if part != "supervisor"}
    spent = {part: target.cpu_s()[part] - cpu_s for part, cpu_s in before.items()}
    return Held(host, loads, memory, spent)


def _spec(plan: Plan, kind: Kind, target: Target) -> LoadSpec:
    return LoadSpec(
        port=target.port,
        path=CHAT,
        body=body("chat", kind.name, stream=True),
        headers=target.headers,
        connections=plan.streams // len(plan.kinds),
        duration_s=0,
        once=True,
        ramp_s=plan.ramp_s,
        patience_s=LIMIT_S,
    )


def tell(text: str) -> None:
    print(f"bench: streams, {text}", file=sys.stderr, flush=True)


def page(plan: Plan, held: list[Held]) -> str:
    """bench/STREAMS.md."""
    kinds = " and ".join(f"{plan.streams // 2:,} with an event every {kind.every_s:g} s" for kind in plan.kinds)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    targets, rows = [], []
    for one in held:
        each_kb = sum(one.memory.values()) / 1000
        is_held = one.alive == plan.streams and one.all_open_s > 0
        targets += [
            judged(f"{one.host}: alive at once, to the end", f"{plan.streams:,}", f"{one.alive:,}", is_held),
            judged(f"{one.host}: events lost", "0", f"{plan.events - one.delivered:,}", one.delivered == plan.events),
            judged(
                f"{one.host}: memory each",
                f"< {MEMORY_TARGET_KB:g} KB",
                f"{each_kb:.0f} KB",
                each_kb < MEMORY_TARGET_KB,
            ),
        ]
        rows.append(
            [
                one.host,
                f"{one.all_open_s:.0f}",
                f"{one.delivered:,} of {plan.events:,}",
                f"{one.memory.get('envoy', 0) / 1000:.0f}",
                f"{one.memory['worker'] / 1000:.0f}" if "worker" in one.memory else "in Envoy",
                *(f"{figure * 1000:.1f}" for figure in _delays(one)),
                f"{sum(one.cpu_s.values()):.0f}",
            ]
        )
    header = (
        *("", "s all open", "events", "Envoy KB a stream", "workers KB a stream"),
        *("delay p50 ms", "p99 ms", "max ms", "processor time s"),
    )
    return (
        "\n\n".join(
            (
                "# Many streams at a time\n\nWritten by `python -m bench.many_streams`;"
                " [docs/benchmarks.md](../docs/benchmarks.md) says how to read it.",
                f"{description()}; {plan.workers} workers, {kinds}, opened within {plan.ramp_s:g} s; a process may have"
                f" {files:,} files.",
                table(("what", "target", "measured", ""), targets),
                table(header, rows),
            )
        )
        + "\n"
    )


def _delays(one: Held) -> tuple[float, float, float]:
    """Of the events while all streams of their kind were open; the slow ones are nearly all of them."""
    slow = one.loads[0].full_delay
    return slow.p50, slow.p99, slow.max


if __name__ == "__main__":
    sys.exit(main())
