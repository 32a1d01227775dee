"""ImagesService: typed pictures, whole or as they become visible."""

from __future__ import annotations

import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import msgspec

from aistats.gateway.v1 import images_pb2, images_pb2_grpc
from server.domain.errors import internal_error
from server.domain.events import ImagePartial, Produced, Settled
from server.domain.image_limits import MASK, check_files, check_prompt, check_settings
from server.domain.images import ImageRequest, Images, MadeImage
from server.domain.limits import invalid_value, missing_field
from server.domain.request import Endpoint, RawJson
from server.domain.upload import Upload
from server.pipeline.draw import Draw, Drawn
from server.rpc.context import CallContext
from server.rpc.convert import encode_meta, encode_usage
from server.rpc.image_files import received_files
from server.rpc.options import decode_provider_options, decode_routing
from server.spool import Spool

__all__ = ["ImagesServicer"]

_SETTINGS: Final = ("n", "size", "quality", "output_format", "partial_images")
_PASSED: Final = (
    "background",
    "output_compression",
    "moderation",
    "style",
    "user",
    "safety_identifier",
    "input_fidelity",
)
_NUMBERS: Final = frozenset({"n", "partial_images", "output_compression"})


class ImagesServicer(images_pb2_grpc.ImagesServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, draw: Draw, spool: Spool | None = None) -> None:
        self._draw = draw
        self._spool = spool or Spool()

    async def CreateImages(  # type: ignore[override]  # the context is our own
        self, request: images_pb2.CreateImagesRequest, context: CallContext
    ) -> images_pb2.CreateImagesResponse:
        drawn = await self._draw(context.call, decode_request(request, stream=False))
        return encode_drawn(drawn, context.call.arrival.created_at)

    def StreamImages(  # type: ignore[override]  # the context is our own
        self, request: images_pb2.CreateImagesRequest, context: CallContext
    ) -> AsyncGenerator[images_pb2.StreamImagesResponse, None]:
        return self._stream(context, decode_request(request, stream=True))

    async def EditImages(  # type: ignore[override]  # the context is our own
        self, messages: AsyncIterator[images_pb2.EditImagesRequest], context: CallContext
    ) -> images_pb2.CreateImagesResponse:
        drawn = await self._draw(context.call, await self._edit(messages, stream=False))
        return encode_drawn(drawn, context.call.arrival.created_at)

    async def StreamImageEdits(  # type: ignore[override]  # the context is our own
        self, messages: AsyncIterator[images_pb2.EditImagesRequest], context: CallContext
    ) -> AsyncGenerator[images_pb2.StreamImagesResponse, None]:
        async with aclosing(self._stream(context, await self._edit(messages, stream=True))) as events:
            async for event in events:
                yield event

    async def _edit(self, messages: AsyncIterator[images_pb2.EditImagesRequest], *, stream: bool) -> ImageRequest:
        """Raises GatewayError naming the field that is wrong."""
        settings, files = await received_files(messages, self._spool)
        masks = [file for is_mask, file in files if is_mask]
        images = tuple(file for is_mask, file in files if not is_mask)
        if len(masks) > 1:
            raise invalid_value(MASK, "is given twice")
        request = decode_request(settings, stream=stream, images=images, mask=masks[0] if masks else None)
        await check_files(images, request.mask)
        return request

    async def _stream(
        self, context: CallContext, request: ImageRequest
    ) -> AsyncGenerator[images_pb2.StreamImagesResponse, None]:
        async with aclosing(self._draw.stream(context.call, request)) as batches:
            images: Images | None = None
            async for batch in batches:
                for event in batch:
                    match event:
                        case ImagePartial():
                            yield _partial(event)
                        case Produced(result=Images() as images):
                            pass
                        case Settled():
                            for message in _finished(images, event):
                                yield message
                        case _:
                            pass


def decode_request(
    request: images_pb2.CreateImagesRequest,
    *,
    stream: bool,
    images: tuple[Upload, ...] = (),
    mask: Upload | None = None,
) -> ImageRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.model:
        raise missing_field("model")
    check_prompt(request.prompt)
    given: dict[str, Any] = {name: getattr(request, name) for name in (*_SETTINGS, *_PASSED) if request.HasField(name)}
    check_settings(
        {name: value for name, value in given.items() if name not in _NUMBERS},
        n=given.get("n"),
        compression=given.get("output_compression"),
        partials=given.get("partial_images"),
        stream=stream,
    )
    return ImageRequest(
        endpoint=Endpoint.IMAGES,
        model=request.model,
        prompt=request.prompt,
        images=images,
        mask=mask,
        n=given.get("n", 1),
        size=given.get("size"),
        quality=given.get("quality"),
        output_format=given.get("output_format"),
        partials=given.get("partial_images"),
        stream=stream,
        parameters={name: name for name in given},
        passthrough={name: RawJson(msgspec.json.encode(given[name])) for name in _PASSED if name in given},
        provider_options=decode_provider_options(request.provider_options_json),
        routing=decode_routing(request.routing),
        trace=request.routing.trace,
    )


def encode_drawn(drawn: Drawn, created: int) -> images_pb2.CreateImagesResponse:
    return images_pb2.CreateImagesResponse(
        created=created,
        images=map(_image, drawn.images.images),
        look=_look(drawn.images),
        usage=encode_usage(drawn.settled.usage),
        meta=encode_meta(drawn.settled.meta),
    )


def _finished(images: Images | None, settled: Settled) -> list[images_pb2.StreamImagesResponse]:
    if images is None:
        raise internal_error()
    end = images_pb2.ImagesFinished(
        look=_look(images), usage=encode_usage(settled.usage), meta=encode_meta(settled.meta)
    )
    return [
        *(
            images_pb2.StreamImagesResponse(image=images_pb2.FinishedImage(index=index, image=_image(image)))
            for index, image in enumerate(images.images)
        ),
        images_pb2.StreamImagesResponse(finished=end),
    ]


def _partial(event: ImagePartial) -> images_pb2.StreamImagesResponse:
    image = _image(MadeImage(event.data, event.media_type))
    return images_pb2.StreamImagesResponse(
        partial=images_pb2.PartialImage(index=event.index, partial=event.partial, image=image)
    )


def _image(image: MadeImage) -> images_pb2.GeneratedImage:
    return images_pb2.GeneratedImage(
        data=binascii.a2b_base64(image.data), media_type=image.media_type, revised_prompt=image.revised_prompt
    )


def _look(images: Images) -> images_pb2.ImageLook:
    return images_pb2.ImageLook(
        size=images.size, quality=images.quality, background=images.background, output_format=images.output_format
    )
