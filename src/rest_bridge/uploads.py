"""`multipart/form-data` requests: fields are read, files are spooled, and nothing of either is held twice."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.domain.errors import GatewayError, Reason
from server.domain.upload import Upload
from server.spool import Spool, Spooled

__all__ = ["FORM", "Form", "read_form"]

FORM: Final = "multipart/form-data"
MAX_FILE_BYTES: Final = 25 * 1024 * 1024
"""All files of one form."""
MAX_REST_BYTES: Final = 2 * 1024 * 1024
"""What a form has beside its files: fields, headers, boundaries."""
MAX_FIELD_BYTES: Final = 1024 * 1024
MAX_PARTS: Final = 128
MAX_HEADERS: Final = 16
MAX_HEADER_BYTES: Final = 4096
"""One header of a part."""
MAX_BOUNDARY_BYTES: Final = 70
"""As RFC 2046 has it."""
SLICE_BYTES: Final = 64 * 1024
"""What is parsed at a time."""
MIB: Final = 1024 * 1024

CONTENT_TYPE: Final = "content-type"
DISPOSITION: Final = "content-disposition"

_PLAIN: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})


class Form(msgspec.Struct, frozen=True):
    """A form, in the order in which it came and with its names as they were sent.

    `digest`, where it was wanted, is the same for the same fields and files, whatever stood between them. `close` lets
    go of the files.
    """

    fields: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, Upload], ...]
    digest: bytes = b""
    close: Callable[[], None] = lambda: None


async def read_form(content_type: str, body: AsyncIterator[bytes], spool: Spool, *, with_digest: bool = False) -> Form:
    """The form that a body is. The caller closes it. A digest takes 3 ms of processor time for each MiB.

    Raises GatewayError: `malformed_request` for what is no form, or not all of one; `request_too_large` as soon as it
    is; `overloaded` where there is no room for it.
    """
    reader = _Reader(_boundary(content_type), spool, with_digest=with_digest)
    try:
        async for piece in body:
            for start in range(0, len(piece), SLICE_BYTES):
                await reader.feed(piece[start : start + SLICE_BYTES])
        return reader.form()
    except BaseException:
        reader.close()
        raise


def _boundary(content_type: str) -> bytes:
    boundary = parse_options_header(content_type.encode("latin-1", "replace"))[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise GatewayError(
            Reason.MALFORMED_REQUEST,
            "The content-type names no boundary of 1 to 70 characters. Let your HTTP client write this header.",
            param=CONTENT_TYPE,
        )
    return boundary


class _Part:
    """One part, while it comes in. `file` is None for a field."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.name = ""
        self.file: Spooled | None = None
        self.data = bytearray()
        self.size = 0
        self.hashed = hashlib.sha256()


class _Reader:
    """Fed a body slice by slice. What the parser tells is taken at once; what goes to files is written after that."""

    def __init__(self, boundary: bytes, spool: Spool, *, with_digest: bool) -> None:
        self._spool = spool
        self._with_digest = with_digest
        self._part: _Part | None = None
        self._header = b""
        self._value = b""
        self._fields: list[tuple[str, str]] = []
        self._files: list[tuple[str, Spooled]] = []
        self._opened: list[Spooled] = []
        self._unwritten: list[tuple[Spooled, bytes]] = []
        self._delimiter = b"\r\n--" + boundary
        self._delimiters = 0
        self._parts = 0
        self._all_bytes = 0
        self._file_bytes = 0
        self._is_in_headers = False
        self._has_ended = False
        self._hashed = hashlib.sha256()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_to_header,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._add,
                "on_part_end": self._end,
                "on_end": self._end_all,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    async def feed(self, data: bytes) -> None:
        """Raises GatewayError as `read_form` does."""
        self._all_bytes += len(data)
        self._delimiters += data.count(self._delimiter)  # those that end no part cost the parser most
        if self._delimiters > MAX_PARTS:
            raise _too_many_parts()
        try:
            self._parser.write(data)
        except (MultipartParseError, FormParserError):
            raise self._malformed() from None
        if self._all_bytes - self._file_bytes > MAX_REST_BYTES:
            raise _too_large(f"The form has more than {MAX_REST_BYTES // MIB} MiB beside its files.")
        unwritten, self._unwritten = self._unwritten, []
        for file, piece in unwritten:
            await file.write(piece)

    def form(self) -> Form:
        """What has come in. Raises GatewayError where that is not all."""
        if not self._has_ended:
            raise self._cut() if self._parts else self._not_begun()
        digest = self._hashed.digest() if self._with_digest else b""
        return Form(tuple(self._fields), tuple(self._files), digest, self.close)

    def close(self) -> None:
        for file in self._opened:
            file.close()

    # What the parser tells. It stops at what is raised here.

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _too_many_parts()
        self._part = _Part()
        self._is_in_headers = True

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        assert self._part is not None
        self._part.headers.setdefault(self._header.lower(), self._value)
        self._header = self._value = b""

    def _open(self) -> None:
        """The headers of a part are whole: what it is."""
        part = self._part
        assert part is not None
        self._is_in_headers = False
        disposition, options = parse_options_header(part.headers.get(DISPOSITION.encode()))
        if disposition != b"form-data" or not options.get(b"name"):
            raise GatewayError(Reason.MALFORMED_REQUEST, "A part of the form has no name.", param=DISPOSITION)
        part.name = _text(options[b"name"], DISPOSITION)
        if part.headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN:
            raise GatewayError(
                Reason.INVALID_VALUE, "A part of a form is sent as it is, in no transfer encoding.", param=part.name
            )
        said = [part.name.encode()]
        if (filename := options.get(b"filename")) is not None:
            media_type = part.headers.get(CONTENT_TYPE.encode(), b"").decode("ascii", "replace")
            part.file = self._spool.begin(filename=filename.decode("utf-8", "replace"), media_type=media_type)
            self._opened.append(part.file)
            said += [part.file.filename.encode(), part.file.media_type.encode()]
        self._hashed.update(b"".join(b"%d:%s" % (len(text), text) for text in said) + b";")

    def _add(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        assert part is not None
        piece = data[start:end]
        part.size += len(piece)
        if self._with_digest:
            part.hashed.update(piece)
        if part.file is not None:
            self._file_bytes += len(piece)
            if self._file_bytes > MAX_FILE_BYTES:
                raise _too_large(f"The files of the form are larger than {MAX_FILE_BYTES // MIB} MiB.", part.name)
            self._unwritten.append((part.file, piece))
            return
        part.data += piece
        if part.size > MAX_FIELD_BYTES:
            raise _too_large(f"The field is larger than {MAX_FIELD_BYTES // MIB} MiB.", part.name)

    def _end(self) -> None:
        part = self._part
        assert part is not None
        self._hashed.update(part.hashed.digest())
        if part.file is None:
            self._fields.append((part.name, _text(bytes(part.data), part.name)))
        elif part.file.filename or part.size:  # else a browser's, of which the user has chosen none
            self._files.append((part.name, part.file))
        self._part = None

    def _end_all(self) -> None:
        self._has_ended = True

    # What is wrong with it.

    def _malformed(self) -> GatewayError:
        if not self._parts:
            return self._not_begun()
        if self._is_in_headers:
            return GatewayError(Reason.MALFORMED_REQUEST, "The headers of a part are malformed, too many or too large.")
        return GatewayError(Reason.MALFORMED_REQUEST, "The form is malformed.", param=self._name())

    def _not_begun(self) -> GatewayError:
        return GatewayError(
            Reason.MALFORMED_REQUEST,
            "The body does not begin with the boundary that the content-type names.",
            param=CONTENT_TYPE,
        )

    def _cut(self) -> GatewayError:
        return GatewayError(
            Reason.MALFORMED_REQUEST, "The form ends before its last boundary: it was cut.", param=self._name()
        )

    def _name(self) -> str | None:
        return None if self._part is None else self._part.name or None


def _text(data: bytes, param: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise GatewayError(Reason.INVALID_VALUE, "The text is not UTF-8.", param=param) from None


def _too_many_parts() -> GatewayError:
    return _too_large(f"The form has more than {MAX_PARTS} parts.")


def _too_large(description: str, param: str | None = None) -> GatewayError:
    return GatewayError(Reason.REQUEST_TOO_LARGE, description, param=param)
