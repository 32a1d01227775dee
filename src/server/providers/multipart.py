"""`multipart/form-data` (RFC 7578) as requests to providers have it: its files are read while they are sent."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from secrets import token_hex
from typing import Final

from server.domain.upload import Upload
from server.providers.http_port import SizedBody

__all__ = ["multipart"]

UNNAMED: Final = "file"
"""What a file without a name is called: a part without one is a field."""
UNTYPED: Final = "application/octet-stream"

_BREAK: Final = b"\r\n"
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_ESCAPES: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\0": "%00", "\\": "%5C"})
"""As browsers write them; a backslash too, which to some readers makes the quote behind it no end."""


def multipart(fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, Upload]]) -> tuple[str, SizedBody]:
    """The content type with its boundary, and the body; `fields` come first, so that they are known before a file."""
    boundary = f"aistats-{token_hex(16)}"
    return f"multipart/form-data; boundary={boundary}", _Form(boundary, fields, files)


class _Form:
    def __init__(self, boundary: str, fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, Upload]]) -> None:
        opening = f"--{boundary}\r\ncontent-disposition: form-data; name="
        said = "".join(f'{opening}"{name.translate(_ESCAPES)}"\r\n\r\n{value}\r\n' for name, value in fields)
        self._fields = said.encode()
        self._files = [(f"{opening}{_headers(name, upload)}\r\n\r\n".encode(), upload) for name, upload in files]
        self._end = f"--{boundary}--\r\n".encode()

    @property
    def size(self) -> int:
        files = sum(len(head) + upload.size + len(_BREAK) for head, upload in self._files)
        return len(self._fields) + files + len(self._end)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        if self._fields:
            yield self._fields
        for head, upload in self._files:
            yield head
            async with aclosing(upload.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
            yield _BREAK
        yield self._end


def _headers(name: str, upload: Upload) -> str:
    filename = (upload.filename or UNNAMED).translate(_ESCAPES)
    media_type = upload.media_type if _MEDIA_TYPE.fullmatch(upload.media_type) else UNTYPED
    return f'"{name.translate(_ESCAPES)}"; filename="{filename}"\r\ncontent-type: {media_type}'
