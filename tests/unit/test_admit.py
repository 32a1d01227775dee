"""What a request holds: the most that it can cost on the dearest candidate."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from rest_bridge.chat_decode import decode_chat
from rest_bridge.messages_decode import decode_messages
from rest_bridge.responses_decode import decode_request as decode_responses
from server.domain.audio import MAX_FILE_BYTES, TranscriptionRequest
from server.domain.catalog import Model, Offer, Provider
from server.domain.errors import GatewayError, Reason
from server.domain.money import NANOS_PER_USD
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import Audio, Endpoint, File, GenerationRequest, Image, Role, Sampling, Text, Turn
from server.domain.routing import Candidate, Route
from server.pipeline.admit import (
    DEFAULT_OUTPUT_TOKENS,
    TOKENS_PER_IMAGE,
    TOKENS_PER_SPOKEN_SECOND,
    bound,
    estimate_prompt,
    is_billable,
    output_bound,
)
from server.pipeline.counting import count_sound
from server.pipeline.fit import least_tokens
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
        (request(options={"max_tokens": 7}, max_output_tokens=100), {"max_output_tokens": 1000}, 100),
        (request(options={"max_completion_tokens": 7}), {"max_output_tokens": 1000}, 1000),
        (request(options={"max_output_tokens": 70_000}), {}, 70_000),
        (request(options={"n": 4}, max_output_tokens=100), {"max_output_tokens": 1000}, 400),
        (request(options={"n": 1}, max_output_tokens=100, n=3), {"max_output_tokens": 1000}, 300),
    ],
)
def test_the_output_that_a_candidate_may_make(
    asked: GenerationRequest, of_model: dict[str, Any], expected: int
) -> None:
    assert output_bound(asked, candidate(**of_model)) == expected


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n"])
@pytest.mark.parametrize("value", [None, 0, -1, 2.5, "100000", 1e5, True, []])
def test_an_option_that_takes_a_limit_away_is_refused(name: str, value: Any) -> None:
    with pytest.raises(GatewayError) as refused:
        bound(request(options={name: value}, max_output_tokens=1), Route((candidate(max_output_tokens=1000),)))
    assert (refused.value.reason, refused.value.param) == (Reason.INVALID_VALUE, f"provider_options.acme.{name}")


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
    heard = estimate_prompt(request(Text("x"), Audio(data="A" * 2**20, format="mp3"))) - plain
    assert 49 * TOKENS_PER_SPOKEN_SECOND < heard < 2**20 // 16  # of sound of the usual kind there are 49 s
    assert estimate_prompt(request(Text("x"), Audio(data="A" * 2**20, format="wav"))) - plain < heard // 7
    assert estimate_prompt(request(Text("x"), File(data="A" * 1600))) == plain + 100
    assert estimate_prompt(request(Text("x"), File(data="A" * 1600, media_type="text/csv"))) == plain + 300
    assert estimate_prompt(request(Text("x"), File(url="https://x/y.pdf"))) > plain


TEXT = "some words and more " * 5000
PIECE = {"type": "input_text", "text": TEXT}
SCHEMA = {"type": "object", "properties": {}, "description": TEXT}


def chat(**body: Any) -> GenerationRequest:
    asked = {"model": "a/b", "messages": [{"role": "user", "content": "hi"}], **body}
    return decode_chat(json.dumps(asked).encode()).request


def responses(*items: Any, **body: Any) -> GenerationRequest:
    return decode_responses(json.dumps({"model": "a/b", "input": [*items, user("hi")], **body}).encode()).generation


def messages(*blocks: Any, **body: Any) -> GenerationRequest:
    asked = {"model": "a/b", "max_tokens": 9, "messages": [{"role": "user", "content": blocks}], **body}
    return decode_messages(json.dumps(asked).encode()).request


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def result(*blocks: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": blocks}


@pytest.mark.parametrize(
    "asked",
    [
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "description": TEXT}}),
        chat(tools=[{"type": "custom", "custom": {"name": "x", "description": TEXT}}]),
        chat(prediction={"type": "content", "content": TEXT}),
        chat(provider_options={"acme": {"instructions": TEXT}}),
        messages({"type": "text", "text": "hi"}, output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
        messages({"type": "document", "title": TEXT,
                  "source": {"type": "base64", "media_type": "x/y", "data": "AA=="}}),
        messages(result({"type": "text", "text": TEXT})),
        responses(user(TEXT, phase="commentary")),
        responses({"type": "function_call_output", "call_id": "c", "name": "f", "output": TEXT}),
        responses({"type": "function_call_output", "call_id": "c", "name": "f", "output": [PIECE]}),
        responses({"type": "function_call_output", "call_id": "c", "name": "f", "output": json.dumps({"data": TEXT})}),
        responses({"type": "shell_call_output", "call_id": "c", "output": [{"stdout": TEXT}]}),
        responses({"type": "mcp_call", "id": "m", "arguments": "{}", "name": "f", "output": "", "data": TEXT}),
        responses({"type": "reasoning", "summary": [{"type": "summary_text", "text": TEXT}]}),
        responses({"type": "reasoning", "summary": [], "encrypted_content": TEXT}),
        responses(tools=[{"type": "function", "name": "f", "description": TEXT, "defer_loading": True}]),
        responses(tools=[{"type": "custom", "name": "f",
                          "format": {"type": "grammar", "syntax": "lark", "definition": TEXT}}]),
        responses(tools=[{"type": "mcp", "server_label": "x", "server_description": TEXT}]),
        responses(text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}),
    ],
)  # fmt: skip
def test_text_counts_wherever_it_stands(asked: GenerationRequest) -> None:
    assert len(TEXT) // 4 <= estimate_prompt(asked) < len(TEXT) // 4 + 100


PDF = "JVBERi0x" * 50_000
PNG = "iVBORw0K" * 50_000


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        (messages(result({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}})),
         TOKENS_PER_IMAGE),
        (messages(result({"type": "document", "source": {"type": "base64", "media_type": "x/pdf", "data": PDF}})),
         len(PDF) // 16),
        (responses(user([{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}], phase="commentary")),
         TOKENS_PER_IMAGE),
        (responses({"type": "function_call_output", "call_id": "c", "name": "f",
                    "output": [PIECE, {"type": "input_image", "image_url": "https://x.example/y.png"}]}),
         TOKENS_PER_IMAGE + len(TEXT) // 4),
        (responses({"type": "function_call_output", "call_id": "c", "name": "f",
                    "output": [{"type": "input_file", "file_data": PDF}]}), len(PDF) // 16),
        (responses({"type": "computer_call_output", "call_id": "c",
                    "output": {"type": "computer_screenshot", "image_url": f"data:image/png;base64,{PNG}"}}),
         TOKENS_PER_IMAGE),
        (responses({"type": "image_generation_call", "id": "i", "result": PNG}), TOKENS_PER_IMAGE),
        (responses({"type": "code_interpreter_call", "id": "i", "code": TEXT,
                    "outputs": [{"type": "image", "url": f"data:image/png;base64,{PNG}"}]}),
         TOKENS_PER_IMAGE + len(TEXT) // 4),
        (responses(tools=[{"type": "image_generation",
                           "input_image_mask": {"image_url": f"data:image/png;base64,{PNG}"}}]),
         TOKENS_PER_IMAGE),
    ],
)  # fmt: skip
def test_media_count_as_such_wherever_they_stand(asked: GenerationRequest, least: int) -> None:
    """Not as the text of their base64: that would be some ten times as much."""
    assert least <= estimate_prompt(asked) < least + 100
    assert least_tokens(asked) < len(TEXT) // 4


def test_no_prompt_is_longer_than_the_context() -> None:
    one = candidate(max_output_tokens=1)
    short = msgspec.structs.replace(one, offer=msgspec.structs.replace(one.offer, context_length=500))
    assert bound(request(Text(TEXT)), Route((short,))) == 500 + 2


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
