"""Videos by the Gemini API (Veo): a long-running operation, and a file of the account's where it leaves them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from server.domain.catalog import Offer, Provider
from server.domain.errors import ProviderFailure, option_refused
from server.domain.ports import Clock
from server.domain.video import Content, JobReport, Variant, VideoAbilities, VideoRequest
from server.providers.exchange import DEADLINES, Deadlines, FailureOfReply
from server.providers.gemini_errors import failure_of_reply
from server.providers.gemini_videos_decode import begun, report
from server.providers.http_port import HttpTransport, ResponseHeaders, SizedBody
from server.providers.inline_body import InlineBody
from server.providers.pictures import true_type
from server.providers.provider_options import options_for
from server.providers.video_abilities import abilities
from server.providers.video_calls import VideoCalls, content_gone, lost_job
from server.providers.video_frames import Frame, field_of, frame_of, is_offered, named

__all__ = ["GeminiVideos"]

_GONE: Final = frozenset({404, 410})
_REFERENCE: Final = "input_reference"
_KNOWN: Final = frozenset(
    {"prompt", "seconds", "size", "resolution", "aspect_ratio", "seed", "negative_prompt", _REFERENCE}
)
_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/webp"})
_FORBIDDEN: Final = frozenset(
    {
        "prompt",
        "instances",
        "image",
        "video",
        "durationseconds",
        "resolution",
        "samplecount",
        "storageuri",
        "pubsubtopic",
    }
)
"""What was checked, what credit is held for, files of the account that all teams share, and other places to put it."""

_encode: Final = msgspec.json.Encoder().encode


class GeminiVideos:
    """See `server.domain.video.VideoAdapter`. It knows no idempotency keys, and neither cancels nor deletes."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._calls = VideoCalls(transport, clock, deadlines)
        self._clock = clock

    def unsupported(self, offer: Offer, request: VideoRequest) -> str | None:
        _options(offer, request)
        return next((named(request, field) for field in _problems(offer, request)), None)

    def abilities(self, offer: Offer) -> VideoAbilities:
        return abilities(offer, self.unsupported)

    async def submit(self, offer: Offer, request: VideoRequest, key: str) -> JobReport:
        provider = offer.provider
        model = offer.provider_model
        name = quote(model if "/" in model else f"models/{model}", safe="/-._~")
        answer = await self._calls.ask(
            "POST",
            f"{provider.base_url}/{name}:predictLongRunning",
            provider,
            {"content-type": "application/json", **_credentials(provider)},
            self._failure_of(provider),
            body=_body(offer, request),
            once=True,
        )
        return begun(answer, offer, self._clock.now())

    async def poll(self, offer: Offer, native_id: str) -> JobReport:
        provider = offer.provider
        url = f"{provider.base_url}/{quote(native_id, safe='/-._~')}"
        try:
            answer = await self._calls.ask("GET", url, provider, _credentials(provider), self._failure_of(provider))
        except ProviderFailure as failure:
            if failure.status in _GONE:
                return lost_job(native_id, provider, failure)
            raise
        return report(answer, offer, native_id, self._clock.now())

    async def cancel(self, offer: Offer, native_id: str) -> bool:
        return False

    async def delete(self, offer: Offer, native_id: str) -> bool:
        return False

    async def content(
        self, offer: Offer, native_id: str, handle: str | None, variant: Variant, byte_range: str | None
    ) -> Content:
        if handle is None or variant != "video":
            raise content_gone(404)
        provider = offer.provider
        return await self._calls.content(
            handle, provider, _credentials(provider), self._failure_of(provider), variant, byte_range
        )

    def _failure_of(self, provider: Provider) -> FailureOfReply:
        def failure_of(status: int, headers: ResponseHeaders, body: bytes) -> ProviderFailure:
            return failure_of_reply(status, headers, body, provider, self._clock.now())

        return failure_of


def _problems(offer: Offer, request: VideoRequest) -> Iterator[str]:
    facts = offer.videos
    yield from (name for name in request.parameters if name not in _KNOWN)
    if request.remix_of is not None:
        yield "remix_of"
    if request.seconds is not None and facts.seconds and request.seconds not in facts.seconds:
        yield "seconds"
    frame = frame_of(offer, request)
    if isinstance(frame, str):
        yield frame
    elif not is_offered(offer, frame) or (frame.size is not None and frame.resolution is None):
        yield field_of(request)
    if request.reference is not None and true_type(request.reference) not in _IMAGES:
        yield _REFERENCE


def _body(offer: Offer, request: VideoRequest) -> bytes | SizedBody:
    frame = frame_of(offer, request)
    if not isinstance(frame, Frame):
        frame = Frame()
    parameters: dict[str, Any] = {
        "aspectRatio": frame.aspect_ratio,
        "resolution": frame.resolution,
        "durationSeconds": request.seconds or offer.videos.default_seconds,
        "negativePrompt": request.negative_prompt,
        "seed": request.seed,
    }
    said = {name: value for name, value in parameters.items() if value is not None}
    said = {**said, **_options(offer, request)}
    instance = _encode({"prompt": request.prompt})
    opening = (b'{"parameters":' + _encode(said) + b"," if said else b"{") + b'"instances":['
    if request.reference is None:
        return opening + instance + b"]}"
    media_type = _encode(true_type(request.reference))
    opening += instance[:-1] + b',"image":{"mimeType":' + media_type + b',"bytesBase64Encoded":"'
    return InlineBody((opening, request.reference, b'"}}]}'))


def _options(offer: Offer, request: VideoRequest) -> Mapping[str, Any]:
    """What a client adds for this provider (`personGeneration`) goes among the parameters. Raises GatewayError."""
    provider_id = offer.provider.id
    options = options_for(request, provider_id)
    for key in options:
        if re.sub(r"[\s_]", "", key).lower() in _FORBIDDEN:
            raise option_refused(provider_id, key)
    return options


def _credentials(provider: Provider) -> dict[str, str]:
    return {"x-goog-api-key": provider.api_key} if provider.api_key else {}
