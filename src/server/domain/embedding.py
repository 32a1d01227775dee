"""Texts turned into vectors: what a client asks for, and what a provider answers with."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from server.domain.request import Request
from server.domain.vectors import Form, Vector

INPUT: Final = "input"
"""What the inputs are called wherever they can be named."""
Tokens: TypeAlias = tuple[int, ...]
"""Ids of the model's own vocabulary."""


class EmbeddingRequest(Request, frozen=True, kw_only=True):
    """One vector is wanted for each of `inputs`, in their order. `dimensions` None: as many as the model has.

    `form` is what the client gets them in: nothing depends on it but what costs least.
    """

    inputs: tuple[str, ...] | tuple[Tokens, ...]
    dimensions: int | None = None
    form: Form = "packed"


class Embeddings(msgspec.Struct, frozen=True):
    """One vector for each input, in their order, all of the same length."""

    vectors: tuple[Vector, ...]
