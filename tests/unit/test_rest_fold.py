"""A whole generation from its events."""

from __future__ import annotations

from contextlib import aclosing

import msgspec
import pytest

from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.fold import Fold, WholeChoice, WholePart, fold, join_arrays
from server.domain.identity import Scope
from server.domain.request import Endpoint, GenerationRequest
from tests.fakes.rest import ARRIVAL, KEY, SETTLED, STARTED, USAGE, OpenDoor, ScriptedGenerate, text_events, whole


def test_parts_grow_among_each_other() -> None:
    note = msgspec.Raw(b'{"type":"url_citation"}')
    item = OpaqueItem(msgspec.Raw(b'{"type":"web_search_call"}'))
    folded = Fold()
    folded.add([STARTED, PartStarted(0, 0, PartKind.REASONING), ReasoningDelta(0, 0, "Hm", "c2"), item])
    folded.add([PartStarted(1, 0, PartKind.TEXT), PartStarted(0, 1, PartKind.TEXT), TextDelta(0, 1, "a")])
    folded.add([TextDelta(1, 0, "other", msgspec.Raw(b"[1]")), ReasoningDelta(0, 0, ".", "ln"), PartEnded(0, 0)])
    folded.add([PartStarted(0, 2, PartKind.TOOL_CALL, "call_1", "f"), ToolCallDelta(0, 2, "{"), TextDelta(0, 1, "b")])
    folded.add(
        [AnnotationAdded(0, 1, note), ToolCallDelta(0, 2, "}"), UsageReported(USAGE), ChoiceEnded(1, FinishReason.STOP)]
    )
    folded.add([ChoiceEnded(0, FinishReason.OTHER, "odd"), Completed(), SETTLED])
    generation = folded.whole()
    reasoning = WholePart(PartKind.REASONING, "Hm.", signature="c2ln")
    text = WholePart(PartKind.TEXT, "ab", annotations=(note,))
    call = WholePart(PartKind.TOOL_CALL, "{}", call_id="call_1", name="f")
    assert generation.choices == (
        WholeChoice(0, (reasoning, text, call), FinishReason.OTHER, "odd"),
        WholeChoice(1, (WholePart(PartKind.TEXT, "other", logprobs=msgspec.Raw(b"[1]")),), FinishReason.STOP),
    )
    assert generation.output == (reasoning, item, text, call)
    assert (generation.started, generation.settled) == (STARTED, SETTLED)


async def test_a_stream_is_read_to_its_end() -> None:
    generate = ScriptedGenerate(*whole(*text_events("a", "b")))
    call = await OpenDoor().authenticate(ARRIVAL, KEY, Scope.INFERENCE)
    async with aclosing(generate(call, GenerationRequest(endpoint=Endpoint.CHAT, model="a/b", turns=()))) as stream:
        generation = await fold(stream)
    assert [part.text for choice in generation.choices for part in choice.parts] == ["ab"]


def test_there_is_no_whole_before_the_last_event() -> None:
    folded = Fold()
    folded.add([STARTED, *text_events("a")])
    with pytest.raises(ValueError, match="has not ended"):
        folded.whole()


def test_a_delta_of_a_part_that_never_began_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Fold().add([TextDelta(0, 0, "a")])


@pytest.mark.parametrize(
    ("arrays", "joined"),
    [
        ([], b"[]"),
        ([b"[]", b" [ ] "], b"[]"),
        ([b"[1.50]", b"[]", b'[ {"a":\n1}, 2 ]'], b'[1.50,{"a":\n1}, 2]'),
    ],
)
def test_arrays_are_joined_as_they_were_written(arrays: list[bytes], joined: bytes) -> None:
    assert bytes(join_arrays([msgspec.Raw(array) for array in arrays])) == joined
