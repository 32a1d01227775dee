"""`POST /v1/images/generations` and `/v1/images/edits`: one JSON object, or server-sent events with `stream`."""

from __future__ import annotations

from rest_bridge.http import Exchange, RestResponse, Route, event_stream
from rest_bridge.images_decode import ImagesOrder, decode_edit, decode_edit_form, decode_generation
from rest_bridge.images_encode import ImagesStreamEncoder, encode_images
from rest_bridge.json import check_json_headers
from rest_bridge.sse import PING_INTERVAL_S, EventStream, first_batch
from server.domain.identity import Call
from server.domain.request import Endpoint
from server.pipeline.draw import Draw


class ImagesRest:
    """Handlers of `/v1/images/generations` and `/v1/images/edits`."""

    def __init__(self, draw: Draw, *, ping_interval_s: float = PING_INTERVAL_S) -> None:
        self._draw = draw
        self._ping_interval_s = ping_interval_s

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/images/generations", self.generate, endpoint=Endpoint.IMAGES),
            Route("POST", "/v1/images/edits", self.edit, endpoint=Endpoint.IMAGES, takes_form=True),
        )

    async def generate(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        return await self._answer(exchange.call, decode_generation(exchange.body))

    async def edit(self, exchange: Exchange) -> RestResponse:
        if exchange.form is not None:
            order = await decode_edit_form(exchange.form.fields, exchange.form.files)
        else:
            check_json_headers(exchange.request.headers)
            order = await decode_edit(exchange.body)
        return await self._answer(exchange.call, order)

    async def _answer(self, call: Call, order: ImagesOrder) -> RestResponse:
        """Raises GatewayError where nothing was sent yet: a stream fails in band after its first event only."""
        if not order.request.stream:
            return encode_images(await self._draw(call, order.request), order, call.arrival)
        events = self._draw.stream(call, order.request)
        first = await first_batch(events)
        encoder = ImagesStreamEncoder(order, call.arrival)
        return event_stream(EventStream(first, events, encoder, ping_interval_s=self._ping_interval_s))
