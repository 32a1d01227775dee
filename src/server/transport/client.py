"""The pooled client that all provider adapters share: one per worker, on the event loop it was entered on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Final, Self
from urllib.parse import urlsplit

from server.domain.errors import ProviderFailure
from server.transport.codings import ACCEPTED, Decoder, decoder_of
from server.transport.connection import Connection, SizedBody
from server.transport.faults import Fault, connect_failure, failure
from server.transport.framing import Head
from server.transport.pool import Origin, Pool
from server.transport.resolve import Lookup
from server.transport.sse import Pieces, SseEvent, sse_batches

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""Of a body that is read whole."""

_WITHOUT_BODY: Final = frozenset({"GET", "DELETE"})
"""Methods whose requests have no length where they have no body."""


class UpstreamResponse:
    """A reply whose headers have come in. `headers`: names in lower case, the first value of each.

    An async context manager: leaving it closes the connection at once unless the body has come in to its end.
    """

    def __init__(self, head: Head, connection: Connection, pool: Pool, origin: Origin) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection: Connection | None = connection
        self._source: Connection | _Decoded | None = None
        self._pool = pool
        self._origin = origin

    async def piece(self) -> bytes:
        """More of the decoded body, as it comes in and no faster than it is asked for; empty at its end.

        Raises ProviderFailure (connection where it is cut, protocol).
        """
        if self._connection is None:
            return b""
        if self._source is None:
            decoder = decoder_of(self.headers.get("content-encoding"))
            self._source = self._connection if decoder is None else _Decoded(self._connection, decoder)
        return await self._source.read()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Every `piece`. Ending early closes the connection."""
        try:
            while piece := await self.piece():
                yield piece
        finally:
            self._release()

    async def read(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """The whole decoded body. Raises ProviderFailure: protocol where it has more than `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        async with aclosing(self.chunks()) as chunks:
            async for piece in chunks:
                size += len(piece)
                if size > limit:
                    raise failure(Fault.TOO_LARGE)
                pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def close(self) -> None:
        """Give the connection back, or close it at once where the body has not come in to its end. Idempotent."""
        self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(self._origin, connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._release()


class _Decoded:
    """What a connection brings, without its content coding."""

    def __init__(self, connection: Connection, decoder: Decoder) -> None:
        self._connection = connection
        self._decoder = decoder
        self._pieces: Iterator[bytes] = iter(())

    async def read(self) -> bytes:
        """At least one byte; empty at the end. Raises ProviderFailure."""
        while not (piece := next(self._pieces, b"")):
            data = await self._connection.read()
            if not data:
                self._decoder.finish()
                return b""
            self._pieces = self._decoder.feed(data)
        await asyncio.sleep(0)  # a little data may become a lot: others have their turn meanwhile
        return piece


class Transport:
    """HTTP/1.1 to any number of origins. TLS is verified against the system's authorities (`SSL_CERT_FILE` counts).

    Redirects are replies like others, proxies of the environment are not asked, and nothing is sent twice but what
    met an idle connection that was being closed, unread.
    `tls`: another context, for tests and private authorities. `lookup`: how names are looked up, where not by the loop.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, lookup: Lookup | None = None) -> None:
        self._pool = Pool(tls or ssl.create_default_context(), lookup)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def known_origins(self) -> int:
        """Of how many origins something is remembered."""
        return self._pool.known_origins

    async def close(self) -> None:
        """Close every connection, those in use as well: who waits for one gets a failure."""
        self._pool.close()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next turn

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | SizedBody,
        connect_timeout_s: float,
        allow_link_local: bool = False,
    ) -> UpstreamResponse:
        """Send a POST and return when the head of its reply is in.

        A body in pieces is read no faster than the upstream takes it; one that is refused while it is sent is sent
        no further.

        `connect_timeout_s` bounds what comes before the first byte is sent: name, connection, TLS. Every other
        deadline is the caller's: cancelling this, or any await on the response, closes the socket at once.
        Where the URL leads to an address that is never called, nothing is; `allow_link_local` permits some of those.
        Raises ProviderFailure (connection, timeout, protocol; credentials for what no header may hold).
        """
        return await self.request(
            "POST",
            url,
            headers=headers,
            body=body,
            connect_timeout_s=connect_timeout_s,
            allow_link_local=allow_link_local,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | SizedBody = b"",
        connect_timeout_s: float,
        allow_link_local: bool = False,
        allow_near: bool = True,
        once: bool = False,
    ) -> UpstreamResponse:
        """As `post`, for any method but HEAD and CONNECT.

        `allow_near`: whether the URL may lead to this machine or a private network. `once`: nothing is sent twice,
        whatever it met. A failure says whether anything can have been sent.
        """
        try:
            origin, target = split_url(url, allow_link_local, allow_near)
            length = len(body) if isinstance(body, bytes) else body.size
            request = render_head(method, origin, target, headers, length)
            connection = await self._connect(origin, connect_timeout_s, new=once)
        except ProviderFailure as error:
            error.was_sent = False
            raise
        try:
            return await self._exchange(origin, connection, request, body)
        except ProviderFailure:
            if once or not connection.request_lost:
                raise
        connection = await self._connect(origin, connect_timeout_s, new=True)
        return await self._exchange(origin, connection, request, body)

    async def _exchange(
        self, origin: Origin, connection: Connection, request: bytes, body: bytes | SizedBody
    ) -> UpstreamResponse:
        try:
            if isinstance(body, bytes):
                connection.send(request, body)
            else:
                await connection.send_pieces(request, body)
            return UpstreamResponse(await connection.head(), connection, self._pool, origin)
        except BaseException:
            self._pool.discard(connection)
            raise

    async def _connect(self, origin: Origin, timeout_s: float, *, new: bool = False) -> Connection:
        try:
            return await self._pool.acquire(origin, timeout_s, new=new)
        except (OSError, UnicodeError) as error:
            raise connect_failure(error) from None

    def sse_batches(self, response: Pieces, limit: int) -> AsyncGenerator[list[SseEvent], None]:
        """See `server.transport.sse.sse_batches`."""
        return sse_batches(response, limit)


@lru_cache(maxsize=1024)
def split_url(url: str, allow_link_local: bool = False, allow_near: bool = True) -> tuple[Origin, str]:
    """Where to connect and what to ask for. Raises ProviderFailure for what is no http(s) URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
        url.encode("ascii")
    except ValueError:
        raise failure(Fault.BAD_URL) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(char <= " " for char in url):
        raise failure(Fault.BAD_URL)
    secure = parts.scheme == "https"
    host = parts.netloc.rpartition("@")[2]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = port or (443 if secure else 80)
    return Origin(parts.hostname, port, secure, host, allow_link_local, allow_near), target


def render_head(method: str, origin: Origin, target: str, headers: Mapping[str, str], length: int) -> bytes:
    """The request line and headers; `host`, `content-length` and `accept-encoding` are ours to say.

    Raises ProviderFailure for a header that would be none, or two.
    """
    lines = [
        f"{method} {target} HTTP/1.1",
        f"host: {origin.host_header}",
        *([f"content-length: {length}"] if length or method not in _WITHOUT_BODY else []),
        f"accept-encoding: {ACCEPTED}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    block = "\r\n".join([*lines, "", ""])
    breaks = len(lines) + 1
    if block.count("\n") != breaks or block.count("\r") != breaks or "\0" in block:
        raise failure(Fault.BAD_HEADER)
    try:
        return block.encode("latin-1")
    except UnicodeEncodeError:
        raise failure(Fault.BAD_HEADER) from None
