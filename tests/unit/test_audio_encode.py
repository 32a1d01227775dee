"""Transcripts in every format, and what a stream of either kind tells, as OpenAI's SDK reads them."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from openai.types.audio import Transcription, TranscriptionTextDoneEvent, TranscriptionVerbose

from rest_bridge.audio_decode import SpeechOrder, TranscriptFormat, TranscriptOrder
from rest_bridge.audio_encode import SpeechEvents, TranscriptEvents, encode_transcript, segment_json, transcript_usage
from server.domain.audio import Granularity, Segment, SpeechRequest, Transcript, TranscriptionRequest, Word
from server.domain.errors import GatewayError, Reason
from server.domain.events import AudioDelta, Settled, TextDelta
from server.domain.request import Endpoint, RawJson
from server.domain.usage import Usage
from server.pipeline.transcribe import Transcribed
from tests.fakes.rest import ARRIVAL, META, PRICING, PRICING_JSON
from tests.fakes.uploads import BytesUpload

LOGPROBS = RawJson(b'[{"token":"Hi","logprob":-0.5,"bytes":[72,105]}]')
BY_TOKENS = Usage(input_tokens=14, output_tokens=3, input_audio_tokens=10, units={"input_audio_seconds": 2})
BY_LENGTH = Usage(units={"input_audio_seconds": 2}, pricing=PRICING)
TRANSCRIPT = Transcript(
    " Hi there. ",
    language="english",
    duration_s=1.5,
    segments=(
        Segment(0.0, 0.5, "Hi", RawJson(b'{"id":7,"avg_logprob":-0.25,"speaker":"A"}')),
        Segment(0.5, 1.5, "there."),
    ),
    words=(Word(0.0, 0.5, "Hi"), Word(0.5, 1.5, "there")),
    logprobs=LOGPROBS,
)


def order(
    wanted: TranscriptFormat = "json", *times: Granularity, meta: bool = False, logprobs: bool = False, **more: Any
) -> TranscriptOrder:
    request = TranscriptionRequest(
        endpoint=Endpoint.AUDIO, model="a/b", file=BytesUpload(b"x"), granularities=frozenset(times),
        logprobs=logprobs, **more,
    )  # fmt: skip
    return TranscriptOrder(request, wanted, meta)


def told(asked: TranscriptOrder, transcript: Transcript = TRANSCRIPT, usage: Usage = BY_LENGTH) -> tuple[str, str]:
    response = encode_transcript(Transcribed(transcript, Settled(usage, META)), asked, ARRIVAL)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return dict(response.headers)["content-type"], response.body.decode()


def test_json() -> None:
    kind, text = told(order())
    assert kind == "application/json"
    body = json.loads(text)
    assert body == {
        "id": ARRIVAL.generation_id,
        "text": " Hi there. ",
        "usage": {"type": "duration", "seconds": 2, "pricing": PRICING_JSON},
    }
    more = json.loads(told(order(meta=True, logprobs=True))[1])
    assert (more["meta"]["provider"], more["logprobs"]) == ("acme", json.loads(bytes(LOGPROBS)))
    read = Transcription.model_validate(more)
    assert read.usage is not None
    assert read.usage.type == "duration"


def test_verbose_json() -> None:
    body = json.loads(told(order("verbose_json", "segment", "word"))[1])
    read = TranscriptionVerbose.model_validate(body, strict=True)
    assert (read.language, read.duration, read.text) == ("english", 1.5, " Hi there. ")
    assert body["task"] == "transcribe"
    assert body["words"] == [
        {"word": "Hi", "start": 0.0, "end": 0.5},
        {"word": "there", "start": 0.5, "end": 1.5},
    ]
    first, second = body["segments"]
    assert (first["id"], first["avg_logprob"], first["speaker"], first["text"]) == (7, -0.25, "A", "Hi")
    assert second == {
        "id": 1, "seek": 0, "start": 0.5, "end": 1.5, "text": "there.", "tokens": [], "temperature": 0.0,
        "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0,
    }  # fmt: skip


def test_verbose_json_of_a_provider_that_tells_little() -> None:
    little = Transcript("Hi", segments=(Segment(0.0, 2.5, "Hi"),))
    body = json.loads(told(order("verbose_json", "segment", language="de"), little)[1])
    assert (body["language"], body["duration"]) == ("de", 2.5)
    assert "words" not in body
    english = json.loads(told(order("verbose_json", "word", into_english=True), Transcript("Hi"))[1])
    assert (english["language"], english["duration"], english["task"]) == ("en", 0.0, "translate")
    assert (english["words"], "segments" in english) == ([], False)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("text", "Hi there.\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:00,500\nHi\n\n2\n00:00:00,500 --> 00:00:01,500\nthere.\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nHi\n\n00:00:00.500 --> 00:00:01.500\nthere.\n\n"),
    ],
)
def test_plain_text(wanted: TranscriptFormat, text: str) -> None:
    assert told(order(wanted, "segment")) == ("text/plain; charset=utf-8", text)


def test_usage_is_of_one_of_two_kinds() -> None:
    tokens = msgspec.to_builtins(transcript_usage(BY_TOKENS))
    assert {name: value for name, value in tokens.items() if name != "pricing"} == {
        "type": "tokens", "input_tokens": 14, "output_tokens": 3, "total_tokens": 17,
        "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    }  # fmt: skip
    counted = msgspec.structs.replace(BY_TOKENS, source="counted")
    assert msgspec.to_builtins(transcript_usage(counted))["seconds"] == 2
    assert msgspec.to_builtins(transcript_usage(Usage()))["type"] == "tokens"


def test_a_segments_own_figures_do_not_change_its_times() -> None:
    details = RawJson(b'{"start":9,"end":9,"text":"no","tokens":[1,2]}')
    segment = segment_json(Segment(0.5, 1.0, "yes", details), 3)
    assert (segment["start"], segment["end"], segment["text"], segment["id"]) == (0.5, 1.0, "yes", 3)
    assert bytes(segment["tokens"]) == b"[1,2]"


def data(frames: bytes) -> list[Any]:
    assert frames.endswith(b"\n\n")
    lines = frames.decode().removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


FAILED = GatewayError(Reason.STREAM_INTERRUPTED, "It broke.")


def test_the_events_of_a_transcript() -> None:
    asked = order(logprobs=True, meta=True, stream=True)
    events = TranscriptEvents(asked, ARRIVAL)
    told = data(events.encode((TextDelta(0, 0, "Hi", LOGPROBS), TextDelta(0, 0, " there."))))
    assert told == [
        {"type": "transcript.text.delta", "delta": "Hi", "logprobs": json.loads(bytes(LOGPROBS))},
        {"type": "transcript.text.delta", "delta": " there."},
    ]
    (done,) = data(events.encode((TRANSCRIPT, Settled(BY_TOKENS, META))))
    read = TranscriptionTextDoneEvent.model_validate(done)
    assert (read.type, read.text) == ("transcript.text.done", " Hi there. ")
    assert read.usage is not None
    assert (read.usage.type, read.usage.total_tokens) == ("tokens", 17)
    assert (done["meta"]["provider"], done["id"]) == ("acme", ARRIVAL.generation_id)
    assert events.end() == b"data: [DONE]\n\n"
    (failed,) = data(events.fail(FAILED))
    assert (failed["error"]["message"], failed["error"]["reason"]) == ("It broke.", "stream_interrupted")
    quiet = TranscriptEvents(order(stream=True), ARRIVAL)
    assert b"logprobs" not in quiet.encode((TextDelta(0, 0, "Hi", LOGPROBS), TRANSCRIPT, Settled(BY_TOKENS, META)))


def test_the_events_of_a_speech() -> None:
    request = SpeechRequest(endpoint=Endpoint.AUDIO, model="a/b", text="Hi", voice="alloy")
    events = SpeechEvents(SpeechOrder(request, in_events=True, wants_meta=True), ARRIVAL)
    first, done = data(events.encode((AudioDelta(b"\x00\xff\x01"), Settled(BY_TOKENS, META))))
    assert first["type"] == "speech.audio.delta"
    assert base64.b64decode(first["audio"]) == b"\x00\xff\x01"
    assert (done["type"], done["meta"]["provider"]) == ("speech.audio.done", "acme")
    usage = done["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (14, 3, 17)
    assert usage["pricing"]["total_nanos"] == 0
    (failed,) = data(events.fail(FAILED))
    assert failed["error"]["code"] == "stream_interrupted"
