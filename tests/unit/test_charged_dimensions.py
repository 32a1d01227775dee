"""That what a price list needs to have one of is counted: no work is done at a price of nothing by mistake."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from server.catalogue.prices import ONE_OF, ONE_OF_SOUND, missing_dimensions
from server.domain.audio import SpeechRequest, Transcript, TranscriptionRequest
from server.domain.catalog import Model, Offer, Provider
from server.domain.events import AudioDelta, Completed, ImagePartial, Produced, ProviderEvent, UsageReported
from server.domain.identity import Arrival, Call, Principal
from server.domain.images import ImageRequest, Images, MadeImage
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.domain.routing import Candidate, Route
from server.domain.usage import Usage
from server.domain.video import VideoStatus
from server.domain.work import Work
from server.pipeline.attempt import Attempt
from server.pipeline.settle import Account
from server.pipeline.video_account import ended
from tests.fakes.uploads import BytesUpload
from tests.unit.test_video_account import JOB, NOW, report

CALL = Call(Arrival("0" * 32, "r", 0.0, 0), Principal("team", "key", frozenset()))
RATE = 1_000_000_000
PICTURE = MadeImage("AA==", "image/png")
DRAWN: list[ProviderEvent] = [
    Produced(Images((PICTURE,))),
    UsageReported(Usage(input_tokens=5, output_tokens=50, output_image_tokens=50)),
]
DRAWING = ImageRequest(endpoint=Endpoint.IMAGES, model="a/b", prompt="p")
SPEAKING = SpeechRequest(endpoint=Endpoint.AUDIO, model="a/b", text="Hello.", voice="v")
LISTENING = TranscriptionRequest(endpoint=Endpoint.AUDIO, model="a/b", file=BytesUpload(bytes(10)))


def cost(request: Work, dimension: str, *events: ProviderEvent) -> int:
    offer = Offer(Provider("p", "openai", "http://x"), "m", frozenset({request.endpoint}))
    offer = replace(offer, prices=PriceList({dimension: RATE}))
    candidate = Candidate(Model("a/b", (offer,)), offer)
    attempt = Attempt(candidate, 0.0)
    attempt.take((*events, Completed()), 1.0)
    account = Account(CALL, request, Route((candidate,)), [attempt], None, waited_s=0.0, idle_s=0.0)
    return account.settlement(True, None).record.cost_nanos


@pytest.mark.parametrize("dimension", ONE_OF[Endpoint.IMAGES])
def test_of_pictures(dimension: str) -> None:
    assert cost(DRAWING, dimension, *DRAWN) > 0


@pytest.mark.parametrize("dimension", ONE_OF_SOUND[frozenset({"audio"})])
def test_of_speech(dimension: str) -> None:
    assert cost(SPEAKING, dimension, AudioDelta(b"x")) > 0


@pytest.mark.parametrize("dimension", ONE_OF_SOUND[frozenset({"text"})])
def test_of_transcripts(dimension: str) -> None:
    assert cost(LISTENING, dimension, Produced(Transcript("Hello."))) > 0


@pytest.mark.parametrize("dimension", ONE_OF[Endpoint.VIDEO])
def test_of_videos(dimension: str) -> None:
    job = replace(JOB, prices=PriceList({dimension: RATE}))
    _, settlement = ended(job, VideoStatus.COMPLETED, NOW, report=report(VideoStatus.COMPLETED))
    assert (settlement.charge_nanos or 0) > 0


def test_of_sound_there_is_a_rule_for_both_kinds() -> None:
    assert set(ONE_OF[Endpoint.AUDIO]) == {name for names in ONE_OF_SOUND.values() for name in names}


@pytest.mark.parametrize(
    ("endpoint", "made", "rates", "missing"),
    [
        (Endpoint.VIDEO, "video", {"output_video_tokens": 1}, ["video_seconds"]),
        (Endpoint.VIDEO, "video", {"requests": 1}, []),
        (Endpoint.AUDIO, "audio", {"output_audio_seconds": 1}, []),
        (Endpoint.AUDIO, "audio", {"input_audio_seconds": 1}, ["input_characters"]),
        (Endpoint.AUDIO, "text", {"input_characters": 1}, ["input_audio_seconds"]),
        (Endpoint.AUDIO, "text", {"input_text_tokens": 1}, []),
        (Endpoint.AUDIO, None, {"input_characters": 1}, []),
    ],
)
def test_a_price_that_nothing_is_counted_by_is_not_enough(
    endpoint: Endpoint, made: str | None, rates: dict[str, Any], missing: list[str]
) -> None:
    puts_out = None if made is None else frozenset({made})
    assert list(missing_dimensions(rates, frozenset({endpoint}), puts_out)) == missing


def test_partial_pictures_of_several_are_counted_by_the_last_of_them() -> None:
    partials = [ImagePartial(index, 0, "AA==", "image/png") for index in (0, 1, 0)]
    assert cost(replace(DRAWING, n=2), "output_image", *partials) == 2 * RATE // 1_000_000
