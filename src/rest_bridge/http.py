"""REST as the core of the bridge sees it: requests in, responses out, whatever carries them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeAlias

import msgspec

from rest_bridge.uploads import Form
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.request import Endpoint

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

Headers: TypeAlias = tuple[tuple[str, str], ...]


class ByteStream(Protocol):
    """A body that is sent piece by piece, each piece as soon as it is there."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @property
    def ended(self) -> bool:
        """Whether no piece follows those that have been taken. It may still be False after the last one."""
        ...

    async def aclose(self) -> None:
        """Let go of everything behind it, read to its end or not, or not even begun."""
        ...


Body: TypeAlias = bytes | ByteStream


class RestRequest(msgspec.Struct, frozen=True):
    """One request. `path` is still percent-encoded and has no query; header names are lower-case.

    `content_type` waits for that of a body which tells it itself, and not among the headers.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    arrival: Arrival
    query: Mapping[str, tuple[str, ...]] = {}
    content_type: Callable[[], Awaitable[str]] | None = None


class RestResponse(msgspec.Struct, frozen=True):
    """One response. Whoever carries a `ByteStream` closes it (`contextlib.aclosing`), whatever happens.

    `reason` is that of the error that it tells of. `repeated` is what is kept instead of the body, and told to whoever
    asks again with the same idempotency key.
    """

    status: int
    headers: Headers
    body: Body
    reason: Reason | None = None
    repeated: bytes | None = None


ErrorWriter: TypeAlias = Callable[[GatewayError, Arrival], RestResponse]
"""How a surface tells of an error, where it has a shape of its own for that."""


class Exchange(msgspec.Struct, frozen=True):
    """What a handler gets: an authenticated request with its whole body, and the decoded variables of its path.

    `form`: the body, where it is one and the route takes one; `body` is empty then. It is there until the response's
    body is closed.
    """

    call: Call
    request: RestRequest
    body: bytes
    path_params: Mapping[str, str]
    errors: ErrorWriter | None = None
    form: Form | None = None

    def let_go(self) -> None:
        """Nobody reads the files of the request any more."""
        if self.form is not None:
            self.form.close()


Handler: TypeAlias = Callable[[Exchange], Awaitable[RestResponse]]
Signed: TypeAlias = Callable[[RestRequest, Mapping[str, str]], Awaitable[Principal]]
"""Who stands behind a request by what its address itself says. Raises GatewayError."""


class Route(msgspec.Struct, frozen=True):
    """`path` is a pattern such as `/v1/responses/{response_id}`; a variable takes one whole segment.

    A key needs one of `scopes`. `endpoint` is set where the route generates: its requests are recorded, all of them.
    A key may also come in the header `key_header` (lower-case), and that one counts then. `takes_form`: its body may be
    `multipart/form-data`. `signed`: it takes no key; whom its caller acts for, the address says.
    """

    method: str
    path: str
    handler: Handler
    scopes: tuple[Scope, ...] = (Scope.INFERENCE,)
    endpoint: Endpoint | None = None
    errors: ErrorWriter | None = None
    key_header: str | None = None
    takes_form: bool = False
    signed: Signed | None = None


ANY_KEY: Final = (Scope.INFERENCE, Scope.MANAGEMENT)


def json_response(body: bytes, status: int = 200) -> RestResponse:
    return RestResponse(status, (("content-type", JSON),), body)


def event_stream(body: ByteStream) -> RestResponse:
    """A 200 whose events no cache may keep and no proxy may hold back."""
    headers = (("content-type", EVENT_STREAM), ("cache-control", "no-cache"), ("x-accel-buffering", "no"))
    return RestResponse(200, headers, body)
