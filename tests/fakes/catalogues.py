"""A small catalogue for tests, and a source of it that they can change."""

from __future__ import annotations

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.pricing import PriceList, PriceTier
from server.domain.request import Endpoint

CHAT = frozenset({Endpoint.CHAT, Endpoint.RESPONSES})
READY = Provider("ready", "openai", "http://127.0.0.1:1/v1", name="Ready", region="eu")
KEYLESS = Provider("keyless", "openai", "http://127.0.0.1:1/v1", missing_key_env="KEYLESS_API_KEY")
PRICES = PriceList({"input_text_tokens": 100}, (PriceTier({"input_text_tokens": 200}, input_tokens_above=2000),))


def catalog(*extra: Model) -> Catalog:
    models = (
        Model(
            "acme/test-1",
            (
                Offer(READY, "test-1", CHAT, frozenset({"temperature", "tools"}), PRICES),
                Offer(
                    KEYLESS,
                    "t1",
                    frozenset({Endpoint.CHAT}),
                    frozenset({"seed"}),
                    input_types=frozenset({"text"}),
                    context_length=2048,
                ),
            ),
            name="Test 1",
            description="A model.",
            organisation_id="acme",
            created=1_700_000_000,
            release_date="2023-11-14",
            aliases=("test", "acme/test-latest"),
            input_types=("text", "image"),
            context_length=4096,
            max_output_tokens=1024,
        ),
        Model("acme/embed:free", (Offer(READY, "e", frozenset({Endpoint.EMBEDDINGS})),), output_types=("embedding",)),
        Model("zeta/old", (Offer(KEYLESS, "old", CHAT),), status="deprecated"),
        *extra,
    )
    aliases = {alias: model.id for model in models for alias in model.aliases}
    return Catalog({"ready": READY, "keyless": KEYLESS}, {model.id: model for model in models}, aliases)


class Source:
    """A `CatalogSource` that a test can replace the catalogue of."""

    def __init__(self) -> None:
        self.current = catalog()
