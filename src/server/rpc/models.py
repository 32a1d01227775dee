"""ModelsService: which models there are, and who serves them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

from aistats.gateway.v1 import models_pb2, models_pb2_grpc
from server.domain.catalog import Catalog
from server.domain.etags import etag_of, holds
from server.domain.health import HealthView, ProviderHealth
from server.domain.money import usd
from server.domain.ports import CatalogSource
from server.domain.pricing import PriceTier, Rates
from server.pipeline.models import FILTERS, MAX_PAGES_KEPT, Listed, ListedOffer, Listing, Listings, PerCatalog, Wanted
from server.rpc.context import CallContext
from server.rpc.health import encode_provider

__all__ = ["ModelsServicer"]

_Reply: TypeAlias = models_pb2.ListModelsResponse | models_pb2.GetModelResponse | models_pb2.ListModelEndpointsResponse
_R = TypeVar("_R", bound=_Reply)


class _Pages:
    """The listings of one catalogue, and pages of them as they were sent."""

    def __init__(self, catalog: Catalog) -> None:
        self.listings: Final = Listings(catalog)
        self.page: Final = lru_cache(MAX_PAGES_KEPT)(self._page)

    def _page(self, listing: Listing, wanted: Wanted) -> models_pb2.ListModelsResponse:
        page = listing.page(wanted)
        return _tagged(
            models_pb2.ListModelsResponse(
                object="list",
                data=[_summary(listed) for listed in page.models],
                ok=True,
                limit=page.limit,
                offset=page.offset,
                total=page.total,
                models=[_model(listed) for listed in page.models],
                catalogues={surface: models_pb2.ModelIds(ids=ids) for surface, ids in page.catalogues.items()},
            )
        )


class ModelsServicer(models_pb2_grpc.ModelsServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, catalogs: CatalogSource, health: HealthView) -> None:
        self._pages = PerCatalog(catalogs, _Pages)
        self._health = health

    async def ListModels(  # type: ignore[override]  # the context is our own
        self, request: models_pb2.ListModelsRequest, context: CallContext
    ) -> models_pb2.ListModelsResponse:
        pages = self._pages.current
        listing = pages.listings.of(context.call.principal.restrictions)
        wanted = listing.read(
            {name: getattr(request, name) for name in FILTERS},
            limit=request.limit if request.HasField("limit") else None,
            offset=request.offset,
        )
        return _unless_held(pages.page(listing, wanted), request.if_none_match)

    async def GetModel(  # type: ignore[override]  # the context is our own
        self, request: models_pb2.GetModelRequest, context: CallContext
    ) -> models_pb2.GetModelResponse:
        listed = self._find(request.model_id, context)
        reply = models_pb2.GetModelResponse(
            id=listed.model.id,
            object="model",
            created=listed.model.created,
            owned_by=listed.organisation_id,
            model=_model(listed),
        )
        return _unless_held(_tagged(reply), request.if_none_match)

    async def ListModelEndpoints(  # type: ignore[override]  # the context is our own
        self, request: models_pb2.ListModelEndpointsRequest, context: CallContext
    ) -> models_pb2.ListModelEndpointsResponse:
        listed = self._find(request.model_id, context)
        model = listed.model
        health = {one.id: one for one in self._health.of_model(model.id)}
        reply = models_pb2.ListModelEndpointsResponse(
            id=model.id,
            object="model",
            created=model.created,
            owned_by=listed.organisation_id,
            name=model.name,
            description=model.description,
            input_types=model.input_types,
            output_types=model.output_types,
            endpoints=[_endpoint(listed, one, health[one.offer.provider.id]) for one in listed.offers],
        )
        return _unless_held(_tagged(reply), request.if_none_match)

    def _find(self, model_id: str, context: CallContext) -> Listed:
        return self._pages.current.listings.of(context.call.principal.restrictions).find(model_id)


def _tagged(reply: _R) -> _R:
    reply.etag = etag_of(reply.SerializeToString(deterministic=True))
    return reply


def _unless_held(reply: _R, if_none_match: str) -> _R:
    return type(reply)(etag=reply.etag, not_modified=True) if holds(if_none_match, reply.etag) else reply


def _summary(listed: Listed) -> models_pb2.ModelSummary:
    model = listed.model
    return models_pb2.ModelSummary(id=model.id, object="model", created=model.created, owned_by=listed.organisation_id)


def _model(listed: Listed) -> models_pb2.Model:
    model = listed.model
    return models_pb2.Model(
        model_id=model.id,
        name=model.name,
        description=model.description,
        organisation_id=listed.organisation_id,
        release_date=model.release_date,
        status=model.status,
        aliases=sorted(model.aliases),
        endpoints=listed.endpoints,
        input_types=model.input_types,
        output_types=model.output_types,
        context_length=model.context_length,
        max_output_tokens=model.max_output_tokens,
        supported_parameters=listed.supported_parameters,
        providers=[_provider(one) for one in listed.offers],
    )


def _provider(listed: ListedOffer) -> models_pb2.ModelProvider:
    offer = listed.offer
    return models_pb2.ModelProvider(
        api_provider_id=offer.provider.id,
        endpoints=listed.endpoints,
        params=listed.params,
        pricing=_prices(offer.prices.rates),
        status=listed.status,
    )


def _endpoint(listed: Listed, one: ListedOffer, health: ProviderHealth) -> models_pb2.ModelEndpoint:
    offer = one.offer
    return models_pb2.ModelEndpoint(
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
        pricing=_prices(offer.prices.rates),
        pricing_tiers=[_tier(tier) for tier in offer.prices.tiers],
        health=encode_provider(health),
    )


def _tier(tier: PriceTier) -> models_pb2.ModelPricingTier:
    return models_pb2.ModelPricingTier(
        input_tokens_above=tier.input_tokens_above or None,
        service_tier=tier.service_tier,
        pricing=_prices(tier.rates),
    )


def _prices(rates: Rates) -> dict[str, str]:
    return {dimension: usd(rate, decimals=2) for dimension, rate in rates.items()}
