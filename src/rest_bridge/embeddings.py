"""`POST /v1/embeddings`: OpenAI's JSON in and out."""

from __future__ import annotations

from rest_bridge.embeddings_decode import decode_embeddings
from rest_bridge.embeddings_encode import encode_embeddings
from rest_bridge.http import Exchange, RestResponse, Route
from rest_bridge.json import check_json_headers
from server.domain.request import Endpoint
from server.pipeline.embed import Embed


class EmbeddingsRest:
    """The handler of `/v1/embeddings`."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", "/v1/embeddings", self.create, endpoint=Endpoint.EMBEDDINGS),)

    async def create(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        order = decode_embeddings(exchange.body)
        return encode_embeddings(await self._embed(exchange.call, order.request), order)
