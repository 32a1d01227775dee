"""Embeddings as OpenAI tells them, piece by piece: an answer of 100 MB is never there as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from rest_bridge.embeddings_decode import EmbeddingsOrder
from rest_bridge.http import RestResponse
from rest_bridge.pieces import json_in_pieces
from rest_bridge.pricing_json import PricingJson, usage_pricing
from server.domain.request import RawJson
from server.domain.usage import Meta, Usage
from server.domain.vectors import numbers_json, packed_json
from server.pipeline.embed import Embedded

PIECE_BYTES: Final = 256 * 1024

_json: Final = msgspec.json.Encoder().encode


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int
    pricing: PricingJson


def embeddings_usage(usage: Usage) -> EmbeddingsUsage:
    return EmbeddingsUsage(usage.input_tokens, usage.total_tokens, usage_pricing(usage))


class EmbeddingJson(msgspec.Struct, frozen=True, kw_only=True):
    """`embedding` is an array of numbers, or base64 of little-endian float32 where that was asked for."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: RawJson


class EmbeddingsJson(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[EmbeddingJson, ...]
    model: str
    usage: EmbeddingsUsage
    meta: Meta | msgspec.UnsetType = msgspec.UNSET


def encode_embeddings(embedded: Embedded, order: EmbeddingsOrder) -> RestResponse:
    return json_in_pieces(_pieces(embedded, order))


def _pieces(embedded: Embedded, order: EmbeddingsOrder) -> Iterator[bytes]:
    """At least one, of about PIECE_BYTES each."""
    usage = embedded.settled.usage
    around = EmbeddingsJson(
        data=(),
        model=order.request.model,
        usage=embeddings_usage(usage),
        meta=embedded.settled.meta if order.wants_meta else msgspec.UNSET,
    )
    head, opened, tail = _json(around).partition(b'"data":[')
    written = packed_json if order.request.form == "packed" else numbers_json
    parts, size = [head, opened], 0
    for index, vector in enumerate(embedded.vectors):
        one = _json(EmbeddingJson(index=index, embedding=RawJson(written(vector))))
        parts += (b"," if index else b"", one)
        size += len(one)
        if size >= PIECE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    parts.append(tail)
    yield b"".join(parts)
