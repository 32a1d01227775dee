"""Pictures by an OpenAI-compatible upstream: `POST /images/generations`, and `/images/edits` with files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec

from server.domain.catalog import Offer
from server.domain.errors import option_refused
from server.domain.events import Completed, Produced, ProviderStream
from server.domain.images import ImageRequest, Images
from server.domain.upload import Upload
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.http_port import SizedBody
from server.providers.multipart import multipart
from server.providers.openai_images_decode import ImagesDecoder
from server.providers.pictures import Pictures, with_true_type
from server.providers.provider_options import options_for
from server.providers.soft import hints_for

GENERATIONS: Final = "/images/generations"
EDITS: Final = "/images/edits"

_BOTH: Final = frozenset(
    {
        "n",
        "size",
        "quality",
        "background",
        "output_format",
        "output_compression",
        "moderation",
        "partial_images",
        "user",
        "safety_identifier",
    }
)
_OF_GENERATIONS: Final = _BOTH | {"style"}
_OF_EDITS: Final = _BOTH | {"input_fidelity"}
_FORBIDDEN: Final = frozenset(
    {"prompt", "image", "images", "image[]", "mask", "n", "partial_images", "response_format"}
)
"""What the gateway has checked, reserved credit for, or asks for itself."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def unsupported(offer: Offer, request: ImageRequest) -> str | None:
    """As `ProviderAdapter.supports`."""
    provider_id = offer.provider.id
    for key in options_for(request, provider_id):
        if key.strip().lower() in _FORBIDDEN:
            raise option_refused(provider_id, key)
    return next((spelling for name, spelling in request.parameters.items() if name not in _said(request)), None)


async def stream(
    exchanges: Exchanges,
    pictures: Pictures,
    offer: Offer,
    request: ImageRequest,
    headers: Mapping[str, str],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`; the result comes in a batch of its own."""
    provider = offer.provider
    content_type, sent = body(offer, request)
    decoder = ImagesDecoder(provider, request.n)
    post = Post(
        provider=provider,
        url=provider.base_url + (EDITS if request.images else GENERATIONS),
        headers={**headers, "content-type": content_type},
        body=sent,
        wants_events=request.stream,
        in_batches=request.stream,
    )
    async with aclosing(exchanges.run(post, decoder, failure_of)) as batches:
        async for batch in batches:
            yield batch
    if not decoder.pictures:
        raise decoder.nothing()
    found = await pictures.whole(decoder.pictures, provider, headers)
    yield (Produced(Images(found, **decoder.chosen)), Completed())


def body(offer: Offer, request: ImageRequest) -> tuple[str, bytes | SizedBody]:
    """The content type and what is sent under it."""
    fields = _fields(offer, request)
    if not request.images:
        return "application/json", _encode(fields)
    name = "image" if len(request.images) == 1 else "image[]"
    files: list[tuple[str, Upload]] = [(name, with_true_type(image)) for image in request.images]
    if request.mask is not None:
        files.append(("mask", with_true_type(request.mask)))
    return multipart([entry for key, value in fields.items() for entry in _entries(key, value)], files)


def _fields(offer: Offer, request: ImageRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": offer.provider_model, "prompt": request.prompt}
    chosen = {
        "n": request.n if request.n > 1 else None,
        "size": request.size,
        "quality": request.quality,
        "output_format": request.output_format,
        "stream": request.stream or None,
        "partial_images": request.partials if request.stream else None,
        "response_format": offer.provider.profile.image_response_format,
    }
    fields |= {name: value for name, value in chosen.items() if value is not None}
    said = _said(request)
    extra = {**hints_for(offer, request), **request.passthrough}
    fields |= {name: value for name, value in extra.items() if name in said}
    return {**fields, **options_for(request, offer.provider.id)}


def _said(request: ImageRequest) -> frozenset[str]:
    """By canonical name, what the route that it takes knows."""
    return _OF_EDITS if request.images else _OF_GENERATIONS


def _entries(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A JSON value as fields of a form, the way OpenAI's own clients write it."""
    match value:
        case msgspec.Raw():
            yield from _entries(name, _decode(value))
        case None:
            pass
        case str():
            yield name, value
        case dict():
            for key, inner in value.items():
                yield from _entries(f"{name}[{key}]", inner)
        case list():
            for inner in value:
                yield from _entries(f"{name}[]", inner)
        case _:
            yield name, _encode(value).decode()
