"""Transcripts as OpenAI tells them, and the events of streamed speech and transcripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from rest_bridge.audio_decode import SpeechOrder, TranscriptOrder
from rest_bridge.audio_subtitles import srt, vtt
from rest_bridge.errors import error_body
from rest_bridge.http import RestResponse, json_response
from rest_bridge.pricing_json import PricingJson, usage_pricing
from rest_bridge.sse import DONE
from server.domain.audio import Segment, Transcript, Word
from server.domain.errors import GatewayError
from server.domain.events import AudioDelta, Settled, TextDelta
from server.domain.identity import Arrival
from server.domain.request import RawJson
from server.domain.usage import Meta, Usage
from server.pipeline.transcribe import Transcribed

PLAIN: Final = "text/plain; charset=utf-8"

_json: Final = msgspec.json.Encoder().encode
_FIGURES: Final = msgspec.json.Decoder(dict[str, RawJson])


class InputTokenDetails(msgspec.Struct, frozen=True):
    text_tokens: int
    audio_tokens: int


class TokensUsage(msgspec.Struct, frozen=True, tag_field="type", tag="tokens"):
    """Of a model that is paid by tokens."""

    input_tokens: int
    input_token_details: InputTokenDetails
    output_tokens: int
    total_tokens: int
    pricing: PricingJson


class DurationUsage(msgspec.Struct, frozen=True, tag_field="type", tag="duration"):
    """Of a model that is paid by the length of the file, in seconds."""

    seconds: int
    pricing: PricingJson


class SpeechUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    pricing: PricingJson


class TranscriptionJson(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is that of the record. `logprobs` are there where they were asked for."""

    id: str
    text: str
    logprobs: RawJson | msgspec.UnsetType = msgspec.UNSET
    usage: TokensUsage | DurationUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class SegmentJson(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the file, times in seconds. Figures that the provider does not tell are zero, or as good as can be.

    What else the provider tells of it stands beside these.
    """

    id: int
    seek: int = 0
    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0


class WordJson(msgspec.Struct, frozen=True):
    word: str
    start: float
    end: float


class VerboseTranscriptionJson(msgspec.Struct, frozen=True, kw_only=True):
    """`segments` and `words` are there as `timestamp_granularities` asks for them."""

    id: str
    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: tuple[RawJson, ...] | msgspec.UnsetType = msgspec.UNSET
    words: tuple[WordJson, ...] | msgspec.UnsetType = msgspec.UNSET
    usage: TokensUsage | DurationUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class SpeechDeltaEvent(msgspec.Struct, frozen=True, tag_field="type", tag="speech.audio.delta"):
    """More of the sound, as base64; each event's can be decoded by itself."""

    audio: str


class SpeechDoneEvent(msgspec.Struct, frozen=True, tag_field="type", tag="speech.audio.done"):
    usage: SpeechUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class TranscriptDeltaEvent(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.delta"):
    delta: str
    logprobs: RawJson | msgspec.UnsetType = msgspec.UNSET


class TranscriptDoneEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="transcript.text.done"):
    id: str
    text: str
    logprobs: RawJson | msgspec.UnsetType = msgspec.UNSET
    usage: TokensUsage | DurationUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


def encode_transcript(made: Transcribed, order: TranscriptOrder, arrival: Arrival) -> RestResponse:
    """The transcript in the format that was asked for; its account goes with those that have a place for it."""
    transcript = made.transcript
    match order.format:
        case "json":
            return json_response(_json(_plain(made, order, arrival)))
        case "verbose_json":
            return json_response(_json(_verbose(made, order, arrival)))
        case "text":
            return _text(f"{transcript.text.strip()}\n")
        case "srt":
            return _text(srt(transcript.segments))
        case "vtt":
            return _text(vtt(transcript.segments))


def _text(text: str) -> RestResponse:
    return RestResponse(200, (("content-type", PLAIN),), text.encode())


def _plain(made: Transcribed, order: TranscriptOrder, arrival: Arrival) -> TranscriptionJson:
    return TranscriptionJson(
        id=arrival.generation_id,
        text=made.transcript.text,
        logprobs=_asked_for(made.transcript.logprobs, order),
        usage=transcript_usage(made.settled.usage),
        meta=_meta(made.settled, wants_meta=order.wants_meta),
    )


def _verbose(made: Transcribed, order: TranscriptOrder, arrival: Arrival) -> VerboseTranscriptionJson:
    transcript, request = made.transcript, order.request
    ends_s = [*(one.end_s for one in transcript.segments), *(one.end_s for one in transcript.words)]
    language = "en" if request.into_english else request.language or ""
    return VerboseTranscriptionJson(
        id=arrival.generation_id,
        task="translate" if request.into_english else "transcribe",
        language=transcript.language or language,
        duration=max(ends_s, default=0.0) if transcript.duration_s is None else transcript.duration_s,
        text=transcript.text,
        segments=_segments(transcript.segments) if "segment" in request.granularities else msgspec.UNSET,
        words=tuple(map(_word, transcript.words)) if "word" in request.granularities else msgspec.UNSET,
        usage=transcript_usage(made.settled.usage),
        meta=_meta(made.settled, wants_meta=order.wants_meta),
    )


def _segments(segments: Sequence[Segment]) -> tuple[RawJson, ...]:
    return tuple(RawJson(_json(segment_json(one, number))) for number, one in enumerate(segments))


def segment_json(segment: Segment, number: int) -> Mapping[str, Any]:
    """`SegmentJson`, with the provider's own figures where it told them."""
    told = {} if segment.details is None else _FIGURES.decode(segment.details)
    known = SegmentJson(id=number, start=segment.start_s, end=segment.end_s, text=segment.text)
    ours = {"start": segment.start_s, "end": segment.end_s, "text": segment.text}
    return {**msgspec.structs.asdict(known), **told, **ours}


def _word(word: Word) -> WordJson:
    return WordJson(word.text, word.start_s, word.end_s)


def _asked_for(logprobs: RawJson | None, order: TranscriptOrder) -> RawJson | msgspec.UnsetType:
    return logprobs if order.request.logprobs and logprobs is not None else msgspec.UNSET


def _meta(settled: Settled, *, wants_meta: bool) -> Meta | msgspec.UnsetType:
    return settled.meta if wants_meta else msgspec.UNSET


def transcript_usage(usage: Usage) -> TokensUsage | DurationUsage:
    """Tokens where the provider told them, else how long the file is."""
    pricing, seconds = usage_pricing(usage), usage.units.get("input_audio_seconds")
    if seconds is not None and not (usage.source == "provider" and usage.total_tokens):
        return DurationUsage(seconds, pricing)
    details = InputTokenDetails(usage.input_tokens - usage.input_audio_tokens, usage.input_audio_tokens)
    return TokensUsage(usage.input_tokens, details, usage.output_tokens, usage.total_tokens, pricing)


class SpeechEvents:
    """Implements `rest_bridge.sse.StreamEncoder` for speech."""

    def __init__(self, order: SpeechOrder, arrival: Arrival) -> None:
        self._order = order
        self._arrival = arrival

    def encode(self, events: Sequence[AudioDelta | Settled]) -> bytes:
        return b"".join(map(self._event, events))

    def _event(self, event: AudioDelta | Settled) -> bytes:
        if isinstance(event, AudioDelta):
            return _data(SpeechDeltaEvent(base64.b64encode(event.data).decode()))
        usage = event.usage
        told = SpeechUsage(usage.input_tokens, usage.output_tokens, usage.total_tokens, usage_pricing(usage))
        return _data(SpeechDoneEvent(told, _meta(event, wants_meta=self._order.wants_meta)))

    def end(self) -> bytes:
        return DONE

    def fail(self, error: GatewayError) -> bytes:
        return _failed(error, self._arrival)


class TranscriptEvents:
    """Implements `rest_bridge.sse.StreamEncoder` for transcripts."""

    def __init__(self, order: TranscriptOrder, arrival: Arrival) -> None:
        self._order = order
        self._arrival = arrival
        self._transcript = Transcript("")

    def encode(self, events: Sequence[TextDelta | Transcript | Settled]) -> bytes:
        return b"".join(map(self._event, events))

    def _event(self, event: TextDelta | Transcript | Settled) -> bytes:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                return _data(TranscriptDeltaEvent(text, _asked_for(logprobs, self._order)))
            case Transcript():
                self._transcript = event
                return b""
            case Settled():
                whole = _plain(Transcribed(self._transcript, event), self._order, self._arrival)
                return _data(TranscriptDoneEvent(**msgspec.structs.asdict(whole)))

    def end(self) -> bytes:
        return DONE

    def fail(self, error: GatewayError) -> bytes:
        return _failed(error, self._arrival)


def _data(event: msgspec.Struct) -> bytes:
    return b"data: %b\n\n" % _json(event)


def _failed(error: GatewayError, arrival: Arrival) -> bytes:
    """The event that OpenAI's SDKs raise APIError from, with the contract's own fields beside theirs."""
    told: dict[str, Any] = msgspec.to_builtins(error_body(error, arrival.generation_id))
    told = {"message": told["description"], "type": told["error"], "code": told["reason"], **told}
    return b"data: %b\n\n" % _json({"error": told})
