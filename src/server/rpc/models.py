"""ModelsService: which models there are, and who serves them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from aistats.gateway.v1 import models_pb2, models_pb2_grpc
from server.domain import limits
from server.domain.catalog import Catalog, Model, Offer
from server.domain.errors import GatewayError, Reason
from server.domain.money import usd
from server.domain.parameters import CANONICAL, PARAMETERS, Parameter
from server.domain.ports import CatalogSource
from server.domain.request import Endpoint
from server.rpc.context import CallContext

__all__ = ["ModelsServicer"]

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 250

SURFACES: Final = ("chat", "responses", "messages", "moderations", "embeddings", "images", "video", "audio")
STATUSES: Final = ("active", "deprecated", "retired")
INPUT_TYPES: Final = ("text", "image", "audio", "file", "video")
OUTPUT_TYPES: Final = ("text", "image", "audio", "video", "embedding")
AVAILABILITIES: Final = ("available", "not_configured")

Facets: TypeAlias = Mapping[str, frozenset[str]]
"""By the name of a filter, the values under which a model is found."""


class Listing(msgspec.Struct, frozen=True):
    """One model, ready to be sent."""

    id: str
    summary: models_pb2.ModelSummary
    model: models_pb2.Model
    facets: Facets


class Listings:
    """All models of one catalogue, ascending by id, and the values that each filter knows."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog: Final = catalog
        self.all: Final = tuple(_listing(catalog.models[id_]) for id_ in sorted(catalog.models))
        self.by_id: Final = {listing.id: listing for listing in self.all}
        self.allowed: Final[Mapping[str, Sequence[str]]] = {
            "include_endpoints": SURFACES,
            "endpoints": SURFACES,
            "organisation": sorted({_organisation(model) for model in catalog.models.values()}),
            "provider": sorted(catalog.providers),
            "status": STATUSES,
            "input_types": INPUT_TYPES,
            "output_types": OUTPUT_TYPES,
            "params": sorted(PARAMETERS),
            "availability": AVAILABILITIES,
        }


class ModelsServicer(models_pb2_grpc.ModelsServiceServicer):
    """What it sends is built once a catalogue."""

    def __init__(self, catalogs: CatalogSource) -> None:
        self._catalogs = catalogs
        self._listings = Listings(catalogs.current)

    async def ListModels(  # type: ignore[override]  # the context is our own
        self, request: models_pb2.ListModelsRequest, context: CallContext
    ) -> models_pb2.ListModelsResponse:
        listings = self._current()
        wanted = {field: _values(request, field, allowed) for field, allowed in listings.allowed.items()}
        limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
        if not 1 <= limit <= MAX_LIMIT:
            raise limits.invalid_value("limit", f"must be from 1 to {MAX_LIMIT}, not {limit}")
        found = [listing for listing in listings.all if _matches(listing, wanted)]
        page = found[request.offset : request.offset + limit]
        return models_pb2.ListModelsResponse(
            object="list",
            data=[listing.summary for listing in page],
            ok=True,
            limit=limit,
            offset=request.offset,
            total=len(found),
            models=[listing.model for listing in page],
            catalogues={
                surface: models_pb2.ModelIds(ids=[one.id for one in found if surface in one.facets["endpoints"]])
                for surface in sorted(wanted["include_endpoints"])
            },
        )

    async def GetModel(  # type: ignore[override]  # the context is our own
        self, request: models_pb2.GetModelRequest, context: CallContext
    ) -> models_pb2.GetModelResponse:
        if not request.model_id:
            raise limits.missing_field("model_id")
        listings = self._current()
        model = listings.catalog.find(request.model_id)
        if model is None:
            shown = request.model_id[: limits.MAX_SHOWN_CHARS]
            raise GatewayError(Reason.UNKNOWN_MODEL, f'There is no model "{shown}" here.', param="model_id")
        listing = listings.by_id[model.id]
        return models_pb2.GetModelResponse(
            id=listing.summary.id,
            object=listing.summary.object,
            created=listing.summary.created,
            owned_by=listing.summary.owned_by,
            model=listing.model,
        )

    def _current(self) -> Listings:
        catalog = self._catalogs.current
        if catalog is not self._listings.catalog:
            self._listings = Listings(catalog)
        return self._listings


def _values(request: models_pb2.ListModelsRequest, field: str, allowed: Sequence[str]) -> frozenset[str]:
    """What one filter asks for; every value of a repeated or comma-separated filter must be one that it knows."""
    texts: Iterable[str] = getattr(request, field)
    values = frozenset(value.strip() for text in texts for value in text.split(",") if value.strip())
    if field == "params":
        values = frozenset(CANONICAL.get(value, value) for value in values)
    for value in sorted(values):
        limits.check_choice(value, allowed, field)
    return values


def _matches(listing: Listing, wanted: Mapping[str, frozenset[str]]) -> bool:
    return all(not values or not values.isdisjoint(listing.facets[field]) for field, values in wanted.items())


def _listing(model: Model) -> Listing:
    full = _encode_model(model)
    endpoints = frozenset(full.endpoints)
    is_available = any(offer.provider.is_configured for offer in model.offers)
    return Listing(
        id=model.id,
        summary=models_pb2.ModelSummary(
            id=model.id, object="model", created=model.created, owned_by=_organisation(model)
        ),
        model=full,
        facets={
            "include_endpoints": endpoints,
            "endpoints": endpoints,
            "organisation": frozenset({_organisation(model)}),
            "provider": frozenset(offer.provider.id for offer in model.offers),
            "status": frozenset({model.status}),
            "input_types": frozenset(model.input_types),
            "output_types": frozenset(model.output_types),
            "params": frozenset(full.supported_parameters),
            "availability": frozenset({"available" if is_available else "not_configured"}),
        },
    )


def _encode_model(model: Model) -> models_pb2.Model:
    providers = [_encode_offer(offer) for offer in model.offers]
    return models_pb2.Model(
        model_id=model.id,
        name=model.name,
        description=model.description,
        organisation_id=_organisation(model),
        release_date=model.release_date,
        status=model.status,
        aliases=sorted(model.aliases),
        endpoints=sorted({endpoint for provider in providers for endpoint in provider.endpoints}),
        input_types=model.input_types,
        output_types=model.output_types,
        context_length=model.context_length,
        max_output_tokens=model.max_output_tokens,
        supported_parameters=sorted({name for provider in providers for name in provider.params}),
        providers=providers,
    )


def _encode_offer(offer: Offer) -> models_pb2.ModelProvider:
    return models_pb2.ModelProvider(
        api_provider_id=offer.provider.id,
        endpoints=sorted(offer.endpoints),
        params=sorted(_parameters(offer)),
        pricing={dimension: usd(rate, decimals=2) for dimension, rate in offer.prices.rates.items()},
        status="active" if offer.provider.is_configured else "not_configured",
    )


def _parameters(offer: Offer) -> Iterable[str]:
    """The parameters that an offer honours, where it says nothing all of those of its endpoints."""
    if offer.params is not None:
        return offer.params
    return [name for name, parameter in PARAMETERS.items() if _belongs_to(parameter, offer.endpoints)]


def _belongs_to(parameter: Parameter, endpoints: frozenset[Endpoint]) -> bool:
    return bool(
        (parameter.chat and Endpoint.CHAT in endpoints)
        or (parameter.responses and Endpoint.RESPONSES in endpoints)
        or (parameter.messages and Endpoint.MESSAGES in endpoints)
    )


def _organisation(model: Model) -> str:
    return model.organisation_id or model.id.partition("/")[0]
