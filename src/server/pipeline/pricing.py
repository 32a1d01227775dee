"""What given usage would cost at the offers of a model, and what offers cost at all. Nothing is called or charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from server.domain import limits
from server.domain.catalog import Catalog, Model, Offer, split_pin
from server.domain.errors import GatewayError, Reason
from server.domain.money import Pricing
from server.domain.pricing import STANDARD_TIERS, is_input, price, price_quantities, with_fallbacks
from server.domain.request import Endpoint
from server.domain.usage import Usage

MAX_QUANTITY: Final = 1_000_000_000_000
MAX_TOTAL_NANOS: Final = 2**63 - 1

Quantities: TypeAlias = Mapping[str, int]
"""How many units were used, by dimension; no token is in two of them."""


class Question(msgspec.Struct, frozen=True):
    """`used` is usage as a provider reports it, or quantities by dimension.

    `path` is where the client wrote `used`. Without `provider` every offer of the model is asked.
    """

    model: str
    used: Usage | Quantities
    provider: str | None = None
    service_tier: str | None = None
    path: str = "usage"


class PricedOffer(msgspec.Struct, frozen=True):
    offer: Offer
    pricing: Pricing


class Answer(msgspec.Struct, frozen=True):
    """`offers` has at least one, the cheapest first."""

    model: Model
    offers: tuple[PricedOffer, ...]


class Listed(msgspec.Struct, frozen=True):
    model: Model
    offer: Offer


class PriceFilter(msgspec.Struct, frozen=True):
    """What a list is narrowed to: an empty filter leaves everything in. A text may hold several values, with commas."""

    models: Sequence[str] = ()
    providers: Sequence[str] = ()
    endpoints: Sequence[str] = ()
    limit: int | None = None
    offset: int | None = None


class Page(msgspec.Struct, frozen=True):
    """`total` counts the offers on all pages."""

    offers: tuple[Listed, ...]
    limit: int
    offset: int
    total: int


def calculate(catalog: Catalog, question: Question) -> Answer:
    """What the usage would be charged.

    Raises GatewayError: `unknown_model`, and `invalid_value` for a provider that does not offer the model, and for a
    service tier or a dimension that has no price.
    """
    model, asked = _offers(catalog, question)
    if isinstance(question.used, Usage):
        _check_parts(question.used, question.path)
    offers = _of_tier(asked, question)
    if not isinstance(question.used, Usage):
        offers = _pricing_all(offers, question.used, question.path)
    priced = [PricedOffer(offer, _price(offer, question)) for offer in offers]
    if any(one.pricing.total_nanos > MAX_TOTAL_NANOS for one in priced):
        raise limits.invalid_value(question.path, "comes to more than can be told")
    return Answer(model, tuple(sorted(priced, key=lambda one: one.pricing.total_nanos)))


def list_prices(catalog: Catalog, wanted: PriceFilter) -> Page:
    """One page of offers, ascending by model. Raises GatewayError: `unknown_model`, `invalid_value`."""
    limit, offset = limits.page_size(wanted.limit), wanted.offset or 0
    models = {_find(catalog, name).id for name in _values(wanted.models)}
    providers, endpoints = _values(wanted.providers), _values(wanted.endpoints)
    for provider in providers:
        limits.check_choice(provider, sorted(catalog.providers), "provider")
    for endpoint in endpoints:
        limits.check_choice(endpoint, [one.value for one in Endpoint], "endpoint")
    found = [
        Listed(catalog.models[id_], offer)
        for id_ in sorted(models or catalog.models)
        for offer in catalog.models[id_].offers
        if (not providers or offer.provider.id in providers)
        and (not endpoints or not offer.endpoints.isdisjoint(endpoints))
    ]
    return Page(tuple(found[offset : offset + limit]), limit, offset, len(found))


def _values(texts: Sequence[str]) -> frozenset[str]:
    return frozenset(value.strip() for text in texts for value in text.split(",") if value.strip())


def _find(catalog: Catalog, name: str) -> Model:
    model = catalog.find(name)
    if model is None:
        shown = name[: limits.MAX_SHOWN_CHARS]
        raise GatewayError(Reason.UNKNOWN_MODEL, f'There is no model "{shown}" here.', param="model")
    return model


def _offers(catalog: Catalog, question: Question) -> tuple[Model, tuple[Offer, ...]]:
    """The model, and those of its offers that are asked for."""
    provider, name = question.provider, question.model
    if catalog.find(name) is None:
        pin, bare = split_pin(name)
        if pin in catalog.providers:
            name = bare
            if provider not in (None, pin):
                raise limits.invalid_value("provider", f'must be "{pin}", as the model says, or absent')
            provider = pin
    model = _find(catalog, name)
    if provider is None:
        return model, model.offers
    offering = [offer.provider.id for offer in model.offers]
    limits.check_choice(provider, offering, "provider")
    return model, tuple(offer for offer in model.offers if offer.provider.id == provider)


def _of_tier(offers: tuple[Offer, ...], question: Question) -> tuple[Offer, ...]:
    """Those with a price for the service tier. What is free of charge is so in every tier."""
    tier = question.service_tier
    if tier is None or tier in STANDARD_TIERS:
        return offers
    priced = tuple(offer for offer in offers if not offer.prices.rates or tier in offer.prices.service_tiers)
    if not priced:
        known = sorted({"standard", *(known for offer in offers for known in offer.prices.service_tiers)})
        raise limits.invalid_choice("service_tier", known, tier)
    return priced


def _pricing_all(offers: tuple[Offer, ...], used: Quantities, path: str) -> tuple[Offer, ...]:
    """Those with a price for everything that was used: none is left out of a total in silence."""
    lacking = [
        [
            name
            for name, quantity in with_fallbacks(used, offer.prices.rates).items()
            if _is_unpriced(offer, name, quantity)
        ]
        for offer in offers
    ]
    priced = tuple(offer for offer, names in zip(offers, lacking, strict=True) if not names)
    if not priced:
        name = lacking[0][0]
        raise limits.invalid_value(f"{path}.{name}" if name in used else path, "has no price in this model's offers")
    return priced


def _is_unpriced(offer: Offer, dimension: str, quantity: int) -> bool:
    return bool(quantity and offer.prices.rates and dimension not in offer.prices.rates)


def _price(offer: Offer, question: Question) -> Pricing:
    used = question.used
    if isinstance(used, Usage):
        return price(used, offer.prices, question.service_tier)
    input_tokens = sum(quantity for dimension, quantity in used.items() if is_input(dimension))
    rates = offer.prices.rates_for(input_tokens, question.service_tier)
    return price_quantities(with_fallbacks(used, rates), rates)


def _check_parts(usage: Usage, path: str) -> None:
    """What exceeds its whole would be cut in silence. Parts may overlap: cached audio is both."""
    for what, part, whole_name, whole in (
        ("cached", usage.cached_input_tokens, "input", usage.input_tokens),
        ("cache write", usage.cache_write_tokens, "input", usage.input_tokens),
        ("audio", usage.input_audio_tokens, "input", usage.input_tokens),
        ("reasoning", usage.reasoning_tokens, "output", usage.output_tokens),
        ("audio", usage.output_audio_tokens, "output", usage.output_tokens),
    ):
        if part > whole:
            raise limits.invalid_value(path, f"has {part} {what} tokens among {whole} {whole_name} tokens")
