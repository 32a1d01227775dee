"""Transcription by an OpenAI-compatible upstream: forms for `POST /audio/transcriptions` and `/audio/translations`.

Only JSON is asked for, with the times in it where they are wanted: subtitles are made of it by the surface.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from server.domain.audio import TranscriptionRequest
from server.domain.catalog import Offer
from server.domain.errors import option_refused
from server.domain.events import ProviderStream
from server.domain.upload import Renamed, Upload
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.multipart import multipart
from server.providers.openai_transcripts import TranscriptDecoder
from server.providers.provider_options import options_for

__all__ = ["fields", "filename", "stream", "unsupported"]

PATH: Final = "/audio/transcriptions"
ENGLISH_PATH: Final = "/audio/translations"

_SAID: Final = frozenset({"prompt", "temperature", "response_format"})
_SAID_OF_TRANSCRIPTIONS: Final = _SAID | {"language", "timestamp_granularities", "logprobs", "chunking_strategy"}
_WITH_WORDS: Final = frozenset({b'"verbose_json"'})
_WITH_SEGMENTS: Final = _WITH_WORDS | {b'"diarized_json"'}
_READABLE: Final = _WITH_SEGMENTS | {b'"json"'}
_FORBIDDEN: Final = frozenset({"file", "file_id", "file_url", "timestamp_granularities"})
"""What is transcribed is what was sent to the gateway, which accounts for it, and looks for the times."""

_EXTENSIONS: Final[Mapping[str, str]] = {
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/mpga": "mpga",
    "audio/mp4": "m4a",
    "audio/m4a": "m4a",
    "audio/x-m4a": "m4a",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/ogg": "ogg",
    "audio/opus": "ogg",
    "application/ogg": "ogg",
    "audio/webm": "webm",
    "video/webm": "webm",
    "video/mp4": "mp4",
    "video/mpeg": "mpeg",
}
_BEGINNINGS: Final = (
    (0, b"RIFF", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (0, b"\xff\xfb", "mp3"),
    (0, b"\xff\xf3", "mp3"),
    (0, b"\x1aE\xdf\xa3", "webm"),
    (4, b"ftyp", "m4a"),
)
"""Where a file has which bytes."""

_decode: Final = msgspec.json.Decoder().decode


def unsupported(offer: Offer, request: TranscriptionRequest) -> str | None:
    """As `ProviderAdapter.supports`. What is put into English comes whole, and its words have no times.

    Where there is one format only, it has times of one kind.
    """
    _check_options(offer, request)
    if len(request.granularities) > 1 and not offer.provider.profile.transcript_formats:
        return request.parameters.get("timestamp_granularities", "timestamp_granularities")
    said = _SAID_OF_TRANSCRIPTIONS
    if request.into_english:
        said = _SAID
        if request.stream:
            return "stream"
        if "word" not in request.granularities:  # segments come with `verbose_json`, asked for or not
            said |= {"timestamp_granularities"}
    return next((spelling for name, spelling in request.parameters.items() if name not in said), None)


def stream(
    exchanges: Exchanges,
    offer: Offer,
    request: TranscriptionRequest,
    headers: Mapping[str, str],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`."""
    name = filename(request.file)
    file = Renamed(request.file, filename=name, media_type=request.file.media_type)
    content_type, body = multipart(list(fields(offer, request)), [("file", file)])
    post = Post(
        provider=offer.provider,
        url=offer.provider.base_url + (ENGLISH_PATH if request.into_english else PATH),
        headers={**headers, "content-type": content_type},
        body=body,
        wants_events=request.stream,
        in_batches=request.stream,
    )
    return exchanges.run(post, TranscriptDecoder(offer.provider, request), failure_of)


def fields(offer: Offer, request: TranscriptionRequest) -> Iterator[tuple[str, str]]:
    """The form but for its file: what `provider_options` say replaces what the gateway would."""
    options = {name: _decode(value) for name, value in options_for(request, offer.provider.id).items()}
    for name, value in (_said(offer, request) | options).items():
        yield from _flat(name, value, "[]" if offer.provider.profile.form_arrays == "brackets" else "")


def _said(offer: Offer, request: TranscriptionRequest) -> dict[str, Any]:
    wants_times = bool(request.granularities)
    said: dict[str, Any] = {
        "model": offer.provider_model,
        "language": request.language,
        "prompt": request.prompt,
        "temperature": request.temperature,
    }
    if offer.provider.profile.transcript_formats:
        said["response_format"] = "verbose_json" if wants_times else "json"
    if request.into_english:
        return said
    if wants_times:
        said["timestamp_granularities"] = sorted(request.granularities)
    if request.logprobs:
        said["include"] = ["logprobs"]
    if request.stream:
        said["stream"] = True
    return said | {name: _decode(value) for name, value in request.passthrough.items() if name == "chunking_strategy"}


def _flat(name: str, value: Any, mark: str) -> Iterator[tuple[str, str]]:
    """A value of JSON as fields of a form: `mark` ends the name of an array, a key in brackets that of an object."""
    match value:
        case None:
            pass
        case str():
            yield name, value
        case list():
            for entry in value:
                yield from _flat(name + mark, entry, mark)
        case dict():
            for key, entry in value.items():
                yield from _flat(f"{name}[{key}]", entry, mark)
        case _:
            yield name, msgspec.json.encode(value).decode()


def filename(file: Upload) -> str:
    """A name whose extension says what the file is, which is what OpenAI goes by."""
    name = file.filename
    stem, dot, extension = name.rpartition(".")
    if dot and stem and extension:
        return name
    known = _EXTENSIONS.get(file.media_type) or _by_beginning(file.head)
    return f"{name.rstrip('.') or 'audio'}.{known}" if known else name


def _by_beginning(head: bytes) -> str | None:
    return next((extension for at, mark, extension in _BEGINNINGS if head[at : at + len(mark)] == mark), None)


def _check_options(offer: Offer, request: TranscriptionRequest) -> None:
    readable = _WITH_SEGMENTS if request.granularities else _READABLE
    if "word" in request.granularities:
        readable = _WITH_WORDS
    for name, value in options_for(request, offer.provider.id).items():
        plain = name.strip().lower().removesuffix("[]")
        if plain in _FORBIDDEN or (plain == "response_format" and bytes(value).strip() not in readable):
            raise option_refused(offer.provider.id, name, instead="set it beside `model`")
