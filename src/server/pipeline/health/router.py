"""Ranks what the hard filters left by how it stands now: a `server.domain.routing.Ranker`."""

from __future__ import annotations

from collections.abc import Sequence

from server.domain.request import Endpoint, GenerationRequest
from server.domain.routing import Assessment, Candidate, Route
from server.domain.usage import RoutingRow
from server.pipeline.health.offers import Health
from server.pipeline.health.rank import Ranked, least_bad, rank
from server.pipeline.health.standing import RouteKey

_DIGITS = 4


class RankByHealth:
    def __init__(self, health: Health) -> None:
        self._health = health

    def __call__(self, found: Sequence[Candidate], request: GenerationRequest) -> Route:
        """As `rank` says; where no candidate may be called, the least bad one, as a last resort."""
        standings = self._health.standings(route_key(candidate, request.endpoint) for candidate in found)
        ranking = rank(
            found,
            standings,
            request.routing,
            self._health.draw,
            streamed=request.stream,
            affinity=_affinity(request),
        )
        order, avoided = ranking.order, ranking.avoided
        if not order:
            last = least_bad(avoided)
            order, avoided = (last,), tuple(ranked for ranked in avoided if ranked is not last)
        return Route(
            tuple(ranked.candidate for ranked in order),
            tuple(_row(ranked) for ranked in avoided),
            tuple(_assessment(ranked) for ranked in order),
            tuple(ranked.candidate for ranked in avoided),
            last_resort=not ranking.order,
        )


def route_key(candidate: Candidate, endpoint: Endpoint) -> RouteKey:
    return RouteKey(candidate.offer.provider.id, candidate.model.id, endpoint)


def _affinity(request: GenerationRequest) -> str | None:
    """What ties requests together that would profit from one provider's cache."""
    if request.routing.session_id:
        return request.routing.session_id
    key = request.passthrough.get("prompt_cache_key")
    return None if key is None else bytes(key).decode("utf-8", "replace")


def _assessment(ranked: Ranked) -> Assessment:
    return Assessment(round(ranked.score, _DIGITS), ranked.standing.breaker, ranked.reason)


def _row(ranked: Ranked) -> RoutingRow:
    outcome = f"avoided: {ranked.reason}" if ranked.reason else "avoided"
    return RoutingRow(ranked.candidate.offer.provider.id, outcome, 0.0, ranked.standing.breaker)
