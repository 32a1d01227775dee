"""Whatever a provider says: the object is the fold of the chunks, and batches make no difference. Whatever a client
sends: it is understood, or refused as the contract says.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from rest_bridge.chat_decode import ChatOrder, decode_chat
from rest_bridge.chat_encode import ChatStreamEncoder, encode_completion
from rest_bridge.errors import error_response
from server.domain.errors import GatewayError
from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    GenerationEvent,
    PartEnded,
    PartKind,
    PartStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.domain.fold import Fold
from server.domain.request import Endpoint, GenerationRequest, Text
from tests.fakes.rest import ARRIVAL, SETTLED, STARTED

ORDER = ChatOrder(
    GenerationRequest(endpoint=Endpoint.CHAT, model="acme/test-1", turns=(), stream=True),
    wants_meta=True,
    wants_usage=True,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CALLS = (PartKind.TOOL_CALL, PartKind.CUSTOM_TOOL_CALL)
THOUGHTS = (PartKind.REASONING, PartKind.REASONING_SUMMARY)


@st.composite
def generations(draw: st.DrawFn) -> list[GenerationEvent]:
    """A valid generation: up to three choices whose parts open, grow and close in any order and among each other.

    Only tool calls run in parallel with their like: no provider speaks two texts at once.
    """
    events: list[GenerationEvent] = [STARTED]
    choices = draw(st.integers(1, 3))
    counts = [0] * choices
    open_parts: dict[tuple[int, int], PartKind] = {}
    for _ in range(draw(st.integers(0, 30))):
        action = draw(st.sampled_from(["start", "delta", "delta", "delta", "end"]))
        if action == "start":
            choice = draw(st.integers(0, choices - 1))
            kind, part = draw(st.sampled_from(PartKind)), counts[choice]
            speaking = {told_as(open_kind) for (where, _), open_kind in open_parts.items() if where == choice}
            if kind not in CALLS and told_as(kind) in speaking:
                continue
            counts[choice] += 1
            call_id, name = (f"call_{choice}_{part}", "f") if kind in CALLS else ("", "")
            events.append(PartStarted(choice, part, kind, call_id, name))
            open_parts[choice, part] = kind
        elif open_parts:
            choice, part = where = draw(st.sampled_from(sorted(open_parts)))
            if action == "end":
                del open_parts[where]
                events.append(PartEnded(choice, part))
            else:
                events.append(grown(draw, choice, part, open_parts[where]))
    events += [PartEnded(choice, part) for choice, part in open_parts]
    for choice in draw(st.permutations(range(choices))):
        reason = draw(st.sampled_from(FinishReason))
        events.append(ChoiceEnded(choice, reason, draw(st.sampled_from(["", "native_word"]))))
    return [*events, Completed(), SETTLED]


def told_as(kind: PartKind) -> PartKind:
    """Both kinds of reasoning are told alike."""
    return PartKind.REASONING if kind in THOUGHTS else kind


def grown(draw: st.DrawFn, choice: int, part: int, kind: PartKind) -> GenerationEvent:
    if kind in CALLS:
        return ToolCallDelta(choice, part, draw(TEXT))
    if kind in THOUGHTS:
        return ReasoningDelta(choice, part, draw(TEXT), draw(st.sampled_from(["", "c2ln"])))
    if kind is PartKind.TEXT and draw(st.booleans()) and draw(st.booleans()):
        return AnnotationAdded(
            choice, part, msgspec.Raw(msgspec.json.encode({"type": "url_citation", "title": draw(TEXT)}))
        )
    tokens = draw(st.none() | st.lists(st.fixed_dictionaries({"token": TEXT}), max_size=2))
    logprobs = None if tokens is None else msgspec.Raw(draw(st.sampled_from([compact, pretty]))(tokens))
    return TextDelta(choice, part, draw(TEXT), logprobs)


def compact(value: Any) -> bytes:
    return msgspec.json.encode(value)


def pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def streamed(batches: list[list[GenerationEvent]]) -> bytes:
    encoder = ChatStreamEncoder(ORDER, ARRIVAL)
    return b"".join(encoder.encode(batch) for batch in batches) + encoder.end()


def chunks_of(data: bytes) -> list[Any]:
    """The chunks, by the letter of the event stream format: one line of data each, blank lines between."""
    *blocks, nothing = data.split(b"\n\n")
    assert nothing == b""
    assert blocks.pop() == b"data: [DONE]"
    assert all(block.startswith(b"data: {") and b"\n" not in block and b"\r" not in block for block in blocks)
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


def folded(chunks: list[Any]) -> Any:
    """What a client makes of the chunks, in the shape of the object."""
    *told, last = chunks
    assert last["choices"] == []
    choices: dict[int, Any] = {}
    for chunk in told:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        if choice["index"] not in choices:
            assert delta == {"role": "assistant", "content": "", "refusal": None}
            choices[choice["index"]] = new_choice(choice["index"])
        else:
            grow(choices[choice["index"]], choice, delta)
    common = {name: value for name, value in told[0].items() if name not in ("choices", "usage")}
    return {
        **common,
        "object": "chat.completion",
        "choices": [choices[index] for index in sorted(choices)],
        **{name: last[name] for name in ("usage", "meta", "service_tier")},
    }


def new_choice(index: int) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def grow(choice: Any, told: Any, delta: Any) -> None:
    message = choice["message"]
    assert choice["finish_reason"] is None, "nothing comes after the end of a choice"
    choice["finish_reason"] = told["finish_reason"]
    for name in ("content", "refusal", "reasoning_content", "reasoning_signature"):
        if name in delta:
            message[name] = (message.get(name) or "") + delta[name]
    message["annotations"] += delta.get("annotations", [])
    for fragment in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        index = fragment.pop("index")
        if index == len(calls):
            assert fragment["id"]
            calls.append(fragment)
        else:
            assert "id" not in fragment
            ((kind, added),) = fragment.items()
            ((name, text),) = added.items()
            calls[index][kind][name] += text
    if told["logprobs"] is not None:
        choice["logprobs"] = choice["logprobs"] or {"content": None, "refusal": None}
        for name, tokens in told["logprobs"].items():
            if tokens is not None:
                choice["logprobs"][name] = (choice["logprobs"][name] or []) + tokens


def whole_of(events: list[GenerationEvent]) -> Any:
    fold = Fold()
    fold.add(events)
    return json.loads(encode_completion(fold.whole(), ORDER, ARRIVAL))


def without_empty_texts(completion: Any) -> Any:
    """A part that said nothing leaves an empty string in the object and nothing in a stream: the same to a reader."""
    for choice in completion["choices"]:
        message = choice["message"]
        message["content"] = message["content"] or None
        message["refusal"] = message["refusal"] or None
    return completion


@given(generations())
def test_the_object_is_the_fold_of_the_chunks(events: list[GenerationEvent]) -> None:
    told = folded(chunks_of(streamed([[event] for event in events])))
    assert without_empty_texts(told) == without_empty_texts(whole_of(events))


@given(generations(), st.data())
def test_batches_make_no_difference(events: list[GenerationEvent], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(events)))))
    bounds = [0, *cuts, len(events)]
    batches = [events[start:end] for start, end in itertools.pairwise(bounds)]
    assert streamed(batches) == streamed([[event] for event in events])


@given(generations())
def test_every_id_comes_once_and_every_choice_ends_once(events: list[GenerationEvent]) -> None:
    chunks = chunks_of(streamed([events]))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    ids = [call["id"] for choice in choices for call in choice["delta"].get("tool_calls", ()) if "id" in call]
    assert len(ids) == len(set(ids))
    ends = [choice["index"] for choice in choices if choice["finish_reason"] is not None]
    assert sorted(ends) == sorted({choice["index"] for choice in choices})
    assert [bool(chunk["usage"]) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["messages", "model", "stream", "stop", "tools", "tool_choice", "metadata", "response_format", "provider", "n", "x"]
)


def check_refusal(body: bytes) -> None:
    """The body is understood, or is refused with 400 and a whole error body."""
    try:
        decode_chat(body)
    except GatewayError as error:
        response = error_response(error, "gen_1")
        assert response.status == 400
        assert isinstance(response.body, bytes)
        told = json.loads(response.body)
        assert told["description"]
        assert told["details"] or told["param"] is None


@given(st.dictionaries(FIELDS, JSON, max_size=4))
@settings(max_examples=300)
def test_any_json_is_understood_or_refused(fields: dict[str, Any]) -> None:
    least = {"model": "a/b", "messages": [{"role": "user", "content": "hi"}]}
    check_refusal(json.dumps({**least, **fields}).encode())


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_body_is_understood_or_refused(data: st.DataObject) -> None:
    body = bytearray(
        '{"model":"a/b","messages":[{"role":"user","content":[{"type":"text","text":"你好🙂"}]}],"tools":[{"type":'
        '"function","function":{"name":"f","parameters":{"type":"object"}}}],"metadata":{"a":"b"}}'.encode()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    check_refusal(bytes(body))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_arrives_and_leaves_byte_by_byte(text: str) -> None:
    body = json.dumps({"model": "a/b", "messages": [{"role": "user", "content": text}]}).encode()
    (turn,) = decode_chat(body).request.turns
    (part,) = turn.parts
    assert part == Text(text)
    encoder = ChatStreamEncoder(ORDER, ARRIVAL)
    encoder.encode([STARTED, PartStarted(0, 0, PartKind.TEXT)])
    frame = encoder.encode([TextDelta(0, 0, text)])
    assert json.loads(frame.removeprefix(b"data: "))["choices"][0]["delta"] == {"content": text}
    assert frame.count(b"\n") == 2
