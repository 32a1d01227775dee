"""How a generation is made, from the call to the account of it. The whole story is `Generator.__call__`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from server.domain.catalog import Dialect
from server.domain.events import GenerationStream
from server.domain.identity import Call
from server.domain.ports import CatalogSource, Clock, ProviderAdapter
from server.domain.request import GenerationRequest
from server.pipeline.admit import admit
from server.pipeline.attempt import Attempts, TimeLimits
from server.pipeline.pseudonyms import pseudonymised
from server.pipeline.route import candidates
from server.pipeline.settle import settled
from server.pipeline.shutdown import Shutdown
from server.pipeline.tenancy import refuse_shared_ids

MAX_STREAM_S: Final = 3600.0
"""A stream that keeps talking may go on for so long."""


class Generator:
    """Implements `server.domain.ports.Generate`."""

    def __init__(
        self,
        catalog: CatalogSource,
        adapters: Mapping[Dialect, ProviderAdapter],
        clock: Clock,
        shutdown: Shutdown,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._clock = clock
        self._shutdown = shutdown

    async def __call__(self, call: Call, request: GenerationRequest) -> GenerationStream:
        """Route, admit, attempt, settle."""
        catalog = self._catalog.current
        refuse_shared_ids(request)
        route = candidates(catalog, request, self._adapters)
        request = pseudonymised(request, call.principal.team_id)
        limits = self._limits(call, catalog.routing.timeout_s)
        idle_s = 0.0

        async with await admit(call, request, route) as reservation:
            attempts = Attempts(self._adapters, catalog.routing, self._clock, self._shutdown)
            async with aclosing(attempts.run(route, request, limits)) as batches:
                async for batch in batches:
                    relayed_s = self._clock.monotonic()
                    yield batch
                    idle_s += self._clock.monotonic() - relayed_s
            account = settled(call.arrival, request, route, attempts.made, attempts.waited_s, idle_s)
            await reservation.settle(account)
        yield (account,)

    def _limits(self, call: Call, timeout_s: float) -> TimeLimits:
        now_s, deadline_s = self._clock.monotonic(), call.arrival.deadline_s
        last_s = math.inf if deadline_s is None else deadline_s
        return TimeLimits(min(now_s + timeout_s, last_s), min(now_s + MAX_STREAM_S, last_s))
