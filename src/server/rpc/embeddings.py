"""EmbeddingsService: typed vectors."""

from __future__ import annotations

from typing import Final

import msgspec

from aistats.gateway.v1 import embeddings_pb2, embeddings_pb2_grpc
from server.domain import limits
from server.domain.embedding import EmbeddingRequest, Tokens
from server.domain.embedding_limits import MAX_TOKEN_ID, MAX_USER_CHARS, check_dimensions, check_inputs
from server.domain.request import Endpoint, RawJson
from server.domain.vectors import packed
from server.pipeline.embed import Embed, Embedded
from server.rpc.context import CallContext
from server.rpc.convert import encode_meta, encode_usage
from server.rpc.options import decode_provider_options, decode_routing

__all__ = ["EmbeddingsServicer"]

_VALUES_TAG: Final = bytes([embeddings_pb2.Embedding.VALUES_FIELD_NUMBER << 3 | 2])
"""How a packed field begins on the wire; its length and its little-endian float32 follow."""


class EmbeddingsServicer(embeddings_pb2_grpc.EmbeddingsServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed

    async def CreateEmbeddings(  # type: ignore[override]  # the context is our own
        self, request: embeddings_pb2.CreateEmbeddingsRequest, context: CallContext
    ) -> embeddings_pb2.CreateEmbeddingsResponse:
        return encode_embedded(await self._embed(context.call, decode_request(request)), request.model)


def decode_request(request: embeddings_pb2.CreateEmbeddingsRequest) -> EmbeddingRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.model:
        raise limits.missing_field("model")
    inputs = _inputs(request)
    dimensions = request.dimensions if request.HasField("dimensions") else None
    if dimensions is not None:
        check_dimensions(dimensions)
    limits.check_length(request.user, MAX_USER_CHARS, "user")
    has_user = request.HasField("user")
    given = {"dimensions": dimensions is not None, "user": has_user}
    return EmbeddingRequest(
        endpoint=Endpoint.EMBEDDINGS,
        model=request.model,
        inputs=inputs,
        dimensions=dimensions,
        parameters={name: name for name, is_set in given.items() if is_set},
        passthrough={"user": RawJson(msgspec.json.encode(request.user))} if has_user else {},
        provider_options=decode_provider_options(request.provider_options_json),
        routing=decode_routing(request.routing),
        trace=request.routing.trace,
    )


def _inputs(request: embeddings_pb2.CreateEmbeddingsRequest) -> tuple[str, ...] | tuple[Tokens, ...]:
    texts, tokens = tuple(request.texts), tuple(tuple(array.ids) for array in request.tokens)
    if texts and tokens:
        raise limits.invalid_value("tokens", "and texts exclude each other: send one of the two")
    if not tokens:
        check_inputs(texts, field="texts")
        return texts
    check_inputs(tokens, field="tokens")
    for place, array in enumerate(tokens):
        if max(array) > MAX_TOKEN_ID:
            raise limits.invalid_value(f"tokens[{place}].ids", f"must be at most {MAX_TOKEN_ID} each")
    return tokens


def encode_embedded(embedded: Embedded, model: str) -> embeddings_pb2.CreateEmbeddingsResponse:
    response = embeddings_pb2.CreateEmbeddingsResponse(
        model=model, usage=encode_usage(embedded.settled.usage), meta=encode_meta(embedded.settled.meta)
    )
    for index, vector in enumerate(embedded.vectors):
        data = packed(vector)
        one = response.data.add(index=index)
        one.MergeFromString(_VALUES_TAG + _varint(len(data)) + data)
    return response


def _varint(number: int) -> bytes:
    """As protobuf writes an unsigned number: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
