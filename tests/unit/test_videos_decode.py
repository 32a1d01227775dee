"""Requests for videos: what a body or a form means, and what is refused by name."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from rest_bridge.videos_decode import decode_remix, decode_video, decode_video_form
from server.domain.errors import GatewayError
from server.domain.video import LinkedPicture
from tests.fakes.uploads import BytesUpload


def png(width: int, height: int) -> bytes:
    """A PNG as far as its header goes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def picture(width: int = 2, height: int = 2) -> BytesUpload:
    return BytesUpload(png(width, height), filename="a.png", media_type="image/png")


PIXEL = "data:image/png;base64," + base64.b64encode(png(1, 1)).decode()
LINK = "https://pictures.example/a.png"
LEAST: dict[str, Any] = {"model": "acme/film", "prompt": "a cat"}


async def decoded(**more: Any) -> Any:
    return await decode_video(msgspec.json.encode(LEAST | more))


@pytest.mark.parametrize(
    ("body", "field", "value", "spelling"),
    [
        ({"seconds": "8"}, "seconds", 8, "seconds"),
        ({"seconds": 8}, "seconds", 8, "seconds"),
        ({"duration": 4}, "seconds", 4, "duration"),
        ({"duration_seconds": "12"}, "seconds", 12, "duration_seconds"),
        ({"size": "1280x720"}, "size", "1280x720", "size"),
        ({"resolution": "1080p"}, "resolution", "1080p", "resolution"),
        ({"resolution": "4k"}, "resolution", "4k", "resolution"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio", "16:9", "aspect_ratio"),
        ({"seed": 0}, "seed", 0, "seed"),
        ({"negative_prompt": "no dogs"}, "negative_prompt", "no dogs", "negative_prompt"),
    ],
)
async def test_what_is_asked_for(body: dict[str, Any], field: str, value: object, spelling: str) -> None:
    request = await decoded(**body)
    assert getattr(request, field) == value
    assert request.parameters == {field: spelling}


async def test_the_least_is_a_model_and_a_prompt() -> None:
    request = await decoded()
    assert (request.endpoint, request.model, request.prompt) == ("video", "acme/film", "a cat")
    assert (request.parameters, request.reference) == ({}, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": ""}, "model"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"seconds": 0}, "seconds"),
        ({"duration": 601}, "duration"),
        ({"seconds": "four"}, "seconds"),
        ({"seconds": "4.5"}, "seconds"),
        ({"seconds": 4.5}, "seconds"),
        ({"seconds": "99999"}, "seconds"),
        ({"seconds": 4, "duration": 4}, "duration"),
        ({"size": "big"}, "size"),
        ({"size": "1280x9000"}, "size"),
        ({"size": "0x720"}, "size"),
        ({"size": "1280x720", "resolution": "720p"}, "resolution"),
        ({"size": "1280x720", "aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"resolution": "huge"}, "resolution"),
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"negative_prompt": "x" * 4097}, "negative_prompt"),
        ({"input_reference": PIXEL, "input_references": [{"url": PIXEL}]}, "input_references"),
        ({"input_references": [{"url": PIXEL}, {"url": PIXEL}]}, "input_references"),
        ({"input_references": [{"role": "first_frame"}]}, "input_references[0]"),
        ({"input_references": [{"url": PIXEL, "data": "AAAA"}]}, "input_references[0]"),
        ({"input_references": [{"url": PIXEL, "role": "last_frame"}]}, "input_references[0].role"),
        ({"input_references": [{"url": PIXEL, "type": "video"}]}, "input_references[0].type"),
        ({"input_references": [{"asset_id": "a"}]}, "input_references[0].asset_id"),
        ({"input_references": [{"data": "?"}]}, "input_references[0].data"),
        ({"input_references": [{"url": "data:image/png;base64,A"}]}, "input_references[0].url"),
        ({"input_reference": "data:image/png;base64,A"}, "input_reference"),
        ({"input_reference": {"file_id": "file_1"}}, "input_reference.file_id"),
        ({"input_reference": "data:image/png;base64,AAAA"}, "input_reference"),
        ({"frames": 3}, "frames"),
        ({"provider_options": {"acme": {"api_key": "x"}}}, "provider_options.acme.api_key"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        await decoded(**body)
    assert refused.value.param == param


@pytest.mark.parametrize("given", [PIXEL, {"image_url": PIXEL}], ids=["text", "object"])
async def test_a_picture_inside_a_body(given: object) -> None:
    request = await decoded(input_reference=given)
    assert request.parameters == {"input_reference": "input_reference"}
    assert request.reference is not None
    assert (request.reference.media_type, request.reference.head) == ("image/png", png(1, 1))


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "image_url", "role": "first_frame", "image_url": {"url": PIXEL}},
        {"type": "image", "url": PIXEL},
        {"data": PIXEL.partition(",")[2], "mime_type": "image/png"},
    ],
    ids=["image_url", "url", "data"],
)
async def test_a_picture_as_the_only_one_of_a_list(entry: object) -> None:
    request = await decoded(input_references=[entry])
    assert request.parameters == {"input_reference": "input_references"}
    assert request.reference is not None
    assert request.reference.head == png(1, 1)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input_reference": LINK}, "input_reference"),
        ({"input_reference": {"image_url": LINK}}, "input_reference.image_url"),
        ({"input_references": [{"image_url": {"url": LINK}}]}, "input_references[0].image_url.url"),
        ({"input_references": [{"url": LINK}]}, "input_references[0].url"),
    ],
    ids=["text", "object", "entry", "url of an entry"],
)
async def test_where_a_picture_is(given: Mapping[str, object], param: str) -> None:
    request = await decoded(**given)
    assert (request.reference, request.linked) == (None, LinkedPicture(LINK, param))


async def test_a_form_says_the_same_in_texts() -> None:
    fields = [("model", "acme/film"), ("prompt", "a cat"), ("seconds", "8"), ("seed", "7")]
    file = picture()
    request = await decode_video_form(fields, [("input_reference", file)])
    assert (request.seconds, request.seed, request.reference) == (8, 7, file)


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([("image", picture())], "image"),
        ([("input_reference", picture()), ("input_reference", picture())], "input_reference"),
        ([("input_reference", picture(30_000, 30_000))], "input_reference"),
        ([("input_reference", BytesUpload(b"GIF89a", filename="a.gif", media_type="image/gif"))], "input_reference"),
        ([("input_reference", BytesUpload(b"", filename="a.png", media_type="image/png"))], "input_reference"),
    ],
    ids=["another name", "two", "a bomb", "no picture", "nothing"],
)
async def test_files_that_are_refused(files: Sequence[tuple[str, BytesUpload]], param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        await decode_video_form([("model", "acme/film"), ("prompt", "a cat")], files)
    assert refused.value.param == param


def test_a_remix_is_a_prompt() -> None:
    assert decode_remix(b'{"prompt": "at night"}') == "at night"
    for body, param in (
        (b"{}", "prompt"),
        (b'{"prompt": ""}', "prompt"),
        (b'{"prompt": "x", "seconds": 4}', "seconds"),
    ):
        with pytest.raises(GatewayError) as refused:
            decode_remix(body)
        assert refused.value.param == param
