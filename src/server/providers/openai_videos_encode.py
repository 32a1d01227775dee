"""Requests for videos in OpenAI's shape, and in xAI's, which begins jobs at another address and in other words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from server.domain.catalog import Offer
from server.domain.errors import option_refused
from server.domain.upload import Upload
from server.domain.video import VideoRequest
from server.providers.http_port import SizedBody
from server.providers.inline_body import InlineBody
from server.providers.multipart import multipart
from server.providers.pictures import true_type, with_true_type
from server.providers.provider_options import options_for
from server.providers.video_frames import Frame, field_of, frame_of, is_offered, named

__all__ = ["PATH", "Submission", "is_generations", "submission", "unsupported"]

PATH: Final = "/videos"
_GENERATIONS: Final = "/videos/generations"
_JSON: Final = "application/json"
_REFERENCE: Final = "input_reference"
_FIELDS: Final = ("seconds", "size", "resolution", "aspect_ratio", "seed", "negative_prompt")
_KNOWN: Final = frozenset({"prompt", _REFERENCE, *_FIELDS})
_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/webp"})
_FORBIDDEN: Final = frozenset(
    {"prompt", "seconds", "duration", "size", "resolution", "n", "inputreference", "uploadurl", "webhookurl"}
)
"""What was checked, what credit is held for, and where a video would go past the gateway."""

_encode: Final = msgspec.json.Encoder().encode


class Submission(msgspec.Struct, frozen=True):
    """The request that begins a job; `path` follows the provider's base URL."""

    path: str
    content_type: str
    body: bytes | SizedBody


def is_generations(offer: Offer) -> bool:
    return offer.videos.api == "generations"


def unsupported(offer: Offer, request: VideoRequest) -> str | None:
    """As `VideoAdapter.unsupported`."""
    _options(offer, request)
    return next((named(request, field) for field in _problems(offer, request)), None)


def _problems(offer: Offer, request: VideoRequest) -> Iterator[str]:
    facts = offer.videos
    yield from (name for name in request.parameters if name not in _KNOWN)
    if request.remix_of is not None:  # all but the prompt is that of the first
        if is_generations(offer):
            yield "remix_of"
        yield from (name for name in _FIELDS if getattr(request, name) is not None)
        if request.reference is not None:
            yield _REFERENCE
        return
    for name in ("seed", "negative_prompt"):
        if getattr(request, name) is not None and (name not in facts.fields or is_generations(offer)):
            yield name
    if request.seconds is not None and facts.seconds and request.seconds not in facts.seconds:
        yield "seconds"
    yield from _frame_problems(offer, request)
    if request.reference is not None and true_type(request.reference) not in _IMAGES:
        yield _REFERENCE


def _frame_problems(offer: Offer, request: VideoRequest) -> Iterator[str]:
    if _says_words(offer, request):
        return
    frame = frame_of(offer, request)
    if isinstance(frame, str):
        yield frame
    elif not is_offered(offer, frame) or (is_generations(offer) and frame.size and not frame.resolution):
        yield field_of(request)


def _says_words(offer: Offer, request: VideoRequest) -> bool:
    """Whether the client's own words for the size go to a provider that knows such words, and checks them itself."""
    said = {name for name in ("resolution", "aspect_ratio") if getattr(request, name) is not None}
    takes = is_generations(offer) or said <= offer.videos.fields
    return bool(said) and takes and request.size is None and not offer.videos.sizes


def submission(offer: Offer, request: VideoRequest) -> Submission:
    """Raises ProviderFailure, and GatewayError as `unsupported` does."""
    options = _options(offer, request)
    if request.remix_of is not None:
        path = f"{PATH}/{quote(request.remix_of, safe='')}/remix"
        return Submission(path, _JSON, _encode({"prompt": request.prompt, **options}))
    if is_generations(offer):
        said = {**_generation(offer, request), **options}
        return Submission(_GENERATIONS, _JSON, _with_image(said, request.reference))
    said = {**_video(offer, request), **options}
    if request.reference is None:
        return Submission(PATH, _JSON, _encode(said))
    fields = [(name, _text(value)) for name, value in said.items()]
    content_type, form = multipart(fields, [(_REFERENCE, with_true_type(request.reference))])
    return Submission(PATH, content_type, form)


def _video(offer: Offer, request: VideoRequest) -> dict[str, Any]:
    said: dict[str, Any] = {"model": offer.provider_model, "prompt": request.prompt}
    if (seconds := request.seconds or offer.videos.default_seconds) is not None:
        said["seconds"] = str(seconds)
    if _says_words(offer, request):
        said |= {"resolution": request.resolution, "aspect_ratio": request.aspect_ratio}
    elif (size := _frame(offer, request).size) is not None:
        said["size"] = size
    said |= {"seed": request.seed, "negative_prompt": request.negative_prompt}
    return {name: value for name, value in said.items() if value is not None}


def _generation(offer: Offer, request: VideoRequest) -> dict[str, Any]:
    said: dict[str, Any] = {"model": offer.provider_model, "prompt": request.prompt}
    said["duration"] = request.seconds or offer.videos.default_seconds
    if _says_words(offer, request):
        said |= {"resolution": request.resolution, "aspect_ratio": request.aspect_ratio}
    else:
        frame = _frame(offer, request)
        said |= {"resolution": frame.resolution, "aspect_ratio": frame.aspect_ratio}
    return {name: value for name, value in said.items() if value is not None}


def _frame(offer: Offer, request: VideoRequest) -> Frame:
    frame = frame_of(offer, request)
    return frame if isinstance(frame, Frame) else Frame()


def _with_image(said: Mapping[str, Any], reference: Upload | None) -> bytes | SizedBody:
    body = _encode(said)
    if reference is None:
        return body
    opening = body[:-1] + b',"image":{"url":"data:' + _encode(true_type(reference))[1:-1] + b";base64,"
    return InlineBody((opening, reference, b'"}}'))


def _text(value: Any) -> str:
    """As a field of a form: texts as they are, all else as JSON."""
    plain = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
    return plain if isinstance(plain, str) else _encode(plain).decode()


def _options(offer: Offer, request: VideoRequest) -> Mapping[str, msgspec.Raw]:
    """Raises GatewayError for one that no client may set."""
    provider_id = offer.provider.id
    options = options_for(request, provider_id)
    for key in options:
        if key.strip().replace("_", "").lower() in _FORBIDDEN:
            raise option_refused(provider_id, key)
    return options
