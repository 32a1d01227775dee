"""What is counted beside tokens: how much of it a request may come to, what it came to, and that the hold is enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.domain.audio import AudioFormat, SpeechRequest, Transcript, TranscriptionRequest
from server.domain.embedding import EmbeddingRequest, Embeddings
from server.domain.images import ImageRequest, Images, MadeImage
from server.domain.pricing import PriceList, PriceTier, price, quantities, upper_bound
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.domain.video import VideoRequest
from server.domain.work import Work
from server.pipeline.units import (
    MADE_BYTES_PER_SECOND,
    USUAL_VIDEO_SECONDS,
    is_search,
    most_units,
    produced_units,
    sent_units,
    spoken_seconds,
)
from tests.fakes.uploads import BytesUpload

UNITS = (
    "input_image", "output_image", "input_audio_seconds", "output_audio_seconds", "input_characters", "video_seconds",
)  # fmt: skip
TOKENS = ("input_text_tokens", "output_text_tokens", "input_image_tokens", "output_image_tokens", "requests")
PICTURE = MadeImage("AA==", "image/png")


def drawing(n: int = 1, inputs: int = 0) -> ImageRequest:
    images = tuple(BytesUpload(b"x") for _ in range(inputs))
    return ImageRequest(endpoint=Endpoint.IMAGES, model="m", prompt="p", n=n, images=images)


def speaking(text: str = "hello", speed: float | None = None) -> SpeechRequest:
    return SpeechRequest(endpoint=Endpoint.AUDIO, model="m", text=text, voice="v", speed=speed)


def listening(size: int) -> TranscriptionRequest:
    return TranscriptionRequest(endpoint=Endpoint.AUDIO, model="m", file=BytesUpload(bytes(size)))


def filming(seconds: int | None) -> VideoRequest:
    return VideoRequest(endpoint=Endpoint.VIDEO, model="m", prompt="p", seconds=seconds)


@pytest.mark.parametrize(
    ("request_", "sent", "most"),
    [
        (drawing(3), {}, {"output_image": 3}),
        (drawing(1, inputs=2), {"input_image": 2}, {"input_image": 2, "output_image": 1}),
        (speaking(), {"input_characters": 5}, {"input_characters": 5, "output_audio_seconds": 3}),
        (speaking(speed=0.25), {"input_characters": 5}, {"input_characters": 5, "output_audio_seconds": 6}),
        (speaking(speed=4.0), {"input_characters": 5}, {"input_characters": 5, "output_audio_seconds": 3}),
        (listening(32_000), {"input_audio_seconds": 3}, {"input_audio_seconds": 33}),
        (filming(5), {}, {"video_seconds": 5}),
        (filming(None), {}, {"video_seconds": USUAL_VIDEO_SECONDS}),
        (EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model="m", inputs=("a",)), {}, {}),
    ],
    ids=("pictures", "an edit", "speech", "slow", "fast", "a file", "a video", "no length", "vectors"),
)
def test_what_a_request_comes_to(request_: Work, sent: Mapping[str, int], most: Mapping[str, int]) -> None:
    assert (sent_units(request_), most_units(request_)) == (sent, most)


@pytest.mark.parametrize(
    ("result", "units"),
    [
        (Images((PICTURE, PICTURE)), {"output_image": 2}),
        (Transcript("x", duration_s=1.01), {"input_audio_seconds": 2}),
        (Transcript("x", duration_s=2.0), {"input_audio_seconds": 2}),
        (Transcript("x"), {}),
        (Embeddings(()), {}),
    ],
    ids=("pictures", "a part of a second", "seconds", "of no known length", "vectors"),
)
def test_what_a_result_comes_to(result: object, units: Mapping[str, int]) -> None:
    assert produced_units(result) == units


@pytest.mark.parametrize(
    ("item", "is_one"),
    [
        ({"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "a"}}, True),
        ({"type": "web_search_call", "action": None}, True),
        ({"type": "web_search_call", "status": "completed"}, True),
        ({"type": "web_search_call", "status": "failed", "action": {"type": "search"}}, False),
        ({"type": "web_search_call", "status": "completed", "action": {"type": "open_page"}}, False),
        ({"type": "file_search_call", "status": "completed"}, False),
        ({"type": ["web_search_call"]}, False),
        ({}, False),
    ],
)
def test_what_is_a_search_of_the_web(item: dict[str, Any], is_one: bool) -> None:
    assert is_search(msgspec.Raw(json.dumps(item).encode())) is is_one


@pytest.mark.parametrize("format_", MADE_BYTES_PER_SECOND)
def test_what_is_heard_of_a_speech(format_: AudioFormat) -> None:
    request, second = replace(speaking("x" * 40), format=format_), MADE_BYTES_PER_SECOND[format_]
    assert [spoken_seconds(request, size) for size in (0, 1, second, second + 1, 100 * second)] == [0, 1, 1, 2, 11]


requests = st.one_of(
    st.builds(drawing, st.integers(1, 10), st.integers(0, 16)),
    st.builds(speaking, st.text(max_size=4096), st.none() | st.floats(0.25, 4.0)),
    st.builds(listening, st.integers(0, 100_000)),
    st.builds(filming, st.none() | st.integers(1, 60)),
)


@given(requests, st.data())
def test_no_result_of_a_request_is_more_than_it_may_come_to(request: Work, data: st.DataObject) -> None:
    most = most_units(request)
    counted = dict(sent_units(request))
    match request:
        case ImageRequest(n=n):
            counted |= produced_units(Images((PICTURE,) * data.draw(st.integers(0, n))))
        case TranscriptionRequest(file=file):
            counted |= produced_units(Transcript("x", duration_s=data.draw(st.floats(0, file.size / 1000))))
        case _:
            pass
    assert all(count <= most[dimension] for dimension, count in counted.items())


rates = st.integers(0, 10**15)


@st.composite
def price_lists(draw: st.DrawFn) -> PriceList:
    base = draw(st.dictionaries(st.sampled_from(UNITS + TOKENS), rates, min_size=1))
    dimensions = st.dictionaries(st.sampled_from(UNITS + TOKENS), rates)
    tier = st.builds(PriceTier, dimensions, st.sampled_from((0, 1, 1000)), st.sampled_from((None, "flex", "priority")))
    return PriceList(base, tuple(draw(st.lists(tier, max_size=3))))


counts = st.integers(0, 5000)
bounds = st.fixed_dictionaries({}, optional=dict.fromkeys(UNITS, counts))
tiers = st.sampled_from((None, "default", "flex", "priority", "unheard-of"))


@given(price_lists(), counts, counts, bounds, tiers, st.data())
def test_no_usage_within_the_bound_costs_more_than_it(
    prices: PriceList, inputs: int, outputs: int, units: dict[str, int], tier: str | None, data: st.DataObject
) -> None:
    given_, made = data.draw(st.integers(0, inputs)), data.draw(st.integers(0, outputs))
    usage = Usage(
        input_tokens=given_,
        output_tokens=made,
        input_image_tokens=data.draw(st.integers(0, given_)),
        output_image_tokens=data.draw(st.integers(0, made)),
        units={dimension: data.draw(st.integers(0, most)) for dimension, most in units.items()},
    )
    assert price(usage, prices, tier).total_nanos <= upper_bound(prices, inputs, outputs, units)


@given(price_lists(), counts, bounds)
def test_a_unit_is_in_one_line_where_it_has_a_rate_and_else_in_none(
    prices: PriceList, tokens: int, units: dict[str, int]
) -> None:
    usage = Usage(input_tokens=tokens, units=units)
    split = quantities(usage, prices.rates)
    assert {name: split.get(name) for name in units} == {
        name: count if name in prices.rates else None for name, count in units.items()
    }
    assert split["input_text_tokens"] + split["output_text_tokens"] == tokens
    lines = price(usage, prices).lines
    assert len({line.dimension for line in lines}) == len(lines)


@given(st.integers(0, 10**6), rates)
def test_the_bound_of_one_rate_is_its_exact_price(count: int, rate: int) -> None:
    units = {"output_image": count}
    prices = PriceList({"output_image": rate})
    exact = -(-count * rate // 1_000_000)
    assert upper_bound(prices, 0, 0, units) == price(Usage(units=units), prices).total_nanos == exact
