"""Moderation: verdicts on content, by the same way through the pipeline as everything else."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Catalog, Model
from server.domain.errors import GatewayError, Reason, internal_error
from server.domain.events import Settled
from server.domain.identity import Call
from server.domain.moderation import ModerationRequest, Moderations, Verdict
from server.domain.ports import CatalogSource, Generate
from server.domain.request import Endpoint
from server.pipeline.produce import produce

__all__ = ["Judged", "Moderate"]

EMBEDDED: Final = "local/"
"""How the ids of models begin that come with the gateway."""


class Judged(msgspec.Struct, frozen=True):
    """`model` is the one that was asked for, or chosen."""

    model: str
    verdicts: tuple[Verdict, ...]
    settled: Settled


class Moderate:
    """Judges content. A request may leave its model empty: then one is chosen that works here."""

    def __init__(self, generate: Generate, catalog: CatalogSource) -> None:
        self._generate = generate
        self._catalog = catalog

    async def __call__(self, call: Call, request: ModerationRequest) -> Judged:
        """Raises GatewayError."""
        request = self._with_model(request)
        result, settled = await produce(self._generate, call, request, Moderations)
        if len(result.verdicts) != len(request.inputs):
            raise internal_error()
        return Judged(request.model, result.verdicts, settled)

    async def check(self, call: Call, request: ModerationRequest) -> None:
        """Raise GatewayError where nobody can serve such a request; nobody is asked."""
        await self._generate(call, self._with_model(request)).aclose()

    def _with_model(self, request: ModerationRequest) -> ModerationRequest:
        return request if request.model else replace(request, model=chosen_model(self._catalog.current))


def chosen_model(catalog: Catalog) -> str:
    """The first in the catalogue whose provider is set up; what comes with the gateway counts after all others.

    Raises GatewayError where there is none.
    """
    found = [model.id for model in catalog.models.values() if _works(model)]
    if not found:
        text = "No provider of a moderation model is set up here: name one in `model` to learn what it needs."
        raise GatewayError(Reason.UNSUPPORTED_ENDPOINT, text, param="model")
    return min(found, key=lambda model_id: model_id.startswith(EMBEDDED))


def _works(model: Model) -> bool:
    return model.status == "active" and any(
        offer.provider.is_configured and Endpoint.MODERATIONS in offer.endpoints for offer in model.offers
    )
