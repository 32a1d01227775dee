"""What OpenAI's audio API takes and answers, wire-exact; and how Mistral and vLLM write what is otherwise like it.

    upstream.default = as_openai_audio

What the real one refuses is refused in its own words: an unknown field, a file without an extension that it knows, a
format that a model cannot write, times without `verbose_json`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.fakes.replies import END, chunked, compact, error, json_reply, sse, sse_event
from tests.fakes.wire import Reply, Request, Step

PIECES = (b"ID3\x04\x00\x00\x00\x00\x00\x23TSSE", b"\xff\xf3\x84\xc4" * 300, b"\xff\xf3\x84\xc4" * 200)
SOUND = b"".join(PIECES)
TEXT = "The stale smell of old beer lingers."
DELTAS = ("The stale ", "smell of old ", "beer lingers.")
DURATION_S = 8.470000267028809
"""As OpenAI writes it: what becomes of a 32-bit float."""
SPOKEN = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
TOKENS = {
    "type": "tokens",
    "input_tokens": 85,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 85},
    "output_tokens": 11,
    "total_tokens": 96,
}
LOGPROBS = [{"token": "The", "logprob": -0.0003, "bytes": [84, 104, 101]}]

_TYPES = {"mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
          "pcm": "audio/pcm"}  # fmt: skip
_SPEECH_FIELDS = {"model", "input", "voice", "response_format", "speed", "instructions", "stream_format"}
_FORM_FIELDS = {"model", "language", "prompt", "temperature", "response_format", "timestamp_granularities[]",
                "include[]", "stream", "chunking_strategy", "chunking_strategy[type]", "chunking_strategy[threshold]",
                "keywords[]"}  # fmt: skip
_ENGLISH_FIELDS = {"model", "prompt", "temperature", "response_format"}
_KNOWN_FILES = {"flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm"}
_NAME = re.compile(r'name="([^"]*)"(?:; filename="([^"]*)")?')


@dataclass
class SentForm:
    """A form as it arrived. `file`: the content; `filename` and `file_type` as its part says."""

    fields: list[tuple[str, str]]
    file: bytes
    filename: str
    file_type: str

    def __getitem__(self, name: str) -> str:
        (value,) = (text for given, text in self.fields if given == name)
        return value

    def all(self, name: str) -> list[str]:
        return [text for given, text in self.fields if given == name]


def sent_form(request: Request) -> SentForm:
    declared = request.header("content-type") or ""
    assert declared.startswith("multipart/form-data; boundary="), declared
    delimiter = b"--" + declared.partition("boundary=")[2].encode()
    first, *parts, last = request.body.split(delimiter)
    assert (first, last) == (b"", b"--\r\n")
    form = SentForm([], b"", "", "")
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        found = _NAME.search(head.decode())
        assert found is not None
        if found[2] is None:
            form.fields.append((found[1], content.decode()))
        else:
            assert found[1] == "file"
            form.file, form.filename = content, found[2]
            form.file_type = re.search(r"content-type: (\S+)", head.decode(), re.IGNORECASE)[1]  # type: ignore[index]
    return form


def as_openai_audio(request: Request) -> Reply:
    """What OpenAI would answer."""
    if request.path.endswith("/audio/speech"):
        return _as_speech(json.loads(request.body))
    if not request.path.endswith(("/audio/transcriptions", "/audio/translations")):
        return error(404, "Invalid URL.", type="invalid_request_error")
    is_english = request.path.endswith("/translations")
    form = sent_form(request)
    for name, _ in form.fields:
        if name not in (_ENGLISH_FIELDS if is_english else _FORM_FIELDS):
            return _refused(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if form.filename.rpartition(".")[2].lower() not in _KNOWN_FILES:
        return _refused("Unrecognized file format. Supported formats: " + str(sorted(_KNOWN_FILES)), None, None)
    wanted = form["response_format"]
    if form["model"].endswith("-transcribe") and wanted != "json":
        said = (
            f"response_format '{wanted}' is not compatible with model '{form['model']}'. Use 'json' or 'text' instead."
        )
        return _refused(said, "response_format", "unsupported_value")
    kinds = form.all("timestamp_granularities[]")
    if kinds and wanted != "verbose_json":
        said = "timestamp_granularities is only supported with response_format verbose_json."
        return _refused(said, "timestamp_granularities", None)
    if form.all("stream") == ["true"] and form["model"] != "whisper-1":
        return transcript_events()
    told = verbose(*(kinds or ["segment"])) if wanted == "verbose_json" else transcript(form["model"])
    return json_reply(told | ({"logprobs": LOGPROBS} if form.all("include[]") else {}))


def _as_speech(body: dict[str, Any]) -> Reply:
    if unknown := body.keys() - _SPEECH_FIELDS:
        return _refused(f"Unknown parameter: '{min(unknown)}'.", min(unknown), "unknown_parameter")
    if body.get("stream_format") == "sse":
        if body["model"].startswith("tts-1"):
            return _refused("stream_format 'sse' is not supported for this model.", "stream_format", None)
        return speech_events()
    return speech(content_type=_TYPES[body["response_format"]])


def _refused(message: str, param: str | None, code: str | None) -> Reply:
    return error(400, message, type="invalid_request_error", param=param, code=code)


def speech(*pieces: bytes | Step, content_type: str = "audio/mpeg", end: Step = END) -> Reply:
    """Raw sound in chunks."""
    return chunked(pieces or PIECES, content_type=content_type, end=end, headers={"x-request-id": "req_audio1"})


def speech_events(*pieces: bytes, usage: Any = SPOKEN, end: Step = END, done: bool = True) -> Reply:
    """The same in events."""
    told: list[Any] = [
        {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()} for piece in pieces or PIECES
    ]
    if done:
        told.append({"type": "speech.audio.done", "usage": usage})
    return sse(map(sse_event, map(compact, told)), end=end, headers={"x-request-id": "req_audio1"})


def transcript(model: str = "whisper-1") -> dict[str, Any]:
    """What `json` is: `whisper-1` is billed by the second, the others by the token."""
    return {"text": TEXT, "usage": {"type": "duration", "seconds": 9} if model == "whisper-1" else TOKENS}


def verbose(*kinds: str) -> dict[str, Any]:
    """What `verbose_json` is, with these times in it."""
    told: dict[str, Any] = {"task": "transcribe", "language": "english", "duration": DURATION_S, "text": TEXT}
    if "segment" in kinds:
        figures = {"seek": 0, "tokens": [50364, 440], "temperature": 0.0, "avg_logprob": -0.286, "no_speech_prob": 0.01}
        told["segments"] = [
            {"id": 0, "start": 0.0, "end": 3.319999933242798, "text": " The stale smell", **figures},
            {"id": 1, "start": 3.319999933242798, "end": 8.470000267028809, "text": " of old beer lingers.", **figures},
        ]
    if "word" in kinds:
        told["words"] = [
            {"word": "The", "start": 0.0, "end": 0.23999999463558197},
            {"word": "stale", "start": 0.23999999463558197, "end": 0.6},
        ]
    return told | {"usage": {"type": "duration", "seconds": 9}}


def transcript_events(
    deltas: Iterable[str] = DELTAS, *, usage: Any = TOKENS, end: Step = END, done: bool = True
) -> Reply:
    told: list[Any] = [{"type": "transcript.text.delta", "delta": delta} for delta in deltas]
    if done:
        told.append({"type": "transcript.text.done", "text": "".join(deltas), "usage": usage})
    return events(*told, end=end)


def events(*told: Any, end: Step = END, terminator: bytes = b"") -> Reply:
    """Any events, named by their type where they have one."""
    framed = [sse_event(compact(one), event=one.get("type")) for one in told]
    return sse([*framed, *([sse_event(terminator)] if terminator else [])], end=end)


MISTRAL_USAGE = {"prompt_audio_seconds": 203, "prompt_tokens": 4, "total_tokens": 3264, "completion_tokens": 635}
MISTRAL_SEGMENT = {
    "text": "Hello.",
    "start": 0.8,
    "end": 3.3,
    "type": "transcription_segment",
    "speaker_id": "speaker_1",
}


def mistral_transcript(**more: Any) -> dict[str, Any]:
    told = {"model": "voxtral-mini-2602", "text": "Hello.", "language": "en", "segments": [], "usage": MISTRAL_USAGE}
    return told | more


def mistral_events() -> Reply:
    return events(
        {"type": "transcription.language", "audio_language": "en"},
        {"type": "transcription.text.delta", "text": "Hel"},
        {"type": "transcription.text.delta", "text": "lo."},
        MISTRAL_SEGMENT | {"type": "transcription.segment"},
        {
            "type": "transcription.done",
            "model": "voxtral-mini-2602",
            "text": "Hello.",
            "segments": [],
            "usage": MISTRAL_USAGE,
        },
    )


def vllm_events() -> Reply:
    def piece(delta: dict[str, str], **more: Any) -> dict[str, Any]:
        return {
            "id": "trsc-1",
            "object": "transcription.chunk",
            "created": 1790856000,
            "model": "openai/whisper-large-v3",
            "choices": [{"delta": delta, "finish_reason": None, "stop_reason": None}],
            **more,
        }

    return events(piece({"content": "Hel"}), piece({"content": "lo."}), terminator=b"[DONE]")
