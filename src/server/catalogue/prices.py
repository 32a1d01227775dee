"""Prices: exact decimals in USD per million units, each for one dimension of usage.

Two mistakes empty wallets: a price that is not there counts as nothing, and a price per token is a millionth of what
was meant. Both are problems here, never a default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from server.catalogue.problems import suggestion
from server.domain.request import Endpoint

DIMENSIONS: Final = frozenset(
    {
        "input_text_tokens",
        "output_text_tokens",
        "cached_read_text_tokens",
        "cached_write_text_tokens",
        "reasoning_text_tokens",
        "input_audio_tokens",
        "output_audio_tokens",
        "cached_read_audio_tokens",
        "input_image_tokens",
        "output_image_tokens",
        "cached_read_image_tokens",
        "input_video_tokens",
        "output_video_tokens",
        "embedding_tokens",
        "input_image",
        "output_image",
        "input_audio_seconds",
        "output_audio_seconds",
        "input_characters",
        "video_seconds",
        "requests",
        "web_searches",
    }
)
"""What usage can be counted in. The unit of a price is always a million of it."""

HIGHEST: Final = Decimal(10_000)
LOWEST: Final = Decimal("0.0001")
MAX_PRICE_CHARS: Final = 24

_TEXT_ENDPOINTS: Final = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})
_TEXT_DIMENSIONS: Final = ("input_text_tokens", "output_text_tokens")
_DECIMAL: Final = re.compile(r"\d+(\.\d+)?")
_BY_THE_PIECE: Final = frozenset({"input_image", "output_image", "video_seconds", "requests", "web_searches"})
"""Dear things: a million images at 4 cents cost $40,000, so the upper limit is not for them."""


class PriceError(ValueError):
    """A price that cannot be meant; the message says what to write instead."""


def read_price(dimension: str, value: Any) -> Decimal:
    """One price, exactly. Raises PriceError."""
    if dimension not in DIMENSIONS:
        raise PriceError(f"unknown dimension of usage; {suggestion(dimension, sorted(DIMENSIONS))}")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise PriceError('must be a decimal in quotes, such as "0.15": a bare one would be rounded')
    text = str(value).strip()
    if len(text) > MAX_PRICE_CHARS or not _DECIMAL.fullmatch(text):
        raise PriceError('must be USD per million as a plain decimal in quotes, such as "0.15"')
    price = Decimal(text)
    if price > HIGHEST and dimension not in _BY_THE_PIECE:
        raise PriceError(f"{text} is above {HIGHEST} USD per million; write the price of a million, not of one")
    if 0 < price < LOWEST:
        raise PriceError(f"{text} is below {LOWEST} USD per million; write the price of a million, not of one")
    return price


def missing_dimensions(price: Mapping[str, Decimal], endpoints: frozenset[Endpoint]) -> Iterator[str]:
    """What would be used on these endpoints and cost nothing because no price says otherwise."""
    if endpoints & _TEXT_ENDPOINTS:
        yield from (dimension for dimension in _TEXT_DIMENSIONS if dimension not in price)
