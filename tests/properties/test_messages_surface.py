"""The Messages surface under anything: no body breaks it, and no order of events breaks its stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.messages_decode import MessagesOrder, decode_count_tokens, decode_messages
from rest_bridge.messages_stream import MessagesStreamEncoder
from server.domain.errors import GatewayError
from server.domain.events import (
    ChoiceEnded,
    FinishReason,
    GenerationEvent,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.domain.request import Endpoint, GenerationRequest
from tests.fakes.rest import ARRIVAL, SETTLED, STARTED

ORDER = MessagesOrder(GenerationRequest(endpoint=Endpoint.MESSAGES, model="acme/test-1", turns=()))

_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_WORDS = """
    type text image source base64 url data media_type tool_use tool_result thinking signature id name input content
    role user assistant system cache_control ephemeral ttl is_error tool_use_id custom input_schema auto any
"""
_OPTIONAL = "system tools tool_choice thinking metadata output_config stream provider meta"

_names = st.sampled_from(_WORDS.split())
_values = st.recursive(
    _scalars | _names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names | st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
_blocks = st.dictionaries(_names, _values, max_size=5)
_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(_blocks) | st.text()}
    ),
    max_size=3,
)
_bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "max_tokens": st.integers(-1, 9), "messages": _messages | _values},
    optional=dict.fromkeys(_OPTIONAL.split(), _values),
)


@given(_bodies | _values)
def test_a_body_is_understood_or_refused(body: Any) -> None:
    for decode in (decode_messages, decode_count_tokens):
        try:
            decode(json.dumps(body).encode())
        except GatewayError as error:
            assert error.description  # noqa: PT017 - either outcome is right


@st.composite
def generations(draw: st.DrawFn) -> list[GenerationEvent]:
    """Parts of any kind, their deltas in any order between a part's beginning and its end."""
    kinds = draw(st.lists(st.sampled_from([PartKind.TEXT, PartKind.REASONING, PartKind.TOOL_CALL]), max_size=4))
    left = {number: draw(st.integers(0, 3)) for number in range(len(kinds))}
    begun: set[int] = set()
    events: list[GenerationEvent] = []
    while left:
        number = draw(st.sampled_from([number for number in left if number in begun or number == len(begun)]))
        if number not in begun:
            begun.add(number)
            events.append(PartStarted(0, number, kinds[number], f"c{number}", "f"))
        elif left[number]:
            left[number] -= 1
            events.append(_delta(kinds[number], number, draw(st.text(max_size=3))))
        else:
            del left[number]
            events.append(PartEnded(0, number))
    return [*events, ChoiceEnded(0, FinishReason.STOP)]


def _delta(kind: PartKind, number: int, said: str) -> GenerationEvent:
    if kind is PartKind.TEXT:
        return TextDelta(0, number, said)
    return ReasoningDelta(0, number, said) if kind is PartKind.REASONING else ToolCallDelta(0, number, said)


@given(generations(), st.integers(1, 5))
def test_blocks_follow_one_another_and_nothing_is_lost(events: list[GenerationEvent], size: int) -> None:
    encoder = MessagesStreamEncoder(ORDER, ARRIVAL)
    told = [STARTED, *events, SETTLED]
    batches = [told[at : at + size] for at in range(0, len(told), size)]
    data = b"".join([*map(encoder.encode, batches), encoder.end()])
    frames = [json.loads(frame.partition("\ndata: ")[2]) for frame in data.decode().split("\n\n")[:-1]]
    said = blocks_of(frames)
    for kind, field in (("text", "text"), ("thinking", "thinking")):
        expected = [
            event.text for event in events if isinstance(event, TextDelta | ReasoningDelta) and _is(event, kind)
        ]
        assert sorted("".join(expected)) == sorted("".join(block[field] for block in said if block["type"] == kind))
    calls = {
        f"c{event.part}": "" for event in events if isinstance(event, PartStarted) and event.kind is PartKind.TOOL_CALL
    }
    for event in events:
        if isinstance(event, ToolCallDelta):
            calls[f"c{event.part}"] += event.arguments
    assert {block["id"]: block["partial_json"] for block in said if block["type"] == "tool_use"} == calls


def _is(event: TextDelta | ReasoningDelta, kind: str) -> bool:
    return isinstance(event, TextDelta) == (kind == "text")


def blocks_of(frames: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a stream, of which one is open at a time."""
    assert [frame["type"] for frame in (frames[0], *frames[-2:])] == ["message_start", "message_delta", "message_stop"]
    blocks: list[dict[str, Any]] = []
    is_open = False
    for frame in frames[1:-2]:
        match frame["type"]:
            case "content_block_start":
                assert not is_open
                assert frame["index"] == len(blocks)
                blocks.append({"partial_json": "", **frame["content_block"]})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert frame["index"] == len(blocks) - 1
                [(field, value)] = [item for item in frame["delta"].items() if item[0] != "type"]
                blocks[-1][field] += value
            case other:
                assert other == "content_block_stop"
                assert is_open
                is_open = False
    assert not is_open
    return blocks
