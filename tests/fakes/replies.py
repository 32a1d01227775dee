"""Replies of any HTTP server: whole bodies, chunked streams, SSE framing, codings; and how to break them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from tests.fakes.wire import Cut, Hang, Pause, Reply, Reset, Send, Step

Headers = Mapping[str, str]
Coding = Literal["gzip", "deflate", "br"]

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests",
           500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}  # fmt: skip


def head(status: int = 200, headers: Headers | None = None) -> Send:
    """A status line and exactly these headers."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return Send("\r\n".join([*lines, "", ""]).encode("latin-1"))


def raw(*pieces: bytes) -> Reply:
    """These bytes, each piece in its own write, and nothing else."""
    return [Send(piece) for piece in pieces]


def whole(
    body: bytes, *, status: int = 200, content_type: str = "application/json", headers: Headers | None = None
) -> Reply:
    """A reply with a content-length, in one write."""
    fields = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    return [Send(head(status, fields).data + body)]


def json_reply(value: Any, *, status: int = 200, headers: Headers | None = None) -> Reply:
    return whole(compact(value), status=status, headers=headers)


def error(
    status: int,
    message: str = "It failed.",
    *,
    type: str = "server_error",
    code: str | int | None = None,
    param: str | None = None,
    headers: Headers | None = None,
) -> Reply:
    """An error in OpenAI's shape."""
    return json_reply(error_body(message, type=type, code=code, param=param), status=status, headers=headers)


def error_body(message: str, *, type: str, code: str | int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def rate_limited(retry_after: str | None = "7", message: str = "Rate limit reached.") -> Reply:
    """A 429; `retry_after` is the header's text: seconds, a date, or None for no header."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return error(429, message, type="requests", code="rate_limit_exceeded", headers=headers)


def silent() -> Reply:
    """Accept the request and never say a word."""
    return [Hang()]


def refused_late() -> Reply:
    """Read the request, then reset the connection without a word."""
    return [Reset()]


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# Chunked bodies and SSE.


def chunk(data: bytes) -> bytes:
    """One chunk of `transfer-encoding: chunked`."""
    return b"%x\r\n%b\r\n" % (len(data), data)


END = Send(b"0\r\n\r\n")
"""The proper end of a chunked body."""


def chunked(
    pieces: Iterable[bytes | Step],
    *,
    content_type: str = "text/event-stream",
    status: int = 200,
    headers: Headers | None = None,
    end: Step = END,
) -> Reply:
    """A chunked body: bytes become a chunk and a write each; steps are played where they stand."""
    fields = {"content-type": content_type, "transfer-encoding": "chunked", **(headers or {})}
    steps = [Send(chunk(piece)) if isinstance(piece, bytes) else piece for piece in pieces]
    return [head(status, fields), *steps, end]


def sse_event(data: bytes, *, event: str | None = None, newline: bytes = b"\n") -> bytes:
    """One framed event; each line of `data` gets a `data:` line of its own."""
    lines = [b"event: " + event.encode()] if event is not None else []
    lines += [b"data: " + line for line in data.split(b"\n")]
    return newline.join([*lines, b"", b""])


def sse(
    events: Iterable[bytes],
    *,
    every_s: float = 0.0,
    end: Step = END,
    headers: Headers | None = None,
) -> Reply:
    """A stream of framed events (see `sse_event`), one chunk each, `every_s` seconds apart."""
    pieces: list[bytes | Step] = []
    for number, event in enumerate(events):
        if every_s and number:
            pieces.append(Pause(every_s))
        pieces.append(event)
    return chunked(pieces, end=end, headers=headers)


# Ways to break a reply.


def broken_after(reply: Reply, steps: int, *, by: Step | None = None) -> Reply:
    """The first `steps` steps (the head counts as one), then a cut; `by` may be Reset() or Hang() instead."""
    return [*list(reply)[:steps], by or Cut()]


def short_body(body: bytes, promised: int) -> Reply:
    """A content-length of `promised`, then fewer bytes and a proper close."""
    fields = {"content-type": "application/json", "content-length": str(promised)}
    return [Send(head(200, fields).data + body), Cut()]


def until_close(body: bytes, *, content_type: str = "application/json") -> Reply:
    """HTTP/1.0 manners: no length at all, the end of the connection is the end of the body."""
    return [head(200, {"content-type": content_type, "connection": "close"}), Send(body), Cut()]


# Content codings.


def brotli_stored(data: bytes) -> bytes:
    """A valid Brotli stream of stored blocks (RFC 7932, 9.2): no encoder needed."""
    out = bytearray()
    for at in range(0, len(data), 1 << 16):
        block = data[at : at + (1 << 16)]
        shift = 0 if out else 1  # the first byte of the stream starts with one bit of window size
        out += (((len(block) - 1) << 3 | 1 << 19) << shift).to_bytes(3, "little") + block
    return bytes(out or b"\x06") if not data else bytes(out + b"\x03")


CODINGS: dict[Coding, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli_stored,
}


def encoded(body: bytes, coding: Coding, *, status: int = 200, content_type: str = "application/json") -> Reply:
    """A body under a content-encoding."""
    return whole(CODINGS[coding](body), status=status, content_type=content_type, headers={"content-encoding": coding})


def encoded_sse(events: Iterable[bytes], coding: Coding) -> Reply:
    """A compressed event stream, in chunks of ten bytes."""
    data = CODINGS[coding](b"".join(events))
    pieces = [data[at : at + 10] for at in range(0, len(data), 10)]
    return chunked(pieces, headers={"content-encoding": coding})
