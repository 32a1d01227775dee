"""AudioService: typed speech and transcripts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from aistats.gateway.v1 import audio_pb2, audio_pb2_grpc
from server.domain import audio_limits, limits
from server.domain.audio import (
    MAX_FILE_BYTES,
    AudioFormat,
    Granularity,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
)
from server.domain.events import AudioDelta, Settled, TextDelta
from server.domain.request import Endpoint, RawJson
from server.domain.upload import Upload
from server.pipeline.speak import Speak
from server.pipeline.transcribe import Transcribe, Transcribed
from server.rpc.context import CallContext
from server.rpc.convert import encode_json, encode_meta, encode_usage
from server.rpc.options import decode_json, decode_provider_options, decode_routing
from server.rpc.uploads import received
from server.spool import Spool

__all__ = ["AudioServicer"]

CHUNK: Final = "chunk"

_FORMATS: Final[Mapping[int, AudioFormat]] = {
    audio_pb2.AUDIO_FORMAT_UNSPECIFIED: "mp3",
    audio_pb2.AUDIO_FORMAT_MP3: "mp3",
    audio_pb2.AUDIO_FORMAT_OPUS: "opus",
    audio_pb2.AUDIO_FORMAT_AAC: "aac",
    audio_pb2.AUDIO_FORMAT_FLAC: "flac",
    audio_pb2.AUDIO_FORMAT_WAV: "wav",
    audio_pb2.AUDIO_FORMAT_PCM: "pcm",
}
_GRANULARITIES: Final[Mapping[int, Granularity]] = {
    audio_pb2.TIMESTAMP_GRANULARITY_SEGMENT: "segment",
    audio_pb2.TIMESTAMP_GRANULARITY_WORD: "word",
}

_Transcribing: TypeAlias = AsyncIterator[audio_pb2.CreateTranscriptionRequest]
_Translating: TypeAlias = AsyncIterator[audio_pb2.CreateTranslationRequest]


class AudioServicer(audio_pb2_grpc.AudioServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, speak: Speak, transcribe: Transcribe, spool: Spool | None = None) -> None:
        self._speak = speak
        self._transcribe = transcribe
        self._spool = spool or Spool()

    async def CreateSpeech(  # type: ignore[override]  # the context is our own
        self, request: audio_pb2.CreateSpeechRequest, context: CallContext
    ) -> AsyncGenerator[audio_pb2.CreateSpeechResponse, None]:
        async with aclosing(self._speak(context.call, decode_speech(request))) as batches:
            async for batch in batches:
                for event in batch:
                    yield _encode_speech(event, request.model)

    async def CreateTranscription(  # type: ignore[override]  # the context is our own
        self, requests: _Transcribing, context: CallContext
    ) -> audio_pb2.CreateTranscriptionResponse:
        asked, file = await received(requests, MAX_FILE_BYTES, self._spool)
        request = decode_transcription(asked, file)
        return encode_transcribed(await self._transcribe(context.call, request), asked.model)

    async def StreamTranscription(  # type: ignore[override]  # the context is our own
        self, requests: _Transcribing, context: CallContext
    ) -> AsyncGenerator[audio_pb2.StreamTranscriptionResponse, None]:
        asked, file = await received(requests, MAX_FILE_BYTES, self._spool)
        request = replace(decode_transcription(asked, file), stream=True)
        transcript = Transcript("")
        async with aclosing(self._transcribe.stream(context.call, request)) as batches:
            async for batch in batches:
                for event in batch:
                    match event:
                        case TextDelta(text=text, logprobs=logprobs):
                            delta = audio_pb2.TranscriptDelta(text=text, logprobs_json=encode_json(logprobs))
                            yield audio_pb2.StreamTranscriptionResponse(text_delta=delta)
                        case Transcript():
                            transcript = event
                        case Settled():
                            whole = encode_transcribed(Transcribed(transcript, event), asked.model)
                            yield audio_pb2.StreamTranscriptionResponse(completed=whole)

    async def CreateTranslation(  # type: ignore[override]  # the context is our own
        self, requests: _Translating, context: CallContext
    ) -> audio_pb2.CreateTranscriptionResponse:
        asked, file = await received(requests, MAX_FILE_BYTES, self._spool)
        request = replace(_decode_shared(asked, file), into_english=True)
        return encode_transcribed(await self._transcribe(context.call, request), asked.model)


def decode_speech(request: audio_pb2.CreateSpeechRequest) -> SpeechRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.model:
        raise limits.missing_field("model")
    audio_limits.check_text(request.input, "input")
    audio_limits.check_voice(request.voice, "voice")
    if request.response_format not in _FORMATS:
        raise limits.invalid_value("response_format", "must be one of the formats that there are")
    optional: dict[str, Any] = {
        name: getattr(request, name) for name in ("speed", "instructions") if request.HasField(name)
    }
    if "speed" in optional:
        audio_limits.check_speed(request.speed)
    audio_limits.check_instructions(request.instructions)
    return SpeechRequest(
        endpoint=Endpoint.AUDIO,
        model=request.model,
        stream=True,
        text=request.input,
        voice=request.voice,
        format=_FORMATS[request.response_format],
        parameters={name: name for name in optional},
        provider_options=decode_provider_options(request.provider_options_json),
        routing=decode_routing(request.routing),
        trace=request.routing.trace,
        **optional,
    )


def _encode_speech(event: AudioDelta | Settled, model: str) -> audio_pb2.CreateSpeechResponse:
    if isinstance(event, AudioDelta):
        return audio_pb2.CreateSpeechResponse(audio=event.data)
    completed = audio_pb2.SpeechCompleted(model=model, usage=encode_usage(event.usage), meta=encode_meta(event.meta))
    return audio_pb2.CreateSpeechResponse(completed=completed)


def decode_transcription(request: audio_pb2.CreateTranscriptionRequest, file: Upload) -> TranscriptionRequest:
    """Raises GatewayError naming the field that is wrong."""
    shared = _decode_shared(request, file)
    parameters, passthrough = dict(shared.parameters), {}
    language = request.language if request.HasField("language") else None
    if language is not None:
        audio_limits.check_language(language)
        parameters["language"] = "language"
    if request.include_logprobs:
        parameters["logprobs"] = "include_logprobs"
    if request.HasField("chunking_strategy_json"):
        field = "chunking_strategy_json"
        strategy = decode_json(request.chunking_strategy_json, field)
        if strategy != "auto" and not isinstance(strategy, dict):
            raise limits.invalid_value(field, 'must be "auto" or an object')
        passthrough["chunking_strategy"] = RawJson(request.chunking_strategy_json.encode())
        parameters["chunking_strategy"] = field
    return replace(
        shared,
        language=language,
        logprobs=request.include_logprobs,
        parameters=parameters,
        passthrough=passthrough,
    )


def _decode_shared(
    request: audio_pb2.CreateTranscriptionRequest | audio_pb2.CreateTranslationRequest, file: Upload
) -> TranscriptionRequest:
    if not request.model:
        raise limits.missing_field("model")
    if request.chunk:
        raise limits.invalid_value(CHUNK, "belongs into messages of its own, after the first")
    optional: dict[str, Any] = {
        name: getattr(request, name) for name in ("prompt", "temperature") if request.HasField(name)
    }
    audio_limits.check_hint(request.prompt)
    if "temperature" in optional:
        audio_limits.check_temperature(request.temperature)
    field = "timestamp_granularities"
    for index, wanted in enumerate(request.timestamp_granularities):
        if wanted not in _GRANULARITIES:
            raise limits.invalid_value(f"{field}[{index}]", "must be one of the granularities that there are")
    audio_limits.check_file(file, CHUNK)
    parameters = {name: name for name in optional}
    if request.timestamp_granularities:
        parameters[field] = field
    return TranscriptionRequest(
        endpoint=Endpoint.AUDIO,
        model=request.model,
        file=file,
        granularities=frozenset(_GRANULARITIES[wanted] for wanted in request.timestamp_granularities),
        parameters=parameters,
        provider_options=decode_provider_options(request.provider_options_json),
        routing=decode_routing(request.routing),
        trace=request.routing.trace,
        **optional,
    )


def encode_transcribed(made: Transcribed, model: str) -> audio_pb2.CreateTranscriptionResponse:
    return audio_pb2.CreateTranscriptionResponse(
        model=model,
        transcript=_encode_transcript(made.transcript),
        usage=encode_usage(made.settled.usage),
        meta=encode_meta(made.settled.meta),
    )


def _encode_transcript(transcript: Transcript) -> audio_pb2.Transcript:
    return audio_pb2.Transcript(
        text=transcript.text,
        language=transcript.language,
        duration_s=transcript.duration_s,
        segments=[
            audio_pb2.TranscriptSegment(
                start_s=one.start_s, end_s=one.end_s, text=one.text, details_json=encode_json(one.details)
            )
            for one in transcript.segments
        ],
        words=[
            audio_pb2.TranscriptWord(start_s=one.start_s, end_s=one.end_s, text=one.text) for one in transcript.words
        ],
        logprobs_json=encode_json(transcript.logprobs),
    )
