"""What one worker counts. Every label comes from a closed set: methods, reasons, the catalogue's providers and models.

What callers make up themselves is never a label, nor is a team or a key.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from server.domain.health import HealthView
from server.domain.ledger import Hold, Ledger, Settlement
from server.domain.ports import Clock
from server.domain.record import GenerationRecord
from server.metrics.figures import Counter, Figure, Histogram, Labels, Sampled

__all__ = ["Meter", "MeteredLedger", "breakers", "status_class"]

LATENESS_EVERY_S: Final = 0.25

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LATE_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_CLASSES: Final = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")
_BREAKERS: Final = {"closed": 0, "half_open": 1, "open": 2}
_PAGE_BYTES: Final = resource.getpagesize()


class Meter:
    """The figures of a worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._requests = Counter(
            "aistats_requests_total",
            "Calls that ended, by method, class of the HTTP status, and reason where the answer was an error.",
            *("method", "status", "reason"),
        )
        self._request_seconds = Histogram(
            "aistats_request_seconds", "From a call's arrival to its end.", "method", bounds=_SECONDS
        )
        self._generations = Counter(
            "aistats_generations_total",
            "Generations on the record, those included that failed in mid-stream or whose client left.",
            *("endpoint", "status", "reason"),
        )
        self._attempts = Counter(
            "aistats_attempts_total",
            "Calls of providers; a model has its provider's name for it, the outcome is ok or what went wrong.",
            *("provider", "model", "outcome"),
        )
        self._first_token_seconds = Histogram(
            "aistats_first_token_seconds",
            "From a provider's being called to its first visible output, of streams that succeeded.",
            "provider",
            bounds=_SECONDS,
        )
        self._generation_seconds = Histogram(
            "aistats_generation_seconds",
            "From a provider's being called to its last byte, of generations that succeeded.",
            "provider",
            bounds=_SECONDS,
        )
        self._charged = Counter(
            "aistats_charged_nano_usd_total", "What teams were charged, in billionths of a dollar.", "provider"
        )
        self._tokens = Counter("aistats_tokens_total", "Tokens used; cached ones are input too.", "provider", "kind")
        self._lateness = Histogram(
            "aistats_loop_lateness_seconds", "How late the event loop woke a timer.", bounds=_LATE_SECONDS
        )
        started_at = clock.now()
        self._figures: list[Figure] = [
            self._requests,
            self._request_seconds,
            self._generations,
            self._attempts,
            self._first_token_seconds,
            self._generation_seconds,
            self._charged,
            self._tokens,
            self._lateness,
            Sampled("aistats_loop_tasks", "Tasks of the event loop that have not ended.", read=_tasks),
            Sampled("aistats_python_blocks", "Blocks of memory that Python's objects occupy.", read=_blocks),
            Sampled("process_start_time_seconds", "When the process began, since 1970.", read=lambda: {(): started_at}),
            Sampled("process_cpu_seconds_total", "Processor time used.", read=_cpu_seconds, kind="counter"),
            Sampled("process_resident_memory_bytes", "Memory that is resident.", read=_resident_bytes),
            Sampled("process_open_fds", "File descriptors that are open.", read=_open_descriptors),
        ]

    def add(self, *figures: Figure) -> None:
        """Have these told as well."""
        self._figures += figures

    def called(self, method: str, status: int, reason: str, took_s: float) -> None:
        """A call has ended. `method` is a full name, `status` as HTTP has it, `reason` empty where all went well."""
        name = method.rpartition(".")[2]
        self._requests.add((name, status_class(status), reason))
        self._request_seconds.observe((name,), took_s)

    def settled(self, settlement: Settlement) -> None:
        """A generation has been handed to the ledger."""
        record = settlement.record
        self._generations.add((record.endpoint, status_class(record.status_code), record.error_code or ""))
        if record.attempts:
            self._attempted(record, is_charged=settlement.charge_nanos is not None)

    def _attempted(self, record: GenerationRecord, *, is_charged: bool) -> None:
        for attempt in record.attempts:
            self._attempts.add((attempt.provider, attempt.provider_model, attempt.error_code or "ok"))
            if is_charged and attempt.cost_nanos:
                self._charged.add((attempt.provider,), attempt.cost_nanos)
        provider, usage = record.provider or "", record.usage
        if record.success and record.generation_ms is not None and record.latency_ms is not None:
            self._generation_seconds.observe((provider,), record.generation_ms / 1000.0)
            if record.stream:
                self._first_token_seconds.observe((provider,), record.latency_ms / 1000.0)
        if usage is not None:
            self._tokens.add((provider, "input"), usage.input_tokens)
            self._tokens.add((provider, "output"), usage.output_tokens)
            if usage.cached_input_tokens:
                self._tokens.add((provider, "cached_input"), usage.cached_input_tokens)
            if usage.reasoning_tokens:
                self._tokens.add((provider, "reasoning"), usage.reasoning_tokens)

    async def watch_loop(self) -> None:
        """Measure the event loop's lateness for ever."""
        while True:
            due_s = self._clock.monotonic() + LATENESS_EVERY_S
            await asyncio.sleep(LATENESS_EVERY_S)
            self._lateness.observe((), max(0.0, self._clock.monotonic() - due_s))

    def snapshot(self) -> bytes:
        """All families, as JSON."""
        return msgspec.json.encode([figure.family() for figure in self._figures])


class MeteredLedger:
    """A ledger whose settlements are counted as they are handed over. Implements `server.domain.ledger.Ledger`."""

    def __init__(self, ledger: Ledger, meter: Meter) -> None:
        self._ledger = ledger
        self._meter = meter

    async def reserve(self, hold: Hold) -> None:
        await self._ledger.reserve(hold)

    def settle(self, settlement: Settlement) -> Awaitable[None]:
        self._meter.settled(settlement)
        return self._ledger.settle(settlement)


def breakers(view: HealthView) -> Mapping[Labels, int]:
    """By provider: 0 closed, 1 half open, 2 open."""
    return {(provider.id,): _BREAKERS[provider.breaker.state] for provider in view.providers()}


def status_class(status: int) -> str:
    return _CLASSES[status // 100] if 100 <= status < 600 else _CLASSES[0]


def _cpu_seconds() -> Mapping[Labels, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {(): used.ru_utime + used.ru_stime}


def _resident_bytes() -> Mapping[Labels, int]:
    try:
        return {(): int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES}
    except OSError:  # not on Linux
        return {}


def _tasks() -> Mapping[Labels, int]:
    try:
        return {(): len(asyncio.all_tasks())}
    except RuntimeError:  # no loop asks
        return {}


def _blocks() -> Mapping[Labels, int]:
    return {(): sys.getallocatedblocks()}


def _open_descriptors() -> Mapping[Labels, int]:
    try:
        return {(): len(os.listdir("/proc/self/fd"))}
    except OSError:
        return {}
