"""Pictures as OpenAI tells of them: whole, or event by event. Their base64 is written as the provider wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from rest_bridge.errors import error_body
from rest_bridge.http import RestResponse
from rest_bridge.images_decode import ImagesOrder
from rest_bridge.pieces import json_in_pieces
from rest_bridge.pricing_json import FREE, PricingJson, usage_pricing
from rest_bridge.sse import DONE
from server.domain.errors import GatewayError
from server.domain.events import GenerationEvent, ImagePartial, Produced, Settled
from server.domain.identity import Arrival
from server.domain.images import ImageRequest, Images, MadeImage
from server.domain.usage import Meta, Usage
from server.pipeline.draw import Drawn

_json: Final = msgspec.json.Encoder().encode
_FORMATS: Final[Mapping[str, str]] = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}


class ImageTokens(msgspec.Struct, frozen=True):
    text_tokens: int
    image_tokens: int


class ImagesUsage(msgspec.Struct, frozen=True):
    """All zeros but for the pricing where the provider counts pictures only."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: ImageTokens
    output_tokens_details: ImageTokens
    pricing: PricingJson


class ImageJson(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`url` is there instead of `b64_json` where that was asked for: a data URL, for nothing is hosted."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class ImagesJson(msgspec.Struct, frozen=True, kw_only=True):
    """`size`, `quality` and the like are what the provider says that it chose, or else what was asked for."""

    created: int
    data: tuple[ImageJson, ...]
    background: str | None
    output_format: str | None
    quality: str | None
    size: str | None
    usage: ImagesUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


class ImagePartialEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An unfinished picture: the `partial_image_index`th of the picture `image_index`, both from 0."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    partial_image_index: int
    image_index: int
    created_at: int
    background: str
    output_format: str
    quality: str
    size: str


class ImageCompletedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A finished picture. Of several the last has the usage of all, and `meta`; the others' counts are zeros."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str
    image_index: int
    created_at: int
    background: str
    output_format: str
    quality: str
    size: str
    usage: ImagesUsage
    revised_prompt: str | msgspec.UnsetType = msgspec.UNSET
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


EVENTS: Final = (ImagePartialEvent, ImageCompletedEvent)
"""What a stream consists of."""

_NO_TOKENS: Final = ImageTokens(0, 0)
_NONE: Final = ImagesUsage(0, 0, 0, _NO_TOKENS, _NO_TOKENS, FREE)


def encode_images(drawn: Drawn, order: ImagesOrder, arrival: Arrival) -> RestResponse:
    """Picture by picture: ten of them may be 100 MB."""
    return json_in_pieces(_pieces(drawn, order, arrival))


def _pieces(drawn: Drawn, order: ImagesOrder, arrival: Arrival) -> Iterator[bytes]:
    around = ImagesJson(
        created=arrival.created_at,
        data=(),
        **_chosen(drawn.images, order.request, drawn.images.images[0].media_type),
        usage=_usage(drawn.settled.usage),
        meta=drawn.settled.meta if order.wants_meta else msgspec.UNSET,
    )
    head, opened, tail = _json(around).partition(b'"data":[')
    last = len(drawn.images.images) - 1
    for index, image in enumerate(drawn.images.images):
        before = b"," if index else head + opened
        yield b"".join((before, _json(_image(image, order)), tail if index == last else b""))


def _image(image: MadeImage, order: ImagesOrder) -> ImageJson:
    if order.response_format == "url":
        return ImageJson(url=_data_url(image), revised_prompt=image.revised_prompt)
    return ImageJson(b64_json=image.data, revised_prompt=image.revised_prompt)


def _data_url(image: MadeImage) -> str:
    return f"data:{image.media_type};base64,{image.data}"


def _chosen(images: Images | None, request: ImageRequest, media_type: str) -> dict[str, Any]:
    """What the pictures are like: as the provider says, as was asked for, or null."""
    asked = request.passthrough.get("background")
    made = images or Images(())
    return {
        "background": made.background or (None if asked is None else msgspec.json.decode(asked, type=str)),
        "output_format": made.output_format or _FORMATS.get(media_type),
        "quality": made.quality or request.quality,
        "size": made.size or request.size,
    }


def _usage(usage: Usage) -> ImagesUsage:
    return ImagesUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        ImageTokens(usage.input_tokens - usage.input_image_tokens, usage.input_image_tokens),
        ImageTokens(usage.output_tokens - usage.output_image_tokens, usage.output_image_tokens),
        usage_pricing(usage),
    )


class ImagesStreamEncoder:
    """Implements `rest_bridge.sse.StreamEncoder` for pictures. What they cost is known when all of them are there."""

    def __init__(self, order: ImagesOrder, arrival: Arrival) -> None:
        self._order = order
        self._arrival = arrival
        self._kind = "image_edit" if order.request.images else "image_generation"
        self._images: Images | None = None
        self._settled: Settled | None = None

    def encode(self, events: Sequence[GenerationEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case ImagePartial():
                    out.append(self._partial(event))
                case Produced(result=Images() as images):
                    self._images = images
                case Settled():
                    self._settled = event
                case _:
                    pass
        return b"".join(out)

    def end(self) -> bytes:
        assert self._settled is not None, "a stream ends with its account"
        assert self._images is not None, "a stream of pictures has them at its end"
        made = self._images.images
        return b"".join((*(self._completed(self._images, index) for index in range(len(made))), DONE))

    def fail(self, error: GatewayError) -> bytes:
        """OpenAI's error event, with the contract's own fields beside theirs."""
        told: dict[str, Any] = msgspec.to_builtins(error_body(error, self._arrival.generation_id))
        told = {"message": told["description"], "type": told["error"], "code": told["reason"], **told}
        return b"event: error\ndata: %b\n\n" % _json({"type": "error", "error": told})

    def _partial(self, event: ImagePartial) -> bytes:
        return self._frame(
            ImagePartialEvent(
                type=f"{self._kind}.partial_image",  # type: ignore[arg-type]  # one of the two
                b64_json=event.data,
                partial_image_index=event.partial,
                image_index=event.index,
                created_at=self._arrival.created_at,
                **self._like(None, event.media_type),
            )
        )

    def _completed(self, images: Images, index: int) -> bytes:
        assert self._settled is not None
        image, is_last = images.images[index], index == len(images.images) - 1
        return self._frame(
            ImageCompletedEvent(
                type=f"{self._kind}.completed",  # type: ignore[arg-type]  # one of the two
                b64_json=image.data,
                image_index=index,
                created_at=self._arrival.created_at,
                **self._like(images, image.media_type),
                usage=_usage(self._settled.usage) if is_last else _NONE,
                revised_prompt=image.revised_prompt or msgspec.UNSET,
                meta=self._settled.meta if is_last and self._order.wants_meta else msgspec.UNSET,
            )
        )

    def _like(self, images: Images | None, media_type: str) -> dict[str, Any]:
        """OpenAI's events always say it: `auto` where nobody knows."""
        return {name: said or "auto" for name, said in _chosen(images, self._order.request, media_type).items()}

    def _frame(self, event: ImagePartialEvent | ImageCompletedEvent) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event.type.encode(), _json(event))
