"""Transcription by the openai dialect, over real sockets: what is read of the answers, whole, streamed and broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from server.domain.audio import Transcript, Word
from server.domain.errors import FailureCategory
from server.domain.events import Completed, Produced, TextDelta, UsageReported
from tests.fakes.audio_wire import (
    DELTAS,
    LOGPROBS,
    TEXT,
    events,
    mistral_events,
    mistral_transcript,
    transcript_events,
    verbose,
    vllm_events,
)
from tests.fakes.openai_upstream import Call, Cut, Hang, Reset, error, json_reply, rate_limited, sse, whole
from tests.fakes.replies import chunked, sse_event
from tests.fakes.wire import Reply
from tests.integration import transcribing
from tests.integration.transcribing import MISTRAL, NINE_SECONDS, TOKENS, Bench, request, text_of


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with transcribing.bench() as bench:
        yield bench


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
        async with asyncio.timeout(30):
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
    "no-utf-8": (whole(b'{"text":"Hi","segments":[{"start":0,"end":1,"text":"\xff"}]}'), FailureCategory.PROTOCOL),
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
    "no-time": (
        sse([sse_event(b'{"type":"transcript.text.segment","start":0,"end":1e999,"text":"Hi"}')]),
        FailureCategory.PROTOCOL,
    ),
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


async def test_mistral_s_words_are_its_segments(bench: Bench) -> None:
    bench.upstream.script(json_reply(mistral_transcript(segments=[{"text": " Hello.", "start": 0.8, "end": 1.3}])))
    transcript, _, _ = await bench.heard("voxtral-mini-2602", MISTRAL, granularities=["word"])
    assert (transcript.words, transcript.segments) == ((Word(0.8, 1.3, "Hello."),), ())


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


async def test_an_error_in_the_stream_comes_after_the_text_before_it(bench: Bench) -> None:
    delta = {"type": "transcript.text.delta", "delta": "The stale "}
    bench.upstream.script(events(delta, {"error": {"message": "Overloaded.", "type": "server_error", "code": 503}}))
    found, failure = await bench.events(request(stream=True), bench.offer())
    assert failure is not None
    assert (failure.category, text_of(found)) == (FailureCategory.OVERLOADED, "The stale ")
