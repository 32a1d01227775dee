"""Both hosts beside each other: a table of what a request costs on each.

    python -m bench.hosts [--rounds 3] [--quick]

About two minutes, `--quick` half a minute. Runs take turns, so that a busy moment of the machine falls on all alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.machine import Cores, unused_port
from bench.measure import Sample, Scenario, run
from bench.stack import Part, Target, answers, floor, gateway, running, upstream, wait
from rest_bridge.envoy import EnvoyOptions, InProcess, render
from server.in_envoy_start import ENDS_PATH, Assignment, in_envoy, module_path
from server.settings import Settings
from server.tuning import prefer_grpc_polling, raise_file_limit
from server.up import envoy_argv

RUN_S = 1.5
FLOORS = ("grpc.aio: echo", "in-envoy: bare echo", "in-envoy: echo")
WHOLE = {
    "rest chat": Scenario("rest chat", ""),
    "rest chat, 1 connection": Scenario("rest chat, 1 connection", "", connections=1),
    "rest sse, 100 events at once": Scenario("rest sse", "", stream=True),
    "grpc unary": Scenario("grpc unary", "", "grpc"),
    "grpc stream, 100 events": Scenario("grpc stream", "", "grpc", stream=True),
}


@contextmanager
def echo_in_envoy(cores: Cores, directory: Path, name: str) -> Iterator[Target]:
    """An Envoy that carries `bench.echo_in_envoy:name`."""
    directory.mkdir()
    port = unused_port()
    settings = Settings(http_port=port, data_dir=directory, workers=1, local_model=False, log_format="json")
    config = directory / "envoy.yaml"
    in_process = InProcess(module_path(), f"bench.echo_in_envoy:{name}", ENDS_PATH)
    options = EnvoyOptions(admin_socket=str(directory / "admin.sock"), http_port=port, in_process=in_process)
    config.write_text(render(options), encoding="utf-8")
    command = in_envoy(envoy_argv(settings, config, concurrency=1), Assignment(0, ""), {})
    with (
        (directory / "log").open("w+b") as log,
        running(command.argv, cores.gateway, stdout=log, environ=command.environ) as envoy,
    ):
        wait(lambda: answers(port, "/nowhere"), (envoy,), log.name)
        yield Target(name, port, (Part("envoy", envoy.pid),))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown [3]")
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 s each; rough figures")
    options = parser.parse_args()
    rounds, seconds = (1, 0.3) if options.quick else (options.rounds, RUN_S)
    raise_file_limit()
    prefer_grpc_polling()
    cores = Cores.choose()
    samples: dict[tuple[str, str], list[Sample]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistats-bench-")))
        stand_in = stack.enter_context(upstream(cores))
        scenarios = [(("direct", "upstream"), Scenario("direct", ""), stand_in)]
        floors = (
            floor(cores, directory / "aio-echo"),
            echo_in_envoy(cores, directory / "bare", "bare"),
            echo_in_envoy(cores, directory / "hosted", "hosted"),
        )
        for name, made in zip(FLOORS, floors, strict=True):
            scenarios.append((("echo", name), Scenario(name, ""), stack.enter_context(made)))
        for host in ("grpc.aio", "in-envoy"):
            made = gateway(cores, directory / host, stand_in.port, environ={**os.environ, "AISTATS_HOST": host})
            target = stack.enter_context(made)
            scenarios += [((name, host), scenario, target) for name, scenario in WHOLE.items()]
        for _, scenario, target in scenarios:
            run(scenario, target, cores, 0.3)
        for number in range(rounds):
            print(f"bench: hosts, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for key, scenario, target in scenarios:
                samples.setdefault(key, []).append(run(scenario, target, cores, seconds))
    print("| | host | requests/s | of its core | a core | p50 ms | p99 ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (what, host), taken in samples.items():
        figures = [
            median(sample.load.requests / sample.load.elapsed_s for sample in taken),
            median(sample.core_share for sample in taken),
            median(sample.per_core for sample in taken),
            median(sample.load.latency.p50 for sample in taken) * 1000,
            median(sample.load.latency.p99 for sample in taken) * 1000,
        ]
        rate, share, per_core, p50, p99 = figures
        print(f"| {what} | {host} | {rate:,.0f} | {share:.0%} | {per_core:,.0f} | {p50:.1f} | {p99:.1f} |")


if __name__ == "__main__":
    main()
