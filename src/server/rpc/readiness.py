"""Which services can do their work now, for `grpc.health.v1`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from server.domain.catalog import Catalog
from server.domain.request import Endpoint
from server.rpc.registry import ENDPOINTS

__all__ = ["endpoints_served", "is_ready"]

_GENERATING: Final = {name.rpartition("/")[0].removeprefix("/"): endpoint for name, endpoint in ENDPOINTS.items()}
_ALWAYS: Final = frozenset({"aistats.gateway.v1.HealthService", "aistats.gateway.v1.DescriptionRestService"})
"""They have methods that need nothing."""


def is_ready(service: str, endpoints: Collection[Endpoint], *, has_database: bool) -> bool:
    """`endpoints` are those of `endpoints_served`. A REST face is as ready as the service that it is a face of.

    Every service needs the database: the key of each call is looked up there, and what is charged is written there.
    One that generates needs a provider as well.
    """
    if service in _ALWAYS:
        return True
    endpoint = _GENERATING.get(service.replace("RestService", "Service"))
    return has_database and (endpoint is None or endpoint in endpoints)


def endpoints_served(catalog: Catalog, drained: Collection[str]) -> frozenset[Endpoint]:
    """Those for which any model has a provider that is configured and in service; how well it is does not matter."""
    return frozenset(
        endpoint
        for model in catalog.models.values()
        if model.status != "retired"
        for offer in model.offers
        if offer.provider.is_configured and offer.provider.id not in drained
        for endpoint in offer.endpoints
    )
