"""A stream held back to its sentences: all of it comes through in order, nothing is shown unjudged, little is held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain.events import (
    ChoiceEnded,
    FinishReason,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.pipeline.hold import MAX_HELD_CHARS, MAX_PIECES, Hold, Piece

WORDS = st.sampled_from(
    ["one", "two ", "end. ", "Ha!", " ", "\n", "what?\n", "。", "日本", 'said." ', "1.5", "…", "x" * 400]
)
TEXTS = st.lists(WORDS, max_size=12).map("".join)
KINDS = st.sampled_from([PartKind.TEXT, PartKind.REASONING, PartKind.TOOL_CALL])
PARTS = st.lists(st.tuples(KINDS, TEXTS), min_size=1, max_size=4)


def delta(kind: PartKind, part: int, text: str) -> ProviderEvent:
    if kind is PartKind.TOOL_CALL:
        return ToolCallDelta(0, part, text)
    return TextDelta(0, part, text) if kind is PartKind.TEXT else ReasoningDelta(0, part, text)


@st.composite
def streams(draw: st.DrawFn) -> list[ProviderEvent]:
    """The parts of one choice, chunked anywhere; the calls at its end may be told at the same time."""
    events: list[ProviderEvent] = []
    for part, (kind, text) in enumerate(draw(PARTS)):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        events += [PartStarted(0, part, kind), *(delta(kind, part, piece) for piece in pieces), PartEnded(0, part)]
    return [*events, ChoiceEnded(0, FinishReason.STOP)]


def told(events: list[ProviderEvent]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta):
            texts[event.part] = texts.get(event.part, "") + event.text
        elif isinstance(event, ToolCallDelta):
            texts[event.part] = texts.get(event.part, "") + event.arguments
    return {part: text for part, text in texts.items() if text}


def structure(events: list[ProviderEvent]) -> list[ProviderEvent]:
    return [event for event in events if isinstance(event, PartStarted | PartEnded | ChoiceEnded)]


def shown(stream: list[ProviderEvent], judged: list[str]) -> list[ProviderEvent]:
    """What is shown of a stream, none of which is flagged; `judged` gets the texts that are judged."""
    hold, out = Hold(0), []
    for event in stream:
        hold.add(event)
        if hold.has_whole or hold.is_full:
            out += judged_and_shown(hold.take(unfinished=not hold.has_whole), judged)
        longest = len(max(told([event]).values(), default=""))
        held = sum(map(len, told(hold._events).values()))
        assert held < MAX_HELD_CHARS + longest
    return out + judged_and_shown(hold.take(unfinished=True), judged)


def judged_and_shown(pieces: list[Piece], judged: list[str]) -> list[ProviderEvent]:
    assert len(pieces) <= MAX_PIECES
    for piece in pieces:
        judged += piece.texts
        for text in told(piece.events).values():
            assert any(one.endswith(text) for one in piece.texts), "what is shown has been judged"
    return [event for piece in pieces for event in piece.events]


@given(streams())
def test_any_chunking_of_any_text_comes_through_whole_and_in_order(stream: list[ProviderEvent]) -> None:
    out = shown(stream, [])
    assert told(out) == told(stream)
    assert structure(out) == structure(stream)


@given(TEXTS, st.integers(1, 50))
def test_a_sentence_is_judged_as_a_whole_however_it_comes(before: str, size: int) -> None:
    """Between boundaries, and shorter than what may be held."""
    text = f"{before[:MAX_HELD_CHARS]}\nThe sentence to be judged. "
    stream: list[ProviderEvent] = [PartStarted(0, 0, PartKind.TEXT)]
    stream += [TextDelta(0, 0, text[start : start + size]) for start in range(0, len(text), size)]
    judged: list[str] = []
    shown([*stream, PartEnded(0, 0)], judged)
    assert any("The sentence to be judged." in one for one in judged)


def test_a_choice_that_is_cut_closes_what_was_shown() -> None:
    hold = Hold(1)
    for event in (PartStarted(1, 0, PartKind.TEXT), TextDelta(1, 0, "Fine. Not so")):
        hold.add(event)
    [begun, fine] = hold.take()
    hold.show([*begun.events, *fine.events])
    assert told(fine.events) == {0: "Fine. "}
    assert hold.end("moderation") == [
        PartEnded(1, 0), ChoiceEnded(1, FinishReason.CONTENT_FILTER, "moderation"),
    ]  # fmt: skip


def test_a_tool_call_is_not_begun_before_it_is_whole() -> None:
    hold = Hold(0)
    hold.add(PartStarted(0, 0, PartKind.TOOL_CALL, "call_1", "send"))
    hold.add(ToolCallDelta(0, 0, '{"text": "One. Two. '))
    assert not hold.has_whole
    hold.add(ToolCallDelta(0, 0, 'Three."}'))
    hold.add(PartEnded(0, 0))
    assert [piece.texts for piece in hold.take()] == [['{"text": "One. Two. Three."}']]
