"""Forms: whatever way they are cut, what they say is read; and what is none is refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rest_bridge import uploads
from rest_bridge.uploads import Form, read_form
from server.domain.errors import ErrorCode, GatewayError, Reason
from server.domain.upload import Upload
from server.providers.multipart import multipart
from server.spool import MAX_FILENAME, Spool
from tests.fakes.uploads import BytesUpload

BOUNDARY = "form-0123456789"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
CR = "\r\n"


def part(headers: str, data: bytes = b"x", boundary: str = BOUNDARY) -> bytes:
    return f"--{boundary}{CR}{headers}{CR}{CR}".encode() + data + b"\r\n"


def field(name: str, value: bytes, boundary: str = BOUNDARY) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', value, boundary)


def file(name: str, data: bytes, more: str = "", filename: str = "a.wav", boundary: str = BOUNDARY) -> bytes:
    return part(f'content-disposition: form-data; name="{name}"; filename="{filename}"{more}', data, boundary)


def form(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    return b"".join(parts) + f"--{boundary}--{CR}".encode()


async def pieces_of(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def read(body: bytes, content_type: str = TYPE, size: int = 1 << 20, spool: Spool | None = None) -> Form:
    return await read_form(content_type, pieces_of(body, size), spool or Spool())


async def data_of(upload: Upload) -> bytes:
    async with aclosing(upload.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


async def told(read: Form) -> tuple[Sequence[tuple[str, str]], list[tuple[str, str, str, bytes]]]:
    files = [(name, file.filename, file.media_type, await data_of(file)) for name, file in read.files]
    return read.fields, files


WHOLE = form(
    field("model", b"whisper-1"),
    file("file", b"RIFF\r\n--form-0123\r\n--" * 50, "\r\nContent-Type: Audio/WAV; codecs=1"),
    field("timestamp_granularities[]", b"word"),
    file("image[]", b"", filename="b.png"),
    field("timestamp_granularities[]", "zwölf\r\n".encode()),
    file("image[]", b"\0\xff" * 100_000, filename="c.png"),
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 1 << 20])
async def test_a_form_may_be_cut_anywhere(size: int) -> None:
    body = WHOLE if size > 3 else form(*[field("a", b"\r\n-\r\n--form\r"), file("b", b"\r\r\n--form-0123456788")])
    fields, files = await told(await read(body, size=size))
    if size <= 3:
        assert (fields, files) == ((("a", "\r\n-\r\n--form\r"),), [("b", "a.wav", "", b"\r\r\n--form-0123456788")])
        return
    assert fields == (
        ("model", "whisper-1"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "zwölf\r\n"),
    )
    assert files == [
        ("file", "a.wav", "audio/wav", b"RIFF\r\n--form-0123\r\n--" * 50),
        ("image[]", "b.png", "", b""),
        ("image[]", "c.png", "", b"\0\xff" * 100_000),
    ]


@settings(max_examples=60)
@example(fields=[], files=[("\\", b"")], size=500)
@given(
    fields=st.lists(st.tuples(st.text(min_size=1, max_size=20), st.text(max_size=200)), max_size=5),
    files=st.lists(st.tuples(st.text(min_size=1, max_size=20), st.binary(max_size=2000)), max_size=4),
    size=st.integers(1, 500),
)
async def test_what_we_write_we_read(fields: list[tuple[str, str]], files: list[tuple[str, bytes]], size: int) -> None:
    content_type, body = multipart(fields, [(name, BytesUpload(data, filename="f.bin")) for name, data in files])
    sent = b"".join([piece async for piece in body.pieces()])
    if not fields and not files:
        return
    read_fields, read_files = await told(await read(sent, content_type, size))
    escaped = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\0": "%00", "\\": "%5C"})
    assert list(read_fields) == [(name.translate(escaped), value) for name, value in fields]
    assert [(name, data) for name, _, _, data in read_files] == [
        (name.translate(escaped), data) for name, data in files
    ]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\Users\\\\me\\\\a.mp3", "a.mp3"),
        ("zwölf \x01\x7f.mp3", "zwölf .mp3"),
        ("x" * 400, "x" * MAX_FILENAME),
        ("a;b=c.mp3", "a;b=c.mp3"),
    ],
)
async def test_a_file_is_called_what_it_is_called(sent: str, kept: str) -> None:
    read_form = await read(form(file("file", b"x", filename=sent)))
    assert [file.filename for _, file in read_form.files] == [kept]


async def test_what_a_browser_sends_for_no_file_is_none() -> None:
    assert (await read(form(file("file", b"", filename=""), field("a", b"")))).files == ()
    assert len((await read(form(file("file", b"x", filename="")))).files) == 1


async def test_what_follows_the_end_does_not_count() -> None:
    fields, _ = await told(await read(form(field("a", b"1")) + b"\r\n" + field("b", b"2")))
    assert fields == (("a", "1"),)


MALFORMED: dict[str, tuple[str, bytes, str | None]] = {
    "no boundary": ("multipart/form-data", WHOLE, "content-type"),
    "an empty boundary": ('multipart/form-data; boundary=""', WHOLE, "content-type"),
    "a boundary of 71 characters": (f"multipart/form-data; boundary={'b' * 71}", WHOLE, "content-type"),
    "another boundary": ("multipart/form-data; boundary=other", WHOLE, "content-type"),
    "a longer boundary": (TYPE + "0", WHOLE, "content-type"),
    "no form at all": (TYPE, b'{"model":"a"}', "content-type"),
    "nothing but line breaks": (TYPE, b"\r\n" * 1000, "content-type"),
    "nothing": (TYPE, b"", "content-type"),
    "cut in a boundary": (TYPE, WHOLE[:-6], "image[]"),
    "cut in a file": (TYPE, WHOLE[:-2000], "image[]"),
    "cut in a field": (TYPE, field("model", b"abc")[:-3], "model"),
    "cut in headers": (TYPE, WHOLE[:40], None),
    "cut between parts": (TYPE, field("model", b"abc"), "model"),
    "no name": (TYPE, form(part("content-disposition: form-data")), "content-disposition"),
    "an empty name": (TYPE, form(field("", b"x")), "content-disposition"),
    "no disposition": (TYPE, form(part("content-type: text/plain")), "content-disposition"),
    "an attachment": (TYPE, form(part('content-disposition: attachment; name="a"')), "content-disposition"),
    "a name that is no text": (
        TYPE,
        form(b"--" + BOUNDARY.encode() + b'\r\ncontent-disposition: form-data; name="\xff"\r\n\r\nx\r\n'),
        "content-disposition",
    ),
    "a field that is no text": (TYPE, form(field("prompt", b"\xff\xfe")), "prompt"),
    "a transfer encoding": (
        TYPE,
        form(part('content-disposition: form-data; name="a"\r\ncontent-transfer-encoding: base64', b"YQ==")),
        "a",
    ),
    "a header that is none": (TYPE, form(part("content disposition: form-data")), None),
    "a header of 10 kB": (TYPE, form(part(f'content-disposition: form-data; name="{"a" * 10_000}"')), None),
    "forty headers": (TYPE, form(part(CR.join(f"x-{n}: a" for n in range(40)))), None),
    "mixed line breaks": (TYPE, WHOLE.replace(b"\r\n", b"\n"), "content-type"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("size", [5, 1 << 20])
async def test_what_is_no_form_is_refused_by_name(name: str, size: int) -> None:
    content_type, body, param = MALFORMED[name]
    spool = Spool()
    with pytest.raises(GatewayError) as refused:
        await read(body, content_type, size, spool)
    assert refused.value.code is ErrorCode.VALIDATION
    assert refused.value.param == param
    assert spool.held_bytes == 0


class Endless:
    """Begins like this, and goes on for ever."""

    def __init__(self, begin: bytes, on: bytes = b"x" * 65536) -> None:
        self.begin, self.on, self.taken = begin, on, 0

    async def pieces(self) -> AsyncIterator[bytes]:
        piece = self.begin
        while True:
            self.taken += len(piece)
            yield piece
            piece = self.on


TOO_LARGE: dict[str, tuple[bytes, bytes, int, str | None]] = {
    "a file": (file("file", b"")[:-2], b"x" * 65536, uploads.MAX_FILE_BYTES, "file"),
    "many files": (b"", file("image[]", b"x" * 600_000), uploads.MAX_FILE_BYTES, "image[]"),
    "a field": (field("prompt", b"")[:-2], b"x" * 65536, uploads.MAX_FIELD_BYTES, "prompt"),
    "many fields": (b"", field("a", b"x" * 60_000), uploads.MAX_REST_BYTES, None),
    "many parts": (b"", field("a", b""), 100_000, None),
    "many boundaries that are none": (file("file", b"")[:-2], f"{CR}--{BOUNDARY}x".encode() * 3000, 100_000, None),
    "an end without end": (form(field("a", b"")), b"x" * 65536, uploads.MAX_REST_BYTES, None),
    "nothing but line breaks": (b"", b"\r\n" * 30_000, uploads.MAX_REST_BYTES, None),
}


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_what_is_too_large_is_refused_as_soon_as_it_is(name: str, tmp_path: Path) -> None:
    begin, on, limit, param = TOO_LARGE[name]
    endless, spool = Endless(begin, on), Spool(tmp_path)
    with pytest.raises(GatewayError) as refused:
        await read_form(TYPE, endless.pieces(), spool)
    assert (refused.value.reason, refused.value.param) == (Reason.REQUEST_TOO_LARGE, param)
    assert endless.taken <= limit + 2 * len(on) + len(begin)
    assert spool.held_bytes == 0


async def test_a_form_of_128_parts_is_taken() -> None:
    assert len((await read(form(*[field("a", b"1")] * uploads.MAX_PARTS), size=1000)).fields) == uploads.MAX_PARTS
    with pytest.raises(GatewayError) as refused:
        await read(form(*[field("a", b"1")] * (uploads.MAX_PARTS + 1)), size=1000)
    assert refused.value.reason is Reason.REQUEST_TOO_LARGE


async def test_a_file_of_25_mib_is_taken(tmp_path: Path) -> None:
    body = form(file("file", bytes(uploads.MAX_FILE_BYTES)))
    (_, upload), *_ = (await read(body, spool=Spool(tmp_path))).files
    assert upload.size == uploads.MAX_FILE_BYTES


async def test_the_digest_is_of_the_parts_and_not_of_what_stands_between_them() -> None:
    async def digest(*parts: bytes, boundary: str = BOUNDARY, size: int = 1 << 20) -> bytes:
        content_type = f"multipart/form-data; boundary={boundary}"
        pieces = pieces_of(form(*parts, boundary=boundary), size)
        return (await read_form(content_type, pieces, Spool(), with_digest=True)).digest

    first = await digest(field("a", b"1"), file("f", b"data"))
    other = "other"
    assert first == await digest(field("a", b"1", other), file("f", b"data", boundary=other), boundary=other, size=3)
    different = [
        await digest(field("a", b"2"), file("f", b"data")),
        await digest(field("b", b"1"), file("f", b"data")),
        await digest(field("a", b"1"), file("f", b"date")),
        await digest(field("a", b"1"), file("f", b"data", filename="b.wav")),
        await digest(field("a", b"1"), field("f", b"data")),
        await digest(file("f", b"data"), field("a", b"1")),
    ]
    assert first not in different
    assert len(set(different)) == len(different)
