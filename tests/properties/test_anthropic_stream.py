"""The anthropic dialect whatever the message, and wherever its stream is cut."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.domain.events import Completed, UsageReported
from server.domain.seals import SealedThought, SealKind, sealed, unsealed
from tests.fakes.anthropic_wire import events_of, message, redacted, text, thinking, tool_use, usage
from tests.unit.anthropic_cases import both, decoded

WORDS = st.text(max_size=40)
SEALS = st.one_of(st.from_regex(r"[A-Za-z0-9+/]{1,40}={0,2}", fullmatch=True), st.text(min_size=1, max_size=20))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS, lambda inner: st.lists(inner, max_size=3)
)
COUNTS = st.integers(0, 2**40)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    ids = iter(range(100))
    block = st.one_of(
        WORDS.map(text),
        st.builds(thinking, WORDS, SEALS),
        SEALS.map(redacted),
        st.dictionaries(WORDS, JSON, max_size=3).map(lambda given: tool_use("f", given, id=f"toolu_{next(ids)}")),
    )
    return message(
        *draw(st.lists(block, max_size=6)),
        stop_reason=draw(st.sampled_from(["end_turn", "max_tokens", "tool_use", "refusal", "new"])),
        usage_=usage(draw(COUNTS), draw(COUNTS), read=draw(COUNTS), written=draw(COUNTS)),
    )


@given(messages(), st.integers(1, 9))
def test_a_message_is_the_same_whole_and_in_any_pieces(said: dict[str, Any], pieces: int) -> None:
    answer = both(said, pieces)

    assert answer.usage is not None
    counted = said["usage"]
    beside = counted["cache_read_input_tokens"] + counted["cache_creation_input_tokens"]
    assert answer.usage.input_tokens == counted["input_tokens"] + beside


@given(messages(), st.data())
def test_a_stream_cut_anywhere_before_its_reason_never_completes(said: dict[str, Any], data: st.DataObject) -> None:
    events = events_of(said)
    out, failure = decoded(events[: data.draw(st.integers(0, len(events) - 3))])

    assert failure is not None
    assert not [event for event in out if isinstance(event, Completed)]
    assert [event.usage.output_tokens for event in out if isinstance(event, UsageReported)] in ([], [0])


THOUGHTS = st.one_of(
    st.builds(SealedThought, st.just("thinking"), WORDS, SEALS),
    st.builds(SealedThought, st.just("redacted"), st.just(""), SEALS),
)


@given(st.lists(THOUGHTS, min_size=1, max_size=6))
def test_thoughts_that_a_client_joined_are_told_apart(thoughts: list[SealedThought]) -> None:
    values = []
    for number, thought in enumerate(thoughts):
        kind: SealKind = thought.kind
        values.append(sealed(kind, len(thought.text), thought.seal, first=number == 0))

    assert list(unsealed("".join(thought.text for thought in thoughts), "".join(values))) == thoughts
