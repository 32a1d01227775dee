"""Runs the load against what is measured and keeps what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, Literal, TypeVar

import msgspec

from bench.grpc_load import GrpcLoadSpec
from bench.load import LoadResult, LoadSpec
from bench.machine import Cores
from bench.stack import MODULE, ROOT, Failed, Target

Kind = Literal["chat", "responses", "responses-unstored", "grpc", "grpc-direct"]
CHAT = "/v1/chat/completions"
LOAD_LIMIT_S = 120.0
SAMPLE_INTERVAL_S = 0.25


class Scenario(msgspec.Struct, frozen=True):
    """One kind of request to one target. `compared_to` names the scenario whose latency is the direct call's."""

    name: str
    target: str
    kind: Kind = "chat"
    model: str = "instant:free"
    stream: bool = False
    connections: int = 32
    ramp_s: float = 0.0
    min_s: float = 0.0
    compared_to: str | None = None


class Sample(msgspec.Struct, frozen=True):
    """One run of a scenario: what the load saw, and the processor time of each part in seconds."""

    load: LoadResult
    cpu_s: dict[str, float]

    def cpu_us(self, part: str, per: int) -> float:
        return self.cpu_s.get(part, 0.0) / max(1, per) * 1e6

    @property
    def total_cpu_s(self) -> float:
        return sum(self.cpu_s.values())

    @property
    def per_core(self) -> float:
        """Requests per second of the gateway's processor time: what one core could do with nothing else on it."""
        return self.load.requests / self.total_cpu_s if self.total_cpu_s else 0.0

    @property
    def core_share(self) -> float:
        """How much of a core the processes measured had."""
        return self.total_cpu_s / self.load.elapsed_s


Samples = Mapping[str, list[Sample]]


def run(scenario: Scenario, target: Target, cores: Cores, duration_s: float) -> Sample:
    """One run, bounded. Raises Failed where any request failed."""
    duration_s = max(duration_s, scenario.min_s)
    is_grpc = scenario.kind in ("grpc", "grpc-direct")
    spec = (_grpc_spec if is_grpc else _spec)(scenario, target, duration_s)
    return run_spec(scenario.name, spec, target, cores)


def run_spec(name: str, spec: LoadSpec | GrpcLoadSpec, target: Target, cores: Cores) -> Sample:
    """One run, bounded. Raises Failed where any request failed."""
    before = target.cpu_s()
    result = send("bench.load" if isinstance(spec, LoadSpec) else "bench.grpc_load", spec, LoadResult, cores)
    after = target.cpu_s()
    if not result.requests:
        raise Failed(f"{name}: no request came to its end")
    return Sample(result, {part: after[part] - spent for part, spent in before.items()})


def body(kind: Kind, model: str, *, stream: bool) -> str:
    value: dict[str, object] = {"model": f"bench/{model}"}
    if kind == "chat":
        value["messages"] = [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Say hello."},
        ]
        value["temperature"] = 0.2
    else:
        value["input"] = "Say hello."
        if kind == "responses-unstored":
            value["store"] = False
    if stream:
        value["stream"] = True
    return json.dumps(value)


def _spec(scenario: Scenario, target: Target, duration_s: float) -> LoadSpec:
    return LoadSpec(
        port=target.port,
        path=CHAT if scenario.kind == "chat" else "/v1/responses",
        # The stand-in goes by the model that a provider is asked for.
        body=_direct_body(scenario)
        if not target.parts
        else body(scenario.kind, scenario.model, stream=scenario.stream),
        headers=target.headers,
        connections=scenario.connections,
        duration_s=duration_s,
        ramp_s=scenario.ramp_s,
    )


def _direct_body(scenario: Scenario) -> str:
    from bench.stack import PACED_MS, STREAM_EVENTS

    sent = body(scenario.kind, scenario.model, stream=scenario.stream)
    return sent.replace("bench/paced:free", f"slow-{STREAM_EVENTS}-{PACED_MS}")


def _grpc_spec(scenario: Scenario, target: Target, duration_s: float) -> GrpcLoadSpec:
    return GrpcLoadSpec(
        port=target.grpc_port if scenario.kind == "grpc-direct" else target.port,
        model=f"bench/{scenario.model}",
        authorization=target.headers["authorization"],
        stream=scenario.stream,
        connections=scenario.connections,
        duration_s=duration_s,
    )


Result = TypeVar("Result")


def send(module: str, spec: msgspec.Struct, kind: type[Result], cores: Cores, limit_s: float = LOAD_LIMIT_S) -> Result:
    """What a load of that module, on the load's core, saw. Raises Failed where it failed, or any request of it."""
    process = subprocess.run(
        (*MODULE, module),
        input=msgspec.json.encode(spec),
        cwd=ROOT,
        capture_output=True,
        timeout=limit_s,
        preexec_fn=lambda: os.sched_setaffinity(0, {cores.load}),
        check=False,
    )
    if process.returncode:
        raise Failed(process.stderr.decode(errors="replace")[-2000:])
    result: Any = msgspec.json.decode(process.stdout, type=kind)
    if result.failed:
        raise Failed(
            f"{result.failed} requests failed, the first with\n{process.stderr.decode(errors='replace')[-2000:]}"
        )
    found: Result = result
    return found


class Slow(msgspec.Struct, frozen=True):
    """Many streams at a time. Processor time and delay are those of the time while all were open."""

    streams: int
    load: LoadResult
    expected_events: int
    memory_per_stream_bytes: float
    window_s: float
    window_events: int
    window_cpu_s: dict[str, float]

    @property
    def lost(self) -> int:
        return self.expected_events - self.load.stamped


class _Sampler(threading.Thread):
    """Looks at a target's processes a few times a second."""

    def __init__(self, target: Target) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._stopping = threading.Event()
        self.cpu: list[tuple[float, dict[str, float]]] = []
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._stopping.wait(SAMPLE_INTERVAL_S):
            self.cpu.append((time.monotonic(), self._target.cpu_s()))
            self.peak_bytes = max(self.peak_bytes, self._target.rss_bytes())

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def run_slow(target: Target, cores: Cores, streams: int, events: int, ramp_s: float, base_bytes: int) -> Slow:
    """Hold `streams` open at a time; `base_bytes` is the memory that the target had before any."""
    spec = LoadSpec(
        port=target.port,
        path=CHAT,
        body=body("chat", "slow:free", stream=True),
        headers=target.headers,
        connections=streams,
        duration_s=0,
        once=True,
        ramp_s=ramp_s,
    )
    sampler = _Sampler(target)
    sampler.start()
    try:
        result = send("bench.load", spec, LoadResult, cores)
    finally:
        sampler.stop()
    inside = [(at, cpu) for at, cpu in sampler.cpu if result.full_from_s <= at <= result.full_until_s]
    (from_s, first), (until_s, last) = (inside[0], inside[-1]) if inside else ((0.0, {}), (0.0, {}))
    return Slow(
        streams=streams,
        load=result,
        expected_events=streams * events,
        memory_per_stream_bytes=(sampler.peak_bytes - base_bytes) / streams,
        window_s=until_s - from_s,
        window_events=round((until_s - from_s) * streams),  # one a second each
        window_cpu_s={name: last[name] - first[name] for name in last},
    )


def middle(values: Iterable[float]) -> float:
    """The median, 0 of nothing."""
    listed = list(values)
    return median(listed) if listed else 0.0
