"""What an adapter needs of HTTP. `server.transport` fills it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, Self


class SseEvent(Protocol):
    """One event of a `text/event-stream`; `data` is its lines joined, `event` its name where it has one."""

    @property
    def event(self) -> str | None: ...
    @property
    def data(self) -> bytes: ...


class ResponseHeaders(Protocol):
    def get(self, name: str, /) -> str | None:
        """The first value of a header; `name` is in lower case."""
        ...


class Pieces(Protocol):
    """A body that comes in piece by piece."""

    async def piece(self) -> bytes:
        """More of it, no faster than it is asked for; empty at its end. Raises ProviderFailure."""
        ...

    async def close(self) -> None:
        """Ask for no more: what is not read to its end is closed at once."""
        ...


class HttpResponse(Pieces, Protocol):
    """A reply whose headers have come in. Leaving the context closes it, at once where it is not read to its end."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> ResponseHeaders: ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes in. Raises ProviderFailure."""
        ...

    async def read(self, limit: int) -> bytes:
        """The body. Raises ProviderFailure where it has more than `limit` bytes, or is cut."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...


class SizedBody(Protocol):
    """A body that is sent piece by piece, for what is too large to be held. An `Upload` is one."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it from the beginning, however often it is asked for."""
        ...


class HttpTransport(Protocol):
    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | SizedBody,
        connect_timeout_s: float,
        allow_link_local: bool = False,
    ) -> HttpResponse:
        """Send, and return when the reply's headers are in. Raises ProviderFailure (connection, timeout).

        `allow_link_local`: as `Provider` says.
        """
        ...

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
    ) -> HttpResponse:
        """As `post`, for any method but HEAD and CONNECT.

        `allow_near`: whether the URL may lead to this machine or a private network. `once`: nothing is sent twice,
        whatever it met. A failure says whether anything can have been sent.
        """
        ...

    def sse_batches(self, response: Pieces, limit: int) -> AsyncGenerator[Sequence[SseEvent], None]:
        """The events of one network read after another; an empty batch where it brought only keep-alives.

        Raises ProviderFailure, also where the stream has more than `limit` bytes.
        """
        ...
