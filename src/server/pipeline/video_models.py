"""The models that make videos, as the caller's key sees them, and what each of their providers can make."""

from __future__ import annotations

from server.domain.identity import Principal
from server.domain.limits import MAX_PAGE
from server.domain.ports import CatalogSource
from server.domain.request import Endpoint
from server.pipeline.models import Listed, Listings, PerCatalog, Wanted

__all__ = ["VideoModels"]

_WANTED = Wanted((("endpoints", frozenset({Endpoint.VIDEO.value})),), MAX_PAGE, 0)


class VideoModels:
    """All of them, ascending by id; there is no second page."""

    def __init__(self, catalogs: CatalogSource) -> None:
        self._listings = PerCatalog(catalogs, Listings)

    def __call__(self, principal: Principal) -> tuple[Listed, ...]:
        return self._listings.current.of(principal.restrictions).page(_WANTED).models
