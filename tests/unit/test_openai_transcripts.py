"""The numbers in transcripts, and what they come to: floats with tails, text, nonsense, and nothing."""

from __future__ import annotations

from typing import Any

import pytest

from server.domain.audio import Transcript, TranscriptionRequest
from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Produced, ProviderEvent, UsageReported
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.providers.openai_speech import spoken
from server.providers.openai_transcripts import TranscriptDecoder, used
from tests.fakes.audio_wire import MISTRAL_USAGE, SPOKEN, TOKENS
from tests.fakes.replies import compact
from tests.fakes.uploads import BytesUpload

TOLD: list[tuple[Any, float | None, Usage | None]] = [
    (None, None, None),
    (None, 8.47, Usage(units={"input_audio_seconds": 9})),
    ({}, None, None),
    ("much", None, None),
    ({"type": "duration", "seconds": 9}, None, Usage(units={"input_audio_seconds": 9})),
    ({"type": "duration", "seconds": 8.470000267028809}, None, Usage(units={"input_audio_seconds": 9})),
    ({"type": "duration", "seconds": 60.00000047683716}, None, Usage(units={"input_audio_seconds": 60})),
    ({"type": "duration", "seconds": "9.2"}, 3.0, Usage(units={"input_audio_seconds": 10})),
    ({"type": "duration", "seconds": 0}, None, Usage(units={"input_audio_seconds": 0})),
    ({"type": "duration", "seconds": -1}, None, None),
    ({"type": "duration", "seconds": True}, None, None),
    ({"type": "duration", "seconds": 1e25}, None, None),
    ({"type": "duration", "seconds": 1e25}, 8.47, Usage(units={"input_audio_seconds": 9})),
    ({"type": "duration", "seconds": 10**7}, None, Usage(units={"input_audio_seconds": 10**7})),
    ({"type": "duration", "seconds": "nan"}, 2.5, Usage(units={"input_audio_seconds": 3})),
    (TOKENS, None, Usage(input_tokens=85, output_tokens=11, input_audio_tokens=85)),
    (TOKENS, 8.47, Usage(input_tokens=85, output_tokens=11, input_audio_tokens=85)),
    (MISTRAL_USAGE, None, Usage(input_tokens=4, output_tokens=635, units={"input_audio_seconds": 203})),
]


@pytest.mark.parametrize(("counted", "duration_s", "expected"), TOLD, ids=map(str, range(len(TOLD))))
def test_what_it_took(counted: Any, duration_s: float | None, expected: Usage | None) -> None:
    assert used(counted, duration_s) == expected


def test_what_is_put_out_by_a_voice_is_sound() -> None:
    assert spoken(SPOKEN) == Usage(input_tokens=14, output_tokens=101, output_audio_tokens=101)
    assert spoken(None) is None


DURATIONS: list[tuple[Any, float | None]] = [
    (8.470000267028809, 8.47),
    ("8.470000267028809", 8.47),
    (3, 3.0),
    (0, 0.0),
    ("", None),
    ("long", None),
    ("Infinity", None),
    (-0.1, None),
    (None, None),
    ([], None),
    (10**400, None),
    (1e25, None),
]


@pytest.mark.parametrize(("told", "expected"), DURATIONS, ids=map(str, range(len(DURATIONS))))
def test_a_duration(told: Any, expected: float | None) -> None:
    assert read({"text": "Hi", "duration": told}).duration_s == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"language": "english"}, "english"),
        ({"language": "en"}, "en"),
        ({"language": ""}, None),
        ({"language": None, "languages": [{"code": "de"}]}, "de"),
        ({"languages": [{"code": "de"}, {"code": "fr"}]}, None),
        ({"languages": []}, None),
        ({"languages": "de"}, None),
        ({"languages": ["de"]}, None),
    ],
    ids=map(str, range(8)),
)
def test_a_language_is_kept_as_it_was_told(told: dict[str, Any], expected: str | None) -> None:
    assert read({"text": "Hi", **told}).language == expected


def test_what_is_null_is_nothing() -> None:
    told = {"text": "Hi", "segments": None, "words": None, "logprobs": None, "usage": None, "error": None}
    assert read(told) == Transcript("Hi")
    assert read({"text": "Hi", "segments": [], "words": [], "logprobs": []}) == Transcript("Hi")


@pytest.mark.parametrize(
    "told",
    [
        {"segments": [{"text": "Hi", "start": 0}]},
        {"segments": [{"text": "Hi", "start": 0, "end": "late"}]},
        {"words": [{"word": "Hi", "end": 1}]},
        {"segments": ["Hi"]},
        {"words": {"word": "Hi"}},
        {"text": 3},
    ],
    ids=map(str, range(6)),
)
def test_what_is_no_transcript(told: dict[str, Any]) -> None:
    with pytest.raises(ProviderFailure):
        read({"text": "Hi", **told})


BROKEN = {
    "a segment's text": b'"segments":[{"start":0,"end":1,"text":"\xff"}]',
    "a segment's detail": b'"segments":[{"start":0,"end":1,"text":"Hi","avg_logprob":"\xff"}]',
    "a segment's time": b'"segments":[{"start":0,"end":1e999,"text":"Hi"}]',
    "probabilities": b'"logprobs":[{"token":"\xff"}]',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_whole_one_that_cannot_be_read(case: str) -> None:
    with pytest.raises(ProviderFailure) as caught:
        decoder().whole(b'{"text":"Hi",' + BROKEN[case] + b"}", [])
    assert caught.value.category is FailureCategory.PROTOCOL


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("kind", [b"transcript.text.delta", b"transcript.text.done"])
def test_an_event_that_cannot_be_read(kind: bytes, case: str) -> None:
    with pytest.raises(ProviderFailure) as caught:
        stream(b'{"type":"' + kind + b'","delta":"Hi","text":"Hi",' + BROKEN[case] + b"}")
    assert caught.value.category is FailureCategory.PROTOCOL


@pytest.mark.parametrize("fields", [b'"end":1e999', b'"end":1,"speaker":"\xff"'])
def test_a_segment_of_a_stream_that_cannot_be_read(fields: bytes) -> None:
    with pytest.raises(ProviderFailure) as caught:
        stream(b'{"type":"transcript.text.segment","text":"Hi","start":0,' + fields + b"}")
    assert caught.value.category is FailureCategory.PROTOCOL


def test_a_stream_s_last_chunk_may_be_of_usage_alone() -> None:
    """So vLLM writes it."""
    chunk = {"id": "trsc-1", "object": "transcription.chunk", "created": 1, "model": "w"}
    counted = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    decoding, out = decoder(stream=True), list[ProviderEvent]()
    decoding.feed(None, compact({**chunk, "choices": [{"index": 0, "delta": {"content": "Hi."}}]}), out)
    decoding.feed(None, compact({**chunk, "choices": [], "usage": counted}), out)
    decoding.feed(None, b"[DONE]", out)
    decoding.finish(out)
    assert UsageReported(Usage(input_tokens=10, output_tokens=2)) in out
    assert Produced(Transcript("Hi.")) in out


def decoder(**asked: Any) -> TranscriptDecoder:
    request = TranscriptionRequest(endpoint=Endpoint.AUDIO, model="a/w", file=BytesUpload(b""), **asked)
    return TranscriptDecoder(Provider("acme", "openai", "http://acme"), request)


def stream(data: bytes) -> None:
    decoding, out = decoder(stream=True), list[ProviderEvent]()
    decoding.feed(None, data, out)
    decoding.finish(out)


def read(told: Any) -> Transcript:
    out: list[ProviderEvent] = []
    decoder().whole(compact(told), out)
    (result,) = (event.result for event in out if isinstance(event, Produced))
    assert isinstance(result, Transcript)
    assert sum(isinstance(event, UsageReported) for event in out) <= 1
    return result
