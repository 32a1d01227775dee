"""Anthropic's Messages: `POST /v1/messages`, whole or as named events, and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import msgspec

from rest_bridge.http import Exchange, RestRequest, RestResponse, Route, event_stream, json_response
from rest_bridge.json import check_json_headers, invalid
from rest_bridge.messages_decode import MessagesOrder, decode_count_tokens, decode_messages
from rest_bridge.messages_encode import encode_message
from rest_bridge.messages_errors import messages_error
from rest_bridge.messages_stream import PING, MessagesStreamEncoder
from rest_bridge.sse import PING_INTERVAL_S, EventStream, first_batch
from server.domain.fold import fold
from server.domain.identity import Call
from server.domain.limits import MAX_SHOWN_CHARS
from server.domain.ports import CountTokens, Generate
from server.domain.request import Endpoint

VERSION_HEADER: Final = "anthropic-version"
VERSIONS: Final = ("2023-06-01", "2026-10-21")
"""What this surface takes and answers is the same in both; a request without the header is taken as well."""
KEY_HEADER: Final = "x-api-key"


class Count(msgspec.Struct, frozen=True):
    input_tokens: int


class MessagesRest:
    """Handlers of `/v1/messages`. The header `anthropic-beta` is not read: what a body asks for is in the body."""

    def __init__(
        self, generate: Generate, count_tokens: CountTokens, *, ping_interval_s: float = PING_INTERVAL_S
    ) -> None:
        self._generate = generate
        self._count_tokens = count_tokens
        self._ping_interval_s = ping_interval_s

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "POST",
                "/v1/messages",
                self.create,
                endpoint=Endpoint.MESSAGES,
                errors=messages_error,
                key_header=KEY_HEADER,
            ),
            Route("POST", "/v1/messages/count_tokens", self.count_tokens, errors=messages_error, key_header=KEY_HEADER),
        )

    async def create(self, exchange: Exchange) -> RestResponse:
        """Raises GatewayError where nothing was sent yet: a stream fails in band after its first event only."""
        _check_headers(exchange.request)
        order = decode_messages(exchange.body)
        if order.request.stream:
            return await self._stream(exchange.call, order)
        return await self._complete(exchange.call, order)

    async def count_tokens(self, exchange: Exchange) -> RestResponse:
        """An estimate, as every model counts its own way. It is free: nothing is sent to a provider."""
        _check_headers(exchange.request)
        counted = self._count_tokens(decode_count_tokens(exchange.body))
        return json_response(msgspec.json.encode(Count(counted)))

    async def _complete(self, call: Call, order: MessagesOrder) -> RestResponse:
        async with aclosing(self._generate(call, order.request)) as stream:
            whole = await fold(stream)
        return json_response(encode_message(whole, order, call.arrival))

    async def _stream(self, call: Call, order: MessagesOrder) -> RestResponse:
        stream = self._generate(call, order.request)
        first = await first_batch(stream)
        encoder = MessagesStreamEncoder(order, call.arrival)
        return event_stream(EventStream(first, stream, encoder, ping_interval_s=self._ping_interval_s, ping=PING))


def _check_headers(request: RestRequest) -> None:
    check_json_headers(request.headers)
    version = request.headers.get(VERSION_HEADER)
    if version is not None and version not in VERSIONS:
        known = " or ".join(VERSIONS)
        raise invalid(VERSION_HEADER, f'{VERSION_HEADER} must be {known}, not "{version[:MAX_SHOWN_CHARS]}".')
