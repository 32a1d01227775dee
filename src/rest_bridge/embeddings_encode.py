"""Embeddings as OpenAI tells them, piece by piece: an answer of 100 MB is never there as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from rest_bridge.embeddings_decode import EmbeddingsOrder
from rest_bridge.http import JSON, RestResponse, json_response
from rest_bridge.pricing_json import PricingJson, usage_pricing
from server.domain.request import RawJson
from server.domain.usage import Meta
from server.domain.vectors import numbers_json, packed_json
from server.pipeline.embed import Embedded

PIECE_BYTES: Final = 256 * 1024

_json: Final = msgspec.json.Encoder().encode


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int
    pricing: PricingJson


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
    """One piece as it is, more of them one after another."""
    pieces = _pieces(embedded, order)
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        return json_response(first)
    return RestResponse(200, (("content-type", JSON),), _Body(first, second, pieces))


class _Body:
    """A `rest_bridge.http.ByteStream` that is written as it is read; others have their turn in between."""

    def __init__(self, first: bytes, second: bytes, rest: Iterator[bytes]) -> None:
        self._ready: list[bytes] = [first, second]
        self._rest = rest

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if not self._ready:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        piece = self._ready.pop(0)
        if (following := next(self._rest, None)) is not None:
            self._ready.append(following)
        return piece

    @property
    def ended(self) -> bool:
        return not self._ready

    async def aclose(self) -> None:
        self._ready.clear()


def _pieces(embedded: Embedded, order: EmbeddingsOrder) -> Iterator[bytes]:
    """At least one, of about PIECE_BYTES each."""
    usage = embedded.settled.usage
    around = EmbeddingsJson(
        data=(),
        model=order.request.model,
        usage=EmbeddingsUsage(usage.input_tokens, usage.total_tokens, usage_pricing(usage)),
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
