"""The core of the bridge: one REST request in, one REST response out. It knows nothing of what carries them.

The story of every request is `RestApp._answer`; each surface (`rest_bridge.chat`, `rest_bridge.responses`) brings its
routes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar
from urllib.parse import unquote

import msgspec
import structlog

from rest_bridge.errors import written
from rest_bridge.http import (
    JSON,
    ByteStream,
    ErrorWriter,
    Exchange,
    Handler,
    RestRequest,
    RestResponse,
    Route,
)
from rest_bridge.idempotency import HEADER, IdempotentRunner
from rest_bridge.json import ABSENT, check_not_coded, is_json
from rest_bridge.uploads import FORM, Form, read_form
from server.domain.errors import GatewayError, Reason, internal_error
from server.domain.identity import Arrival, Call, Progress, Scope
from server.domain.limits import MAX_SHOWN_CHARS
from server.domain.ports import Reception, Refusals
from server.spool import Spool

T = TypeVar("T")

MAX_BODY_BYTES: Final = 64 * 1024 * 1024

_log: Final = structlog.get_logger(__name__)


class RestApp:
    """Routes, authenticates, reads the body, calls a handler, and turns every failure into the contract's error."""

    def __init__(
        self,
        reception: Reception,
        routes: Sequence[Route],
        refusals: Refusals | None = None,
        idempotency: IdempotentRunner | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._reception = reception
        self._table = RouteTable(routes)
        self._refusals = refusals
        self._idempotency = idempotency
        self._spool = spool or Spool()

    async def __call__(self, request: RestRequest) -> RestResponse:
        """Never raises but for cancellation. The caller closes the response's body."""
        arrival = request.arrival
        errors: ErrorWriter | None = None
        try:
            route, path_params = self._table.find(request.method, request.path)
            errors = route.errors
            response = await self._answer(request, route, path_params)
        except GatewayError as error:
            response = written(error, arrival, errors)
        except Exception:
            _log.exception("request_failed", request_id=arrival.request_id, generation_id=arrival.generation_id)
            response = written(internal_error(), arrival, errors)
        return _with_ids(response, arrival)

    async def _answer(self, request: RestRequest, route: Route, path_params: Mapping[str, str]) -> RestResponse:
        try:
            call = await self._call(request, route, path_params)
        except GatewayError as error:
            if error.reason is Reason.MISSING_SCOPE and route.endpoint is not None:
                with suppress(GatewayError):  # of a key without any scope
                    await self._record(await self._authenticate(request, route, tuple(Scope)), route, error)
            raise
        body, form = b"", None
        try:
            if route.takes_form and await _is_form(request):
                content_type, is_repeatable = await _content_type(request), HEADER in request.headers
                form = await read_form(content_type, request.body, self._spool, with_digest=is_repeatable)
            else:
                body = await _read(request.body)
            if route.endpoint is not None and call.principal.policy.store_content and form is None:
                call.progress.path, call.progress.body = request.path, body
            exchange = Exchange(call, request, body, path_params, route.errors, form)
            handler = partial(self._handle, route)
            key = request.headers.get(HEADER)
            if key is None or request.method != "POST" or self._idempotency is None:
                return await _carry_out(exchange, handler)
            return await self._idempotency.run(key, exchange, handler)
        except Exception as error:
            if call.progress.settlement is None:
                # Whoever deferred its settlement may go on without this caller: that progress stays theirs.
                await self._record(msgspec.structs.replace(call, progress=Progress()), route, error, body, form)
            raise

    async def _handle(self, route: Route, exchange: Exchange) -> RestResponse:
        """What the handler answers; where it fails, there is a settlement from then on."""
        try:
            return await route.handler(exchange)
        except Exception as error:
            await self._record(exchange.call, route, error, exchange.body, exchange.form)
            raise

    async def _call(self, request: RestRequest, route: Route, path_params: Mapping[str, str]) -> Call:
        if route.signed is not None:
            return Call(request.arrival, await route.signed(request, path_params))
        return await self._authenticate(request, route, route.scopes)

    async def _authenticate(self, request: RestRequest, route: Route, scopes: Sequence[Scope]) -> Call:
        """The call, with the first of the scopes that the key has."""
        authorization = _authorization(request, route)
        *others, last = scopes
        for scope in others:
            try:
                return await self._reception.authenticate(request.arrival, authorization, scope)
            except GatewayError as error:
                if error.reason is not Reason.MISSING_SCOPE:
                    raise
        return await self._reception.authenticate(request.arrival, authorization, last)

    async def _record(
        self, call: Call, route: Route, error: Exception, body: bytes = b"", form: Form | None = None
    ) -> None:
        """Have a generating request that failed recorded, where the pipeline has not done so."""
        if self._refusals is None or route.endpoint is None or call.progress.settlement is not None:
            return
        told = error if isinstance(error, GatewayError) else internal_error()
        asked = _asked(body) if form is None else _asked_in(form)
        await self._refusals(call, route.endpoint, told, model=asked.model, stream=asked.stream)


async def _carry_out(exchange: Exchange, handler: Handler) -> RestResponse:
    """What the handler answers; the files of the request are there until the response is over."""
    try:
        response = await handler(exchange)
    except BaseException:
        exchange.let_go()
        raise
    if exchange.form is None:
        return response
    if isinstance(response.body, bytes):
        exchange.let_go()
        return response
    return msgspec.structs.replace(response, body=_Followed(response.body, exchange))


class _Followed:
    """A `ByteStream` after which the files of its request are let go."""

    def __init__(self, body: ByteStream, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)

    @property
    def ended(self) -> bool:
        return self._body.ended

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            self._exchange.let_go()


async def _is_form(request: RestRequest) -> bool:
    """Whether the body is a form, and not JSON. Raises GatewayError where it is declared as neither."""
    media_type = (await _content_type(request)).partition(";")[0].strip().lower()
    check_not_coded(request.headers)
    if media_type != FORM and not is_json(media_type):
        raise GatewayError(
            Reason.MALFORMED_REQUEST,
            f'The content-type must be {FORM} or {JSON}, not "{media_type[:MAX_SHOWN_CHARS]}".',
            param="content-type",
        )
    return media_type == FORM


async def _content_type(request: RestRequest) -> str:
    return request.headers.get("content-type", "") if request.content_type is None else await request.content_type()


def _authorization(request: RestRequest, route: Route) -> str | None:
    """The `authorization` header, or what it would say of the key in the route's own header."""
    key = None if route.key_header is None else request.headers.get(route.key_header)
    return request.headers.get("authorization") if key is None else f"Bearer {key}"


class RouteTable:
    """Finds the route of a request by its path, and then by its method."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            if "{" in route.path:
                self._patterns.setdefault(tuple(route.path.split("/")), {})[route.method] = route
            else:
                self._exact.setdefault(route.path, {})[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route and the decoded variables of its path. Raises GatewayError (404, or 405 with what is allowed)."""
        methods, path_params = self._at(path)
        if not methods:
            raise GatewayError(Reason.UNKNOWN_ROUTE, "There is no such route. GET /openapi.yaml describes all of them.")
        route = methods.get(method)
        if route is None:
            allowed = tuple(sorted(methods))
            raise GatewayError(
                Reason.METHOD_NOT_ALLOWED, f"This route takes {', '.join(allowed)}.", allowed_methods=allowed
            )
        return route, path_params

    def _at(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        if (methods := self._exact.get(path)) is not None:
            return methods, {}
        segments = path.split("/")
        for pattern, methods in self._patterns.items():
            path_params = _match(pattern, segments)
            if path_params is not None:
                return methods, path_params
        return {}, {}


def _match(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    """The variables of a path that fits, each decoded once; None where it doesn't fit."""
    if len(pattern) != len(segments):
        return None
    path_params: dict[str, str] = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith("{"):
            if not segment:
                return None
            path_params[expected[1:-1]] = unquote(segment)
        elif expected != segment:
            return None
    return path_params


async def _read(body: AsyncIterator[bytes]) -> bytes:
    """The whole body. Raises `request_too_large` as soon as it is."""
    pieces: list[bytes] = []
    size = 0
    async for piece in body:
        size += len(piece)
        if size > MAX_BODY_BYTES:
            limit = MAX_BODY_BYTES // (1024 * 1024)
            raise GatewayError(Reason.REQUEST_TOO_LARGE, f"The body is larger than {limit} MiB.")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Asked(msgspec.Struct, frozen=True):
    """What a record tells of a request that was refused."""

    model: str = ""
    stream: bool = False


class _Fields(msgspec.Struct, frozen=True):
    """All that is looked at of such a body, which may have a million fields."""

    model: msgspec.Raw = ABSENT
    stream: msgspec.Raw = ABSENT


def _asked(body: bytes) -> _Asked:
    """As far as the body can be read at all."""
    try:
        fields = _fields.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Asked()
    return _Asked(_value(fields.model, str, ""), _value(fields.stream, bool, False))


def _asked_in(form: Form) -> _Asked:
    said = dict(form.fields)
    return _Asked(said.get("model", ""), said.get("stream") == "true")


def _value(field: msgspec.Raw, type_: type[T], default: T) -> T:
    try:
        return msgspec.json.decode(field, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return default


_fields: Final = msgspec.json.Decoder(_Fields)


def _with_ids(response: RestResponse, arrival: Arrival) -> RestResponse:
    """What is told again keeps the id of the generation that it tells of."""
    ids = [("x-request-id", arrival.request_id)]
    if all(name != "x-generation-id" for name, _ in response.headers):
        ids.append(("x-generation-id", arrival.generation_id))
    return msgspec.structs.replace(response, headers=(*response.headers, *ids))
