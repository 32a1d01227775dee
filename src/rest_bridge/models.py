"""The REST face of models: which there are, one of them, and who serves it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from rest_bridge.conditional import Kept, conditional, kept
from rest_bridge.health_json import ProviderHealthJson, provider_health
from rest_bridge.http import ANY_KEY, Exchange, RestResponse, Route
from rest_bridge.pricing_json import rates_json
from rest_bridge.query import check_query, whole_number
from server.domain.catalog import Catalog
from server.domain.etags import etag_of
from server.domain.health import HealthView, ProviderHealth
from server.domain.ports import CatalogSource
from server.domain.pricing import PriceTier
from server.pipeline.models import FILTERS, MAX_PAGES_KEPT, Listed, ListedOffer, Listing, Listings, PerCatalog, Wanted

__all__ = ["ModelsRest"]

_QUERY: Final = (*FILTERS, "limit", "offset")

_encode: Final = msgspec.json.Encoder().encode


class SummaryJson(msgspec.Struct, frozen=True):
    """OpenAI's model object."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelProviderJson(msgspec.Struct, frozen=True):
    """`pricing` is in USD per million units, by dimension; empty where free."""

    api_provider_id: str
    endpoints: tuple[str, ...]
    params: tuple[str, ...]
    pricing: Mapping[str, str]
    status: str


class ModelJson(msgspec.Struct, frozen=True, kw_only=True):
    """What is null is not known."""

    model_id: str
    name: str
    description: str
    organisation_id: str
    release_date: str | None
    status: str
    aliases: tuple[str, ...]
    endpoints: tuple[str, ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    context_length: int | None
    max_output_tokens: int | None
    supported_parameters: tuple[str, ...]
    providers: tuple[ModelProviderJson, ...]


class PageJson(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: tuple[SummaryJson, ...]
    ok: bool = True
    limit: int
    offset: int
    total: int
    models: tuple[ModelJson, ...]
    catalogues: Mapping[str, tuple[str, ...]] | msgspec.UnsetType


class OneJson(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    owned_by: str
    model: ModelJson


class PricingTierJson(msgspec.Struct, frozen=True):
    """Prices that replace the others where all conditions hold; a null one always does."""

    input_tokens_above: int | None
    service_tier: str | None
    pricing: Mapping[str, str]


class ModelEndpointJson(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's offer; the figures of `health` are those of this model alone."""

    api_provider_id: str
    provider_name: str
    provider_model: str
    status: str
    region: str | None
    endpoints: tuple[str, ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    context_length: int | None
    max_output_tokens: int | None
    params: tuple[str, ...]
    pricing: Mapping[str, str]
    pricing_tiers: tuple[PricingTierJson, ...]
    health: ProviderHealthJson


class EndpointsJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str
    created: int
    owned_by: str
    name: str
    description: str
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    endpoints: tuple[ModelEndpointJson, ...]


class _Pages:
    """The listings of one catalogue, and pages of them as they were sent."""

    def __init__(self, catalog: Catalog) -> None:
        self.listings: Final = Listings(catalog)
        self.page: Final = lru_cache(MAX_PAGES_KEPT)(self._page)

    def _page(self, listing: Listing, wanted: Wanted) -> Kept:
        page = listing.page(wanted)
        return kept(
            _encode(
                PageJson(
                    data=tuple(_summary(listed) for listed in page.models),
                    limit=page.limit,
                    offset=page.offset,
                    total=page.total,
                    models=tuple(_model(listed) for listed in page.models),
                    catalogues=page.catalogues or msgspec.UNSET,
                )
            )
        )


class ModelsRest:
    """Handlers of `/v1/models`."""

    def __init__(self, catalogs: CatalogSource, health: HealthView) -> None:
        self._pages = PerCatalog(catalogs, _Pages)
        self._health = health

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/v1/models", self.list, ANY_KEY),
            Route("GET", "/v1/models/me", self.list, ANY_KEY),
            Route("GET", "/v1/models/{model_id}", self.get, ANY_KEY),
            Route("GET", "/v1/models/{model_id}/endpoints", self.endpoints, ANY_KEY),
        )

    async def list(self, exchange: Exchange) -> RestResponse:
        request, pages = exchange.request, self._pages.current
        check_query(request, _QUERY)
        listing = pages.listings.of(exchange.call.principal.restrictions)
        limit, offset = whole_number(request, "limit"), whole_number(request, "offset")
        wanted = listing.read(request.query, limit=limit, offset=offset)
        return conditional(request, pages.page(listing, wanted))

    async def get(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        listed = self._find(exchange)
        summary = _summary(listed)
        body = _encode(OneJson(summary.id, summary.object, summary.created, summary.owned_by, _model(listed)))
        return conditional(exchange.request, Kept(body, etag_of(body)))

    async def endpoints(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        listed = self._find(exchange)
        body = _encode(_endpoints(listed, {one.id: one for one in self._health.of_model(listed.model.id)}))
        return conditional(exchange.request, Kept(body, etag_of(body)))

    def _find(self, exchange: Exchange) -> Listed:
        listing = self._pages.current.listings.of(exchange.call.principal.restrictions)
        return listing.find(exchange.path_params["model_id"])


def _summary(listed: Listed) -> SummaryJson:
    return SummaryJson(listed.model.id, "model", listed.model.created, listed.organisation_id)


def _model(listed: Listed) -> ModelJson:
    model = listed.model
    return ModelJson(
        model_id=model.id,
        name=model.name,
        description=model.description,
        organisation_id=listed.organisation_id,
        release_date=model.release_date,
        status=model.status,
        aliases=tuple(sorted(model.aliases)),
        endpoints=listed.endpoints,
        input_types=model.input_types,
        output_types=model.output_types,
        context_length=model.context_length,
        max_output_tokens=model.max_output_tokens,
        supported_parameters=listed.supported_parameters,
        providers=tuple(_provider(one) for one in listed.offers),
    )


def _provider(listed: ListedOffer) -> ModelProviderJson:
    offer = listed.offer
    return ModelProviderJson(
        offer.provider.id, listed.endpoints, listed.params, rates_json(offer.prices.rates), listed.status
    )


def _endpoints(listed: Listed, health: Mapping[str, ProviderHealth]) -> EndpointsJson:
    model = listed.model
    return EndpointsJson(
        id=model.id,
        object="model",
        created=model.created,
        owned_by=listed.organisation_id,
        name=model.name,
        description=model.description,
        input_types=model.input_types,
        output_types=model.output_types,
        endpoints=tuple(_endpoint(listed, one, health[one.offer.provider.id]) for one in listed.offers),
    )


def _endpoint(listed: Listed, one: ListedOffer, health: ProviderHealth) -> ModelEndpointJson:
    offer = one.offer
    return ModelEndpointJson(
        api_provider_id=offer.provider.id,
        provider_name=offer.provider.name,
        provider_model=offer.provider_model,
        status=one.status,
        region=offer.provider.region,
        endpoints=one.endpoints,
        input_types=one.input_types,
        output_types=listed.model.output_types,
        context_length=one.context_length,
        max_output_tokens=one.max_output_tokens,
        params=one.params,
        pricing=rates_json(offer.prices.rates),
        pricing_tiers=tuple(_tier(tier) for tier in offer.prices.tiers),
        health=provider_health(health),
    )


def _tier(tier: PriceTier) -> PricingTierJson:
    return PricingTierJson(tier.input_tokens_above or None, tier.service_tier, rates_json(tier.rates))
