"""Speech made of text, and text made of speech: what a client asks for, and what a provider answers with."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from server.domain.request import RawJson, Request
from server.domain.upload import Upload

__all__ = [
    "LONGEST_S",
    "MAX_FILE_BYTES",
    "MAX_INPUT_CHARS",
    "MEDIA_TYPES",
    "AudioFormat",
    "Granularity",
    "Segment",
    "SpeechRequest",
    "Transcript",
    "TranscriptionRequest",
    "Word",
]

AudioFormat: TypeAlias = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
Granularity: TypeAlias = Literal["segment", "word"]

MEDIA_TYPES: Final[dict[AudioFormat, str]] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""`pcm` is 24,000 samples a second, 16 bits each, little-endian, one channel, with nothing before them."""

MAX_INPUT_CHARS: Final = 4096
MAX_FILE_BYTES: Final = 25 * 1024 * 1024
LONGEST_S: Final = 10**7
"""No file is longer: a time beyond it, or a duration, is none of sound."""


class SpeechRequest(Request, frozen=True, kw_only=True):
    """`text` read aloud. Its sound comes in pieces as it is made, whether or not the client asked for a stream.

    `voice` is the name of one, or the id of a custom one; `instructions` say how it is to be read. None leaves a choice
    to the provider.
    """

    text: str
    voice: str
    format: AudioFormat = "mp3"
    speed: float | None = None
    instructions: str | None = None


class TranscriptionRequest(Request, frozen=True, kw_only=True):
    """What is said in `file`, in its own language or `into_english`.

    `language` is that of the file in ISO 639-1, where the client knows it. `granularities`: which times must be there;
    how a transcript is written down (`srt`, `vtt`, …) is its surface's business. `logprobs`: whether to tell how sure
    the model is of each token. `passthrough` may have `chunking_strategy`.
    """

    file: Upload
    into_english: bool = False
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    granularities: frozenset[Granularity] = frozenset()
    logprobs: bool = False


class Segment(msgspec.Struct, frozen=True, gc=False):
    """A stretch of a transcript; times in seconds from the beginning. `details`: the provider's own figures of it."""

    start_s: float
    end_s: float
    text: str
    details: RawJson | None = None


class Word(msgspec.Struct, frozen=True, gc=False):
    """One word; times in seconds from the beginning."""

    start_s: float
    end_s: float
    text: str


class Transcript(msgspec.Struct, frozen=True):
    """All that was said. What is None or empty the provider did not tell. `logprobs`: OpenAI's array, as its JSON."""

    text: str
    language: str | None = None
    duration_s: float | None = None
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()
    logprobs: RawJson | None = None
