"""Embeddings: vectors of texts, by the same way through the pipeline as everything else."""

from __future__ import annotations

import msgspec

from server.domain.embedding import EmbeddingRequest, Embeddings
from server.domain.errors import internal_error
from server.domain.events import Settled
from server.domain.identity import Call
from server.domain.ports import Generate
from server.domain.vectors import Vector
from server.pipeline.produce import produce

__all__ = ["Embed", "Embedded"]


class Embedded(msgspec.Struct, frozen=True):
    """One vector for each input, in their order, and the account of them."""

    vectors: tuple[Vector, ...]
    settled: Settled


class Embed:
    """Makes embeddings; they are paid for and on record when they are there."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def __call__(self, call: Call, request: EmbeddingRequest) -> Embedded:
        """Raises GatewayError."""
        result, settled = await produce(self._generate, call, request, Embeddings)
        if len(result.vectors) != len(request.inputs):
            raise internal_error()
        return Embedded(result.vectors, settled)
