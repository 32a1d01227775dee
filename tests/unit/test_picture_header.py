"""How large a picture is, by its header: as Pillow says it, and nothing of what is no picture."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.domain.picture_header import UnknownPicture, media_type_of, picture_size
from tests.fakes.uploads import BytesUpload


def picture(width: int, height: int, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), "red").save(out, kind, **options)
    return out.getvalue()


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "png with alpha": ("PNG", {"mode": "RGBA"}),
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "jpeg with much before it": ("JPEG", {"icc_profile": random.Random(1).randbytes(200_000)}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "extended webp": ("WEBP", {"icc_profile": b"x" * 500}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (333, 1021)], ids=str)
async def test_as_pillow_made_it(kind: str, size: tuple[int, int]) -> None:
    name, options = KINDS[kind]
    data = picture(*size, name, **options)
    assert await picture_size(BytesUpload(data)) == size
    assert media_type_of(data[:16]) == f"image/{name.lower()}"


async def test_a_bomb_is_as_large_as_it_says() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    assert await picture_size(BytesUpload(bomb)) == (60_000, 60_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is a text",
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        picture(9, 9, "PNG")[:20],
        picture(9, 9, "PNG")[:8] + b"\x00" * 40,
        picture(9, 9, "JPEG")[:30],
        b"\xff\xd8\xff\xda" + b"\x00" * 50,
        b"\xff\xd8\xff\xe0\x00\x00" + b"\x00" * 50,
        picture(9, 9, "WEBP")[:24],
        b"RIFF\x10\x00\x00\x00WEBPVP8?" + b"\x00" * 30,
    ],
    ids=lambda data: repr(data[:12]),
)
async def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(UnknownPicture):
        await picture_size(BytesUpload(data))


@pytest.mark.parametrize("padding", [b"\xff", b"\xff\xd0", b"\xff\xe0\x00\x02"], ids=repr)
async def test_a_jpeg_of_nothing_but_padding_is_soon_given_up(padding: bytes) -> None:
    file = BytesUpload(b"\xff\xd8" + padding * 8_000_000)
    begun_s = time.process_time()
    with pytest.raises(UnknownPicture):
        await picture_size(file)
    assert time.process_time() - begun_s < 5


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBPVP8X", b"RIFF0000WEBPVP8L", b""]), st.data()
)
async def test_any_bytes_are_a_size_or_refused(begin: bytes, data: st.DataObject) -> None:
    rest = data.draw(st.binary(max_size=200))
    try:
        width, height = await picture_size(BytesUpload(begin + rest))
    except UnknownPicture:
        return
    assert width > 0
    assert height > 0
