"""HTTP/1.1 replies as bytes, parsed by llhttp. Here is what llhttp leaves to its user: limits, and what to refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from server.transport.faults import Fault, failure

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a reply's head, with the informational ones before it; and of what comes without content later: chunk
extensions, trailers."""

_KEEP_ALIVE: Final = re.compile(r"timeout=(\d{1,6})(?!\d)", re.ASCII)


class Head(msgspec.Struct, frozen=True):
    """`headers`: names in lower case; of a repeated header the first value.

    `persistent`: the connection may serve another request; `keep_alive_s`: for so long, if the upstream says so.
    """

    status: int
    headers: Mapping[str, str]
    persistent: bool
    keep_alive_s: float | None

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers


class Replies:
    """The replies that come in on one connection: `begin` one, `feed` it, `take` what is there of its body.

    `head` is None until it has come in whole; `complete`: the body has, too.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True,  # chunks win over a length (RFC 9112, 6.3), at the cost of the connection
            lenient_spaces_after_chunk_size=True,  # to be read over (RFC 9112, 7.1.1)
        )
        self.begin()

    def begin(self) -> None:
        """Expect the next reply."""
        self.head: Head | None = None
        self.complete = False
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._barren_bytes = 0  # since there was a head or a piece of body

    @property
    def has_unread(self) -> bool:
        return bool(self._pieces)

    def take(self) -> bytes:
        """What has come in of the body since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed(self, data: memoryview) -> None:
        """Raises ProviderFailure (protocol), also for what follows a complete reply; what came before it counts."""
        while data:
            part = data[: MAX_HEAD_BYTES - self._barren_bytes]
            data = data[len(part) :]
            self._barren_bytes += len(part)
            try:
                self._parser.feed_data(part)
            except (HttpParserError, HttpParserUpgrade):
                raise failure(Fault.MALFORMED) from None
            if self._barren_bytes >= MAX_HEAD_BYTES:
                raise failure(Fault.MALFORMED)

    def end(self) -> None:
        """Nothing will be fed any more: parser and replies know each other, and would end only by a collection."""
        del self._parser

    # What llhttp tells. It stops at what is raised here.

    def on_message_begin(self) -> None:
        if self.complete:
            raise failure(Fault.MALFORMED)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:  # else it is a trailer
            self._headers.setdefault(name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1"))

    def on_headers_complete(self) -> None:
        status, headers = self._parser.get_status_code(), self._headers
        if 100 <= status < 200 and status != 101:  # informational: the reply is still to come
            self._headers = {}
            return
        coding = headers.get("transfer-encoding")
        if status < 200 or (coding is not None and coding.lower() != "chunked"):
            raise failure(Fault.MALFORMED)
        persistent = self._parser.should_keep_alive() and not (coding and "content-length" in headers)
        hint = _KEEP_ALIVE.search(headers.get("keep-alive", ""))
        self.head = Head(status, headers, persistent, float(hint[1]) if hint else None)
        self._barren_bytes = 0

    def on_body(self, body: bytes) -> None:
        if self.head is None:  # of an informational reply
            raise failure(Fault.MALFORMED)
        self._pieces.append(body)
        self._barren_bytes = 0

    def on_message_complete(self) -> None:
        self.complete = self.head is not None
