"""Transcription by the openai dialect, over real sockets: which form goes out, and what is read of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from server.domain.audio import Transcript, TranscriptionRequest, Word
from server.domain.catalog import Offer, Provider, ProviderProfile
from server.domain.errors import FailureCategory, GatewayError, ProviderFailure, Reason
from server.domain.events import Completed, Produced, ProviderEvent, Started, TextDelta, UsageReported
from server.domain.fold import Fold
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.audio_wire import (
    DELTAS,
    LOGPROBS,
    TEXT,
    as_openai_audio,
    events,
    mistral_events,
    mistral_transcript,
    sent_form,
    transcript_events,
    verbose,
    vllm_events,
)
from tests.fakes.openai_upstream import Call, Cut, Hang, Reset, Upstream, error, json_reply, rate_limited, sse, whole
from tests.fakes.replies import chunked, sse_event
from tests.fakes.uploads import BytesUpload
from tests.fakes.wire import Reply
from tests.unit.openai_cases import CountingIds, FixedClock

OPENAI = ProviderProfile()
MISTRAL = ProviderProfile(transcript_formats=False, form_arrays="plain")
NINE_SECONDS = Usage(units={"input_audio_seconds": 9})
TOKENS = Usage(input_tokens=85, output_tokens=11, input_audio_tokens=85)
WAVE = b"RIFF\x24\x00\x00\x00WAVEfmt "


class Bench:
    def __init__(self, upstream: Upstream, transport: Transport) -> None:
        self.upstream = upstream
        self.adapter = OpenAIAdapter(transport, FixedClock(), CountingIds())

    def offer(self, model: str = "whisper-1", profile: ProviderProfile = OPENAI) -> Offer:
        provider = Provider("acme", "openai", self.upstream.base_url, api_key="sk-upstream", profile=profile)
        return Offer(provider, model, frozenset({Endpoint.AUDIO}))

    async def events(
        self, asked: TranscriptionRequest, offer: Offer
    ) -> tuple[list[ProviderEvent], ProviderFailure | None]:
        """What was said, and the failure that ended it. It folds, as what a team has stored does."""
        assert self.adapter.supports(offer, asked) is None
        found: list[ProviderEvent] = []
        fold = Fold()
        try:
            async with aclosing(self.adapter.stream(offer, asked)) as stream:
                async for batch in stream:
                    found += batch
                    fold.add(batch)
        except ProviderFailure as failure:
            return found, failure
        return found, None

    async def heard(
        self, model: str = "whisper-1", profile: ProviderProfile = OPENAI, **asked: Any
    ) -> tuple[Transcript, Usage | None, str]:
        """The transcript, its usage, and what was told of it meanwhile."""
        found, failure = await self.events(request(**asked), self.offer(model, profile))
        assert failure is None, failure
        assert (isinstance(found[0], Started), found[-1]) == (True, Completed())
        (result,) = (event.result for event in found if isinstance(event, Produced))
        assert isinstance(result, Transcript)
        usage = next((event.usage for event in found if isinstance(event, UsageReported)), None)
        return result, usage, text_of(found)

    async def failure(self, **asked: Any) -> ProviderFailure:
        """Of an answer that told nothing."""
        found, failure = await self.events(request(**asked), self.offer())
        assert failure is not None
        assert text_of(found) == ""
        return failure


def request(**asked: Any) -> TranscriptionRequest:
    file = asked.pop("file", None) or BytesUpload(WAVE, filename="talk.wav", media_type="audio/wav")
    times = frozenset(asked.pop("granularities", ()))
    return TranscriptionRequest(endpoint=Endpoint.AUDIO, model="acme/w", file=file, granularities=times, **asked)


def text_of(events: list[ProviderEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def options(**given: Any) -> Mapping[str, Mapping[str, msgspec.Raw]]:
    return {"acme": {name: msgspec.Raw(json.dumps(value).encode()) for name, value in given.items()}}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Upstream(as_openai_audio) as upstream, Transport() as transport:
        yield Bench(upstream, transport)


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


async def test_segments_and_words_are_told_as_they_are(bench: Bench) -> None:
    transcript, usage, _ = await bench.heard(granularities=["segment", "word"])
    assert (transcript.language, transcript.duration_s, usage) == ("english", 8.47, NINE_SECONDS)
    first, second = transcript.segments
    assert (first.start_s, first.end_s, first.text) == (0.0, 3.319999933242798, " The stale smell")
    assert second.details is not None
    assert json.loads(bytes(second.details)) == {
        "id": 1, "seek": 0, "tokens": [50364, 440], "temperature": 0.0, "avg_logprob": -0.286, "no_speech_prob": 0.01,
    }  # fmt: skip
    assert transcript.words[0] == Word(0.0, 0.23999999463558197, "The")


async def test_what_a_model_cannot_write_is_the_provider_s_own_refusal(bench: Bench) -> None:
    found, failure = await bench.events(request(granularities=["segment"]), bench.offer("gpt-4o-transcribe"))
    assert (found, failure is not None) == ([], True)
    assert failure is not None
    assert (failure.category, failure.upstream.param) == (FailureCategory.CALLER_ERROR, "response_format")


async def test_a_stream_tells_text_and_then_all_of_it(bench: Bench) -> None:
    asked = request(stream=True, logprobs=True)
    found, failure = await bench.events(asked, bench.offer("gpt-4o-transcribe"))
    assert failure is None
    assert [event.text for event in found if isinstance(event, TextDelta)] == list(DELTAS)
    assert found[-3:] == [UsageReported(TOKENS), Produced(Transcript(TEXT)), Completed()]


async def test_text_is_told_as_it_comes(bench: Bench) -> None:
    seen = asyncio.Event()

    async def first_was_seen(_: object) -> None:
        async with asyncio.timeout(10):
            await seen.wait()

    delta = sse_event(b'{"type":"transcript.text.delta","delta":"Hi"}')
    done = sse_event(b'{"type":"transcript.text.done","text":"Hi"}')
    bench.upstream.script(chunked([delta, Call(first_was_seen), done]))
    text = ""
    async with aclosing(bench.adapter.stream(bench.offer("x-transcribe"), request(stream=True))) as batches:
        async for batch in batches:
            text += text_of(list(batch))
            seen.set()
    assert text == "Hi"


async def test_a_stream_that_comes_whole_tells_its_text_once(bench: Bench) -> None:
    """`whisper-1` ignores `stream`."""
    transcript, usage, told = await bench.heard(stream=True)
    assert (transcript.text, told, usage) == (TEXT, TEXT, NINE_SECONDS)


async def test_a_whole_answer_tells_no_pieces(bench: Bench) -> None:
    _, _, told = await bench.heard()
    assert told == ""


STREAMS: Mapping[str, tuple[Reply, str, str | None]] = {
    "mistral": (mistral_events(), "Hello.", "en"),
    "vllm": (vllm_events(), "Hello.", None),
    "no-deltas": (events({"type": "transcript.text.done", "text": "Hello."}), "Hello.", None),
    "silence": (events({"type": "transcript.text.done", "text": ""}), "", None),
    "no-text-at-the-end": (
        events({"type": "transcript.text.delta", "delta": "Hello."}, {"type": "transcript.text.done"}),
        "Hello.",
        None,
    ),
    "unknown-events": (
        events({"type": "ping"}, {"type": "transcript.text.done", "text": "Hello.", "languages": [{"code": "fr"}]}),
        "Hello.",
        "fr",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_streams_of_others(bench: Bench, name: str) -> None:
    reply, text, language = STREAMS[name]
    bench.upstream.script(reply)
    transcript, _, told = await bench.heard(stream=True)
    assert (transcript.text, told, transcript.language) == (text, text, language)


async def test_mistral_s_stream_has_segments_and_seconds(bench: Bench) -> None:
    bench.upstream.script(mistral_events())
    transcript, usage, _ = await bench.heard("voxtral-mini-2602", MISTRAL, stream=True)
    assert [(one.start_s, one.end_s, one.text) for one in transcript.segments] == [(0.8, 3.3, "Hello.")]
    assert usage is not None
    assert usage.units == {"input_audio_seconds": 203}


FAILURES: Mapping[str, tuple[Reply, FailureCategory]] = {
    "page": (whole(b"<html>Sign in</html>", content_type="text/html"), FailureCategory.PROTOCOL),
    "subtitles": (whole(b"1\n00:00:00,000 --> 00:00:01,000\nHi", content_type="text/plain"), FailureCategory.PROTOCOL),
    "no-text": (json_reply({"usage": {"type": "duration", "seconds": 1}}), FailureCategory.PROTOCOL),
    "list": (json_reply(["Hi"]), FailureCategory.PROTOCOL),
    "empty": (whole(b""), FailureCategory.PROTOCOL),
    "error-in-200": (json_reply({"error": {"message": "Overloaded.", "code": 503}}), FailureCategory.OVERLOADED),
    "object-error": (json_reply({"object": "error", "message": "No.", "code": 400}), FailureCategory.CALLER_ERROR),
    "reset": ([Reset()], FailureCategory.CONNECTION),
    "cut": (chunked([b'{"text":"Hel', Cut()], content_type="application/json"), FailureCategory.CONNECTION),
    "refused": (error(400, "Invalid file format.", type="invalid_request_error"), FailureCategory.CALLER_ERROR),
    "too-large": (error(413, "Maximum content size limit exceeded."), FailureCategory.CALLER_ERROR),
    "key": (error(401, "Incorrect API key.", code="invalid_api_key"), FailureCategory.CREDENTIALS),
    "down": (error(503), FailureCategory.OVERLOADED),
    "segment-without-times": (
        json_reply({"text": "Hi", "segments": [{"text": "Hi"}]}),
        FailureCategory.PROTOCOL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_what_is_no_transcript_is_a_failure(bench: Bench, name: str) -> None:
    reply, category = FAILURES[name]
    bench.upstream.script(reply)
    assert (await bench.failure()).category is category


STREAM_FAILURES: Mapping[str, tuple[Reply, FailureCategory]] = {
    "nothing": (sse([]), FailureCategory.CONNECTION),
    "only-the-end": (sse([sse_event(b"[DONE]")]), FailureCategory.PROTOCOL),
    "garbage": (sse([sse_event(b"{oops")]), FailureCategory.PROTOCOL),
    "error": (
        events({"type": "error", "error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}),
        FailureCategory.RATE_LIMITED,
    ),
    "page": (whole(b"<html>", content_type="text/html"), FailureCategory.PROTOCOL),
}


@pytest.mark.parametrize("name", STREAM_FAILURES)
async def test_a_stream_that_tells_nothing_is_a_failure(bench: Bench, name: str) -> None:
    reply, category = STREAM_FAILURES[name]
    bench.upstream.script(reply)
    assert (await bench.failure(stream=True)).category is category


@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_cut_comes_after_the_text_before_it(bench: Bench, end: Any) -> None:
    bench.upstream.script(transcript_events(["The stale "], done=False, end=end))
    found, failure = await bench.events(request(stream=True), bench.offer())
    assert failure is not None
    assert (failure.category, Completed() in found) == (FailureCategory.CONNECTION, False)


async def test_times_that_were_asked_for_must_be_there(bench: Bench) -> None:
    bench.upstream.script(json_reply(verbose("segment")), json_reply(verbose() | {"text": " "}))
    failure = await bench.failure(granularities=["segment", "word"])
    assert failure.category is FailureCategory.PROTOCOL
    transcript, _, _ = await bench.heard(granularities=["segment"])
    assert transcript.text == " "


async def test_a_rate_limit_says_how_long(bench: Bench) -> None:
    bench.upstream.script(rate_limited("7"))
    failure = await bench.failure()
    assert (failure.category, failure.retry_after_s) == (FailureCategory.RATE_LIMITED, 7.0)


async def test_a_client_that_goes_ends_the_call(bench: Bench) -> None:
    bench.upstream.script([Hang()])
    waiting = asyncio.create_task(bench.events(request(), bench.offer()))
    await bench.upstream.wait_request()
    waiting.cancel()
    await bench.upstream.wait_disconnect()


async def test_logprobs_are_told(bench: Bench) -> None:
    transcript, _, _ = await bench.heard(logprobs=True)
    assert transcript.logprobs is not None
    assert json.loads(bytes(transcript.logprobs)) == LOGPROBS


UNSAID: Mapping[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"parameters": {"seed": "seed"}}, "seed"),
    "english-stream": ({"into_english": True, "stream": True}, "stream"),
    "english-language": ({"into_english": True, "parameters": {"language": "language"}}, "language"),
    "english-words": (
        {"into_english": True, "granularities": ["word"], "parameters": {"timestamp_granularities": "times"}},
        "times",
    ),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_cannot_be_said_is_named(bench: Bench, name: str) -> None:
    asked, expected = UNSAID[name]
    assert bench.adapter.supports(bench.offer(), request(**asked)) == expected


@pytest.mark.parametrize(
    ("name", "value"), [("file", "x"), ("file_url", "http://x"), ("response_format", "srt"), ("model", "m")]
)
def test_options_may_not_say_what_the_gateway_answers_for(bench: Bench, name: str, value: str) -> None:
    with pytest.raises(GatewayError) as caught:
        bench.adapter.supports(bench.offer(), request(provider_options=options(**{name: value})))
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_PARAMETER, f"provider_options.acme.{name}")
