"""The REST face of responses: create (whole or streamed), read back, delete."""

from __future__ import annotations

from typing import Final

from rest_bridge.http import Exchange, RestResponse, Route, event_stream, json_response
from rest_bridge.json import check_json_headers, invalid, unsupported
from rest_bridge.query import check_query
from rest_bridge.responses_decode import decode_request
from rest_bridge.responses_encode import ResponseStreamEncoder, encode_deletion, encode_response
from rest_bridge.sse import PING_INTERVAL_S, EventStream, first_batch
from server.domain.request import Endpoint
from server.pipeline.respond import Respond

_GET_QUERY: Final = frozenset({"include", "stream"})


class ResponsesRest:
    """Handlers of `/v1/responses`."""

    def __init__(self, respond: Respond, *, ping_interval_s: float = PING_INTERVAL_S) -> None:
        self._respond = respond
        self._ping_interval_s = ping_interval_s

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/responses", self.create, endpoint=Endpoint.RESPONSES),
            Route("GET", "/v1/responses/{response_id}", self.get),
            Route("DELETE", "/v1/responses/{response_id}", self.delete),
        )

    async def create(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        request = decode_request(exchange.body)
        if not request.generation.stream:
            return json_response(encode_response(await self._respond.create(exchange.call, request)))
        events = self._respond.stream(exchange.call, request)
        first = await first_batch(events)
        encoder = ResponseStreamEncoder(
            exchange.call.arrival.generation_id, logprobs=bool(request.generation.sampling.logprobs)
        )
        return event_stream(EventStream(first, events, encoder, ping_interval_s=self._ping_interval_s))

    async def get(self, exchange: Exchange) -> RestResponse:
        """The response as it was first sent; what it was made with is in it, so `include` adds nothing."""
        check_query(exchange.request, _GET_QUERY)
        for value in exchange.request.query.get("stream", ()):
            if value not in ("true", "false"):
                raise invalid("stream", "`stream` must be true or false.")
            if value == "true":
                raise unsupported("stream", "`stream` is not supported here: a kept response is whole.")
        return json_response(encode_response(await self._respond.get(exchange.call, _response_id(exchange))))

    async def delete(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        return json_response(encode_deletion(await self._respond.delete(exchange.call, _response_id(exchange))))


def _response_id(exchange: Exchange) -> str:
    return exchange.path_params["response_id"]
