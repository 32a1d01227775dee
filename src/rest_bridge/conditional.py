"""Replies that a client may keep: each with an `etag`, and 304 without a body for who has it already."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Final

import msgspec

from rest_bridge.http import JSON, Headers, RestRequest, RestResponse
from server.domain.etags import etag_of, holds

__all__ = ["Kept", "conditional", "kept"]

NOT_MODIFIED: Final = 304
OWN_JSON: Final[Headers] = (("content-type", JSON), ("cache-control", "private, no-cache"))
"""Only the client may keep it, and asks each time whether it still holds."""
MIN_ZIPPED_BYTES: Final = 1400
"""Less than this fits into one packet as it is."""


class Kept(msgspec.Struct, frozen=True):
    """A body ready to be sent any number of times; `zipped` is None where that would be no gain."""

    body: bytes
    etag: str
    zipped: bytes | None = None


def kept(body: bytes) -> Kept:
    """The body, compressed as well: worth it where it is sent more than once."""
    zipped = gzip.compress(body, mtime=0) if len(body) >= MIN_ZIPPED_BYTES else None
    return Kept(body, etag_of(body), zipped)


def conditional(request: RestRequest, reply: Kept, headers: Headers = OWN_JSON) -> RestResponse:
    """The body in a coding that the client takes, or 304 where it has it."""
    headers = (*headers, ("etag", reply.etag), ("vary", "accept-encoding"))
    if holds(request.headers.get("if-none-match", ""), reply.etag):
        return RestResponse(NOT_MODIFIED, tuple(one for one in headers if one[0] != "content-type"), b"")
    if reply.zipped is not None and _takes_gzip(request.headers):
        return RestResponse(200, (*headers, ("content-encoding", "gzip")), reply.zipped)
    return RestResponse(200, headers, reply.body)


def _takes_gzip(headers: Mapping[str, str]) -> bool:
    for coding in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False
