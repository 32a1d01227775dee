"""A small catalogue with prices for tests."""

from __future__ import annotations

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.money import nanos
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import Endpoint

CHAT = frozenset({Endpoint.CHAT, Endpoint.RESPONSES})
CHEAP = Provider("cheap", "openai", "http://127.0.0.1:1/v1", missing_key_env="CHEAP_KEY")
DEAR = Provider("dear", "openai", "http://127.0.0.1:1/v1")


def rates(**usd: str) -> dict[str, int]:
    return {dimension: nanos(price) for dimension, price in usd.items()}


FIVE = PriceList(rates(input_text_tokens="5", output_text_tokens="5"))
MODELS = (
    Model(
        "acme/test-1",
        (
            Offer(DEAR, "dear-1", CHAT, prices=PriceList(rates(input_text_tokens="1", output_text_tokens="2"))),
            Offer(
                CHEAP,
                "cheap-1",
                frozenset({Endpoint.CHAT}),
                prices=PriceList(
                    rates(
                        input_text_tokens="0.15",
                        cached_read_text_tokens="0.015",
                        output_text_tokens="0.60",
                        web_searches="10000",
                    ),
                    (
                        PriceTier(rates(input_text_tokens="0.30"), input_tokens_above=200_000),
                        PriceTier(rates(input_text_tokens="0.075", output_text_tokens="0.30"), service_tier="flex"),
                    ),
                ),
            ),
        ),
        aliases=("test",),
    ),
    Model("acme/tiny:free", (Offer(DEAR, "tiny", CHAT),)),
    Model(
        "zeta/one", (Offer(CHEAP, "one", CHAT, prices=PriceList(rates(input_text_tokens="5", output_text_tokens="5"))),)
    ),
)


class PricedCatalog:
    """A `CatalogSource`."""

    current = Catalog(
        {provider.id: provider for provider in (CHEAP, DEAR)},
        {model.id: model for model in MODELS},
        {alias: model.id for model in MODELS for alias in model.aliases},
    )
