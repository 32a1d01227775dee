"""How many tokens a prompt comes to, without a provider being asked."""

from __future__ import annotations

from collections.abc import Mapping

from server.domain.catalog import Dialect
from server.domain.errors import GatewayError, Reason
from server.domain.ports import CatalogSource, ProviderAdapter
from server.domain.request import GenerationRequest
from server.pipeline.admit import estimate_prompt
from server.pipeline.route import candidates
from server.pipeline.tenancy import refuse_shared_ids

__all__ = ["TokenEstimate"]


class TokenEstimate:
    """Implements `server.domain.ports.CountTokens`, with the estimate that credit is reserved by."""

    def __init__(self, catalog: CatalogSource, adapters: Mapping[Dialect, ProviderAdapter]) -> None:
        self._catalog = catalog
        self._adapters = adapters

    def __call__(self, request: GenerationRequest) -> int:
        refuse_shared_ids(request)
        try:
            candidates(self._catalog.current, request, self._adapters)
        except GatewayError as error:
            if error.reason is not Reason.CONTEXT_LENGTH_EXCEEDED:  # who asks wants to know how long it is
                raise
        return estimate_prompt(request)
