"""Speech by an OpenAI-compatible upstream: `POST /audio/speech`, whose answer is the sound itself.

Where an offer lists `stream_format` among its parameters, the sound is asked for in events: only they tell its usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from server.domain.audio import SpeechRequest
from server.domain.catalog import Offer, Provider
from server.domain.errors import option_refused
from server.domain.events import AudioDelta, Completed, ProviderEvent, ProviderStream, Started, UsageReported
from server.domain.usage import Usage
from server.providers.decoding import UNREADABLE
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.openai_errors import cut_failure, failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_usage import read_usage
from server.providers.provider_options import options_for
from server.providers.sound import no_sound

__all__ = ["SpeechDecoder", "body", "stream", "unsupported"]

PATH: Final = "/audio/speech"
IN_EVENTS: Final = "stream_format"
_SAID: Final = frozenset({"speed", "instructions", "response_format", "voice"})
_FORBIDDEN: Final = frozenset({"response_format", IN_EVENTS})
"""The client is told which format it gets, and gets the sound in the way that it asked for."""
_END: Final = b"[DONE]"

_encode: Final = msgspec.json.Encoder().encode
_decode_any: Final = msgspec.json.Decoder().decode


class _Event(msgspec.Struct):
    type: Any = None
    audio: bytes | None = None
    usage: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Event).decode


def unsupported(offer: Offer, request: SpeechRequest) -> str | None:
    """As `ProviderAdapter.supports`."""
    for name in options_for(request, offer.provider.id):
        if name.strip().lower() in _FORBIDDEN:
            raise option_refused(offer.provider.id, name, instead="set it beside `input`")
    return next((spelling for name, spelling in request.parameters.items() if name not in _SAID), None)


def stream(
    exchanges: Exchanges,
    offer: Offer,
    request: SpeechRequest,
    headers: Mapping[str, str],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`: the sound as it comes in, whether or not the client asked for a stream."""
    post = Post(
        provider=offer.provider,
        url=offer.provider.base_url + PATH,
        headers={**headers, "accept": "*/*"},
        body=body(offer, request),
        wants_events=_in_events(offer),
        in_batches=True,
        may_be_sound=True,
    )
    return exchanges.run(post, SpeechDecoder(offer.provider), failure_of)


def body(offer: Offer, request: SpeechRequest) -> bytes:
    said: dict[str, Any] = {
        "model": offer.provider_model,
        "input": request.text,
        "voice": request.passthrough.get("voice", request.voice),
        "response_format": request.format,
    }
    if request.speed is not None:
        said["speed"] = request.speed
    if request.instructions is not None:
        said["instructions"] = request.instructions
    if _in_events(offer):
        said[IN_EVENTS] = "sse"
    return _encode({**said, **options_for(request, offer.provider.id)})


def _in_events(offer: Offer) -> bool:
    return IN_EVENTS in (offer.params or ())


class SpeechDecoder:
    """Reads sound that comes in events, and what has come in the place of sound. See `decoding.StreamDecoder`."""

    complete = False

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._has_begun = False
        self.done = False

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if data == _END:
            self.done = True
            return
        try:
            told = _decode(data)
        except UNREADABLE:
            raise _refused(data, self._provider) from None
        kind = told.type or event
        if told.error or kind == "error":
            raise failure_in_band(_decode_any(data), self._provider)
        if told.audio:
            if not self._has_begun:
                self._has_begun = True
                out.append(Started())
            out.append(AudioDelta(told.audio))
        elif kind == "speech.audio.done":
            self.done = True
            if (usage := spoken(told.usage)) is not None:
                out.append(UsageReported(usage))

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        raise _refused(body, self._provider)

    def finish(self, out: list[ProviderEvent]) -> None:
        if not self.done:
            raise cut_failure()
        if not self._has_begun:
            raise no_sound()
        out.append(Completed())


def spoken(told: Any) -> Usage | None:
    """The usage of speech: whatever is put out is sound, though nobody says so."""
    usage = read_usage(told)
    if usage is None or usage.output_audio_tokens:
        return usage
    return replace(usage, output_audio_tokens=usage.output_tokens)


def _refused(body: bytes, provider: Provider) -> Exception:
    """What a 200 that is no sound means."""
    try:
        told = _decode_any(body)
    except UNREADABLE:
        return protocol_failure("The provider sent something that is not sound.")
    if isinstance(told, dict) and (told.get("error") or looks_like_error(told)):
        return failure_in_band(told, provider)
    return protocol_failure("The provider sent something that is not sound.")
