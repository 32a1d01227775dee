"""Whatever an upstream says, in whatever order: the events keep their grammar, or the attempt fails cleanly.

`fold` asserts the grammar: every part starts once and ends once, deltas only fall into open parts of their kind, every
choice ends once with all its parts closed, and `Completed` is last.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import ProviderFailure
from server.domain.events import Completed, PartEnded, PartStarted, ProviderEvent
from server.providers.decoding import StreamDecoder
from server.providers.openai_chat_decode import ChatDecoder
from server.providers.openai_responses_decode import ResponsesDecoder
from tests.unit.openai_cases import CHAT, RESPONSES, CountingIds, chat_stream, chat_whole, fold, provider

text = st.sampled_from(["", "a", "bc", " ", "🙂", "{", '{"x":1}', "}{", '{"x":', "1}"])
odd = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.just({}), st.just([]), text)
index = st.one_of(st.integers(0, 2), st.none(), st.just("0"))


def record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


calls = st.lists(
    record(
        index=index,
        id=st.sampled_from(["", "a", "b", None]),
        function=record(name=st.sampled_from(["", "f", "g", None]), arguments=st.one_of(text, st.just({"x": 1}))),
        custom=st.one_of(st.none(), record(name=text, input=text)),
    ),
    max_size=3,
)
blocks = st.lists(record(type=st.sampled_from(["text", "thinking", "x"]), text=text, thinking=text), max_size=2)
delta = record(
    content=st.one_of(text, blocks, odd),
    reasoning_content=odd,
    reasoning=odd,
    refusal=odd,
    tool_calls=st.one_of(st.none(), calls),
    annotations=st.one_of(odd, st.just([{"type": "url_citation", "url": "u"}])),
)
chunk = record(
    id=odd,
    model=odd,
    choices=st.one_of(
        st.none(),
        st.lists(
            record(
                index=index,
                delta=st.one_of(st.none(), delta),
                message=st.one_of(st.none(), delta),
                finish_reason=st.sampled_from([None, "", "stop", "length", "STOP", "what"]),
                logprobs=st.one_of(odd, st.just({"content": [{"token": "x"}]})),
            ),
            max_size=2,
        ),
    ),
    usage=st.one_of(odd, st.just({"prompt_tokens": 1, "completion_tokens": 2})),
    citations=st.one_of(odd, st.just(["u"])),
)

ITEMS = ["message", "reasoning", "function_call", "custom_tool_call", "web_search_call"]
piece = record(type=st.sampled_from(["output_text", "refusal", "reasoning_text"]), text=text, refusal=text)
item = record(
    type=st.sampled_from(ITEMS),
    id=st.sampled_from(["a", "b"]),
    call_id=text,
    name=text,
    arguments=text,
    input=text,
    content=st.lists(piece, max_size=2),
    summary=st.lists(piece, max_size=2),
    encrypted_content=odd,
)
EVENTS = [
    "created", "output_item.added", "output_item.done", "output_text.delta", "output_text.done", "refusal.delta",
    "refusal.done", "reasoning_text.delta", "reasoning_text.done", "reasoning_summary_text.delta",
    "reasoning_summary_text.done", "function_call_arguments.delta", "custom_tool_call_input.delta",
    "output_text.annotation.added", "content_part.added", "something.new",
]  # fmt: skip
event = st.fixed_dictionaries(
    {"type": st.sampled_from([f"response.{name}" for name in EVENTS])},
    optional={
        "output_index": index,
        "content_index": index,
        "summary_index": index,
        "item_id": st.sampled_from(["a", "b"]),
        "delta": odd,
        "text": odd,
        "item": item,
        "annotation": st.one_of(odd, st.just({"type": "url_citation", "url": "u"})),
        "logprobs": st.one_of(odd, st.just([{"token": "x"}])),
    },
)
terminal = st.fixed_dictionaries(
    {"type": st.sampled_from(["response.completed", "response.incomplete"])},
    optional={"response": record(output=st.lists(item, max_size=3), incomplete_details=odd, status=odd, usage=odd)},
)


def decode(decoder: StreamDecoder, events: list[Any]) -> tuple[list[ProviderEvent], bool]:
    """What came out, and whether it came to a good end."""
    out: list[ProviderEvent] = []
    try:
        for value in events:
            decoder.feed(None, value if isinstance(value, bytes) else json.dumps(value).encode(), out)
        decoder.finish(out)
    except ProviderFailure:
        return out, False
    return out, True


def check(out: list[ProviderEvent], good: bool) -> None:
    answer = fold(out)
    assert answer.completed is good
    assert good is (bool(out) and isinstance(out[-1], Completed))
    if good:
        starts = sorted((event.choice, event.part) for event in out if isinstance(event, PartStarted))
        ends = sorted((event.choice, event.part) for event in out if isinstance(event, PartEnded))
        assert starts == ends


@given(st.lists(chunk, max_size=8), st.booleans())
def test_d4_any_chunks_keep_the_grammar(chunks: list[Any], done: bool) -> None:
    out, good = decode(ChatDecoder(provider(CHAT), CountingIds()), [*chunks, *([b"[DONE]"] if done else [])])

    check(out, good)


@given(st.lists(event, max_size=10), st.one_of(st.none(), terminal))
def test_d4_any_responses_events_keep_the_grammar(events: list[Any], last: Any) -> None:
    out, good = decode(ResponsesDecoder(provider(RESPONSES), CountingIds()), [*events, *([last] if last else [])])

    check(out, good)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_failure(data: bytes) -> None:
    for decoder in (ChatDecoder(provider(CHAT), CountingIds()), ResponsesDecoder(provider(RESPONSES), CountingIds())):
        check(*decode(decoder, [data]))


@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=6), st.text(max_size=40))
def test_u14_however_a_text_is_cut_it_adds_up_to_the_whole(said: str, cuts: list[int], thought: str) -> None:
    def pieces(value: str) -> list[str]:
        edges = [0, *sorted(min(cut, len(value)) for cut in cuts), len(value)]
        return [value[start:end] for start, end in itertools.pairwise(edges)]

    def chunk_of(**fields: Any) -> dict[str, Any]:
        return {"id": "x", "choices": [{"index": 0, "delta": fields}]}

    chunks = [chunk_of(reasoning=part) for part in pieces(thought)]
    chunks += [chunk_of(content=part) for part in pieces(said)]
    counted = {"prompt_tokens": 9, "completion_tokens": 99}
    chunks.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": counted})
    message = {"content": said, "reasoning": thought}
    body = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": counted}

    assert chat_stream(chunks) == chat_whole(body)
