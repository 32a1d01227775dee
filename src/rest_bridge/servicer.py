"""The REST faces of the services: `google.api.HttpBody` in and out, over `RestApp`.

A method of a `…RestService` serves the request of its `google.api.http`: a new one is a line in a proto, and a `Route`.

Envoy's transcoder cannot be told an HTTP status by a call that succeeds, so it goes as `x-gw-status` in the initial
metadata, where Envoy's response filter finds it. An error is an ordinary body to gRPC: no limit of its own applies.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import grpc
import msgspec
from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aistats.gateway import v1
from rest_bridge.http import EVENT_STREAM, RestRequest, RestResponse
from rest_bridge.http_rule import VARIABLE, rules
from rest_bridge.idempotency import REPLAYED
from rest_bridge.openapi import WITHOUT_KEY
from rest_bridge.videos import POLL_AFTER
from server.domain.errors import GatewayError
from server.rpc.context import CallContext
from server.rpc.registry import REST_SERVICE, Collector, Registration
from server.rpc.status import REST_MARK_KEY

__all__ = ["RestServicer", "rest_services", "serve"]

STATUS_KEY: Final = "x-gw-status"
LENGTH_KEY: Final = "x-gw-content-length"
GENERATION_KEY: Final = "x-gw-generation-id"
"""The generation that the response tells of, where that is not the one that the call was named after."""

_QUERY_NAMES: Final = {"from_date": "from", "to_date": "to"}
"""Of fields that have another name in a query."""
_OF_THE_MESSAGE: Final = "content-type"
_OF_THE_HOST: Final = frozenset({"x-generation-id", "x-request-id"})
"""Headers that whoever carries the call adds to every call by itself."""
_LENGTH: Final = "content-length"
"""Of a body that has not come yet, or that a HEAD does not want."""
_OWN: Final = frozenset({"etag", _LENGTH, "accept-ranges", "content-disposition", POLL_AFTER})
"""Headers of a 200 that Envoy does not know by itself."""
_HIDDEN: Final = frozenset({*_OF_THE_HOST, _OF_THE_MESSAGE, _LENGTH})

App: TypeAlias = Callable[[RestRequest], Awaitable[RestResponse]]
Sent: TypeAlias = "HttpBody | AsyncIterator[HttpBody] | None"
"""A request's body: none, whole, or message by message."""
Query: TypeAlias = Mapping[str, tuple[str, ...]]


def rest_services(app: App, documents: App) -> Iterator[Registration]:
    """Every REST service of the protos. `documents` answers for the description of the API, `app` for all others."""
    for file in iter_modules(v1.__path__):
        if file.name.endswith("_pb2"):
            for service in import_module(f"{v1.__name__}.{file.name}").DESCRIPTOR.services_by_name.values():
                if service.name.endswith(REST_SERVICE):
                    yield _add_to_server, RestServicer(service, documents if service.name == WITHOUT_KEY else app)


class RestServicer:
    """A service whose methods serve the requests of their rules. An alias of a route is the route."""

    def __init__(self, service: ServiceDescriptor, app: App) -> None:
        self.service = service
        self.methods = {method.name: partial(_serve, app, _Rule.of(method)) for method in service.methods}


def _add_to_server(servicer: RestServicer, server: Collector) -> None:
    """What the generated functions of such names do with classes that have a method for each of a service."""
    server.add_registered_method_handlers(
        servicer.service.full_name,
        {method.name: _handler(method, servicer.methods[method.name]) for method in servicer.service.methods},
    )


def _handler(method: MethodDescriptor, behaviour: Any) -> grpc.RpcMethodHandler[Any, Any]:
    make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_stream_rpc_method_handler
    return make(behaviour, request_deserializer=GetMessageClass(method.input_type).FromString)


class _Rule(msgspec.Struct, frozen=True):
    """The first route of a method. `path` is a pattern, `/v1/videos/{video_id}/cancel`.

    `body`: the field that has the request's, `*` where the whole message is one, empty where it has none.
    """

    method: str
    path: str
    variables: frozenset[str]
    body: str

    @classmethod
    def of(cls, method: MethodDescriptor) -> _Rule:
        verb, pattern, body = next(rules(method.GetOptions()))
        variables = frozenset(match[1] for match in VARIABLE.finditer(pattern))
        return cls(verb, VARIABLE.sub(r"{\1}", pattern), variables, body)

    def request(self, message: Message | AsyncIterator[HttpBody]) -> tuple[str, Sent, Query]:
        """Path, body and query of the request that `message` was made of."""
        if self.body == "*" or not isinstance(message, Message):
            return self.path, message, {}
        values = {name: quote(getattr(message, name), safe="") for name in self.variables}
        return self.path.format_map(values), getattr(message, self.body) if self.body else None, self._query(message)

    def _query(self, message: Message) -> Query:
        """A field that is not set is no parameter."""
        return {
            _QUERY_NAMES.get(field.name, field.name): _texts(value)
            for field, value in message.ListFields()
            if field.name not in self.variables and field.name != self.body
        }


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return (str(value),) if isinstance(value, str | int) else tuple(map(str, value))


def _serve(
    app: App, rule: _Rule, message: Message | AsyncIterator[HttpBody], context: CallContext
) -> AsyncGenerator[HttpBody, None]:
    path, body, query = rule.request(message)
    return serve(app, context, rule.method, path, body, query)


async def serve(
    app: App,
    context: CallContext,
    method: str,
    path: str,
    body: Sent = None,
    query: Query | None = None,
) -> AsyncGenerator[HttpBody, None]:
    """One call of any method: the request that it stands for, the response, and its body message by message.

    A body that comes in as messages is pulled no faster than it is read.
    """
    whole = body if isinstance(body, HttpBody) else None
    sent = None if body is None or isinstance(body, HttpBody) else _SentBody(body)
    request = RestRequest(
        method=method,
        path=path,
        headers=_headers(context.metadata, whole),
        body=sent or _once(whole.data if whole is not None else b""),
        arrival=context.arrival,
        query=query or {},
        content_type=sent.content_type if sent is not None else None,
    )
    response = await app(request)
    if response.reason is not None:
        context.answers_error(response.reason)
    if isinstance(response.body, bytes):
        await _send_metadata(context, response)
        context.announce_last_message()
        # Of a HEAD, Envoy would write a body that it is given behind the head, where nobody expects one.
        yield HttpBody(content_type=_content_type(response), data=b"" if method == "HEAD" else response.body)
        return
    async with aclosing(response.body) as pieces:
        await _send_metadata(context, response)
        content_type = _content_type(response)
        try:
            async for piece in pieces:
                if pieces.ended:
                    context.announce_last_message()
                yield HttpBody(content_type=content_type, data=piece)
                content_type = ""
        except GatewayError as error:
            if _can_tell(response) or context.metadata.get(REST_MARK_KEY) != "1":
                raise
            context.answers_error(error.reason)
            yield _Unreadable()


class _Unreadable:
    """What no HttpBody is: Envoy's transcoder resets the client's stream at it, the one way to say that it is cut."""

    def SerializeToString(self) -> bytes:
        return b"\xff"


def _headers(metadata: Mapping[str, str], body: HttpBody | None) -> Mapping[str, str]:
    """The request's headers. The transcoder moves its content-type into the message; the call has gRPC's own."""
    headers = {name: value for name, value in metadata.items() if name != _OF_THE_MESSAGE}
    if body is not None and body.content_type:
        headers[_OF_THE_MESSAGE] = body.content_type
    return headers


async def _send_metadata(context: CallContext, response: RestResponse) -> None:
    """Headers of their own cost a write to the socket more; those of a 200 Envoy knows by itself (envoy.yaml)."""
    if response.status != 200 or REPLAYED in response.headers or any(name in _OWN for name, _ in response.headers):
        await context.send_initial_metadata(_metadata(response))


def _metadata(response: RestResponse) -> tuple[tuple[str, str], ...]:
    metadata = [(name, value) for name, value in response.headers if name not in _HIDDEN]
    metadata.append((STATUS_KEY, str(response.status)))
    if REPLAYED in response.headers:
        metadata += [(GENERATION_KEY, value) for name, value in response.headers if name == "x-generation-id"]
    own = [(LENGTH_KEY, value) for name, value in response.headers if name == _LENGTH]
    if isinstance(response.body, bytes):
        own = own or [(LENGTH_KEY, str(len(response.body)))]
    return (*metadata, *own)


def _content_type(response: RestResponse) -> str:
    return next((value for name, value in response.headers if name == _OF_THE_MESSAGE), "")


def _can_tell(response: RestResponse) -> bool:
    """Whether clients see by themselves that the body has not come to its end."""
    return _content_type(response) == EVENT_STREAM


class _SentBody:
    """A request's body, message by message. The first of them has its content type."""

    def __init__(self, messages: AsyncIterator[HttpBody]) -> None:
        self._messages = messages
        self._first: HttpBody | None = None
        self._has_begun = False

    async def content_type(self) -> str:
        await self._begin()
        return self._first.content_type if self._first is not None else ""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self._begin()
        if self._first is not None:
            data, self._first = self._first.data, None
            return bytes(data)
        return bytes((await anext(self._messages)).data)

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._first = await anext(self._messages, None)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
