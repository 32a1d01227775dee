"""The REST face of pricing: what models cost, and what given usage would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from rest_bridge.http import ANY_KEY, Exchange, RestResponse, Route, json_response
from rest_bridge.json import check_json_headers
from rest_bridge.pricing_decode import decode_question
from rest_bridge.pricing_json import PricingJson, pricing_json, rates_json
from rest_bridge.query import check_query, whole_number
from server.domain.money import CURRENCY, UNIT_SIZE
from server.domain.ports import CatalogSource
from server.domain.pricing import PriceTier
from server.pipeline.pricing import Answer, Listed, Page, PriceFilter, Question, calculate, list_prices

_FILTERS: Final = ("model", "provider", "endpoint", "limit", "offset")

_encode: Final = msgspec.json.Encoder().encode


class OfferJson(msgspec.Struct, frozen=True):
    provider: str
    provider_model: str
    pricing: PricingJson


class CalculationJson(msgspec.Struct, frozen=True, kw_only=True):
    """The cheapest offer; where the client named no provider, `offers` has all of them."""

    ok: bool = True
    model: str
    provider: str
    provider_model: str
    service_tier: str | None
    pricing: PricingJson
    offers: tuple[OfferJson, ...] | msgspec.UnsetType = msgspec.UNSET


class PriceTierJson(msgspec.Struct, frozen=True):
    """Prices that replace the others where all conditions hold; a null one always does."""

    input_tokens_above: int | None
    service_tier: str | None
    pricing: Mapping[str, str]


class PricingModelJson(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider's offer of a model costs: USD for `unit_size` units, by dimension."""

    model: str
    provider: str
    provider_model: str
    endpoints: tuple[str, ...]
    currency: str
    unit_size: int
    pricing: Mapping[str, str]
    tiers: tuple[PriceTierJson, ...]


class PricingPageJson(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    object: str = "list"
    limit: int
    offset: int
    total: int
    models: tuple[PricingModelJson, ...]


class PricingRest:
    """Handlers of `/v1/pricing`."""

    def __init__(self, catalogs: CatalogSource) -> None:
        self._catalogs = catalogs

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/pricing/calculate", self.calculate, ANY_KEY),
            Route("GET", "/v1/pricing/models", self.models, ANY_KEY),
        )

    async def calculate(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        question = decode_question(exchange.body)
        return json_response(encode_answer(calculate(self._catalogs.current, question), question))

    async def models(self, exchange: Exchange) -> RestResponse:
        request = exchange.request
        check_query(request, _FILTERS)
        models, providers, endpoints = (request.query.get(name, ()) for name in ("model", "provider", "endpoint"))
        limit, offset = whole_number(request, "limit"), whole_number(request, "offset")
        return json_response(
            encode_page(list_prices(self._catalogs.current, PriceFilter(models, providers, endpoints, limit, offset)))
        )


def encode_answer(answer: Answer, question: Question) -> bytes:
    offers = tuple(
        OfferJson(one.offer.provider.id, one.offer.provider_model, pricing_json(one.pricing)) for one in answer.offers
    )
    cheapest = offers[0]
    return _encode(
        CalculationJson(
            model=answer.model.id,
            provider=cheapest.provider,
            provider_model=cheapest.provider_model,
            service_tier=question.service_tier,
            pricing=cheapest.pricing,
            offers=offers if question.provider is None else msgspec.UNSET,
        )
    )


def encode_page(page: Page) -> bytes:
    return _encode(
        PricingPageJson(
            limit=page.limit, offset=page.offset, total=page.total, models=tuple(_listed(one) for one in page.offers)
        )
    )


def _listed(listed: Listed) -> PricingModelJson:
    offer = listed.offer
    return PricingModelJson(
        model=listed.model.id,
        provider=offer.provider.id,
        provider_model=offer.provider_model,
        endpoints=tuple(sorted(offer.endpoints)),
        currency=CURRENCY,
        unit_size=UNIT_SIZE,
        pricing=rates_json(offer.prices.rates),
        tiers=tuple(_tier(tier) for tier in offer.prices.tiers),
    )


def _tier(tier: PriceTier) -> PriceTierJson:
    return PriceTierJson(tier.input_tokens_above or None, tier.service_tier, rates_json(tier.rates))
