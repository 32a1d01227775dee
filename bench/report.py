"""The figures as a page: targets first, then what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import msgspec

from bench import embeddings, money, router
from bench.measure import Sample, Samples, Scenario, Slow, middle

UNARY_TARGET = 0.45
EVENT_TARGET_US = 40.0
FIRST_EVENT_TARGET_MS = 5.0
MEMORY_TARGET_KB = 150.0
DELAY_TARGET_MS = 50.0
OWN_CORE = 0.9
"""Below this share of its core, what was measured had to share it."""
FLOOR = "floor: Envoy + echo"
_BUSY = (
    "Other programs had part of the gateway's core in this run, so that ratios and delays are rough and not judged."
    " Run it again on a quiet machine."
)


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
    money: money.Money
    embeddings: list[embeddings.Cost]
    routed: list[router.Cost]


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
        "## Keys, credit and the record\n\n" + table(money.HEADER, money.rows(results.money)) + _MONEY_NOTE,
        embeddings.TITLE + table(embeddings.HEADER, embeddings.rows(results.embeddings)) + embeddings.NOTE,
        "## The choice of a provider\n\n"
        + table(router.HEADER, router.rows(results.routed, results.samples["rest chat"]))
        + _ROUTER_NOTE,
        "## Stream events\n\n" + _events(results) + _EVENTS_NOTE,
        "## Slow streams, one event a second each\n\n" + _slow(results.slow) + _SLOW_NOTE,
    ]
    blocks += [
        f"## Processor time of the worker: {profile.name}\n\n{_profile(profile)}" for profile in results.profiles
    ]
    return "\n\n".join(blocks) + "\n"


_REQUESTS_NOTE = (
    "\n\n`of its core`: how much of it the processes measured had; well below 100 % on a row with 32 connections other"
    " programs took the rest. `a core`: requests for each second of the gateway's processor time, which is what a core"
    " with nothing else on it would do. `added`: against the stand-in called directly with as many connections; with a"
    " core that is busy all the time this is the queue of the other connections. The grpc rows have grpcio's own client"
    " on the other core, often the slower side: their processor time counts, their latency is mostly the client's."
)
_MONEY_NOTE = (
    "\n\n`on`: keys looked up, credit reserved before the provider is called, settled and recorded before the last byte"
    " leaves, each commit flushed to disk; `off`: none of it (`bench/unmetered.py`). `of off`: requests a second over"
    " those without in the same round, the median and the extremes of the rounds. `a core, of off`: the same by"
    " processor time of the gateway's processes; PostgreSQL's own is not in it, and runs on the load's core."
)
_ROUTER_NOTE = (
    "\n\nRanking with what is known of each candidate's health, and what one attempt notes of it, measured by itself on"
    " the gateway's core in each round (`bench/router.py`); `of a request`: of all the processor time that a request of"
    " `rest chat` took in the same round. That request has one candidate."
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
    """A row for each target. What depends on time is not judged where other programs had much of the core."""
    samples, timed = results.samples, _had_its_core(results)
    share = _share(samples, "rest chat")
    rows = [
        judged(
            "unary REST chat, requests a core, as a share of the echo floor",
            f"≥ {UNARY_TARGET}",
            f"{share:.2f}",
            share >= UNARY_TARGET if timed else None,
        )
    ]
    for what in ("at once", "paced"):
        cost = _event_us(samples, f"rest sse, {what}", "worker")
        rows.append(
            judged(
                f"processor time of an event beyond Envoy's, {what}",
                f"≤ {EVENT_TARGET_US:g} µs",
                f"{cost:.0f} µs",
                cost <= EVENT_TARGET_US,
            )
        )
    added = _added(results, "rest sse, paced", lambda sample: sample.load.first_event.p50)
    rows.append(
        judged(
            "first text added, median, 16 connections",
            f"≤ {FIRST_EVENT_TARGET_MS:g} ms",
            f"{added:.1f} ms",
            added <= FIRST_EVENT_TARGET_MS if timed else None,
        )
    )
    rows += _router_targets(results)
    rows += _money_targets(results.money)
    for slow in results.slow:
        rows += _slow_targets(slow, timed)
    targets = table(("what", "target", "measured", ""), rows)
    return targets if timed else f"{_BUSY}\n\n{targets}"


def _router_targets(results: Results) -> list[tuple[str, ...]]:
    """Processor time over processor time of the same round: judged however busy the core was."""
    rank_us = median(cost.rank_us[router.MANY] for cost in results.routed)
    share = router.share(results.routed, results.samples["rest chat"], router.USUAL)
    return [
        judged(
            f"ranking {router.MANY} candidates",
            f"< {router.RANK_TARGET_US:g} µs",
            f"{rank_us:.0f} µs",
            rank_us < router.RANK_TARGET_US,
        ),
        judged(
            f"the router's share of a request's processor time, {router.USUAL} candidates",
            f"≤ {router.SHARE_TARGET:.0%}",
            f"{share:.1%}",
            share <= router.SHARE_TARGET,
        ),
    ]


def _money_targets(found: money.Money) -> list[tuple[str, ...]]:
    """Both sides of a ratio had the same core in turns, so that they are judged however busy it was."""
    ratio = median(money.ratios(found, money.UNARY, money.ON))
    added_ms = median(money.added_ms(found, money.LONE, money.ON))
    return [
        judged(
            "unary REST chat with keys, credit and record, requests a second over those without",
            f"≥ {money.RATIO_TARGET}",
            f"{ratio:.2f}",
            ratio >= money.RATIO_TARGET,
        ),
        judged(
            "the same on one connection: added p50",
            f"≤ {money.ADDED_TARGET_MS:g} ms",
            f"{added_ms:.1f} ms",
            added_ms <= money.ADDED_TARGET_MS,
        ),
    ]


def _slow_targets(slow: Slow, timed: bool) -> list[tuple[str, ...]]:
    name = f"{slow.streams:,} slow streams"
    kb, delay_ms = slow.memory_per_stream_bytes / 1000, slow.load.full_delay.p99 * 1000
    return [
        judged(f"{name}: events lost", "0", str(slow.lost), slow.lost == 0),
        judged(f"{name}: memory each", f"< {MEMORY_TARGET_KB:g} KB", f"{kb:.0f} KB", kb < MEMORY_TARGET_KB),
        judged(
            f"{name}: delay, p99",
            f"< {DELAY_TARGET_MS:g} ms",
            f"{delay_ms:.1f} ms",
            delay_ms < DELAY_TARGET_MS if timed else None,
        ),
    ]


def judged(what: str, target: str, measured: str, met: bool | None) -> tuple[str, ...]:
    return what, target, measured, {True: "met", False: "**missed**", None: "not judged"}[met]


def _had_its_core(results: Results) -> bool:
    """Whether floor and gateway had their core to themselves when they could use all of it."""
    return all(
        middle(sample.core_share for sample in results.samples[name]) >= OWN_CORE for name in (FLOOR, "rest chat")
    )


def _requests(results: Results) -> str:
    rows = []
    for scenario in results.scenarios:
        found = results.samples[scenario.name]
        if scenario.target == "upstream" or scenario.model == "paced:free":
            continue

        def of(figure: Callable[[Sample], float], found: list[Sample] = found) -> float:
            return middle(map(figure, found))

        rows.append(
            (
                scenario.name,
                f"{of(lambda sample: sample.load.requests / sample.load.elapsed_s):,.0f}",
                f"{of(lambda sample: sample.core_share):.0%}",
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
    return table(header, rows)


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
    return table(("", "worker µs an event", "Envoy µs an event", "first text added ms"), rows)


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
    return table(header, rows)


def _profile(profile: Profile) -> str:
    rows = [
        (part, f"{share:.0%}", f"{share * profile.worker_us:.0f}") for part, share in profile.parts if share >= 0.005
    ]
    functions = "\n".join(f"    {share:5.1%}  {frame}" for frame, share in profile.functions)
    parts = table(("part, by innermost frame", "share", "µs a request"), rows)
    return (
        f"{parts}\n\nOf the time with Python's lock held; native code (grpc's core, uvloop) counts for the Python frame"
        f" that called it. The functions seen most:\n\n{functions}"
    )


def _share(samples: Samples, name: str) -> float:
    """Requests a core, over the floor's of the same round."""
    pairs = zip(samples[name], samples[FLOOR], strict=True)
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


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
