"""HTTP/1.1 replies as bytes: the head, and where a body ends (RFC 9112, 4 to 7). Strict, bounded, without I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from server.transport.faults import Fault, failure

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a reply's status line and headers, and again of the trailers."""
MAX_CHUNK_LINE_BYTES: Final = 4096

_KEEP_ALIVE: Final = re.compile(r"timeout=(\d{1,6})(?!\d)", re.ASCII)
_BODILESS: Final = frozenset({204, 304})
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class Head(msgspec.Struct, frozen=True):
    """`headers`: names in lower case; of a repeated header the first value.

    `persistent`: the connection may serve another request; `keep_alive_s`: for so long, if the upstream says so.
    """

    status: int
    headers: Mapping[str, str]
    persistent: bool
    keep_alive_s: float | None = None


def parse_head(block: bytes) -> Head:
    """Parse a head without its last empty line. Raises ProviderFailure (protocol)."""
    status_line, *lines = block.split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    digits = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not digits.isdigit() or len(digits) != 3 or rest[3:4].strip():
        raise failure(Fault.MALFORMED)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name) or b"\r" in value or b"\n" in value:
            raise failure(Fault.MALFORMED)
        key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
        if headers.setdefault(key, text) != text and key in ("content-length", "transfer-encoding"):
            raise failure(Fault.MALFORMED)
    connection = headers.get("connection", "").lower()
    ambiguous = "transfer-encoding" in headers and "content-length" in headers
    persistent = version == b"HTTP/1.1" and "close" not in connection and not ambiguous
    hint = _KEEP_ALIVE.search(headers["keep-alive"]) if "keep-alive" in headers else None
    return Head(int(digits), headers, persistent, float(hint[1]) if hint else None)


class Body(Protocol):
    """Where the body of one reply ends."""

    def feed(self, data: bytes, out: list[bytes]) -> int | None:
        """Append what of `data` is body to `out`. The count of bytes used where the body ended here, else None.

        Raises ProviderFailure (protocol).
        """
        ...

    def at_eof(self) -> bool:
        """Whether the connection may end here."""
        ...


def body_of(head: Head) -> Body:
    """How the body of a POST's reply is framed. Raises ProviderFailure (protocol)."""
    if head.status in _BODILESS:
        return SizedBody(0)
    coding = head.headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise failure(Fault.MALFORMED)
        return ChunkedBody()
    length = head.headers.get("content-length")
    if length is None:
        return EndlessBody()
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise failure(Fault.MALFORMED)
    return SizedBody(int(length))


class SizedBody:
    """A body of `content-length` bytes."""

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes, out: list[bytes]) -> int | None:
        used = min(self._left, len(data))
        if used:
            out.append(data[:used])
        self._left -= used
        return None if self._left else used

    def at_eof(self) -> bool:
        return not self._left


class EndlessBody:
    """A body that ends with its connection."""

    def feed(self, data: bytes, out: list[bytes]) -> int | None:
        if data:
            out.append(data)
        return None

    def at_eof(self) -> bool:
        return True


class ChunkedBody:
    """A body in chunks. Chunk extensions and trailers are read over."""

    def __init__(self) -> None:
        self._left = 0  # of the chunk that is being read; its CRLF is part of the next size line
        self._line = b""  # the beginning of a size line that has not ended yet
        self._first = True
        self._trailers: bytes | None = None

    def feed(self, data: bytes, out: list[bytes]) -> int | None:
        at, size = 0, len(data)
        while at < size:
            if self._trailers is not None:
                return self._skip_trailers(data, at)
            if self._left:
                end = min(at + self._left, size)
                out.append(data[at:end])
                self._left -= end - at
                at = end
                continue
            at = self._size_line(data, at)
        return None

    def _size_line(self, data: bytes, at: int) -> int:
        """Read the line that says how long the next chunk is, and the CRLF that ends the one before."""
        searched = len(self._line)
        lead = 0 if self._first else 2
        if not searched:
            end = data.find(b"\r\n", at + lead)  # the usual case: the whole line is here
            if end >= 0:
                self._begin_chunk(data[at:end], lead)
                return end + 2
        line = self._line + data[at : at + MAX_CHUNK_LINE_BYTES]
        end = line.find(b"\r\n", lead)
        if end >= 0:
            self._line = b""
            self._begin_chunk(line[:end], lead)
            return at + end + 2 - searched
        if len(line) > MAX_CHUNK_LINE_BYTES:
            raise failure(Fault.MALFORMED)
        self._line = line
        return len(data)

    def _begin_chunk(self, line: bytes, lead: int) -> None:
        digits = line[lead:].partition(b";")[0].rstrip(b" \t")
        if line[:lead] != b"\r\n"[:lead] or not 0 < len(digits) <= 15 or not _HEX.issuperset(digits):
            raise failure(Fault.MALFORMED)
        self._first = False
        self._left = int(digits, 16)
        if not self._left:
            self._trailers = b"\r\n"  # the end of the last size line: an empty line after it ends the body

    def _skip_trailers(self, data: bytes, at: int) -> int | None:
        assert self._trailers is not None
        seen = len(self._trailers)
        self._trailers += data[at : at + MAX_HEAD_BYTES]
        end = self._trailers.find(b"\r\n\r\n")
        if end >= 0:
            return at + end + 4 - seen
        if len(self._trailers) > MAX_HEAD_BYTES:
            raise failure(Fault.MALFORMED)
        return None

    def at_eof(self) -> bool:
        return False
