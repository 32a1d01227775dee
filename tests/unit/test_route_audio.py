"""One word of the catalogue stands for all sound: who speaks is not asked to listen, and who listens not to speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider
from server.domain.errors import GatewayError, Reason
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint, Request, RoutingPreferences
from server.domain.work import Work
from server.pipeline.route import candidates
from server.pipeline.units import most_units, produced_units, sent_units
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.uploads import BytesUpload
from tests.unit.openai_cases import CountingIds, FixedClock

AUDIO = frozenset({Endpoint.AUDIO})
SOUND, TEXT = frozenset({"audio"}), frozenset({"text"})
X, Y = (Provider(name, "openai", f"http://{name}") for name in "xy")
FILE = BytesUpload(bytes(2_500), filename="talk.wav")


def offer(provider: Provider, *, makes: frozenset[str] | None, takes: frozenset[str] | None, **more: Any) -> Offer:
    return Offer(provider, "", AUDIO, output_types=makes, input_types=takes, **more)


def model(id_: str, *offers: Offer, makes: tuple[str, ...] = ("text",)) -> Model:
    named = tuple(msgspec.structs.replace(one, provider_model=id_) for one in offers)
    return Model(id_, named, output_types=makes)


MODELS = (
    model("a/speaks", offer(X, makes=SOUND, takes=TEXT), makes=("audio",)),
    model("a/listens", offer(X, makes=TEXT, takes=SOUND)),
    model("a/unknown", offer(X, makes=None, takes=None)),
    model("a/does-both", offer(X, makes=SOUND | TEXT, takes=SOUND | TEXT), makes=("audio", "text")),
    model("a/no-inputs", offer(X, makes=SOUND, takes=None), makes=("audio",)),
    model("a/chat", Offer(X, "m", frozenset({Endpoint.CHAT}))),
    model(
        "a/plain",
        offer(X, makes=SOUND, takes=TEXT, params=frozenset({"instructions"})),
        offer(Y, makes=SOUND, takes=TEXT, params=frozenset({"speed"})),
    ),
)
CATALOG = Catalog({one.id: one for one in (X, Y)}, {one.id: one for one in MODELS})


@pytest.fixture
def adapters() -> Mapping[Dialect, ProviderAdapter]:
    return {"openai": OpenAIAdapter(Transport(), FixedClock(), CountingIds())}


def speech(model: str, **asked: Any) -> SpeechRequest:
    return SpeechRequest(endpoint=Endpoint.AUDIO, model=model, text="Hello", voice="alloy", **asked)


def transcription(model: str, **asked: Any) -> TranscriptionRequest:
    return TranscriptionRequest(endpoint=Endpoint.AUDIO, model=model, file=FILE, **asked)


def raw(value: bytes) -> Mapping[str, Mapping[str, msgspec.Raw]]:
    return {"x": {"response_format": msgspec.Raw(value)}}


@pytest.mark.parametrize(
    "asked",
    [
        speech("a/speaks"),
        speech("a/does-both"),
        speech("a/unknown"),
        transcription("a/listens"),
        transcription("a/does-both"),
        transcription("a/unknown"),
        transcription("a/listens", into_english=True, parameters={"prompt": "prompt"}),
        transcription("a/listens", provider_options=raw(b'"diarized_json"')),
    ],
    ids=lambda asked: f"{type(asked).__name__}-{asked.model}",
)
def test_who_can_is_asked(asked: Work, adapters: Mapping[Dialect, ProviderAdapter]) -> None:
    (only,) = candidates(CATALOG, asked, adapters).candidates
    assert only.model.id == asked.model


@pytest.mark.parametrize(
    ("asked", "reason", "param"),
    [
        (speech("a/listens"), Reason.UNSUPPORTED_ENDPOINT, "model"),
        (transcription("a/no-inputs"), Reason.UNSUPPORTED_ENDPOINT, "model"),
        (transcription("a/speaks"), Reason.UNSUPPORTED_PARAMETER, "file"),
        (speech("a/chat"), Reason.UNSUPPORTED_ENDPOINT, "model"),
        (transcription("a/chat"), Reason.UNSUPPORTED_ENDPOINT, "model"),
        (transcription("a/listens", into_english=True, stream=True), Reason.UNSUPPORTED_PARAMETER, "stream"),
        (
            transcription("a/listens", provider_options=raw(b'"srt"')),
            Reason.UNSUPPORTED_PARAMETER,
            "provider_options.x.response_format",
        ),
    ],
    ids=lambda asked: f"{type(asked).__name__}-{asked.model}" if isinstance(asked, Request) else None,
)
def test_who_cannot_is_not(
    asked: Work, reason: Reason, param: str, adapters: Mapping[Dialect, ProviderAdapter]
) -> None:
    with pytest.raises(GatewayError) as caught:
        candidates(CATALOG, asked, adapters)
    assert (caught.value.reason, caught.value.param) == (reason, param)


def test_a_fallback_that_cannot_is_passed_over(adapters: Mapping[Dialect, ProviderAdapter]) -> None:
    asked = speech("a/listens", routing=RoutingPreferences(fallback_models=("a/speaks",)))
    route = candidates(CATALOG, asked, adapters)
    assert [one.model.id for one in route.candidates] == ["a/speaks"]
    assert [(row.provider, row.outcome) for row in route.rejected] == [("x", "output_type_not_made")]


def test_parameters_choose_the_provider(adapters: Mapping[Dialect, ProviderAdapter]) -> None:
    for name, expected in (("speed", "y"), ("instructions", "x")):
        (only,) = candidates(CATALOG, speech("a/plain", parameters={name: name}), adapters).candidates
        assert only.offer.provider.id == expected


def test_what_is_counted_before_anything_is_told() -> None:
    assert sent_units(speech("a/speaks")) == {"input_characters": 5}
    assert most_units(speech("a/speaks", speed=0.5)) == {"input_characters": 5, "output_audio_seconds": 4}
    assert sent_units(transcription("a/listens")) == {"input_audio_seconds": 1}
    assert most_units(transcription("a/listens")) == {"input_audio_seconds": 3}
    assert produced_units(b"") == {}
