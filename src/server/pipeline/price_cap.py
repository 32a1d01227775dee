"""`provider.max_price`: the dearest price that a client accepts, for this very request."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import cache

import msgspec

from server.domain.errors import GatewayError, Reason
from server.domain.request import MaxPrice
from server.domain.routing import Candidate
from server.domain.work import Work
from server.pipeline.admit import estimate_prompt


def price_cap(request: Work, limit: MaxPrice) -> Callable[[Candidate], bool]:
    """Whether a candidate costs no more: at the base price, and at that of the tiers which this request falls into.

    Raises GatewayError (`invalid_value`) for a price that is none.
    """
    limits = [
        (dimension, _usd(text, param))
        for dimension, text, param in (
            ("input_text_tokens", limit.prompt, "provider.max_price.prompt"),
            ("output_text_tokens", limit.completion, "provider.max_price.completion"),
        )
        if text is not None
    ]
    asked = request.passthrough.get("service_tier")
    tier = None if asked is None else msgspec.json.decode(asked)

    @cache
    def prompt_tokens() -> int:
        return estimate_prompt(request)

    def is_met(candidate: Candidate) -> bool:
        prices = candidate.offer.prices
        rates = [prices.rates]
        if prices.tiers:
            rates.append(prices.rates_for(prompt_tokens(), tier))
        return all(Decimal(one.get(dimension, 0)).scaleb(-9) <= most for one in rates for dimension, most in limits)

    return is_met


def _usd(text: str, param: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise GatewayError(
            Reason.INVALID_VALUE, f'{param} must be USD per million tokens, such as "0.50".', param=param
        )
    return value
