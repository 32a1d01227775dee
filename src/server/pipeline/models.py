"""Which models there are, and who serves them: filtered, paged, one by one. Made once a catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Final, Generic, Literal, TypeAlias, TypeVar

import msgspec

from server.domain import limits
from server.domain.catalog import Catalog, Model, Offer, split_pin
from server.domain.errors import GatewayError, Reason
from server.domain.parameters import CANONICAL, PARAMETERS, Parameter
from server.domain.ports import CatalogSource
from server.domain.request import Endpoint
from server.domain.restrictions import Restrictions

T = TypeVar("T")

MAX_PAGES_KEPT: Final = 16
"""Of each kind, so many pages are kept as they were sent."""
MAX_LISTINGS_KEPT: Final = 16
"""Of a catalogue as keys see it that are held to some of it."""

SURFACES: Final = ("chat", "responses", "messages", "moderations", "embeddings", "images", "video", "audio")
STATUSES: Final = ("active", "deprecated", "retired")
INPUT_TYPES: Final = ("text", "image", "audio", "file", "video")
OUTPUT_TYPES: Final = ("text", "image", "audio", "video", "embedding")
AVAILABILITIES: Final = ("available", "not_configured")
FILTERS: Final = (
    "include_endpoints", "endpoints", "organisation", "provider", "status", "input_types", "output_types", "params",
    "availability",
)  # fmt: skip

_OF_EMBEDDINGS: Final = frozenset({"dimensions", "user"})

Values: TypeAlias = Mapping[str, Sequence[str]]
"""By the name of a filter, what a client wrote for it: each text may hold several values, with commas."""


class ListedOffer(msgspec.Struct, frozen=True):
    """One provider's offer; `params` are canonical names. What it says nothing of itself is the model's."""

    offer: Offer
    endpoints: tuple[str, ...]
    params: tuple[str, ...]
    input_types: tuple[str, ...]
    context_length: int | None
    max_output_tokens: int | None
    status: Literal["active", "not_configured"]


class Listed(msgspec.Struct, frozen=True):
    """One model. `facets` are, by the name of a filter, the values under which it is found."""

    model: Model
    organisation_id: str
    endpoints: tuple[str, ...]
    supported_parameters: tuple[str, ...]
    offers: tuple[ListedOffer, ...]
    facets: Mapping[str, frozenset[str]]


class Wanted(msgspec.Struct, frozen=True):
    """A question that has been checked. `filters` holds those that have values; equal questions are equal."""

    filters: tuple[tuple[str, frozenset[str]], ...]
    limit: int
    offset: int


class Page(msgspec.Struct, frozen=True):
    """`total` counts the models on all pages; `catalogues` are the ids on all pages, by surface."""

    models: tuple[Listed, ...]
    limit: int
    offset: int
    total: int
    catalogues: Mapping[str, tuple[str, ...]]


class Listing:
    """All models of one catalogue, ascending by id."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._all = tuple(_listed(catalog.models[id_]) for id_ in sorted(catalog.models))
        self._by_id = {listed.model.id: listed for listed in self._all}
        self._allowed: Mapping[str, Sequence[str]] = {
            "include_endpoints": SURFACES,
            "endpoints": SURFACES,
            "organisation": sorted({listed.organisation_id for listed in self._all}),
            "provider": sorted(catalog.providers),
            "status": STATUSES,
            "input_types": INPUT_TYPES,
            "output_types": OUTPUT_TYPES,
            "params": sorted(PARAMETERS),
            "availability": AVAILABILITIES,
        }

    def read(self, values: Values, *, limit: int | None, offset: int | None) -> Wanted:
        """Raises GatewayError (`invalid_value`) naming the filter, and all that it knows."""
        limit = limits.page_size(limit)
        read = ((name, self._values(name, values.get(name, ()))) for name in FILTERS)
        return Wanted(tuple((name, wanted) for name, wanted in read if wanted), limit, offset or 0)

    def page(self, wanted: Wanted) -> Page:
        """A model is found by a filter when it has any of its values, and by several when by each of them."""
        found = [listed for listed in self._all if _matches(listed, wanted)]
        surfaces = dict(wanted.filters).get("include_endpoints", frozenset())
        return Page(
            tuple(found[wanted.offset : wanted.offset + wanted.limit]),
            wanted.limit,
            wanted.offset,
            len(found),
            {
                surface: tuple(listed.model.id for listed in found if surface in listed.endpoints)
                for surface in SURFACES
                if surface in surfaces
            },
        )

    def find(self, model_id: str) -> Listed:
        """By id, alias or pin; a pin leaves only its provider's offers. Raises GatewayError (`unknown_model`)."""
        if not model_id:
            raise limits.missing_field("model_id")
        model = self._catalog.find(model_id)
        if model is not None:
            return self._by_id[model.id]
        provider, name = split_pin(model_id)
        model = self._catalog.find(name)
        listed = None if provider is None or model is None else self._by_id[model.id]
        offers = () if listed is None else tuple(one for one in listed.offers if one.offer.provider.id == provider)
        if listed is None or not offers:
            shown = model_id[: limits.MAX_SHOWN_CHARS]
            raise GatewayError(Reason.UNKNOWN_MODEL, f'There is no model "{shown}" here.', param="model_id")
        return msgspec.structs.replace(listed, offers=offers)

    def _values(self, name: str, texts: Iterable[str]) -> frozenset[str]:
        values = frozenset(value.strip() for text in texts for value in text.split(",") if value.strip())
        if name == "params":
            values = frozenset(CANONICAL.get(value, value) for value in values)
        for value in sorted(values):
            limits.check_choice(value, self._allowed[name], name)
        return values


class Listings:
    """The models of one catalogue, as keys see them: one that is held to models or providers sees no others."""

    def __init__(self, catalog: Catalog) -> None:
        self._held = lru_cache(MAX_LISTINGS_KEPT)(lambda held_to: Listing(_within(catalog, held_to)))
        self._all = Listing(catalog)

    def of(self, held_to: Restrictions) -> Listing:
        if held_to.models is held_to.providers is None:
            return self._all
        return self._held(msgspec.structs.replace(held_to, cidrs=None))


class PerCatalog(Generic[T]):
    """What is made of a catalogue, once for each."""

    def __init__(self, catalogs: CatalogSource, make: Callable[[Catalog], T]) -> None:
        self._catalogs = catalogs
        self._make = make
        self._catalog = catalogs.current
        self._made = make(self._catalog)

    @property
    def current(self) -> T:
        catalog = self._catalogs.current
        if catalog is not self._catalog:
            self._made, self._catalog = self._make(catalog), catalog
        return self._made


def _within(catalog: Catalog, held_to: Restrictions) -> Catalog:
    models = {}
    for id_, model in catalog.models.items():
        offers = tuple(offer for offer in model.offers if held_to.allows_provider(offer.provider.id))
        if offers and held_to.allows_model(model):
            models[id_] = msgspec.structs.replace(model, offers=offers)
    return msgspec.structs.replace(catalog, models=models)


def _matches(listed: Listed, wanted: Wanted) -> bool:
    return all(not values.isdisjoint(listed.facets[name]) for name, values in wanted.filters)


def _listed(model: Model) -> Listed:
    offers = tuple(_listed_offer(model, offer) for offer in model.offers)
    organisation = model.organisation_id or model.id.partition("/")[0]
    endpoints = frozenset(endpoint for offer in offers for endpoint in offer.endpoints)
    params = frozenset(name for offer in offers for name in offer.params)
    is_available = any(offer.status == "active" for offer in offers)
    return Listed(
        model=model,
        organisation_id=organisation,
        endpoints=tuple(sorted(endpoints)),
        supported_parameters=tuple(sorted(params)),
        offers=offers,
        facets={
            "include_endpoints": endpoints,
            "endpoints": endpoints,
            "organisation": frozenset({organisation}),
            "provider": frozenset(offer.offer.provider.id for offer in offers),
            "status": frozenset({model.status}),
            "input_types": frozenset(model.input_types),
            "output_types": frozenset(model.output_types),
            "params": params,
            "availability": frozenset({"available" if is_available else "not_configured"}),
        },
    )


def _listed_offer(model: Model, offer: Offer) -> ListedOffer:
    taken = model.input_types if offer.input_types is None else offer.input_types
    return ListedOffer(
        offer,
        endpoints=tuple(sorted(endpoint.value for endpoint in offer.endpoints)),
        params=_all_parameters(offer.endpoints) if offer.params is None else tuple(sorted(offer.params)),
        input_types=tuple(kind for kind in INPUT_TYPES if kind in taken),
        context_length=offer.context_length or model.context_length,
        max_output_tokens=offer.max_output_tokens or model.max_output_tokens,
        status="active" if offer.provider.is_configured else "not_configured",
    )


@cache
def _all_parameters(endpoints: frozenset[Endpoint]) -> tuple[str, ...]:
    """Those of an offer that says nothing of its own: all of its endpoints."""
    return tuple(sorted(name for name, parameter in PARAMETERS.items() if _belongs_to(parameter, endpoints)))


def _belongs_to(parameter: Parameter, endpoints: frozenset[Endpoint]) -> bool:
    return bool(
        (parameter.chat and Endpoint.CHAT in endpoints)
        or (parameter.responses and Endpoint.RESPONSES in endpoints)
        or (parameter.messages and Endpoint.MESSAGES in endpoints)
        or (parameter.name in _OF_EMBEDDINGS and Endpoint.EMBEDDINGS in endpoints)
    )
