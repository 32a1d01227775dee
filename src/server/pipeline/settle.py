"""What a generation comes to in the end: who served it, what it used, how long it took."""

from __future__ import annotations

from collections.abc import Sequence

from server.domain.events import Settled
from server.domain.identity import Arrival
from server.domain.request import GenerationRequest
from server.domain.routing import Route
from server.domain.usage import Meta, RoutingRow, Usage
from server.pipeline.attempt import Attempt
from server.pipeline.counting import count_prompt

_MS = 1000.0
_DIGITS = 3


def settled(
    arrival: Arrival,
    request: GenerationRequest,
    route: Route,
    attempts: Sequence[Attempt],
    waited_s: float,
    idle_s: float,
) -> Settled:
    """The account of a generation whose last attempt succeeded.

    `waited_s` is the time spent waiting for providers, `idle_s` for the client to take what was relayed; the rest
    of the time since arrival is the gateway's own.
    """
    served = attempts[-1]
    ended_s = served.ended_s or served.dispatched_s
    usage = served.usage or _counted(request, served)
    generation_s = ended_s - served.dispatched_s
    meta = Meta(
        provider=served.candidate.offer.provider.id,
        provider_model=served.started.provider_model or served.candidate.offer.provider_model,
        native_response_id=served.started.native_response_id,
        latency_ms=_ms((served.first_s or ended_s) - served.dispatched_s),
        generation_ms=_ms(generation_s),
        throughput_tps=round(usage.output_tokens / generation_s, _DIGITS) if generation_s > 0 else 0.0,
        gateway_ms=_ms(max(0.0, ended_s - arrival.received_s - waited_s - idle_s)),
        attempts=len(attempts),
        routing=(*_rows(route, attempts), *route.rejected),
    )
    return Settled(usage, meta, served.service_tier)


def _counted(request: GenerationRequest, attempt: Attempt) -> Usage:
    return Usage(input_tokens=count_prompt(request), output_tokens=attempt.relayed.tokens, source="counted")


def _rows(route: Route, attempts: Sequence[Attempt]) -> list[RoutingRow]:
    rows = []
    for position, candidate in enumerate(route.candidates):
        if position >= len(attempts):
            outcome = "not_needed"
        else:
            failure = attempts[position].failure
            outcome = f"failed: {failure.category.value}" if failure else "chosen"
        rows.append(RoutingRow(candidate.offer.provider.id, outcome, score=1.0 - position / len(route.candidates)))
    return rows


def _ms(seconds: float) -> float:
    return round(seconds * _MS, _DIGITS)
