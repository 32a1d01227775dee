"""Requests for speech (JSON) and for transcripts (a form with a file), and what they become."""

from __future__ import annotations

import base64
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from rest_bridge.extras import ExtrasBody
from rest_bridge.form_fields import decode_fields
from rest_bridge.json import ABSENT, check_object, decode_body, decode_value, encode_raw, invalid, is_set
from rest_bridge.uploads import Form
from server.domain import audio_limits
from server.domain.audio import AudioFormat, Granularity, SpeechRequest, TranscriptionRequest
from server.domain.limits import MAX_SHOWN_CHARS, missing_field
from server.domain.request import Endpoint, RawJson
from server.domain.upload import HeldUpload, Upload

TranscriptFormat: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]
Task: TypeAlias = Literal["transcribe", "translate"]

_INLINE: Final = "audio_b64"
_STREAMED: Final = ("json", "text")


class SpeechBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/audio/speech`. `voice`: a name, or an object with the `id` of a custom one."""

    model: str
    input: str
    voice: RawJson = ABSENT
    response_format: AudioFormat | None = None
    speed: float | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None


class VoiceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str


class VoiceActivityBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["server_vad"]
    prefix_padding_ms: int | msgspec.UnsetType = msgspec.UNSET
    silence_duration_ms: int | msgspec.UnsetType = msgspec.UNSET
    threshold: float | msgspec.UnsetType = msgspec.UNSET


class TranslationBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of `POST /v1/audio/translations` beside its file."""

    model: str
    prompt: str | None = None
    response_format: TranscriptFormat | None = None
    temperature: float | None = None


class TranscriptionBody(TranslationBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of `POST /v1/audio/transcriptions` beside its file."""

    language: str | None = None
    timestamp_granularities: tuple[Granularity, ...] | None = None
    include: tuple[Literal["logprobs"], ...] | None = None
    stream: bool | None = None
    chunking_strategy: Literal["auto"] | VoiceActivityBody | None = None


class InlineTranslationBody(TranslationBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same as JSON, with the file as base64."""

    audio_b64: str


class InlineTranscriptionBody(TranscriptionBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same as JSON, with the file as base64."""

    audio_b64: str


class EitherBody(TranscriptionBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of a form at `/v1/audio`, for its description: `task_of` takes the one that the others do not have."""

    task: Task | None = None


class SpeechOrder(msgspec.Struct, frozen=True):
    """What is to be read aloud, and whether it is told in events, with `wants_meta` who did it."""

    request: SpeechRequest
    in_events: bool
    wants_meta: bool


class TranscriptOrder(msgspec.Struct, frozen=True):
    """What is to be written down, and how."""

    request: TranscriptionRequest
    format: TranscriptFormat
    wants_meta: bool


_SPEECH: Final = msgspec.json.Decoder(SpeechBody)
_TRANSCRIPTION: Final = msgspec.json.Decoder(InlineTranscriptionBody)
_TRANSLATION: Final = msgspec.json.Decoder(InlineTranslationBody)
_TEXT: Final = msgspec.json.Decoder(str)
_VOICE: Final = msgspec.json.Decoder(VoiceBody)
_B = TypeVar("_B", bound=TranslationBody)


def decode_speech(body: bytes) -> SpeechOrder:
    """The order that a request's body holds. Raises GatewayError naming the field that is wrong."""
    asked = decode_body(_SPEECH, body)
    if not asked.model:
        raise missing_field("model")
    audio_limits.check_text(asked.input, "input")
    if asked.speed is not None:
        audio_limits.check_speed(asked.speed)
    audio_limits.check_instructions(asked.instructions or "")
    voice, passthrough = _voice(asked.voice)
    request = SpeechRequest(
        endpoint=Endpoint.AUDIO,
        model=asked.model,
        stream=True,
        text=asked.input,
        voice=voice,
        format=asked.response_format or "mp3",
        speed=asked.speed,
        instructions=asked.instructions,
        parameters={name: name for name in ("speed", "instructions") if getattr(asked, name) is not None},
        passthrough=passthrough,
        provider_options=asked.options(),
        routing=asked.routing(),
        trace=asked.wants_trace(),
    )
    return SpeechOrder(request, asked.stream_format == "sse", bool(asked.meta))


def _voice(raw: RawJson) -> tuple[str, dict[str, RawJson]]:
    """Its name or id, and what providers are told in its place where it is an object."""
    if not is_set(raw):
        raise missing_field("voice")
    if memoryview(raw)[:1].tobytes() == b'"':
        voice = decode_value(_TEXT, raw, "voice")
        audio_limits.check_voice(voice, "voice")
        return voice, {}
    custom = decode_value(_VOICE, check_object(raw, "voice"), "voice")
    audio_limits.check_voice(custom.id, "voice.id")
    return custom.id, {"voice": encode_raw(custom)}


def decode_transcription(sent: Form | bytes) -> TranscriptOrder:
    """The order that a form holds, or a body of JSON. Raises GatewayError naming the field that is wrong."""
    if isinstance(sent, bytes):
        inline = decode_body(_TRANSCRIPTION, sent)
        return _transcription(inline, _inline(inline.audio_b64))
    return _transcription(_fields(TranscriptionBody, sent), _file(sent))


def _transcription(asked: TranscriptionBody, file: Upload) -> TranscriptOrder:
    wanted = asked.response_format or "json"
    times = frozenset(asked.timestamp_granularities or ())
    if times and wanted != "verbose_json":
        raise invalid("timestamp_granularities", "`timestamp_granularities` needs the response_format verbose_json.")
    if asked.include and wanted != "json":
        raise invalid("include", "`include` needs the response_format json.")
    if asked.stream and wanted not in _STREAMED:
        raise invalid("stream", f"`stream` needs the response_format {' or '.join(_STREAMED)}.")
    if asked.language is not None:
        audio_limits.check_language(asked.language)
    spelled = {
        "language": ("language", asked.language is not None),
        "logprobs": ("include", bool(asked.include)),
        "chunking_strategy": ("chunking_strategy", asked.chunking_strategy is not None),
    }
    parameters = {name: spelling for name, (spelling, is_given) in spelled.items() if is_given}
    passthrough = {} if asked.chunking_strategy is None else {"chunking_strategy": encode_raw(asked.chunking_strategy)}
    request = _request(asked, file, wanted, times)
    request = msgspec.structs.replace(
        request,
        stream=bool(asked.stream),
        language=asked.language,
        logprobs=bool(asked.include),
        parameters={**request.parameters, **parameters},
        passthrough=passthrough,
    )
    return TranscriptOrder(request, wanted, bool(asked.meta))


def decode_translation(sent: Form | bytes) -> TranscriptOrder:
    """As `decode_transcription`, into English."""
    if isinstance(sent, bytes):
        inline = decode_body(_TRANSLATION, sent)
        return _translation(inline, _inline(inline.audio_b64))
    return _translation(_fields(TranslationBody, sent), _file(sent))


def _translation(asked: TranslationBody, file: Upload) -> TranscriptOrder:
    wanted = asked.response_format or "json"
    request = msgspec.structs.replace(_request(asked, file, wanted, frozenset()), into_english=True)
    return TranscriptOrder(request, wanted, bool(asked.meta))


def task_of(form: Form) -> tuple[Task, Form]:
    """What a form asks for in its field `task`, and the form without it."""
    tasks = [text for name, text in form.fields if name == "task"]
    rest = msgspec.structs.replace(form, fields=tuple(field for field in form.fields if field[0] != "task"))
    match tasks:
        case [] | ["transcribe"]:
            return "transcribe", rest
        case ["translate"]:
            return "translate", rest
        case [other]:
            shown = other[:MAX_SHOWN_CHARS]
            raise invalid("task", f'`task` must be one of "transcribe", "translate", not "{shown}".')
        case _:
            raise invalid("task", "`task` is given twice.")


def _fields(type_: type[_B], form: Form) -> _B:
    # Beside an object it may be a word, and no form tells a word from what is wrong.
    quoted = ((name, '"auto"' if (name, text) == ("chunking_strategy", "auto") else text) for name, text in form.fields)
    return decode_fields(type_, quoted)


def _request(
    asked: TranslationBody, file: Upload, wanted: TranscriptFormat, times: frozenset[Granularity]
) -> TranscriptionRequest:
    """What transcriptions and translations have in common."""
    if not asked.model:
        raise missing_field("model")
    if asked.temperature is not None:
        audio_limits.check_temperature(asked.temperature)
    audio_limits.check_hint(asked.prompt or "")
    parameters = {name: name for name in ("prompt", "temperature") if getattr(asked, name) is not None}
    if wanted in ("srt", "verbose_json", "vtt"):
        parameters["timestamp_granularities"] = "timestamp_granularities" if times else "response_format"
        times = times or frozenset({"segment"})
    return TranscriptionRequest(
        endpoint=Endpoint.AUDIO,
        model=asked.model,
        file=file,
        prompt=asked.prompt,
        temperature=asked.temperature,
        granularities=times,
        parameters=parameters,
        provider_options=asked.options(),
        routing=asked.routing(),
        trace=asked.wants_trace(),
    )


def _inline(text: str) -> Upload:
    """The file that is in a body of JSON."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise invalid(_INLINE, f"`{_INLINE}` must be base64, without anything before it.") from None
    file = HeldUpload(data, "")
    audio_limits.check_file(file, _INLINE)
    return file


def _file(form: Form) -> Upload:
    """The one file of the form."""
    for name, _ in form.files:
        if name != audio_limits.FILE:
            shown = name[:MAX_SHOWN_CHARS]
            raise invalid(shown, f"`{shown}` is no file that is asked for: send one, as `{audio_limits.FILE}`.")
    if not form.files:
        raise missing_field(audio_limits.FILE)
    if len(form.files) > 1:
        raise invalid(audio_limits.FILE, f"`{audio_limits.FILE}` is given twice.")
    file = form.files[0][1]
    audio_limits.check_file(file)
    return file
