"""gRPC as HTTP/2 carries it: length-prefixed messages, metadata as headers, timeouts and texts of errors."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from server.domain.errors import GatewayError, Reason
from server.hosts.host import MAX_MESSAGE_BYTES

__all__ = ["Inbox", "NoMessage", "framed", "headers_of", "metadata_of", "percent_encoded", "timeout_s"]

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

_PREFIX_BYTES: Final = 5
_BINARY: Final = "-bin"
_MAX_TIMEOUT_S: Final = 366 * 86_400.0
_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class NoMessage(Exception):
    """The stream ended before its first message was whole."""


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def timeout_s(text: str | None) -> float | None:
    """Seconds of a `grpc-timeout`; None without one, and where it is not one, or as good as none."""
    match = _TIMEOUT.fullmatch(text or "")
    seconds = None if match is None else int(match[1]) * _UNITS_S[match[2]]
    return None if seconds is None or seconds > _MAX_TIMEOUT_S else seconds


def percent_encoded(text: str) -> bytes:
    """A status message as a header."""
    return quote(text, safe=_PLAIN).encode()


def metadata_of(headers: RawHeaders) -> dict[str, str]:
    """The text values by name; of a repeated name the first."""
    try:
        return {name.decode(): value.decode() for name, value in reversed(headers) if not name.endswith(b"-bin")}
    except UnicodeDecodeError:
        return {name.decode("latin-1"): _text(value) for name, value in reversed(headers) if not name.endswith(b"-bin")}


def headers_of(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Metadata as headers: what is binary in base64 without padding."""
    return [(name.encode(), _sent(name, value)) for name, value in metadata]


def _sent(name: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return base64.b64encode(raw).rstrip(b"=") if name.endswith(_BINARY) else raw


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Inbox:
    """The messages of one call. A piece of the body is fetched when a message is asked for that is not here yet: until
    then its sender is held back by HTTP/2.

    `on_gone` is awaited, and raises, where the caller has left.
    """

    __slots__ = ("_has_ended", "_on_gone", "_pending", "_receive")

    def __init__(self, receive: Receive, on_gone: Callable[[], Awaitable[None]]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._pending = bytearray()
        self._has_ended = False

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> bytes:
        """Raises GatewayError for what is no message, or too large."""
        while (message := self._taken()) is None:
            if self._has_ended:
                if self._pending:
                    raise GatewayError(Reason.MALFORMED_REQUEST, "The stream ended within a message.")
                raise StopAsyncIteration
            self._pending += await self._piece()
        return message

    async def only(self) -> bytes:
        """The first message, of a caller that sends one. Raises NoMessage, and like `anext`."""
        piece = await self._piece()
        length = len(piece) - _PREFIX_BYTES
        if length >= 0 and piece[0] == 0 and int.from_bytes(piece[1:_PREFIX_BYTES], "big") == length:
            return piece[_PREFIX_BYTES:]
        self._pending += piece
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise NoMessage from None

    def _taken(self) -> bytes | None:
        """The next message, where all of it is here."""
        if len(self._pending) < _PREFIX_BYTES:
            return None
        if self._pending[0] != 0:
            raise GatewayError(Reason.MALFORMED_REQUEST, "A message is compressed, and no header says how.")
        end = _PREFIX_BYTES + int.from_bytes(self._pending[1:_PREFIX_BYTES], "big")
        if end - _PREFIX_BYTES > MAX_MESSAGE_BYTES:
            raise GatewayError(Reason.REQUEST_TOO_LARGE, "A message is larger than 64 MiB.")
        if len(self._pending) < end:
            return None
        with memoryview(self._pending) as view:
            message = bytes(view[_PREFIX_BYTES:end])
        del self._pending[:end]
        return message

    async def _piece(self) -> bytes:
        # A server sets the result of what it has given to be awaited, whether or not somebody still waits.
        event = await asyncio.shield(self._receive())
        if event["type"] != "http.request":
            await self._on_gone()
        self._has_ended = not event.get("more_body", False)
        piece: bytes = event.get("body", b"")
        return piece
