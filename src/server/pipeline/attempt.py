"""Calls candidates one after another until one shows output; after that there is no going back.

Everything that a candidate says before its first visible output is held, so that a failure up to there leaves no trace
with the client and the next candidate starts afresh.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import structlog

from server.domain.audio import Transcript
from server.domain.catalog import Dialect, Routing
from server.domain.errors import AttemptFailure, FailureCategory, ProviderFailure
from server.domain.events import (
    AudioDelta,
    ChoiceEnded,
    Completed,
    FinishReason,
    ImagePartial,
    OpaqueItem,
    Produced,
    ProviderEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
    is_visible,
)
from server.domain.ports import Clock, ProviderAdapter
from server.domain.routing import Candidate, Route
from server.domain.tokens import TokenCounter
from server.domain.usage import Usage
from server.domain.work import LATE, Work
from server.pipeline.failures import exhausted, interrupted, unavailable
from server.pipeline.fit import longer_than
from server.pipeline.health.offers import Health, Watch
from server.pipeline.health.router import choices, route_key
from server.pipeline.hedge import may_hedge, race
from server.pipeline.patience import Patience
from server.pipeline.shutdown import Shutdown
from server.pipeline.units import is_search, produced_units

_log: Final = structlog.get_logger(__name__)

MAX_WORDLESS_S: Final = 600.0
"""A provider that only says that it is alive, in the middle of a stream, is believed for so long."""
FAIR_SHARE: Final = 0.5
"""A provider is to blame for a timeout if it had at least this much of the usual time: a caller's haste is its own."""


class Attempt:
    """One call of one provider, as it goes: what it said, used and took. Times are the clock's monotonic seconds."""

    def __init__(self, candidate: Candidate, dispatched_s: float) -> None:
        self.candidate = candidate
        self.dispatched_s = dispatched_s
        self.first_s: float | None = None
        self.spoke_s = dispatched_s
        self.ended_s: float | None = None
        self.started = Started()
        self.usage: Usage | None = None
        self.usage_is_current = False
        self.service_tier: str | None = None
        self.finish_reason: FinishReason | None = None
        self.relayed = TokenCounter()
        self.failure: AttemptFailure | None = None
        self.has_produced = False
        self.sound_bytes = 0
        self.units: Mapping[str, int] = {}
        self.is_complete = False
        self.is_rushed = False
        self.is_outrun = False
        self._held: list[ProviderEvent] = []

    @property
    def provider_request_id(self) -> str | None:
        """What the provider calls it, where it says so."""
        return self.started.request_id or (None if self.failure is None else self.failure.request_id)

    def take(self, batch: Sequence[ProviderEvent], now_s: float) -> Sequence[ProviderEvent]:
        """What may be shown once `batch` is there: nothing up to the first visible event, then all that was held."""
        if batch:
            self.spoke_s = now_s
        for event in batch:
            self.observe(event)
        if self.first_s is not None:
            return batch
        self._held.extend(batch)
        if not (self.is_complete or any(map(is_visible, batch))):
            return ()
        self.first_s = now_s
        held, self._held = self._held, []
        return held

    def observe(self, event: ProviderEvent) -> None:
        match event:
            case TextDelta() | ReasoningDelta():
                self.relayed.add(event.text)
                self.usage_is_current = False
            case ToolCallDelta():
                self.relayed.add(event.arguments)
                self.usage_is_current = False
            case Started():
                self.started = event
            case ChoiceEnded():
                self.finish_reason = self.finish_reason or event.reason
            case UsageReported():
                self.usage = event.usage
                self.usage_is_current = True
                self.service_tier = event.service_tier or self.service_tier
            case Produced():
                self.has_produced = True
                self.units = produced_units(event.result)
                if isinstance(event.result, Transcript) and not self.relayed.tokens:
                    self.relayed.add(event.result.text)
            case AudioDelta():
                self.has_produced = True
                self.sound_bytes += len(event.data)
            case ImagePartial():
                self.has_produced = True
                self.units = {"output_image": max(event.index + 1, self.units.get("output_image", 0))}
            case OpaqueItem():
                self.has_produced = True
                if is_search(event.item):
                    self.units = {"web_searches": self.units.get("web_searches", 0) + 1}
            case Completed():
                self.is_complete = True
            case _:
                pass


class TimeLimits(msgspec.Struct, frozen=True):
    """When a request must be over, in the clock's monotonic seconds.

    `answer_by_s`: a whole answer must be there, or a stream must have shown something. `end_by_s`: a stream that goes
    on must have ended.
    """

    answer_by_s: float
    end_by_s: float


class _Call(NamedTuple):
    """An attempt under way; `batches` is what it has to show, and raises ProviderFailure."""

    attempt: Attempt
    watch: Watch
    batches: AsyncGenerator[Sequence[ProviderEvent], None]


class Attempts:
    """All attempts of one request. `made` is their record; the one that was served, or failed last, is the last of it.

    `waited_s` is the time spent waiting for providers.
    """

    def __init__(
        self,
        adapters: Mapping[Dialect, ProviderAdapter],
        routing: Routing,
        clock: Clock,
        shutdown: Shutdown,
        health: Health,
    ) -> None:
        self._adapters = adapters
        self._routing = routing
        self._clock = clock
        self._shutdown = shutdown
        self._health = health
        self._watches: list[Watch] = []
        self._has_hedged = False
        self.made: list[Attempt] = []
        self.waited_s = 0.0

    async def run(
        self, route: Route, request: Work, limits: TimeLimits
    ) -> AsyncGenerator[Sequence[ProviderEvent], None]:
        """The events of the first candidate that shows output; raises GatewayError where none does or it breaks.

        A candidate whose breaker lets nothing through by now is left out, and where the prompt was too long for one,
        those with no longer context.
        """
        limit = self._routing.max_attempts if request.routing.allow_fallbacks else 1
        hedges, too_short = may_hedge(route, request, self._routing), 0
        try:
            for candidate, last_resort in choices(route, self.made.__len__):
                if too_short and (candidate.offer.context_length or 0) <= too_short:
                    continue
                call = self._begin(candidate, route, request, limits, last_resort=last_resort)
                if call is None:
                    continue
                try:
                    shown: Sequence[ProviderEvent] = ()
                    if hedges and not self._has_hedged and len(self.made) < limit:
                        call, shown = await self._first_to_show(call, route, request, limits)
                    if shown:
                        yield shown
                    async for ready in call.batches:
                        yield ready
                    return
                except ProviderFailure as failure:
                    last = self.made[-1]
                    if last.first_s is not None:
                        raise interrupted(self._failures()) from failure
                    is_late = self._clock.monotonic() >= limits.answer_by_s
                    longer = longer_than(route, last.candidate, failure.category)
                    too_short = longer or too_short
                    if (failure.is_final and not longer) or is_late or len(self.made) >= limit:
                        break
                finally:
                    await call.batches.aclose()
        finally:
            for watch in self._watches:
                watch.dropped()
        if not self.made:
            raise unavailable(self._retry_after_s(route, request))
        raise exhausted(self._failures())

    def _begin(
        self,
        candidate: Candidate,
        route: Route,
        request: Work,
        limits: TimeLimits,
        *,
        last_resort: bool = False,
    ) -> _Call | None:
        """None where it was called already, or its breaker lets nothing through."""
        if self.made and any(attempt.candidate is candidate for attempt in self.made):
            return None
        key = route_key(candidate, request.endpoint)
        watch = self._health.start(key, last_resort=last_resort, is_only=route.is_only)
        if watch is None:
            return None
        attempt = Attempt(candidate, self._clock.monotonic())
        self.made.append(attempt)
        self._watches.append(watch)
        return _Call(attempt, watch, self._batches(attempt, watch, request, limits))

    async def _batches(
        self, attempt: Attempt, watch: Watch, request: Work, limits: TimeLimits
    ) -> AsyncGenerator[Sequence[ProviderEvent], None]:
        """What one candidate has to show. Raises ProviderFailure, GatewayError (the gateway is stopping)."""
        offer, patience = attempt.candidate.offer, Patience()
        try:
            batches = self._adapters[offer.provider.dialect].stream(offer, request)
            self._shutdown.watch(patience)
            try:
                while (batch := await self._next(batches, attempt, request, limits, patience)) is not None:
                    was_silent = attempt.first_s is None
                    if ready := attempt.take(batch, self._clock.monotonic()):
                        if was_silent:
                            watch.told(attempt.started.headroom)
                            watch.shown()
                        yield ready
            finally:
                self._shutdown.drop(patience)
                await batches.aclose()
            if not attempt.is_complete:
                raise ProviderFailure(FailureCategory.CONNECTION)
        except ProviderFailure as failure:
            attempt.failure = _recorded(attempt.candidate, failure)
            watch.told(failure.headroom)
            if not attempt.is_rushed:
                watch.failed(failure.category, failure.retry_after_s, of_model=failure.is_of_model)
            raise
        else:
            _succeeded(watch, attempt, request, self._clock.monotonic())
        finally:
            attempt.ended_s = self._clock.monotonic()
            watch.dropped()
            _log_end(attempt)

    async def _first_to_show(
        self, slow: _Call, route: Route, request: Work, limits: TimeLimits
    ) -> tuple[_Call, Sequence[ProviderEvent]]:
        """`slow`, or who was called beside it where it showed nothing for a while; and what that has shown.

        Raises ProviderFailure where neither has anything to show.
        """

        def other() -> _Call | None:
            """The next best of another provider."""
            provider_id = slow.attempt.candidate.offer.provider.id
            others = (one for one in route.candidates[: route.resorts_from] if one.offer.provider.id != provider_id)
            begun = next(filter(None, (self._begin(one, route, request, limits) for one in others)), None)
            self._has_hedged = begun is not None
            return begun

        def outrun(call: _Call) -> None:
            call.attempt.is_outrun = True
            if call is slow:
                call.watch.outrun((self._clock.monotonic() - call.attempt.dispatched_s) * 1000.0)

        began_s, waited_s = self._clock.monotonic(), self.waited_s
        after_s = self._routing.hedge_after_s
        assert after_s is not None, "who may hedge knows when"
        try:
            finish = await race(slow, after_s, other, outrun)
        finally:
            self.waited_s = waited_s + self._clock.monotonic() - began_s
        self.made.remove(finish.first.attempt)
        self.made.append(finish.first.attempt)
        if finish.failure is not None:
            raise finish.failure
        return finish.first, finish.shown

    async def _next(
        self,
        batches: AsyncGenerator[Sequence[ProviderEvent], None],
        attempt: Attempt,
        request: Work,
        limits: TimeLimits,
        patience: Patience,
    ) -> Sequence[ProviderEvent] | None:
        """The next batch, None at the end. Raises ProviderFailure (timeout), GatewayError (the gateway is stopping)."""
        self._shutdown.check()
        asked_s = self._clock.monotonic()
        if attempt.first_s is not None:
            since_s, usual_s = asked_s, self._routing.idle_timeout_s
            due_s = min(since_s + usual_s, attempt.spoke_s + MAX_WORDLESS_S, limits.end_by_s)
        elif request.stream and not isinstance(request, LATE):
            since_s, usual_s = attempt.dispatched_s, self._routing.first_byte_timeout_s
            due_s = min(since_s + usual_s, limits.answer_by_s)
        else:  # a whole answer's first byte comes when all of it has been generated
            since_s, usual_s = attempt.dispatched_s, self._routing.timeout_s
            due_s = limits.answer_by_s
        try:
            with patience.lasting(max(0.0, due_s - asked_s)):
                return await anext(batches, None)
        except TimeoutError:
            self._shutdown.check()
            attempt.is_rushed = due_s - since_s < FAIR_SHARE * usual_s
            raise ProviderFailure(FailureCategory.TIMEOUT) from None
        finally:
            self.waited_s += self._clock.monotonic() - asked_s

    def _failures(self) -> tuple[AttemptFailure, ...]:
        return tuple(attempt.failure for attempt in self.made if attempt.failure)

    def _retry_after_s(self, route: Route, request: Work) -> float:
        return self._health.retry_after_s(route_key(candidate, request.endpoint) for candidate in route.candidates)


def _succeeded(watch: Watch, attempt: Attempt, request: Work, now_s: float) -> None:
    shown_s = now_s if attempt.first_s is None else attempt.first_s
    watch.succeeded(
        streamed=request.stream,
        latency_ms=(shown_s - attempt.dispatched_s) * 1000.0,
        tokens=attempt.relayed.tokens if attempt.usage is None else attempt.usage.output_tokens,
        took_s=now_s - attempt.dispatched_s,
    )


def _log_end(attempt: Attempt) -> None:
    """One line an attempt: a failed one for everybody, any other for who looks closely."""
    offer, failure = attempt.candidate.offer, attempt.failure
    told = {"provider": offer.provider.id, "provider_request_id": attempt.provider_request_id}
    if failure is not None:
        _log.info("attempt_failed", category=failure.category.value, status=failure.status, **told)
    else:
        _log.debug("attempt_ended", is_complete=attempt.is_complete, **told)


def _recorded(candidate: Candidate, failure: ProviderFailure) -> AttemptFailure:
    return AttemptFailure(
        provider=candidate.offer.provider.id,
        category=failure.category,
        status=failure.status,
        upstream=failure.upstream,
        retry_after_s=failure.retry_after_s,
        request_id=failure.request_id,
    )
