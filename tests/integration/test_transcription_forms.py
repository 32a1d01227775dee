"""Transcription by the openai dialect, over real sockets: which form goes out, and what cannot be said in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from server.domain.errors import FailureCategory, GatewayError, Reason
from server.domain.usage import Usage
from tests.fakes.audio_wire import TEXT, mistral_transcript, sent_form
from tests.fakes.openai_upstream import json_reply
from tests.fakes.uploads import BytesUpload
from tests.integration import transcribing
from tests.integration.transcribing import MISTRAL, NINE_SECONDS, WAVE, Bench, options, request


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with transcribing.bench() as bench:
        yield bench


FORMS: Mapping[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "plain": ({}, [("response_format", "json")]),
    "all": (
        {"language": "de", "prompt": "Grüße, \"Ada\"\r\n", "temperature": 0.2, "logprobs": True},
        [
            ("language", "de"),
            ("prompt", "Grüße, \"Ada\"\r\n"),
            ("temperature", "0.2"),
            ("response_format", "json"),
            ("include[]", "logprobs"),
        ],
    ),
    "segments": (
        {"granularities": ["segment"]},
        [("response_format", "verbose_json"), ("timestamp_granularities[]", "segment")],
    ),
    "both": (
        {"granularities": ["word", "segment"], "temperature": 0.0},
        [
            ("temperature", "0.0"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "segment"),
            ("timestamp_granularities[]", "word"),
        ],
    ),
    "stream": ({"stream": True}, [("response_format", "json"), ("stream", "true")]),
    "chunking": (
        {"passthrough": {"chunking_strategy": msgspec.Raw(b'{"type":"server_vad","threshold":0.5}')}},
        [
            ("response_format", "json"),
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[threshold]", "0.5"),
        ],
    ),
    "options": (
        {"provider_options": options(chunking_strategy="auto", keywords=["Ada", "Babbage"])},
        [("response_format", "json"), ("chunking_strategy", "auto"), ("keywords[]", "Ada"), ("keywords[]", "Babbage")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
async def test_what_is_asked_for(bench: Bench, name: str) -> None:
    asked, fields = FORMS[name]
    transcript, _, _ = await bench.heard(**asked)
    assert transcript.text == TEXT
    (got,) = bench.upstream.requests
    assert (got.method, got.path) == ("POST", "/v1/audio/transcriptions")
    assert got.header("authorization") == "Bearer sk-upstream"
    form = sent_form(got)
    assert form.fields == [("model", "whisper-1"), *fields]
    assert (form.file, form.filename, form.file_type) == (WAVE, "talk.wav", "audio/wav")


async def test_into_english(bench: Bench) -> None:
    transcript, usage, _ = await bench.heard(into_english=True, prompt="Names: Ada.", granularities=["segment"])
    (got,) = bench.upstream.requests
    assert got.path == "/v1/audio/translations"
    expected = [("model", "whisper-1"), ("prompt", "Names: Ada."), ("response_format", "verbose_json")]
    assert sent_form(got).fields == expected
    assert (len(transcript.segments), usage) == (2, NINE_SECONDS)


async def test_mistral_s_form_and_answer(bench: Bench) -> None:
    segment = {"text": "Hello.", "start": 0.8, "end": 3.3, "type": "transcription_segment", "speaker_id": "speaker_1"}
    bench.upstream.script(json_reply(mistral_transcript(segments=[segment])))
    asked = {"granularities": ["segment"], "provider_options": options(diarize=True, context_bias=["Ada", "Bell"])}
    transcript, usage, _ = await bench.heard("voxtral-mini-2602", MISTRAL, **asked)
    assert sent_form(bench.upstream.requests[0]).fields == [
        ("model", "voxtral-mini-2602"),
        ("timestamp_granularities", "segment"),
        ("diarize", "true"),
        ("context_bias", "Ada"),
        ("context_bias", "Bell"),
    ]
    assert usage == Usage(input_tokens=4, output_tokens=635, units={"input_audio_seconds": 203})
    (told,) = transcript.segments
    assert (told.start_s, told.end_s, told.text) == (0.8, 3.3, "Hello.")
    assert bytes(told.details or b"") == b'{"speaker_id":"speaker_1"}'


NAMES: Mapping[str, tuple[BytesUpload, str]] = {
    "kept": (BytesUpload(WAVE, filename="talk.mp3", media_type="audio/wav"), "talk.mp3"),
    "of-type": (BytesUpload(b"x", filename="talk", media_type="audio/mpeg"), "talk.mp3"),
    "unnamed": (BytesUpload(b"x", media_type="audio/x-m4a"), "audio.m4a"),
    "hidden": (BytesUpload(b"x", filename=".wav", media_type="audio/flac"), ".wav.flac"),
    "dot": (BytesUpload(b"x", filename="talk.", media_type="audio/webm"), "talk.webm"),
    "of-content": (BytesUpload(WAVE), "audio.wav"),
    "of-content-mp4": (BytesUpload(b"\x00\x00\x00\x20ftypM4A ", media_type="application/octet-stream"), "audio.m4a"),
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_has_an_extension_that_says_what_it_is(bench: Bench, name: str) -> None:
    file, expected = NAMES[name]
    await bench.heard(file=file)
    form = sent_form(bench.upstream.requests[0])
    assert (form.filename, form.file) == (expected, file.data)


async def test_a_file_that_nobody_knows_goes_as_it_is(bench: Bench) -> None:
    failure = await bench.failure(file=BytesUpload(b"??", filename="notes"))
    assert (failure.category, failure.status) == (FailureCategory.CALLER_ERROR, 400)
    assert sent_form(bench.upstream.requests[0]).filename == "notes"


UNSAID: Mapping[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"parameters": {"seed": "seed"}}, "seed"),
    "english-stream": ({"into_english": True, "stream": True}, "stream"),
    "english-language": ({"into_english": True, "parameters": {"language": "language"}}, "language"),
    "english-words": (
        {"into_english": True, "granularities": ["word"], "parameters": {"timestamp_granularities": "times"}},
        "times",
    ),
}
BOTH = {"granularities": ["segment", "word"], "parameters": {"timestamp_granularities": "times"}}


@pytest.mark.parametrize("name", UNSAID)
def test_what_cannot_be_said_is_named(bench: Bench, name: str) -> None:
    asked, expected = UNSAID[name]
    assert bench.adapter.supports(bench.offer(), request(**asked)) == expected


def test_who_has_one_list_of_times_has_not_both_kinds(bench: Bench) -> None:
    assert bench.adapter.supports(bench.offer(profile=MISTRAL), request(**BOTH)) == "times"
    assert bench.adapter.supports(bench.offer(), request(**BOTH)) is None


WORDS, SEGMENTS = {"granularities": ["word"]}, {"granularities": ["segment"]}


@pytest.mark.parametrize(
    ("name", "value", "asked"),
    [
        ("file", "x", {}),
        ("file_url", "http://x", {}),
        ("response_format", "srt", {}),
        ("model", "m", {}),
        ("response_format", "json", SEGMENTS),
        ("response_format", "diarized_json", WORDS),
        ("timestamp_granularities", ["segment"], WORDS),
        ("timestamp_granularities[]", "segment", WORDS),
    ],
    ids=str,
)
def test_options_may_not_say_what_the_gateway_answers_for(
    bench: Bench, name: str, value: Any, asked: dict[str, Any]
) -> None:
    with pytest.raises(GatewayError) as caught:
        bench.adapter.supports(bench.offer(), request(provider_options=options(**{name: value}), **asked))
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_PARAMETER, f"provider_options.acme.{name}")


@pytest.mark.parametrize(
    ("value", "asked"), [("json", {}), ("verbose_json", WORDS), ("diarized_json", SEGMENTS)], ids=str
)
def test_options_may_choose_another_form_of_the_same(bench: Bench, value: str, asked: dict[str, Any]) -> None:
    given = options(response_format=value)
    assert bench.adapter.supports(bench.offer(), request(provider_options=given, **asked)) is None
