"""Requests for pictures: OpenAI's JSON and forms, and how they become an `ImageRequest`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec

from rest_bridge.content import inline_file
from rest_bridge.extras import ExtrasBody
from rest_bridge.form_fields import decode_fields
from rest_bridge.json import decode_body, encode_raw, invalid
from server.domain.errors import GatewayError, Reason
from server.domain.image_limits import (
    IMAGE,
    MASK,
    MAX_PARTIALS,
    MAX_USER_CHARS,
    check_files,
    check_prompt,
    check_settings,
)
from server.domain.images import MAX_IMAGES, MAX_INPUT_IMAGES, MAX_PROMPT_CHARS, ImageRequest
from server.domain.limits import MAX_SHOWN_CHARS, check_count, missing_field
from server.domain.request import Endpoint
from server.domain.upload import Upload

Format = Literal["url", "b64_json"]

_SETTINGS: Final = ("n", "size", "quality", "output_format", "partial_images")
_PASSED: Final = (
    "background",
    "moderation",
    "style",
    "input_fidelity",
    "output_compression",
    "safety_identifier",
    "user",
)
_WORDS: Final = frozenset((*_SETTINGS, *_PASSED)) - {"n", "partial_images", "output_compression"}


_Text = Annotated[str, msgspec.Meta(max_length=MAX_USER_CHARS)]


class _Body(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARS)]
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_IMAGES)] | None = None
    size: str | None = None
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    moderation: Literal["auto", "low"] | None = None
    response_format: Format | None = None
    stream: bool | None = None
    partial_images: Annotated[int, msgspec.Meta(ge=0, le=MAX_PARTIALS)] | None = None
    safety_identifier: _Text | None = None
    user: _Text | None = None


class ImagesBody(_Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/images/generations`."""

    style: Literal["vivid", "natural"] | None = None


class EditFormBody(_Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a form of `POST /v1/images/edits` has beside its files."""

    input_fidelity: Literal["high", "low"] | None = None


class EditsBody(EditFormBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/images/edits` as JSON: its pictures are data URLs."""

    image: str | tuple[str, ...] | None = None
    mask: str | None = None


class ImagesOrder(msgspec.Struct, frozen=True):
    """What is to be drawn, and in what the client wants to be told of it."""

    request: ImageRequest
    response_format: Format
    wants_meta: bool


_GENERATION: Final = msgspec.json.Decoder(ImagesBody)
_EDIT: Final = msgspec.json.Decoder(EditsBody)


def decode_generation(body: bytes) -> ImagesOrder:
    """Raises GatewayError naming the field that is wrong."""
    return _order(decode_body(_GENERATION, body))


async def decode_edit(body: bytes) -> ImagesOrder:
    """An edit as JSON, with its pictures as data URLs. Raises GatewayError naming the field that is wrong."""
    asked = decode_body(_EDIT, body)
    return await _edit(asked, *_sent(asked))


async def decode_edit_form(fields: Iterable[tuple[str, str]], files: Iterable[tuple[str, Upload]]) -> ImagesOrder:
    """An edit as OpenAI's SDKs send it. Raises GatewayError naming the field that is wrong."""
    return await _edit(decode_fields(EditFormBody, fields), *_sorted(files))


def _sent(body: EditsBody) -> tuple[list[Upload], list[Upload]]:
    """The pictures of a JSON body, and its masks."""
    given = () if body.image is None else (body.image,) if isinstance(body.image, str) else body.image
    check_count(len(given), MAX_INPUT_IMAGES, IMAGE)
    images = [inline_file(url, IMAGE if len(given) == 1 else f"{IMAGE}[{place}]") for place, url in enumerate(given)]
    return images, [] if body.mask is None else [inline_file(body.mask, MASK)]


def _sorted(files: Iterable[tuple[str, Upload]]) -> tuple[list[Upload], list[Upload]]:
    """The pictures of a form, and its masks."""
    images: list[Upload] = []
    masks: list[Upload] = []
    for name, file in files:
        if name in (IMAGE, f"{IMAGE}[]"):
            images.append(file)
        elif name == MASK:
            masks.append(file)
        else:
            shown = name[:MAX_SHOWN_CHARS]
            raise GatewayError(Reason.UNKNOWN_PARAMETER, f"`{shown}` is not a known file.", param=shown)
    return images, masks


async def _edit(body: EditFormBody, images: list[Upload], masks: list[Upload]) -> ImagesOrder:
    if len(masks) > 1:
        raise invalid(MASK, f"`{MASK}` is given twice.")
    mask = masks[0] if masks else None
    order = _order(body, tuple(images), mask)
    await check_files(images, mask)
    return order


def _order(body: ImagesBody | EditFormBody, images: tuple[Upload, ...] = (), mask: Upload | None = None) -> ImagesOrder:
    if not body.model:
        raise missing_field("model")
    check_prompt(body.prompt)
    given = {name: value for name in (*_SETTINGS, *_PASSED) if (value := getattr(body, name, None)) is not None}
    stream = bool(body.stream)
    check_settings(
        {name: given.get(name) for name in _WORDS},
        n=body.n,
        compression=body.output_compression,
        partials=body.partial_images,
        stream=stream,
    )
    request = ImageRequest(
        endpoint=Endpoint.IMAGES,
        model=body.model,
        prompt=body.prompt,
        images=images,
        mask=mask,
        n=body.n or 1,
        size=body.size,
        quality=body.quality,
        output_format=body.output_format,
        partials=body.partial_images,
        stream=stream,
        parameters={name: name for name in given},
        passthrough={name: encode_raw(given[name]) for name in _PASSED if name in given},
        provider_options=body.options(),
        routing=body.routing(),
        trace=body.wants_trace(),
    )
    return ImagesOrder(request, body.response_format or "b64_json", bool(body.meta))
