"""What of an embeddings request can be meant, whatever surface it came in by."""

from __future__ import annotations

from typing import Final

from server.domain.embedding import INPUT, Tokens
from server.domain.limits import check_count, invalid_value

MAX_INPUTS: Final = 2048
"""Of one request, as OpenAI has it."""
MAX_DIMENSIONS: Final = 65_536
"""More than any model has."""
MAX_TOKEN_ID: Final = 2**31 - 1
MAX_USER_CHARS: Final = 512


def check_inputs(inputs: tuple[str, ...] | tuple[Tokens, ...], *, field: str = INPUT, single: bool = False) -> None:
    """Raise GatewayError naming the first that cannot be embedded. `single`: it was not sent in an array of several."""
    if not inputs:
        raise invalid_value(field, "must hold at least one text")
    check_count(len(inputs), MAX_INPUTS, field)
    for place, given in enumerate(inputs):
        if not given:
            raise invalid_value(field if single else f"{field}[{place}]", "must not be empty")


def check_dimensions(dimensions: int) -> None:
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise invalid_value("dimensions", f"must be from 1 to {MAX_DIMENSIONS}, not {dimensions}")
