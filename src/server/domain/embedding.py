"""Texts turned into vectors: what a client asks for, and what a provider answers with."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from server.domain.request import Request

Tokens: TypeAlias = tuple[int, ...]
"""Ids of the model's own vocabulary."""


class EmbeddingRequest(Request, frozen=True, kw_only=True):
    """One vector is wanted for each of `inputs`, in their order. `dimensions` None: as many as the model has."""

    inputs: tuple[str, ...] | tuple[Tokens, ...]
    dimensions: int | None = None


class Embeddings(msgspec.Struct, frozen=True):
    """One vector for each input, in their order: little-endian float32."""

    vectors: tuple[bytes, ...]
