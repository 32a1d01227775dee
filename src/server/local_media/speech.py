"""`/v1/audio/speech`: OpenAI's shape, spoken by eSpeak NG."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from server.domain.audio import MEDIA_TYPES, AudioFormat
from server.local_media import SPEECH_MODEL
from server.local_media.bodies import json_body
from server.local_media.messages import Message
from server.local_media.refusal import bad_request
from server.local_media.replies import opening, require_model, streamed, written
from server.local_media.voices import VOICES, voice_of
from server.local_media.workers import Workers

__all__ = ["Speech"]

_NO_TOKENS: Final = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


class Voice(msgspec.Struct, frozen=True):
    """A voice as OpenAI's newer spelling has it."""

    id: str


class SpeechAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body."""

    input: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    voice: str | Voice
    model: str = SPEECH_MODEL
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


class Speech:
    """The handler."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def routes(self) -> Sequence[web.RouteDef]:
        return (web.post("/v1/audio/speech", self.speech),)

    async def speech(self, request: web.Request) -> web.StreamResponse:
        asked = await json_body(request, SpeechAsked)
        require_model(asked.model, SPEECH_MODEL)
        name = asked.voice if isinstance(asked.voice, str) else asked.voice.id
        voice = voice_of(name)
        if voice is None:
            known = ", ".join(VOICES)
            raise bad_request("invalid_voice", f"A voice is one of {known}; or one of eSpeak NG's own.", "voice")
        task = {"text": asked.input, "voice": voice, "format": asked.response_format, "speed": asked.speed}
        messages = await opening(self._workers.run("speech", task))
        async with aclosing(messages):
            if asked.stream_format == "sse":
                return await streamed(request, _events(messages))
            return await written(request, MEDIA_TYPES[asked.response_format], (one.data async for one in messages))


async def _events(messages: AsyncGenerator[Message, None]) -> AsyncGenerator[dict[str, Any], None]:
    async for message in messages:
        yield {"type": "speech.audio.delta", "audio": base64.b64encode(message.data).decode()}
    yield {"type": "speech.audio.done", "usage": _NO_TOKENS}
