"""`/v1/audio/speech`, `/v1/audio/transcriptions`, `/v1/audio/translations`, and `/v1/audio` for whichever is meant."""

from __future__ import annotations

from typing import Final

import msgspec

from rest_bridge.audio_decode import (
    SpeechOrder,
    TranscriptOrder,
    decode_speech,
    decode_transcription,
    decode_translation,
    task_of,
)
from rest_bridge.audio_encode import SpeechEvents, TranscriptEvents, encode_transcript
from rest_bridge.audio_stream import SoundBody
from rest_bridge.http import Exchange, RestResponse, Route, event_stream
from rest_bridge.json import ABSENT, check_json_headers, decode_body, is_set
from rest_bridge.sse import PING_INTERVAL_S, EventStream, first_batch
from rest_bridge.uploads import Form
from server.domain.audio import MEDIA_TYPES
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call
from server.domain.request import Endpoint, RawJson
from server.pipeline.speak import Speak
from server.pipeline.transcribe import Transcribe


class _Kind(msgspec.Struct, frozen=True):
    """What tells what a JSON body at `/v1/audio` is about."""

    input: RawJson = ABSENT


_KIND: Final = msgspec.json.Decoder(_Kind)


class AudioRest:
    """Handlers of everything below `/v1/audio`."""

    def __init__(self, speak: Speak, transcribe: Transcribe, *, ping_interval_s: float = PING_INTERVAL_S) -> None:
        self._speak = speak
        self._transcribe = transcribe
        self._ping_interval_s = ping_interval_s

    def routes(self) -> tuple[Route, ...]:
        audio = Endpoint.AUDIO
        return (
            Route("POST", "/v1/audio", self.either, endpoint=audio, takes_form=True),
            Route("POST", "/v1/audio/speech", self.speech, endpoint=audio),
            Route("POST", "/v1/audio/transcriptions", self.transcription, endpoint=audio, takes_form=True),
            Route("POST", "/v1/audio/translations", self.translation, endpoint=audio, takes_form=True),
        )

    async def either(self, exchange: Exchange) -> RestResponse:
        """JSON with `input` is to be read aloud; a form's file is to be written down, as its `task` says."""
        if exchange.form is None:
            check_json_headers(exchange.request.headers)
            if not is_set(decode_body(_KIND, exchange.body).input):
                text = "Send JSON with `input` to have it read aloud, or a form with `file` to have it written down."
                raise GatewayError(Reason.MISSING_FIELD, text, param="input")
            return await self.speech(exchange)
        task, form = task_of(exchange.form)
        decode = decode_translation if task == "translate" else decode_transcription
        return await self._write_down(exchange.call, decode(form))

    async def speech(self, exchange: Exchange) -> RestResponse:
        """Raises GatewayError where there is no sound yet."""
        check_json_headers(exchange.request.headers)
        order = decode_speech(exchange.body)
        return await self._read_aloud(exchange.call, order)

    async def transcription(self, exchange: Exchange) -> RestResponse:
        return await self._write_down(exchange.call, decode_transcription(_sent(exchange)))

    async def translation(self, exchange: Exchange) -> RestResponse:
        return await self._write_down(exchange.call, decode_translation(_sent(exchange)))

    async def _read_aloud(self, call: Call, order: SpeechOrder) -> RestResponse:
        sound = self._speak(call, order.request)
        first = await first_batch(sound)
        if order.in_events:
            events = SpeechEvents(order, call.arrival)
            return event_stream(EventStream(first, sound, events, ping_interval_s=self._ping_interval_s))
        headers = (("content-type", MEDIA_TYPES[order.request.format]),)
        return RestResponse(200, headers, SoundBody(first, sound))

    async def _write_down(self, call: Call, order: TranscriptOrder) -> RestResponse:
        if not order.request.stream:
            return encode_transcript(await self._transcribe(call, order.request), order, call.arrival)
        stream = self._transcribe.stream(call, order.request)
        first = await first_batch(stream)
        events = TranscriptEvents(order, call.arrival)
        return event_stream(EventStream(first, stream, events, ping_interval_s=self._ping_interval_s))


def _sent(exchange: Exchange) -> Form | bytes:
    """The form; or the body, which has the file in it as JSON."""
    if exchange.form is not None:
        return exchange.form
    check_json_headers(exchange.request.headers)
    return exchange.body
