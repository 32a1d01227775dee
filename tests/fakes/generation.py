"""A stand-in for the pipeline: plays scripted events, and notes what was asked of it and how it ended."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from server.domain.events import (
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationStream,
    PartEnded,
    PartKind,
    PartStarted,
    Settled,
    Started,
    TextDelta,
    UsageReported,
)
from server.domain.identity import Call
from server.domain.money import Pricing, PricingLine
from server.domain.request import GenerationRequest
from server.domain.usage import Meta, RoutingRow, Usage

USAGE = Usage(input_tokens=9, output_tokens=4, cached_input_tokens=2)
META = Meta("acme", "test-1", "cmpl-1", 12.5, 40.0, 100.0, 1.5, 1, (RoutingRow("acme", "chosen", 1.0),))
PRICING = Pricing((PricingLine("input_text_tokens", 9, 200_000_000, 1800),), 1800)
SETTLED = Settled(msgspec.structs.replace(USAGE, pricing=PRICING), META, "default")

Batch: TypeAlias = Sequence[GenerationEvent]
Step: TypeAlias = Batch | float | threading.Event | BaseException
"""A batch to yield, seconds to sleep, what the test sets for it to go on, or what to raise."""


def says(*texts: str) -> list[Batch]:
    """The batches of one whole text answer, a batch a delta."""
    return [
        [Started("cmpl-1", "test-1"), PartStarted(0, 0, PartKind.TEXT)],
        *([TextDelta(0, 0, text)] for text in texts),
        [PartEnded(0, 0), ChoiceEnded(0, FinishReason.STOP, "stop"), UsageReported(USAGE), Completed()],
        [SETTLED],
    ]


def endless(text: str = "x") -> list[Step]:
    """A text that goes on until its reader leaves; `ScriptedGenerate` repeats the last batch."""
    return [[Started(), PartStarted(0, 0, PartKind.TEXT)], [TextDelta(0, 0, text)]]


class ScriptedGenerate:
    """A `server.domain.ports.Generate`. `reset` it before a call; `repeat_s` repeats its last batch so often."""

    def __init__(self) -> None:
        self.script: Sequence[Step] = says("Hello")
        self.repeat_s: float | None = None
        self.requests: list[tuple[Call, GenerationRequest]] = []
        self.events_sent = 0
        self.open = 0
        self.closed_at = 0.0
        self.closed = threading.Event()

    def reset(self, *script: Step, repeat_s: float | None = None) -> None:
        self.__init__()  # type: ignore[misc]  # back to the beginning, as the same object
        self.script = script
        self.repeat_s = repeat_s

    async def __call__(self, call: Call, request: GenerationRequest) -> GenerationStream:
        self.requests.append((call, request))
        self.open += 1
        try:
            last: Batch = ()
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                if isinstance(step, threading.Event):
                    assert await asyncio.to_thread(step.wait, 30)
                    continue
                last = step
                self.events_sent += len(step)
                yield step
            while self.repeat_s is not None:
                await asyncio.sleep(self.repeat_s)
                self.events_sent += len(last)
                yield last
        finally:
            self.open -= 1
            self.closed_at = time.monotonic()
            self.closed.set()
