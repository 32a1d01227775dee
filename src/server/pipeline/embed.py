"""Embeddings: vectors of texts, by the same way through the pipeline as everything else."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from server.domain.embedding import EmbeddingRequest, Embeddings
from server.domain.errors import internal_error
from server.domain.events import Produced, Settled
from server.domain.identity import Call
from server.domain.ports import Generate
from server.domain.vectors import Vector

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
        vectors: tuple[Vector, ...] | None = None
        settled: Settled | None = None
        async with aclosing(self._generate(call, request)) as batches:
            async for batch in batches:
                for event in batch:
                    match event:
                        case Produced(result=Embeddings() as result):
                            vectors = result.vectors
                        case Settled():
                            settled = event
                        case _:
                            pass
        if vectors is None or settled is None or len(vectors) != len(request.inputs):
            raise internal_error()
        return Embedded(vectors, settled)
