"""How a generation is made, from the call to the account of it. The whole story is `Generator._generate`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping
from typing import Final

import structlog

from server.domain.catalog import Dialect, Routing
from server.domain.errors import GatewayError
from server.domain.events import GenerationStream
from server.domain.fold import Fold
from server.domain.identity import Call
from server.domain.ledger import Ledger, Settlement
from server.domain.ports import CatalogSource, Clock, ProviderAdapter
from server.domain.routing import Route
from server.domain.work import Work
from server.pipeline.admit import admit, is_billable
from server.pipeline.attempt import Attempts, TimeLimits
from server.pipeline.drain import Drains, wants_drain
from server.pipeline.health.offers import Health
from server.pipeline.health.router import RankByHealth
from server.pipeline.hedge import may_hedge
from server.pipeline.pseudonyms import pseudonymised
from server.pipeline.route import candidates
from server.pipeline.settle import Account
from server.pipeline.shutdown import Shutdown
from server.pipeline.tenancy import refuse_shared_ids

MAX_STREAM_S: Final = 3600.0
"""A stream that keeps talking may go on for so long."""
RECORD_WAIT_S: Final = 2.0
"""A request that is free, or failed, waits so long for its record: the database may be away."""

_log: Final = structlog.get_logger(__name__)


class Generator:
    """Implements `server.domain.ports.Generate`."""

    def __init__(
        self,
        catalog: CatalogSource,
        adapters: Mapping[Dialect, ProviderAdapter],
        ledger: Ledger,
        clock: Clock,
        shutdown: Shutdown,
        drains: Drains,
        health: Health,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._ledger = ledger
        self._clock = clock
        self._shutdown = shutdown
        self._drains = drains
        self._health = health
        self._rank = RankByHealth(health)

    def __call__(self, call: Call, request: Work) -> GenerationStream:
        """As the port says; a request that no provider can serve is refused here and now."""
        catalog = self._catalog.current
        refuse_shared_ids(request)
        policy, held_to = call.principal.policy, call.principal.restrictions
        route = candidates(catalog, request, self._adapters, self._rank, self._health.drained, policy, held_to)
        request = pseudonymised(request, call.principal.team_id)
        stream = self._generate(call, request, route, catalog.routing)
        if call.progress.defers or not wants_drain(call, route):  # who defers stays to the end
            return stream
        return self._drains.detached(stream, call.progress)

    async def _generate(self, call: Call, request: Work, route: Route, routing: Routing) -> GenerationStream:
        """Admit, attempt, settle; whatever ends it is settled once."""
        limits = self._limits(call, routing.timeout_s)
        held = is_billable(route)
        attempts = Attempts(self._adapters, routing, self._clock, self._shutdown, self._health)
        transcript = Fold() if call.principal.policy.store_content else None
        admitted, idle_s = not held, 0.0

        def account(ending: BaseException | None) -> Account:
            return Account(call, request, route, attempts.made, ending, waited_s=attempts.waited_s, idle_s=idle_s)

        try:
            if held:
                at_once = 2 if may_hedge(route, request, routing) else 1
                await admit(self._ledger, call, request, route, at_once=at_once)
                admitted = True
            batches = attempts.run(route, request, limits)
            try:
                async for batch in batches:
                    if transcript is not None:
                        transcript.add(batch)
                    relayed_s = self._clock.monotonic()
                    yield batch
                    idle_s += self._clock.monotonic() - relayed_s
                    if call.progress.is_cut:
                        break
            finally:
                await batches.aclose()
        except Exception as failure:
            if admitted:
                await self._settle(call, account(failure).settlement(held, transcript))
            raise
        except BaseException as departure:  # the client has gone; what was about to be held is voided as well
            self._hand_over(call, account(departure).settlement(held, transcript))
            raise
        final = account(None)
        await self._settle(call, final.settlement(held, transcript))
        yield (final.settled(),)

    async def _settle(self, call: Call, settlement: Settlement) -> None:
        """Durable when this returns; but what charges nothing, or failed, is answered without after a while."""
        done = self._hand_over(call, settlement)
        if done is None:
            return
        if settlement.charge_nanos is not None and settlement.record.success:
            await done
            return
        try:
            async with asyncio.timeout(RECORD_WAIT_S):
                await done
        except TimeoutError:
            _log.warning("record_late", generation_id=settlement.record.id)
        except GatewayError as error:
            _log.warning("record_lost", generation_id=settlement.record.id, reason=error.reason.value)

    def _hand_over(self, call: Call, settlement: Settlement) -> Awaitable[None] | None:
        """Give the settlement to whoever commits it: the ledger, unless the call's carrier does so with the outcome."""
        call.progress.settlement = settlement
        return None if call.progress.defers else self._ledger.settle(settlement)

    def _limits(self, call: Call, timeout_s: float) -> TimeLimits:
        now_s, deadline_s = self._clock.monotonic(), call.arrival.deadline_s
        last_s = math.inf if deadline_s is None else deadline_s
        return TimeLimits(min(now_s + timeout_s, last_s), min(now_s + MAX_STREAM_S, last_s))
