"""Ranks what the hard filters left by how it stands now: a `server.domain.routing.Ranker`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from server.domain.request import Endpoint, Request
from server.domain.routing import Candidate, Route
from server.domain.trace import Affinity, Choice, TracedCandidate
from server.domain.usage import RoutingRow
from server.pipeline.health.offers import Health
from server.pipeline.health.rank import Ranked, last_resorts, rank
from server.pipeline.health.standing import RouteKey

_DIGITS = 4


class RankByHealth:
    def __init__(self, health: Health) -> None:
        self._health = health

    def __call__(self, found: Sequence[Candidate], request: Request) -> Route:
        """As `rank` says; those with an open breaker come after all others."""
        standings = self._health.standings([route_key(candidate, request.endpoint) for candidate in found])
        ranking = rank(
            found,
            standings,
            request.routing,
            self._health.draw,
            streamed=request.stream,
            affinity=_affinity(request)[1],
        )
        order, avoided = ranking.order, ranking.avoided
        if avoided:
            resorts = last_resorts(avoided, self._health.draw)
            if not (order or resorts):  # nobody to call: who may be called first answers for all
                resorts = [min(avoided, key=lambda one: one.standing.retry_s)]
            order = (*order, *resorts)
            avoided = tuple(ranked for ranked in avoided if ranked not in resorts)
        return Route(
            tuple([ranked.candidate for ranked in order]),
            tuple([_row(ranked) for ranked in avoided]),
            order,
            len(ranking.order),
            is_only=len(found) == 1,
            choice=_choice((*order, *avoided), request) if request.trace else None,
        )


def choices(route: Route, tried: Callable[[], int]) -> Iterator[tuple[Candidate, bool]]:
    """Candidates to try, one after another, and whether as a last resort; of those there is one at most."""
    usual = route.candidates[: route.resorts_from]
    yield from ((candidate, False) for candidate in usual)
    resorts = route.candidates[route.resorts_from :]
    if resorts:
        yield resorts[0], True
    elif not tried():  # whoever was free to be probed no longer is
        yield usual[0], True


def route_key(candidate: Candidate, endpoint: Endpoint) -> RouteKey:
    return RouteKey(candidate.offer.provider.id, candidate.model.id, endpoint)


def _affinity(request: Request) -> tuple[Affinity | None, str | None]:
    """What ties requests together that would profit from one provider's cache, by its name and value."""
    if request.routing.session_id:
        return "session_id", request.routing.session_id
    key = request.passthrough.get("prompt_cache_key")
    return (None, None) if key is None else ("prompt_cache_key", bytes(key).decode("utf-8", "replace"))


def _choice(ranked: Sequence[Ranked], request: Request) -> Choice:
    traced = tuple(_traced(one, request.stream) for one in ranked)
    return Choice(request.routing.sort or "balanced", _affinity(request)[0], traced)


def _traced(one: Ranked, streamed: bool) -> TracedCandidate:
    candidate, standing = one.candidate, one.standing
    latency_ms = standing.first_token_ms if streamed else standing.answer_ms
    return TracedCandidate(
        provider=candidate.offer.provider.id,
        model=candidate.model.id,
        provider_model=candidate.offer.provider_model,
        score=round(one.score, _DIGITS),
        breaker=one.breaker,
        reason=one.reason,
        chance=None if one.chance is None else round(one.chance, _DIGITS),
        health=round(standing.score, _DIGITS),
        latency_ms=None if latency_ms is None else round(latency_ms, _DIGITS),
        throughput_tps=None if standing.throughput_tps is None else round(standing.throughput_tps, _DIGITS),
        in_flight=standing.in_flight,
        price_nanos=candidate.offer.prices.compared,
    )


def _row(ranked: Ranked) -> RoutingRow:
    outcome = f"avoided: {ranked.reason}" if ranked.reason else "avoided"
    return RoutingRow(ranked.candidate.offer.provider.id, outcome, 0.0, ranked.breaker)
