"""Transcripts as OpenAI-compatible upstreams write them, whole or in events; and what they say it took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from server.domain.audio import LONGEST_S, Segment, Transcript, TranscriptionRequest, Word
from server.domain.catalog import Provider
from server.domain.events import (
    Completed,
    PartEnded,
    PartKind,
    PartStarted,
    Produced,
    ProviderEvent,
    Started,
    TextDelta,
    UsageReported,
)
from server.domain.request import RawJson
from server.domain.usage import Usage
from server.providers.decoding import UNREADABLE
from server.providers.openai_errors import cut_failure, failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_usage import read_usage

__all__ = ["TranscriptDecoder", "used"]

_END: Final = b"[DONE]"
_DELTAS: Final = frozenset({"transcript.text.delta", "transcription.text.delta"})
_SEGMENTS: Final = frozenset({"transcript.text.segment", "transcription.segment"})
_ENDS: Final = frozenset({"transcript.text.done", "transcription.done"})
"""What OpenAI and Mistral call them."""
_LANGUAGE: Final = "transcription.language"
_NONE: Final = msgspec.Raw(b"null")
_DIGITS: Final = 3
"""Of a duration in seconds: what is beyond comes of 32-bit floats."""

_decode_any: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class _Reply(msgspec.Struct):
    """A whole transcript, or an event of one."""

    type: Any = None
    text: Any = None
    delta: Any = None
    choices: Any = None
    language: Any = None
    audio_language: Any = None
    languages: Any = None
    duration: Any = None
    segments: list[dict[str, msgspec.Raw]] | None = None
    words: list[dict[str, Any]] | None = None
    logprobs: msgspec.Raw = _NONE
    usage: Any = None
    error: Any = None
    id: Any = None
    model: Any = None


_decode: Final = msgspec.json.Decoder(_Reply).decode
_decode_segment: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class TranscriptDecoder:
    """Reads the answer to `request`; where that wants a stream, a whole one tells its text too. See `StreamDecoder`."""

    complete = False

    def __init__(self, provider: Provider, request: TranscriptionRequest) -> None:
        self._provider = provider
        self._streamed = request.stream
        self._granularities = request.granularities
        self._has_begun = False
        self._heard: list[str] = []
        self._segments: list[Segment] = []
        self._language: str | None = None
        self._last: _Reply | None = None
        self._usage: Any = None
        self.done = False

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        told = self._read(body)
        if not isinstance(told.text, str):
            raise self._unreadable(body)
        transcript = self._with_words(_transcript(told, told.text))
        self._check_times(transcript)
        self._begin(told, out)
        if self._streamed:
            out.append(TextDelta(0, 0, told.text, transcript.logprobs))
        self._end(transcript, told.usage, out)

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if data == _END:
            self.done = True
            return
        told = self._read(data)
        kind = told.type or event
        if kind in _DELTAS or isinstance(told.choices, list):  # vLLM's last has no choices but the usage
            self._begin(told, out)
            self._usage = told.usage or self._usage
            if text := _more(told):
                self._heard.append(text)
                out.append(TextDelta(0, 0, text, _array(told.logprobs)))
        elif kind in _SEGMENTS:
            self._segments.append(_segment(_decode_segment(data)))
        elif kind == _LANGUAGE:
            self._language = _label(told.audio_language)
        elif kind in _ENDS:
            self._begin(told, out)
            self._last = told
            self.done = True
        elif kind in (None, "error"):
            raise self._unreadable(data)

    def finish(self, out: list[ProviderEvent]) -> None:
        if not self.done:
            raise cut_failure()
        if self._last is None and not self._has_begun:
            raise protocol_failure("The provider ended its stream without a transcript.")
        last = self._last or _Reply()
        heard = "".join(self._heard)
        transcript = _transcript(last, last.text if isinstance(last.text, str) else heard)
        if not heard and transcript.text:
            out.append(TextDelta(0, 0, transcript.text))
        language = transcript.language or self._language
        segments = transcript.segments or tuple(self._segments)
        self._end(replace(transcript, language=language, segments=segments), last.usage or self._usage, out)

    def _with_words(self, transcript: Transcript) -> Transcript:
        """Where there is one format only it has one list of times: its segments are words where those were wanted."""
        if self._provider.profile.transcript_formats or self._granularities != {"word"}:
            return transcript
        words = tuple(Word(one.start_s, one.end_s, one.text.strip()) for one in transcript.segments)
        return replace(transcript, segments=(), words=words)

    def _check_times(self, transcript: Transcript) -> None:
        told = {"segment": transcript.segments, "word": transcript.words}
        if transcript.text.strip() and not all(told[kind] for kind in self._granularities):
            raise protocol_failure("The provider sent a transcript without the times that it was asked for.")

    def _read(self, data: bytes) -> _Reply:
        try:
            told, value = _decode(data), _decode_any(data)  # what is kept raw has not been looked at
        except UNREADABLE:
            raise self._unreadable(data) from None
        if told.error:
            raise failure_in_band(value, self._provider)
        return told

    def _unreadable(self, data: bytes) -> Exception:
        try:
            told = _decode_any(data)
        except UNREADABLE:
            return protocol_failure("The provider sent something that is not JSON.")
        if isinstance(told, dict) and looks_like_error(told):
            return failure_in_band(told, self._provider)
        return protocol_failure("The provider sent something that is not a transcript.")

    def _begin(self, told: _Reply, out: list[ProviderEvent]) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        out.append(Started(native_response_id=_label(told.id), provider_model=_label(told.model)))
        if self._streamed:
            out.append(PartStarted(0, 0, PartKind.TEXT))

    def _end(self, transcript: Transcript, counted: Any, out: list[ProviderEvent]) -> None:
        if self._streamed:
            out.append(PartEnded(0, 0))
        if (usage := used(counted, transcript.duration_s)) is not None:
            out.append(UsageReported(usage))
        out += (Produced(transcript), Completed())


def _more(told: _Reply) -> str | None:
    """What an event adds: OpenAI says it in `delta`, Mistral in `text`, vLLM as a chat does."""
    text = told.delta or told.text
    if told.choices:
        try:
            text = told.choices[0]["delta"].get("content")
        except (AttributeError, LookupError, TypeError):
            raise protocol_failure("The provider sent something that is not a piece of a transcript.") from None
    return text if isinstance(text, str) else None


def used(counted: Any, duration_s: float | None = None) -> Usage | None:
    """Tokens, seconds of sound, or both, as told; `duration_s` where that is all there is. None where nothing is."""
    told = counted if isinstance(counted, dict) else {}
    seconds = _seconds(told.get("seconds"))
    if seconds is None:
        seconds = _seconds(told.get("prompt_audio_seconds"))
    usage = read_usage(counted)
    if usage is None and seconds is None:
        seconds = duration_s
    if seconds is None:
        return usage
    return replace(usage or Usage(), units={"input_audio_seconds": math.ceil(seconds)})


def _transcript(told: _Reply, text: str) -> Transcript:
    """Raises ProviderFailure where a segment or a word has no times."""
    return Transcript(
        text=text,
        language=_label(told.language) or _only_code(told.languages),
        duration_s=_seconds(told.duration),
        segments=tuple(map(_segment, told.segments or ())),
        words=tuple(map(_spoken, told.words or ())),
        logprobs=_array(told.logprobs),
    )


def _segment(told: dict[str, msgspec.Raw]) -> Segment:
    start, end, text = (_decode_any(told.pop(name, _NONE)) for name in ("start", "end", "text"))
    told.pop("type", None)
    details = msgspec.Raw(_encode(told)) if told else None
    return Segment(_time(start), _time(end), text if isinstance(text, str) else "", details)


def _spoken(told: dict[str, Any]) -> Word:
    text = told.get("word", told.get("text"))
    return Word(_time(told.get("start")), _time(told.get("end")), text if isinstance(text, str) else "")


def _time(value: Any) -> float:
    if (found := _number(value)) is None:
        raise protocol_failure("The provider sent a piece of a transcript without its times.")
    return found


def _seconds(value: Any) -> float | None:
    found = _number(value)
    return None if found is None or found > LONGEST_S else round(found, _DIGITS)


def _number(value: Any) -> float | None:
    """A number, or one in a string; of no sign and with an end."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _array(raw: msgspec.Raw) -> RawJson | None:
    """An array that holds something."""
    content = bytes(raw).strip()
    return raw if content.startswith(b"[") and content[1:-1].strip() else None


def _only_code(languages: Any) -> str | None:
    """The language, where exactly one was found."""
    if not isinstance(languages, Sequence) or isinstance(languages, str) or len(languages) != 1:
        return None
    return _label(languages[0].get("code")) if isinstance(languages[0], dict) else None


def _label(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
