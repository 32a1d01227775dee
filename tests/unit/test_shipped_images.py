"""What ships for pictures: what an offer says that it takes, its dialect can say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.catalogue import load_catalog
from server.domain.catalog import Catalog, Dialect
from server.domain.images import ImageRequest
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter

SHIPPED: Catalog = load_catalog(None, {})
OFFERS = {
    f"{model.id} {offer.provider.id}": offer
    for model in SHIPPED.models.values()
    for offer in model.offers
    if Endpoint.IMAGES in offer.endpoints
}
NEVER: Callable[..., Any] = object
ADAPTERS: dict[Dialect, ProviderAdapter] = {
    "openai": OpenAIAdapter(NEVER(), NEVER(), NEVER()),
    "gemini": GeminiAdapter(NEVER(), NEVER(), NEVER()),
}


@pytest.mark.parametrize("name", sorted(OFFERS))
def test_an_offer_of_pictures_promises_only_what_can_be_said(name: str) -> None:
    offer = OFFERS[name]
    assert offer.params is not None
    own = offer.params - {"seed", "input_fidelity"}  # by `provider_options`; of edits only
    request = ImageRequest(
        endpoint=Endpoint.IMAGES,
        model="a/b",
        prompt="A dot.",
        n=2,
        size="1024x1024",
        parameters={name: name for name in own},
    )
    assert ADAPTERS[offer.provider.dialect].supports(offer, request) is None
    assert offer.output_types == frozenset({"image"})
    assert offer.prices.rates or "free" in name
