"""Whatever stands where in an answer, it becomes events in their grammar or a failure of the provider's."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.errors import ProviderFailure
from tests.fakes.gemini_wire import SIGNATURE, blocked, call, candidate, exhausted, reply, text, usage
from tests.unit.gemini_cases import events_of, unary
from tests.unit.openai_cases import fold

GROUNDING = {
    "groundingChunks": [{"web": {"uri": "https://a.example/", "title": "A"}}],
    "groundingSupports": [{"segment": {"startIndex": 1, "endIndex": 3}, "groundingChunkIndices": [0]}],
}
LOGPROBS = {
    "chosenCandidates": [{"token": "a", "logProbability": -0.5}],
    "topCandidates": [{"candidates": [{"token": "a", "logProbability": -0.5}]}],
}
PARTIAL = {"functionCall": {"name": "h", "partialArgs": [{"jsonPath": "$.a[0].b", "stringValue": "x"}]}}
BODIES = (
    reply(
        candidate(
            text("Hm.", thought=True, signature="r="),
            text("Hi", signature="t="),
            call("f", {"x": 1}, id="n1", signature=SIGNATURE),
            PARTIAL,
            {"executableCode": {"language": "PYTHON", "code": "1"}},
            groundingMetadata=GROUNDING,
            citationMetadata={"citationSources": [{"uri": "https://b.example/", "endIndex": 2}]},
            logprobsResult=LOGPROBS,
        ),
        candidate("Ho", index=1),
        counted=usage(9, 3, thoughts=2, cached=4, tool_use=1, audio_in=2, audio_out=1),
    ),
    blocked(),
    exhausted(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        found += places(inner, (*path, step))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    body = copy.deepcopy(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(body)))
        holder = body
        for step in path:
            holder = holder[step]
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(JSON)
        if not places(body):
            break
    return body


@settings(max_examples=400)
@given(mutated())
def test_an_answer_with_anything_anywhere(body: Any) -> None:
    try:
        whole = unary(body)
    except ProviderFailure:
        whole = None
    try:
        streamed = fold(events_of([body]))
    except ProviderFailure:
        streamed = None

    assert whole == streamed
