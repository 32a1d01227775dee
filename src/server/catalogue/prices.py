"""Prices: exact decimals in USD per million units, each for one dimension of usage, and what they are under conditions.

Two mistakes empty wallets: a price that is not there counts as nothing, and a price per token is a millionth of what
was meant. Both are problems here, never a default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from server.catalogue.files import PriceTierEntry
from server.catalogue.problems import suggestion
from server.catalogue.source import YamlPath
from server.domain.money import InexactAmount, nanos
from server.domain.pricing import DIMENSIONS, STANDARD_TIERS, PriceList, PriceTier, Rates
from server.domain.request import Endpoint

HIGHEST: Final = Decimal(10_000)
HIGHEST_BY_THE_PIECE: Final = Decimal(1_000_000_000)
LOWEST: Final = Decimal("0.0001")
MAX_PRICE_CHARS: Final = 24

_TEXT_ENDPOINTS: Final = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})
_TEXT_DIMENSIONS: Final = ("input_text_tokens", "output_text_tokens")
_DECIMAL: Final = re.compile(r"\d+(\.\d+)?")
_BY_THE_PIECE: Final = frozenset({"input_image", "output_image", "video_seconds", "requests", "web_searches"})
"""Dear things: a million images at 4 cents cost $40,000. Their limit is $1,000 apiece."""
ONE_OF: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    Endpoint.IMAGES: ("output_image", "output_image_tokens", "output_text_tokens"),
    Endpoint.AUDIO: ("input_audio_seconds", "input_characters", "output_audio_seconds", "input_text_tokens"),
    Endpoint.VIDEO: ("video_seconds",),
}
"""By endpoint, prices of which one is enough; a price of `requests` always is."""
ONE_OF_SOUND: Final[Mapping[frozenset[str], tuple[str, ...]]] = {
    frozenset({"audio"}): ("input_characters", "output_audio_seconds", "input_text_tokens"),
    frozenset({"text"}): ("input_audio_seconds", "input_text_tokens"),
}
"""The same of sound, where the catalogue says whether a model speaks or listens."""


class PriceError(ValueError):
    """A price that cannot be meant; the message says what to write instead."""


def read_price(dimension: str, value: Any) -> int:
    """One price, exactly, in nano-dollars per million. Raises PriceError."""
    if dimension not in DIMENSIONS:
        raise PriceError(f"unknown dimension of usage; {suggestion(dimension, sorted(DIMENSIONS))}")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise PriceError('must be a decimal in quotes, such as "0.15": a bare one would be rounded')
    text = str(value).strip()
    if len(text) > MAX_PRICE_CHARS or not _DECIMAL.fullmatch(text):
        raise PriceError('must be USD per million as a plain decimal in quotes, such as "0.15"')
    price = Decimal(text)
    highest = HIGHEST_BY_THE_PIECE if dimension in _BY_THE_PIECE else HIGHEST
    if price > highest:
        raise PriceError(f"{text} is above {highest} USD per million; write the price of a million, not of one")
    if 0 < price < LOWEST:
        raise PriceError(f"{text} is below {LOWEST} USD per million; write the price of a million, not of one")
    try:
        return nanos(price)
    except InexactAmount as error:
        raise PriceError(f"{error} USD per million") from None


def missing_dimensions(
    rates: Iterable[str], endpoints: frozenset[Endpoint], made: frozenset[str] | None = None
) -> Iterator[str]:
    """What would be used on these endpoints and cost nothing because no price says otherwise.

    `made`: what the model puts out, where that is known.
    """
    if endpoints & _TEXT_ENDPOINTS:
        yield from (dimension for dimension in _TEXT_DIMENSIONS if dimension not in rates)
    elif Endpoint.EMBEDDINGS in endpoints and _TEXT_DIMENSIONS[0] not in rates:
        yield _TEXT_DIMENSIONS[0]
    for endpoint, dimensions in ONE_OF.items():
        if endpoint is Endpoint.AUDIO and made is not None:
            dimensions = ONE_OF_SOUND.get(made, dimensions)
        if endpoint in endpoints and not {*dimensions, "requests"} & set(rates):
            yield dimensions[0]


class PriceReader:
    """Reads the prices of one offer; `problems` holds what is wrong with them, each with its path in the offer."""

    def __init__(self) -> None:
        self.problems: list[tuple[YamlPath, str]] = []

    def read(self, price: Mapping[str, Any], tiers: Iterable[PriceTierEntry]) -> PriceList:
        """What the two keys of an offer say, without that which is a problem."""
        return PriceList(self._rates(price, ("price",)), tuple(self._tiers(tiers, price)))

    def _rates(self, written: Mapping[str, Any], path: YamlPath) -> Rates:
        rates: dict[str, int] = {}
        for dimension, value in written.items():
            try:
                rates[dimension] = read_price(dimension, value)
            except PriceError as error:
                self.problems.append(((*path, dimension), str(error)))
        return rates

    def _tiers(self, written: Iterable[PriceTierEntry], base: Mapping[str, Any]) -> Iterator[PriceTier]:
        seen: dict[tuple[int | None, str | None], int] = {}
        for index, entry in enumerate(written):
            path: YamlPath = ("price_tiers", index)
            conditions = (entry.when.input_tokens_above, entry.when.service_tier)
            if conditions == (None, None):
                text = "a tier needs a condition: input_tokens_above, service_tier or both"
                self.problems.append(((*path, "when"), text))
            elif conditions in seen:
                text = f"the same conditions as price_tiers[{seen[conditions]}]; remove one of them"
                self.problems.append(((*path, "when"), text))
            seen.setdefault(conditions, index)
            if entry.when.service_tier in STANDARD_TIERS:
                text = f'"{entry.when.service_tier}" is what the base price is for; remove the tier'
                self.problems.append(((*path, "when", "service_tier"), text))
            if not entry.price:
                self.problems.append(((*path, "price"), "holds no price; add one or remove the tier"))
            for dimension in entry.price:
                if dimension in DIMENSIONS and dimension not in base:
                    text = f"the offer's price has no {dimension} for a tier to replace; add it there"
                    self.problems.append(((*path, "price", dimension), text))
            rates = self._rates(entry.price, (*path, "price"))
            yield PriceTier(rates, entry.when.input_tokens_above or 0, entry.when.service_tier)
