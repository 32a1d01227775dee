"""`POST /v1/chat/completions`: one JSON object, or server-sent events with `"stream": true`."""

from __future__ import annotations

from contextlib import aclosing

from rest_bridge.chat_decode import ChatOrder, decode_chat
from rest_bridge.chat_encode import ChatStreamEncoder, encode_completion
from rest_bridge.http import Exchange, RestResponse, Route, event_stream, json_response
from rest_bridge.json import check_json_headers
from rest_bridge.sse import PING_INTERVAL_S, EventStream, first_batch
from server.domain.fold import fold
from server.domain.identity import Call
from server.domain.ports import Generate
from server.domain.request import Endpoint


class ChatRest:
    """Handlers of `/v1/chat/completions`."""

    def __init__(self, generate: Generate, *, ping_interval_s: float = PING_INTERVAL_S) -> None:
        self._generate = generate
        self._ping_interval_s = ping_interval_s

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", "/v1/chat/completions", self.create, endpoint=Endpoint.CHAT),)

    async def create(self, exchange: Exchange) -> RestResponse:
        """Raises GatewayError where nothing was sent yet: a stream fails in band after its first event only."""
        check_json_headers(exchange.request.headers)
        order = decode_chat(exchange.body)
        if order.request.stream:
            return await self._stream(exchange.call, order)
        return await self._complete(exchange.call, order)

    async def _complete(self, call: Call, order: ChatOrder) -> RestResponse:
        async with aclosing(self._generate(call, order.request)) as stream:
            whole = await fold(stream)
        return json_response(encode_completion(whole, order, call.arrival))

    async def _stream(self, call: Call, order: ChatOrder) -> RestResponse:
        stream = self._generate(call, order.request)
        first = await first_batch(stream)
        encoder = ChatStreamEncoder(order, call.arrival)
        return event_stream(EventStream(first, stream, encoder, ping_interval_s=self._ping_interval_s))
