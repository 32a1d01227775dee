"""The figures as a page: targets first, then what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.measure import Sample, Samples, Scenario, Slow, middle

UNARY_TARGET = 0.45
EVENT_TARGET_US = 40.0
FIRST_EVENT_TARGET_MS = 5.0
MEMORY_TARGET_KB = 150.0
DELAY_TARGET_MS = 50.0


class Profile(msgspec.Struct, frozen=True):
    """What a worker did under one load: shares of its processor time, and that time for each request."""

    name: str
    worker_us: float
    parts: list[tuple[str, float]]
    functions: list[tuple[str, float]]


class Results(msgspec.Struct, frozen=True):
    """Everything of one run of `make bench`."""

    machine: str
    version: str
    rounds: int
    run_s: float
    scenarios: list[Scenario]
    samples: dict[str, list[Sample]]
    slow: list[Slow]
    profiles: list[Profile]


_INTRODUCTION = (
    "# Results\n\nWritten by `make bench`; [docs/benchmarks.md](../docs/benchmarks.md) says how it is measured and"
    " how to read it."
)


def page(results: Results) -> str:
    """bench/RESULTS.md."""
    blocks = [
        _INTRODUCTION,
        f"{results.machine}; {results.version}.\n\n{results.rounds} interleaved rounds of {results.run_s:g} s a figure,"
        " medians; the gateway (Envoy and one worker) on one core, load and stand-in on another.",
        "## Targets\n\n" + _targets(results),
        "## Requests\n\n" + _requests(results) + _REQUESTS_NOTE,
        "## Stream events\n\n" + _events(results) + _EVENTS_NOTE,
        "## Slow streams, one event a second each\n\n" + _slow(results.slow) + _SLOW_NOTE,
    ]
    blocks += [
        f"## Processor time of the worker: {profile.name}\n\n{_profile(profile)}" for profile in results.profiles
    ]
    return "\n\n".join(blocks) + "\n"


_REQUESTS_NOTE = (
    "\n\n`of its core`: how much of it the processes measured had; well below 100 % on a row with 32 connections other"
    " programs took the rest, and the figures are rough. `a core`: requests for each second of the gateway's processor"
    " time, which is what a core with nothing else on it would do. `added`: against the stand-in called directly with"
    " as many connections; with a core that is busy all the time this is the queue of the other connections. The grpc"
    " rows have grpcio's own client on the other core, often the slower side: their processor time counts, their"
    " latency is mostly the client's."
)
_EVENTS_NOTE = (
    "\n\n`at once`: the provider sends all events in one write. `paced`: one every 10 ms, each on its own way through."
    " `first text added`: the median time to the first text, against the stand-in called directly."
)
_SLOW_NOTE = (
    "\n\nDelay: from the stand-in's write to the client's read, over all events while all streams were open."
    " Memory: the most that Envoy and worker held, over what they held before the first of these streams."
)


def _targets(results: Results) -> str:
    samples = results.samples
    rows = [
        _verdict(
            "unary REST chat, requests a core, as a share of the echo floor",
            f"≥ {UNARY_TARGET}",
            f"{_share(samples, 'rest chat'):.2f}",
            _share(samples, "rest chat") >= UNARY_TARGET,
        )
    ]
    once, paced = (_event_us(samples, name, "worker") for name in ("rest sse, at once", "rest sse, paced"))
    bare = _event_us(samples, "floor: echo, paced", "worker")
    for what, cost in (("at once", once), ("paced", paced), ("paced, over a bare grpc.aio stream", paced - bare)):
        rows.append(
            _verdict(
                f"processor time of an event beyond Envoy's, {what}",
                f"≤ {EVENT_TARGET_US:g} µs",
                f"{cost:.0f} µs",
                cost <= EVENT_TARGET_US,
            )
        )
    added = _added(results, "rest sse, paced", lambda sample: sample.load.first_event.p50)
    rows.append(
        _verdict(
            "first text added, median, 16 connections",
            f"≤ {FIRST_EVENT_TARGET_MS:g} ms",
            f"{added:.1f} ms",
            added <= FIRST_EVENT_TARGET_MS,
        )
    )
    for slow in results.slow:
        kb, delay = slow.memory_per_stream_bytes / 1000, slow.load.full_delay.p99 * 1000
        rows.append(_verdict(f"{slow.streams:,} slow streams: events lost", "0", str(slow.lost), slow.lost == 0))
        rows.append(
            _verdict(
                f"{slow.streams:,} slow streams: memory each",
                f"< {MEMORY_TARGET_KB:g} KB",
                f"{kb:.0f} KB",
                kb < MEMORY_TARGET_KB,
            )
        )
        rows.append(
            _verdict(
                f"{slow.streams:,} slow streams: delay, p99",
                f"< {DELAY_TARGET_MS:g} ms",
                f"{delay:.1f} ms",
                delay < DELAY_TARGET_MS,
            )
        )
    return _table(("what", "target", "measured", ""), rows)


def _verdict(what: str, target: str, measured: str, met: bool) -> tuple[str, ...]:
    return what, target, measured, "met" if met else "**missed**"


def _requests(results: Results) -> str:
    rows = []
    for scenario in results.scenarios:
        found = results.samples[scenario.name]
        if scenario.target == "upstream" or scenario.model == "paced":
            continue

        def of(figure: Callable[[Sample], float], found: list[Sample] = found) -> float:
            return middle(map(figure, found))

        rows.append(
            (
                scenario.name,
                f"{of(lambda sample: sample.load.requests / sample.load.elapsed_s):,.0f}",
                f"{of(lambda sample: sample.total_cpu_s / sample.load.elapsed_s):.0%}",
                f"{of(lambda sample: sample.per_core):,.0f}",
                f"{_share(results.samples, scenario.name):.2f}",
                f"{of(lambda sample: sample.cpu_us('envoy', sample.load.requests)):,.0f}",
                f"{of(lambda sample: sample.cpu_us('worker', sample.load.requests)):,.0f}",
                f"{_added(results, scenario.name, lambda sample: sample.load.latency.p50):.1f}",
                f"{_added(results, scenario.name, lambda sample: sample.load.latency.p99):.1f}",
            )
        )
    header = (
        "",
        "requests/s",
        "of its core",
        "a core",
        "of the floor",
        "Envoy µs",
        "worker µs",
        "added p50 ms",
        "added p99 ms",
    )
    return _table(header, rows)


def _events(results: Results) -> str:
    rows = []
    for scenario in results.scenarios:
        if not scenario.stream or scenario.target == "upstream":
            continue
        name = scenario.name
        rows.append(
            (
                f"{name} ({scenario.connections} connections)",
                f"{_event_us(results.samples, name, 'worker'):.0f}",
                f"{_event_us(results.samples, name, 'envoy'):.0f}",
                f"{_added(results, name, lambda sample: sample.load.first_event.p50):.1f}",
            )
        )
    return _table(("", "worker µs an event", "Envoy µs an event", "first text added ms"), rows)


def _slow(runs: Sequence[Slow]) -> str:
    rows = []
    for run in runs:
        delay = run.load.full_delay
        cost = {name: spent / max(1, run.window_events) * 1e6 for name, spent in run.window_cpu_s.items()}
        rows.append(
            (
                f"{run.streams:,}",
                f"{run.load.stamped:,} of {run.expected_events:,}",
                f"{run.memory_per_stream_bytes / 1000:.0f}",
                f"{delay.p50 * 1000:.1f}",
                f"{delay.p99 * 1000:.1f}",
                f"{delay.max * 1000:.0f}",
                f"{run.load.delay.p99 * 1000:.0f}",
                f"{cost.get('worker', 0):.0f}",
                f"{cost.get('envoy', 0):.0f}",
            )
        )
    header = (
        *("streams", "events", "KB a stream", "delay p50 ms", "p99 ms", "max ms", "p99 with the start ms"),
        *("worker µs an event", "Envoy µs an event"),
    )
    return _table(header, rows)


def _profile(profile: Profile) -> str:
    rows = [
        (part, f"{share:.0%}", f"{share * profile.worker_us:.0f}") for part, share in profile.parts if share >= 0.005
    ]
    functions = "\n".join(f"    {share:5.1%}  {frame}" for frame, share in profile.functions)
    table = _table(("part, by innermost frame", "share", "µs a request"), rows)
    return (
        f"{table}\n\nOf the time with Python's lock held; native code (grpc's core, uvloop) counts for the Python frame"
        f" that called it. The functions seen most:\n\n{functions}"
    )


def _share(samples: Samples, name: str) -> float:
    """Requests a core, over the floor's of the same round."""
    pairs = zip(samples[name], samples["floor: Envoy + echo"], strict=True)
    return middle(sample.per_core / floor.per_core for sample, floor in pairs if floor.per_core)


def _event_us(samples: Samples, name: str, part: str) -> float:
    return middle(sample.cpu_us(part, sample.load.events) for sample in samples[name])


def _added(results: Results, name: str, figure: Callable[[Sample], float]) -> float:
    """Milliseconds over the direct call of the same round."""
    direct = next(scenario.compared_to for scenario in results.scenarios if scenario.name == name)
    if direct is None:
        return 0.0
    pairs = zip(results.samples[name], results.samples[direct], strict=True)
    return middle((figure(sample) - figure(base)) * 1000 for sample, base in pairs)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
