"""AudioService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import msgspec
import pytest

from aistats.gateway.v1 import audio_pb2, audio_pb2_grpc, content_pb2
from server.domain.audio import MAX_FILE_BYTES, Segment, SpeechRequest, Transcript, TranscriptionRequest, Word
from server.domain.events import AudioDelta, Completed, GenerationStream, Produced, TextDelta
from server.domain.identity import Call
from server.pipeline.speak import Speak
from server.pipeline.transcribe import Transcribe
from server.rpc.audio import AudioServicer
from tests.fakes.rest import SETTLED, STARTED
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any
Speech = audio_pb2.CreateSpeechRequest
Transcription = audio_pb2.CreateTranscriptionRequest
Translation = audio_pb2.CreateTranslationRequest
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(100_000)
LOGPROBS = b'[{"token":"Hi","logprob":-0.5}]'
HEARD = Transcript(
    "Hi there.",
    language="english",
    duration_s=1.5,
    segments=(Segment(0.0, 1.5, "Hi there.", msgspec.Raw(b'{"avg_logprob":-0.25}')),),
    words=(Word(0.0, 0.5, "Hi"),),
    logprobs=msgspec.Raw(LOGPROBS),
)
asked: list[Any] = []
files: list[bytes] = []


async def generate(call: Call, request: Any) -> GenerationStream:
    asked.append(request)
    match request:
        case SpeechRequest():
            yield (STARTED, AudioDelta(b"one"))
            yield (AudioDelta(b"two"), AudioDelta(b"three"), Completed())
        case TranscriptionRequest():
            files.append(b"".join([piece async for piece in request.file.pieces()]))
            if request.prompt == "in pieces":
                yield (STARTED, TextDelta(0, 0, "Hi", msgspec.Raw(LOGPROBS)), TextDelta(0, 0, " there."))
            yield (STARTED, Produced(HEARD), Completed())
    yield (SETTLED,)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return audio_pb2_grpc.add_AudioServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> AudioServicer:
    return AudioServicer(Speak(generate), Transcribe(generate))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return audio_pb2_grpc.AudioServiceStub


def sent(first: Any, data: bytes = WAV) -> Iterator[Any]:
    """A request with a file, as it is streamed."""
    yield first
    for start in range(0, len(data), 30_000):
        yield type(first)(chunk=data[start : start + 30_000])


def test_speech_comes_in_pieces_and_with_its_account(grpc_stub: Stub, as_inference: Metadata) -> None:
    request = Speech(
        model="a/b", input="Hi.", voice="alloy", response_format=audio_pb2.AUDIO_FORMAT_WAV, speed=0.5,
        instructions="Softly.", routing=content_pb2.RoutingOptions(only=["p"], trace=True),
        provider_options_json={"p": '{"k": 1}'},
    )  # fmt: skip
    *pieces, last = grpc_stub.CreateSpeech(request, metadata=as_inference)
    assert [piece.audio for piece in pieces] == [b"one", b"two", b"three"]
    assert (last.completed.model, last.completed.usage.input_tokens, last.completed.meta.provider) == ("a/b", 9, "acme")
    made = asked[-1]
    assert (made.text, made.voice, made.format, made.speed, made.instructions) == (
        "Hi.",
        "alloy",
        "wav",
        0.5,
        "Softly.",
    )
    assert made.parameters == {"speed": "speed", "instructions": "instructions"}
    assert (made.routing.only, made.trace, bytes(made.provider_options["p"]["k"])) == (("p",), True, b"1")
    list(grpc_stub.CreateSpeech(Speech(model="a/b", input="Hi.", voice="v"), metadata=as_inference))
    assert (asked[-1].format, asked[-1].speed, asked[-1].parameters) == ("mp3", None, {})


def test_a_transcription(grpc_stub: Stub, as_inference: Metadata) -> None:
    first = Transcription(
        model="a/b", filename="a.wav", media_type="audio/WAV", language="en", prompt="p", temperature=0.5,
        timestamp_granularities=[audio_pb2.TIMESTAMP_GRANULARITY_SEGMENT, audio_pb2.TIMESTAMP_GRANULARITY_WORD],
        include_logprobs=True, chunking_strategy_json='"auto"',
    )  # fmt: skip
    reply = grpc_stub.CreateTranscription(sent(first), metadata=as_inference)
    told = reply.transcript
    assert (reply.model, told.text, told.language, told.duration_s) == ("a/b", "Hi there.", "english", 1.5)
    assert [(one.end_s, one.text, one.details_json) for one in told.segments] == [
        (1.5, "Hi there.", '{"avg_logprob":-0.25}')
    ]
    assert [(one.end_s, one.text) for one in told.words] == [(0.5, "Hi")]
    assert (told.logprobs_json, reply.meta.provider) == (LOGPROBS.decode(), "acme")
    assert files[-1] == WAV
    made = asked[-1]
    assert (made.file.filename, made.file.media_type, made.file.size) == ("a.wav", "audio/wav", len(WAV))
    assert (made.language, made.prompt, made.temperature, made.logprobs) == ("en", "p", 0.5, True)
    assert made.granularities == {"segment", "word"}
    assert set(made.parameters) == {
        "language", "prompt", "temperature", "logprobs", "timestamp_granularities", "chunking_strategy",
    }  # fmt: skip
    assert bytes(made.passthrough["chunking_strategy"]) == b'"auto"'
    assert (made.stream, made.into_english) == (False, False)


def test_a_transcript_as_it_is_heard(grpc_stub: Stub, as_inference: Metadata) -> None:
    first = Transcription(model="a/b", prompt="in pieces")
    one, two, last = grpc_stub.StreamTranscription(sent(first), metadata=as_inference)
    assert (one.text_delta.text, one.text_delta.logprobs_json) == ("Hi", LOGPROBS.decode())
    assert (two.text_delta.text, last.completed.transcript.text) == (" there.", "Hi there.")
    assert (last.completed.usage.output_tokens, asked[-1].stream) == (3, True)


def test_what_comes_whole_is_told_as_one_piece(grpc_stub: Stub, as_inference: Metadata) -> None:
    one, last = grpc_stub.StreamTranscription(sent(Transcription(model="a/b")), metadata=as_inference)
    assert one.text_delta.text == last.completed.transcript.text == "Hi there."


def test_a_translation(grpc_stub: Stub, as_inference: Metadata) -> None:
    segments = [audio_pb2.TIMESTAMP_GRANULARITY_SEGMENT]
    first = Translation(model="a/b", prompt="p", timestamp_granularities=segments)
    assert grpc_stub.CreateTranslation(sent(first), metadata=as_inference).transcript.text == "Hi there."
    made = asked[-1]
    assert (made.into_english, made.granularities, made.prompt) == (True, {"segment"}, "p")


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (Speech(input="x", voice="v"), "model"),
        (Speech(model="a/b", voice="v"), "input"),
        (Speech(model="a/b", input="x" * 4097, voice="v"), "input"),
        (Speech(model="a/b", input="x"), "voice"),
        (Speech(model="a/b", input="x", voice="v", speed=5), "speed"),
        (Speech(model="a/b", input="x", voice="v", response_format=99), "response_format"),  # type: ignore[arg-type]
    ],
    ids=("no model", "no text", "long text", "no voice", "speed", "format"),
)
def test_what_cannot_be_read_aloud_is_named(grpc_stub: Stub, as_inference: Metadata, request_: Any, param: str) -> None:
    error = refused(grpc_stub.CreateSpeech, request_, as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


@pytest.mark.parametrize(
    ("first", "data", "param"),
    [
        (Transcription(), WAV, "model"),
        (Transcription(model="a/b", chunk=WAV), WAV, "chunk"),
        (Transcription(model="a/b"), b"", "chunk"),
        (Transcription(model="a/b"), b"%PDF-1.7", "chunk"),
        (Transcription(model="a/b"), WAV + bytes(MAX_FILE_BYTES), "chunk"),
        (Transcription(model="a/b", temperature=1.5), WAV, "temperature"),
        (Transcription(model="a/b", language="english"), WAV, "language"),
        (Transcription(model="a/b", timestamp_granularities=[0]), WAV, "timestamp_granularities[0]"),  # type: ignore[list-item]
        (Transcription(model="a/b", chunking_strategy_json="auto"), WAV, "chunking_strategy_json"),
        (Transcription(model="a/b", chunking_strategy_json="[]"), WAV, "chunking_strategy_json"),
    ],
    ids=("model", "early", "empty", "a PDF", "large", "temperature", "language", "times", "no JSON", "no object"),
)
def test_what_cannot_be_written_down_is_named(
    grpc_stub: Stub, as_inference: Metadata, first: Any, data: bytes, param: str
) -> None:
    for method in (grpc_stub.CreateTranscription, grpc_stub.StreamTranscription):
        error = refused(method, sent(first, data), as_inference)
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert details(error)[1].metadata["param"] == param


def test_a_key_for_inference_is_needed(grpc_stub: Stub, as_management: Metadata) -> None:
    speech = Speech(model="a/b", input="x", voice="v")
    file = Transcription(model="a/b")
    assert refused(grpc_stub.CreateSpeech, speech, ()).code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused(grpc_stub.CreateSpeech, speech, as_management).code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused(grpc_stub.CreateTranscription, sent(file), ()).code() is grpc.StatusCode.UNAUTHENTICATED
