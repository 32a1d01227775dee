"""A stream of events folded into one whole generation: what a unary reply tells, from the same events as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, assert_never

import msgspec

from server.domain.events import (
    AnnotationAdded,
    AudioDelta,
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationStream,
    ImagePartial,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    Produced,
    ReasoningDelta,
    Settled,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.request import RawJson


class WholePart(msgspec.Struct, frozen=True):
    """One part of a choice. `text` is what its deltas said: text, refusal, reasoning, arguments or a tool's input.

    `logprobs` is a JSON array of OpenAI's token objects, None where the provider gave none.
    """

    kind: PartKind
    text: str = ""
    call_id: str = ""
    name: str = ""
    signature: str = ""
    annotations: tuple[RawJson, ...] = ()
    logprobs: RawJson | None = None


class WholeChoice(msgspec.Struct, frozen=True):
    """`parts` are in the order of their numbers."""

    index: int
    parts: tuple[WholePart, ...]
    reason: FinishReason
    native_reason: str = ""
    stop_sequence: str | None = None


Output: TypeAlias = WholePart | OpaqueItem


class WholeGeneration(msgspec.Struct, frozen=True):
    """Everything that a generation said. `choices` are in the order of their indices.

    `output` is what choice 0 holds, with a provider's opaque items, in the order in which they began.
    """

    started: Started
    choices: tuple[WholeChoice, ...]
    output: tuple[Output, ...]
    settled: Settled


class _OpenPart:
    """A part that is still growing; the pieces are joined once."""

    __slots__ = ("annotations", "logprobs", "pieces", "signature", "start")

    def __init__(self, start: PartStarted) -> None:
        self.start: Final = start
        self.pieces: list[str] = []
        self.signature: list[str] = []
        self.annotations: list[RawJson] = []
        self.logprobs: list[RawJson] = []

    def whole(self) -> WholePart:
        return WholePart(
            kind=self.start.kind,
            text="".join(self.pieces),
            call_id=self.start.call_id,
            name=self.start.name,
            signature="".join(self.signature),
            annotations=tuple(self.annotations),
            logprobs=join_arrays(self.logprobs) if self.logprobs else None,
        )


class Fold:
    """Takes events in as they come, and gives the whole at the end."""

    def __init__(self) -> None:
        self._started = Started()
        self._parts: dict[tuple[int, int], _OpenPart] = {}
        self._output: list[_OpenPart | OpaqueItem] = []
        self._ends: dict[int, ChoiceEnded] = {}
        self._settled: Settled | None = None

    def add(self, events: Sequence[GenerationEvent]) -> None:
        """Raises KeyError for an event of a part that never began: a provider's stream never holds one."""
        for event in events:
            self._add(event)

    def _add(self, event: GenerationEvent) -> None:
        match event:
            case TextDelta():
                part = self._parts[event.choice, event.part]
                part.pieces.append(event.text)
                if event.logprobs is not None:
                    part.logprobs.append(event.logprobs)
            case ReasoningDelta():
                part = self._parts[event.choice, event.part]
                part.pieces.append(event.text)
                part.signature.append(event.signature)
            case ToolCallDelta():
                self._parts[event.choice, event.part].pieces.append(event.arguments)
            case AnnotationAdded():
                self._parts[event.choice, event.part].annotations.append(event.annotation)
            case PartStarted():
                part = self._parts[event.choice, event.part] = _OpenPart(event)
                if event.choice == 0:
                    self._output.append(part)
            case OpaqueItem():
                self._output.append(event)
            case ChoiceEnded():
                self._ends[event.choice] = event
            case Started():
                self._started = event
            case Settled():
                self._settled = event
            case PartEnded() | AudioDelta() | ImagePartial() | Produced() | UsageReported() | Completed():
                pass
            case _:
                assert_never(event)

    def whole(self) -> WholeGeneration:
        """What has been told. Raises ValueError before the last event."""
        if self._settled is None:
            raise ValueError("the generation has not ended")
        return WholeGeneration(
            started=self._started,
            choices=self.choices(),
            output=tuple(item if isinstance(item, OpaqueItem) else item.whole() for item in self._output),
            settled=self._settled,
        )

    def choices(self) -> tuple[WholeChoice, ...]:
        """What has been told of the choices so far, those that have not ended included."""
        begun = {choice: ChoiceEnded(choice, FinishReason.OTHER) for choice, _ in self._parts}
        return tuple(self._choice(end) for _, end in sorted((begun | self._ends).items()))

    def _choice(self, end: ChoiceEnded) -> WholeChoice:
        numbers = sorted(part for choice, part in self._parts if choice == end.choice)
        return WholeChoice(
            index=end.choice,
            parts=tuple(self._parts[end.choice, number].whole() for number in numbers),
            reason=end.reason,
            native_reason=end.native_reason,
            stop_sequence=end.stop_sequence,
        )


async def fold(stream: GenerationStream) -> WholeGeneration:
    """Read a generation to its end. Raises what the stream raises; the caller closes it."""
    folded = Fold()
    async for batch in stream:
        folded.add(batch)
    return folded.whole()


def join_arrays(arrays: Sequence[RawJson]) -> RawJson:
    """One JSON array of the elements of several, each kept as it was written."""
    inner = (bytes(array).strip()[1:-1].strip() for array in arrays)
    return msgspec.Raw(b"[" + b",".join(elements for elements in inner if elements) + b"]")
