"""`/v1/audio/transcriptions` and `/v1/audio/translations`: OpenAI's shapes, heard by PocketSphinx, English only."""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from server.local_media import TRANSCRIPTION_MODEL
from server.local_media.bodies import converted, form_body, is_form
from server.local_media.messages import Message
from server.local_media.refusal import Refused, bad_request
from server.local_media.replies import opening, require_model, streamed
from server.local_media.spool import Spool
from server.local_media.workers import Workers

__all__ = ["Transcriptions"]

MAX_FILE_BYTES: Final = 25 * 1024 * 1024
_ENGLISH: Final = ("en", "english")


class TranscriptionAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields beside the file. It cannot be led by a prompt, and there is no chance in it."""

    model: str = TRANSCRIPTION_MODEL
    language: str | None = None
    response_format: Literal["json", "verbose_json"] = "json"
    temperature: Annotated[float, msgspec.Meta(ge=0, le=0)] = 0
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = ()
    stream: bool = False


class Transcriptions:
    """The handlers."""

    def __init__(self, workers: Workers, spool: Spool) -> None:
        self._workers = workers
        self._spool = spool

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/v1/audio/transcriptions", self.transcriptions),
            web.post("/v1/audio/translations", self.translations),
        )

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "transcribe")

    async def translations(self, request: web.Request) -> web.StreamResponse:
        """What is English already comes back; another language is heard as English, and so as nonsense."""
        return await self._answer(request, "translate")

    async def _answer(self, request: web.Request, task: str) -> web.StreamResponse:
        if not is_form(request):
            raise bad_request("invalid_content_type", "A file of sound comes as multipart/form-data.", "file")
        with self._spool.directory() as directory:
            fields, files = await form_body(request, directory, ("file",), ("timestamp_granularities",))
            asked = converted(fields, TranscriptionAsked, strict=False)
            require_model(asked.model, TRANSCRIPTION_MODEL)
            if asked.language is not None and asked.language.lower().partition("-")[0] not in _ENGLISH:
                raise bad_request("unsupported_language", "English is all that it understands.", "language")
            if asked.timestamp_granularities and asked.response_format != "verbose_json":
                text = "Times are told in 'verbose_json' only."
                raise bad_request("invalid_value", text, "timestamp_granularities")
            found = files.get("file", [])
            if len(found) != 1:
                raise bad_request("missing_required_parameter", "One 'file' is needed.", "file")
            if found[0].stat().st_size > MAX_FILE_BYTES:
                raise Refused(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", "The file is too large.", "file"
                )
            messages = self._workers.run("transcription", {"path": str(found[0])}, of_a_file=True)
            async with aclosing(messages):
                if asked.stream:
                    return await streamed(request, await opening(_events(messages)))
                heard = [message async for message in messages]
        return web.json_response(_whole(heard, asked, task))


async def _events(messages: AsyncGenerator[Message, None]) -> AsyncGenerator[dict[str, Any], None]:
    heard = []
    async for message in messages:
        heard.append(message)
        if message.kind == "segment":
            gap = " " if len(heard) > 2 else ""
            yield {"type": "transcript.text.delta", "delta": gap + _text(message)}
    yield {"type": "transcript.text.done", "text": _all_text(heard), "usage": _usage(heard)}


def _whole(heard: Sequence[Message], asked: TranscriptionAsked, task: str) -> dict[str, Any]:
    whole: dict[str, Any] = {"text": _all_text(heard), "usage": _usage(heard)}
    if asked.response_format == "json":
        return whole
    segments = [message for message in heard if message.kind == "segment"]
    whole = {"task": task, "language": "english", "duration": heard[0].facts["seconds"], **whole}
    if "word" in asked.timestamp_granularities:
        words = [word for segment in segments for word in segment.facts["words"]]
        whole["words"] = [{key: _seconds(word[key]) for key in ("word", "start", "end")} for word in words]
    if "segment" in asked.timestamp_granularities or not asked.timestamp_granularities:
        whole["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    return whole


def _segment(number: int, message: Message) -> dict[str, Any]:
    """As OpenAI has it; what Whisper alone knows is zero."""
    text, words = _text(message), message.facts["words"]
    return {
        "id": number,
        "seek": 0,
        "start": _seconds(message.facts["start"]),
        "end": _seconds(message.facts["end"]),
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": sum(word["logprob"] for word in words) / len(words),
        "compression_ratio": len(text.encode()) / len(zlib.compress(text.encode())),
        "no_speech_prob": 0.0,
    }


def _seconds(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


def _text(segment: Message) -> str:
    return " ".join(word["word"] for word in segment.facts["words"])


def _all_text(heard: Sequence[Message]) -> str:
    return " ".join(_text(message) for message in heard if message.kind == "segment")


def _usage(heard: Sequence[Message]) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(heard[0].facts["seconds"])}
