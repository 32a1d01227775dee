"""A service tier that a client asks a provider for must have a price: else it would be charged at another tier's."""

from __future__ import annotations

import msgspec

from server.domain.catalog import Offer
from server.domain.pricing import STANDARD_TIERS
from server.domain.request import RawJson, Request


def unpriced_tier(offer: Offer, request: Request) -> str | None:
    """Where the request asks for a tier that the offer has no price for; None where it does not, or nothing has one."""
    asked = request.passthrough.get("service_tier")
    options = request.provider_options.get(offer.provider.id)
    also = options.get("service_tier") if options else None
    if (asked is None and also is None) or not offer.prices.rates:
        return None
    if asked is not None and not _is_priced(offer, asked):
        return request.parameters.get("service_tier", "service_tier")
    if also is not None and not _is_priced(offer, also):
        return f"provider_options.{offer.provider.id}.service_tier"
    return None


def _is_priced(offer: Offer, asked: RawJson) -> bool:
    tier = msgspec.json.decode(asked)
    if tier is None:
        return True
    return isinstance(tier, str) and (tier in STANDARD_TIERS or tier in offer.prices.service_tiers)
