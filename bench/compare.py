"""The gateway beside the stand-in alone, a bare Envoy and other gateways, in one run: `make bench-compare`.

    python -m bench.compare [--rounds 3] [--seconds 1.2] [--quick] [--output FILE]

About nine minutes, with `--quick` one and a half. All are up at the same time, each on the gateway's core with the load
and the stand-in on the other, and load runs against one after the other, in an order that turns round with each round.
Peers are there where `make bench-peers` has installed them; what one of them cannot do is named, and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from bench.command import written
from bench.load import LoadSpec
from bench.machine import Cores, description
from bench.measure import CHAT, Sample, run_spec
from bench.peers import PEERS, Peer, peer
from bench.report import OWN_CORE, judged, table
from bench.stack import LATE, ROOT, Failed, Target, floor, gateway, upstream

OUTPUT = ROOT / "bench" / "COMPARED.md"
CORE_HOUR_USD = 0.04
"""About what a core of a shared machine costs by the hour."""
DIRECT, FLOOR = "the stand-in, directly", "bare Envoy and an echo"
_IN_ENVOY = {"AISTATS_HOST": "in-envoy"}
OFF, ON = "this gateway, everything off", "this gateway, keys, ledger and record on"
OFF_IN_ENVOY, ON_IN_ENVOY = f"{OFF}, in Envoy", f"{ON}, in Envoy"
OURS = (OFF, ON, OFF_IN_ENVOY, ON_IN_ENVOY)
REFERENCE = ON_IN_ENVOY
TARGETS = {ON: 2.0, "LiteLLM": 30.0, "Portkey": 4.0, "TensorZero": 0.5}
"""How many times as much as these the reference is to do for the same processor time."""
ADDED_TARGET_MS = 1.5
_PEERS: dict[str, Peer] = {one.name: one for one in PEERS}
_NONE = "–"


class Load(msgspec.Struct, frozen=True):
    """One way of asking. `model` is the stand-in's; a prompt has about `prompt_bytes`."""

    name: str
    model: str = "instant"
    stream: bool = False
    connections: int = 32
    prompt_bytes: int = 60
    times: int = 1
    """So many times as long as the others: one after the other they are few."""

    def body(self, model: str) -> str:
        words = "Say hello to everybody who is here. "
        prompt = words * max(1, self.prompt_bytes // len(words))
        asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.2}
        return json.dumps(asked | ({"stream": True} if self.stream else {}))


UNARY, STREAM = Load("unary"), Load("SSE, 100 events", stream=True)
LONE = Load("unary, 1 connection", connections=1, times=3)
LONE_STREAM = Load("SSE, 1 connection", stream=True, connections=1)
LOADS = (
    UNARY,
    STREAM,
    Load("20 KB prompt", prompt_bytes=20_000),
    Load("400 KB prompt", prompt_bytes=400_000, connections=8),
    Load("60 ms upstream", model=LATE, connections=64),
    LONE,
    LONE_STREAM,
)
PER_CORE = LOADS[:5]

Samples = dict[tuple[str, str], list[Sample]]
"""By target and load, a sample of each round."""


class Compared(msgspec.Struct, frozen=True):
    machine: str
    rounds: int
    samples: Samples
    rss_bytes: Mapping[str, int]
    names: Sequence[str]
    missing: Mapping[str, str]
    """Those that are not there, and why."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown [3]")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each figure [1.2]")
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 s each; rough figures")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write [bench/COMPARED.md]")
    options = parser.parse_args()
    rounds, seconds = (1, 0.3) if options.quick else (options.rounds, options.seconds)
    return 0 if written(lambda cores: measure(cores, rounds, seconds), page, options.output) is not None else 1


def measure(cores: Cores, rounds: int, seconds: float) -> Compared:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistats-compare-")))
        stand_in = stack.enter_context(upstream(cores))
        targets = {DIRECT: stand_in, FLOOR: stack.enter_context(floor(cores, directory / "floor"))}
        for name in OURS:
            environ = _IN_ENVOY if name in (OFF_IN_ENVOY, ON_IN_ENVOY) else {}
            module = "bench.unmetered" if name in (OFF, OFF_IN_ENVOY) else "server"
            place = directory / str(OURS.index(name))
            target = gateway(cores, place, stand_in.port, environ=environ, module=module)
            targets[name] = stack.enter_context(target)
        missing: dict[str, str] = {}
        for one in PEERS:
            if not one.is_installed:
                missing[one.name] = "not installed"
                continue
            try:
                targets[one.name] = stack.enter_context(peer(one, cores, directory / one.name, stand_in.port))
            except Failed as failure:
                missing[one.name] = str(failure).partition("\n")[0]
        samples: Samples = {}
        for name in list(targets):
            for load in LOADS:
                try:
                    _run(name, targets[name], load, cores, 0.3)
                except Failed as failure:
                    if name not in _PEERS:
                        raise
                    missing[f"{name}, {load.name}"] = str(failure).partition("\n")[2].partition("\n")[0] or "failed"
        names = list(targets)
        for number in range(rounds):
            for load in LOADS:
                print(f"bench: compare, round {number + 1} of {rounds}: {load.name}", file=sys.stderr, flush=True)
                for name in names if number % 2 else reversed(names):
                    if f"{name}, {load.name}" not in missing:
                        sample = _run(name, targets[name], load, cores, seconds * load.times)
                        samples.setdefault((name, load.name), []).append(sample)
        memory = {name: target.rss_bytes() for name, target in targets.items()}
    return Compared(description(), rounds, samples, memory, names, missing)


def _run(name: str, target: Target, load: Load, cores: Cores, seconds: float) -> Sample:
    path, model = CHAT, load.model
    if name in OURS:
        model = "bench/paid-late" if load.model == LATE else "bench/paid"
    elif name in _PEERS:
        path, model = _PEERS[name].path, _PEERS[name].model.format(load.model)
    spec = LoadSpec(
        port=target.port,
        path=path,
        body=load.body(model),
        headers=target.headers,
        connections=load.connections,
        duration_s=seconds,
    )
    return run_spec(f"{name}, {load.name}", spec, target, cores)


def page(compared: Compared) -> str:
    missing = "".join(f"\n- {what}: {why.strip()}." for what, why in compared.missing.items())
    return (
        "\n\n".join(
            (
                "# Compared\n\nWritten by `make bench-compare`;"
                " [docs/benchmarks.md](../docs/benchmarks.md) says how to read it.",
                f"{compared.machine}; interleaved rounds: {compared.rounds}, of which the medians are shown.",
                *((f"What is missing:\n{missing}",) if missing else ()),
                f"## Targets\n\n{_targets(compared)}",
                "## Requests a second of processor time\n\n" + table(_RATES_HEADER, _rates(compared)),
                "## One request at a time, memory and cost\n\n"
                + table(_LATENCY_HEADER, _latencies(compared))
                + f"\n\nCost: processor time of `{UNARY.name}`, at {CORE_HOUR_USD:g} USD for an hour of a core.",
                "## Latency added under load, p50 / p99 / p99.9 ms\n\n"
                + table(_RATES_HEADER, _under_load(compared))
                + "\n\nClosed loops: what was added is mostly the time that the other connections take, and follows"
                " from the rate; at constant arrival [it is less](LATENCY.md).",
            )
        )
        + "\n"
    )


_RATES_HEADER = ("", *(load.name for load in PER_CORE))
_LATENCY_HEADER = (
    *("", "p50 added ms", "p99 added ms", "p99.9 added ms", "first event added ms", "RSS MB", "USD a million requests"),
)


def _targets(compared: Compared) -> str:
    """Ratios of processor time hold on a busy machine too; time by itself does not."""
    rows = []
    for name, target in TARGETS.items():
        for load in (UNARY, STREAM):
            if (name, load.name) in compared.samples:
                ratio = _ratio(compared, name, load)
                rows.append(judged(f"over {name}: {load.name}", f"≥ {target:g} ×", f"{ratio:.2f} ×", ratio >= target))
    added_ms = _added_ms(compared, REFERENCE, LONE, _p50)
    had_core = median(sample.core_share for sample in compared.samples[REFERENCE, UNARY.name]) >= OWN_CORE
    met = added_ms <= ADDED_TARGET_MS if had_core else None
    rows.append(judged(f"p50 added, {LONE.name}", f"≤ {ADDED_TARGET_MS:g} ms", f"{added_ms:.1f} ms", met))
    return table((REFERENCE, "target", "measured", ""), rows)


def _ratio(compared: Compared, name: str, load: Load) -> float:
    """How many times as much the reference does for the same processor time, in the same rounds."""
    pairs = zip(compared.samples[REFERENCE, load.name], compared.samples[name, load.name], strict=True)
    return median(ours.per_core / its.per_core for ours, its in pairs)


def _rates(compared: Compared) -> list[list[str]]:
    """Of each load the rate, and how many times that of everything on it is."""
    rows = []
    for name in compared.names:
        if name == DIRECT:
            continue
        cells = []
        for load in PER_CORE:
            if (name, load.name) not in compared.samples:
                cells.append(_NONE)
                continue
            rate = _per_core(compared, name, load)
            times = "" if name == REFERENCE else f" ({_ratio(compared, name, load):.2g} ×)"
            cells.append(f"{rate:,.0f}{times}")
        rows.append([name, *cells])
    return rows


def _latencies(compared: Compared) -> list[list[str]]:
    rows = []
    for name in compared.names:
        rate = 0.0 if name == DIRECT else _per_core(compared, name, UNARY)
        rows.append(
            [
                name,
                *(_added(compared, name, LONE, of) for of in _PERCENTILES),
                _added(compared, name, LONE_STREAM, _first_event),
                f"{compared.rss_bytes[name] / 1e6:,.0f}" if rate else "",
                f"{1e6 / rate / 3600 * CORE_HOUR_USD:.3f}" if rate else "",
            ]
        )
    return rows


def _per_core(compared: Compared, name: str, load: Load) -> float:
    return median(sample.per_core for sample in compared.samples[name, load.name])


def _under_load(compared: Compared) -> list[list[str]]:
    return [
        [name, *(" / ".join(_added(compared, name, load, of) for of in _PERCENTILES) for load in PER_CORE)]
        for name in compared.names
        if name != DIRECT
    ]


def _added(compared: Compared, name: str, load: Load, figure: Callable[[Sample], float]) -> str:
    if (name, load.name) not in compared.samples:
        return _NONE
    return f"{_added_ms(compared, name, load, figure):.1f}"


def _added_ms(compared: Compared, name: str, load: Load, figure: Callable[[Sample], float]) -> float:
    """Over the stand-in's own, in the same round."""
    pairs = zip(compared.samples[name, load.name], compared.samples[DIRECT, load.name], strict=True)
    return 1000 * median(figure(its) - figure(direct) for its, direct in pairs)


def _p50(sample: Sample) -> float:
    return sample.load.latency.p50


def _p99(sample: Sample) -> float:
    return sample.load.latency.p99


def _p999(sample: Sample) -> float:
    return sample.load.latency.p999


def _first_event(sample: Sample) -> float:
    return sample.load.first_event.p50


_PERCENTILES = (_p50, _p99, _p999)


if __name__ == "__main__":
    sys.exit(main())
