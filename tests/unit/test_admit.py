"""What a request holds: the most that it can cost on the dearest candidate."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from server.domain.audio import MAX_FILE_BYTES, TranscriptionRequest
from server.domain.catalog import Model, Offer, Provider
from server.domain.money import NANOS_PER_USD
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import Audio, Endpoint, File, GenerationRequest, Image, Role, Sampling, Text, Turn
from server.domain.routing import Candidate, Route
from server.pipeline.admit import (
    DEFAULT_OUTPUT_TOKENS,
    TOKENS_PER_IMAGE,
    bound,
    estimate_prompt,
    is_billable,
    output_bound,
)
from server.pipeline.counting import count_sound
from server.pipeline.units import sent_units
from tests.fakes.uploads import BytesUpload

CHEAP = PriceList({"input_text_tokens": 1_000_000, "output_text_tokens": 2_000_000})
DEAR = PriceList({"input_text_tokens": 3_000_000, "output_text_tokens": 1_000_000})


def candidate(prices: PriceList = CHEAP, *, name: str = "acme", model_id: str = "a/b", **of_model: Any) -> Candidate:
    offer = Offer(Provider(name, "openai", "http://x"), "test-1", frozenset({Endpoint.CHAT}), prices=prices)
    return Candidate(Model(model_id, (offer,), **of_model), offer)


def request(*parts: Any, options: dict[str, Any] | None = None, **sampling: Any) -> GenerationRequest:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in (options or {}).items()}
    return GenerationRequest(
        endpoint=Endpoint.CHAT,
        model="a/b",
        turns=(Turn(Role.USER, parts or (Text("x" * 400),)),),
        sampling=Sampling(**sampling),
        provider_options={"acme": raw} if raw else {},
    )


@pytest.mark.parametrize(
    ("asked", "of_model", "expected"),
    [
        (request(max_output_tokens=100), {"max_output_tokens": 1000}, 100),
        (request(), {"max_output_tokens": 1000}, 1000),
        (request(), {"context_length": 5000}, 5000),
        (request(), {}, DEFAULT_OUTPUT_TOKENS),
        (request(max_output_tokens=90_000), {}, 90_000),
        (request(max_output_tokens=9000), {"max_output_tokens": 1000}, 1000),
        (request(max_output_tokens=100, n=3), {"max_output_tokens": 1000}, 300),
        (request(options={"max_tokens": 700}, max_output_tokens=100), {"max_output_tokens": 1000}, 700),
        (request(options={"max_completion_tokens": 700}), {"max_output_tokens": 1000}, 700),
        (request(options={"n": 4}, max_output_tokens=100), {"max_output_tokens": 1000}, 400),
        (request(options={"max_tokens": "many"}, max_output_tokens=100), {"max_output_tokens": 1000}, 100),
    ],
)
def test_the_output_that_a_candidate_may_make(
    asked: GenerationRequest, of_model: dict[str, Any], expected: int
) -> None:
    assert output_bound(asked, candidate(**of_model)) == expected


def test_a_request_without_a_limit_holds_for_the_model_s_longest_output() -> None:
    """B11."""
    one = candidate(max_output_tokens=1000)
    assert bound(request(), Route((one,))) == estimate_prompt(request()) * 1 + 1000 * 2


def test_the_dearest_candidate_counts() -> None:
    route = Route((candidate(max_output_tokens=10), candidate(DEAR, name="other", max_output_tokens=10)))
    prompt = estimate_prompt(request())
    assert bound(request(), route) == prompt * 3 + 10


def test_a_long_prompt_holds_at_its_own_rate() -> None:
    """U11: the same limit as in the settlement."""
    tiered = PriceList({"input_text_tokens": 1_000_000}, (PriceTier({"input_text_tokens": 2_000_000}, 200_000),))
    route = Route((candidate(tiered, max_output_tokens=1),))
    at_the_limit = request(Text("x" * 4 * (200_000 - 4)))
    assert estimate_prompt(at_the_limit) == 200_000
    assert bound(at_the_limit, route) == 200_000
    above = request(Text("x" * 4 * (200_001 - 4)))
    assert bound(above, route) == 2 * 200_001


def test_media_count_in_a_prompt() -> None:
    plain = estimate_prompt(request(Text("x")))
    assert estimate_prompt(request(Text("x"), Image(url="https://x/y.png"))) == plain + TOKENS_PER_IMAGE
    assert estimate_prompt(request(Text("x"), Audio(data="A" * 1600, format="wav"))) == plain + 100
    assert estimate_prompt(request(Text("x"), File(data="A" * 1600))) == plain + 100
    assert estimate_prompt(request(Text("x"), File(url="https://x/y.pdf"))) > plain


def test_a_file_of_sound_holds_for_what_it_can_have_to_say() -> None:
    """The largest MP3 of the usual kind costs $0.10 by gpt-4o-transcribe: a team with $5 may have it written down."""
    prices = PriceList({"input_text_tokens": 2_500_000_000, "input_audio_tokens": 6 * 10**9})
    asked = TranscriptionRequest(endpoint=Endpoint.AUDIO, model="a/b", file=BytesUpload(bytes(MAX_FILE_BYTES)))
    real = count_sound(sent_units(asked)["input_audio_seconds"]) * 6_000
    assert NANOS_PER_USD // 20 < real < bound(asked, Route((candidate(prices),))) < 2 * NANOS_PER_USD


def test_only_free_candidates_hold_nothing() -> None:
    free = candidate(PriceList(), model_id="a/b:free")
    assert not is_billable(Route((free,)))
    assert is_billable(Route((free, candidate())))


def test_two_that_may_be_called_at_once_are_held_for_both() -> None:
    asked = request(max_output_tokens=10)
    cheap, dear, dearer = candidate(), candidate(DEAR, name="dear"), candidate(DEAR, name="dearer")
    one = bound(asked, Route((cheap, dear, dearer)))
    assert bound(asked, Route((cheap, dear, dearer)), 2) == 2 * one
    assert bound(asked, Route((cheap, dear)), 2) == one + bound(asked, Route((cheap,)))
