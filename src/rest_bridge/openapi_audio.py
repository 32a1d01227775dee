"""What the routes of speech and transcripts read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rest_bridge.audio_decode import (
    EitherBody,
    InlineTranscriptionBody,
    InlineTranslationBody,
    SpeechBody,
    TranscriptionBody,
    TranslationBody,
)
from rest_bridge.audio_encode import (
    SpeechDeltaEvent,
    SpeechDoneEvent,
    TranscriptDeltaEvent,
    TranscriptDoneEvent,
    TranscriptionJson,
    VerboseTranscriptionJson,
)
from rest_bridge.openapi_errors import ARRIVAL
from rest_bridge.openapi_surface import Surface
from server.domain.audio import MEDIA_TYPES

__all__ = ["AUDIO", "AUDIO_WORDS", "FORMS"]

INLINE: Final = ("AudioRequestInlineTranscription", "AudioRequestInlineTranslation")
FORMS: Final = (*INLINE, "AudioRequestEither", "AudioRequestTranscription", "AudioRequestTranslation")

_SPEECH_MODEL: Final = "local/espeak:free"
_TRANSCRIPTION_MODEL: Final = "local/pocketsphinx:free"
_SAID: Final = {"model": _SPEECH_MODEL, "input": "The quick brown fox.", "voice": "alloy"}
_FILE: Final = {"model": _TRANSCRIPTION_MODEL, "file": "(the bytes of a file)"}
_INLINE: Final = {
    "model": _TRANSCRIPTION_MODEL,
    "audio_b64": "UklGRjQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YRAAAAAAAAAAAAAAAAAAAAAAAAAA",
}
_SPOKEN: Final[Mapping[str, Mapping[str, Any]]] = {
    "bytes": {**_SAID, "response_format": "wav"},
    "events": {**_SAID, "stream_format": "sse"},
}
_WRITTEN: Final[Mapping[str, Mapping[str, Any]]] = {
    "json": _FILE,
    "subtitles": {**_FILE, "response_format": "srt"},
    "streamed": {**_FILE, "stream": True},
}
_SUBTITLES: Final = "1\n00:00:00,000 --> 00:00:01,500\nThe quick brown fox.\n\n"
_FREE: Final = '"pricing":{"currency":"USD","total_nanos":0,"total_usd":"0","lines":[]}'
_FAILURE: Final = (
    ' A later failure is `data: {"error": {…}}`, and nothing follows.'
    "\n\nA comment (`: ping`) comes after 15 seconds of silence."
)
_SPEECH_EVENTS: Final = (
    'Where the request says `"stream_format": "sse"`: `speech.audio.delta` for each piece of the sound, then '
    "`speech.audio.done` with the usage, each as `data: {event}`; then `data: [DONE]`." + _FAILURE
)
_SPEECH_EXAMPLE: Final = (
    'data: {"type":"speech.audio.delta","audio":"UklGRg=="}\n\n'
    'data: {"type":"speech.audio.done","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0,' + _FREE + "}}\n\n"
    "data: [DONE]\n\n"
)
_TRANSCRIPT_EVENTS: Final = (
    "Where the form says `stream=true`: `transcript.text.delta` for each piece of the text, then "
    "`transcript.text.done` with all of it and the usage, each as `data: {event}`; then `data: [DONE]`." + _FAILURE
)
_TRANSCRIPT_EXAMPLE: Final = (
    'data: {"type":"transcript.text.delta","delta":"The quick brown fox."}\n\n'
    f'data: {{"type":"transcript.text.done","id":"{ARRIVAL.generation_id}","text":"The quick brown fox.",'
    '"usage":{"type":"duration","seconds":2,' + _FREE + "}}\n\ndata: [DONE]\n\n"
)
_SOUNDS: Final = tuple(dict.fromkeys(MEDIA_TYPES.values()))
_TRANSCRIPTS: Final = (TranscriptionJson, VerboseTranscriptionJson)

AUDIO: Final[Mapping[str, Surface]] = {
    "AudioRestService.CreateSpeech": Surface(
        body=SpeechBody,
        required=("voice",),
        examples=_SPOKEN,
        sounds=_SOUNDS,
        events=SpeechDeltaEvent | SpeechDoneEvent,
        stream=_SPEECH_EVENTS,
        stream_example=_SPEECH_EXAMPLE,
    ),
    "AudioRestService.CreateTranscription": Surface(
        body=InlineTranscriptionBody,
        examples={"inline": _INLINE},
        form=TranscriptionBody,
        form_examples=_WRITTEN,
        files=("file",),
        reply=_TRANSCRIPTS,
        text_example=_SUBTITLES,
        events=TranscriptDeltaEvent | TranscriptDoneEvent,
        stream=_TRANSCRIPT_EVENTS,
        stream_example=_TRANSCRIPT_EXAMPLE,
    ),
    "AudioRestService.CreateTranslation": Surface(
        body=InlineTranslationBody,
        examples={"inline": _INLINE},
        form=TranslationBody,
        form_examples={name: _WRITTEN[name] for name in ("json", "subtitles")},
        files=("file",),
        reply=_TRANSCRIPTS,
        text_example=_SUBTITLES,
    ),
    "AudioRestService.CreateAudio": Surface(
        body=SpeechBody,
        required=("voice",),
        examples=_SPOKEN,
        form=EitherBody,
        form_examples={**_WRITTEN, "into English": {**_FILE, "task": "translate"}},
        files=("file",),
        reply=_TRANSCRIPTS,
        sounds=_SOUNDS,
        text_example=_SUBTITLES,
        events=SpeechDeltaEvent | SpeechDoneEvent | TranscriptDeltaEvent | TranscriptDoneEvent,
        stream=f"{_SPEECH_EVENTS}\n\n{_TRANSCRIPT_EVENTS}",
        stream_example=_SPEECH_EXAMPLE,
    ),
}

_MODEL: Final = "`author/slug`, `author/slug:free`, an alias, or `<provider>:<author/slug>` to pin one provider."
_OF_FORMS: Final[Mapping[str, str]] = {
    "model": _MODEL,
    "file": "The sound: FLAC, MP3, MP4, MPEG, M4A, Ogg, WAV or WebM, of at most 25 MiB.",
    "response_format": "How the transcript is written down; `json` where absent.",
    "timestamp_granularities": "Which times `verbose_json` has: `segment`, `word` or both; `segment` where absent.",
    "include": "`logprobs`: how sure the model is of each token; with `json` only.",
    "chunking_strategy": "How the file is cut: `auto`, or an object.",
    "audio_b64": "The same as base64, where the request is JSON and no form.",
    "task": "`transcribe`, or `translate` into English; `transcribe` where absent.",
    "prompt": "Words or style that are to be expected.",
    "language": "That of the file, by its code in ISO 639, such as `en`; found out where absent.",
    "temperature": "From 0 to 1; higher is more random.",
    "stream": "Whether to be told the text as it is heard; with `json` and `text` only.",
}
AUDIO_WORDS: Final[Mapping[str, str]] = {
    "AudioRequestSpeech.voice": "The name of a voice of the provider, or an object with the `id` of a custom one.",
    "AudioRequestSpeech.response_format": "How the sound is written down; `mp3` where absent. `pcm`: 24,000 samples a "
    "second of 16 bits, little-endian, one channel.",
    "AudioRequestSpeech.stream_format": "`sse`: the sound comes in events.",
    "AudioRequestSpeech.speed": "How fast it is read, from 0.25 to 4.",
    "AudioRequestSpeech.model": _MODEL,
    "AudioRequestSpeech.instructions": "How it is to be read, for models that can be told.",
    "AudioRequestSpeech.input": "What is to be read; at most 4,096 characters.",
    **{f"{form}.{field}": text for form in FORMS for field, text in _OF_FORMS.items()},
}
