"""What `GET /v1/health` is told: the figures of all workers, by provider and route."""

from __future__ import annotations

from typing import Final

from server.domain.catalog import Catalog, Model, Provider
from server.domain.health import BreakerHealth, ProviderHealth, ProviderStatus, RouteHealth
from server.domain.ports import CatalogSource, Clock
from server.pipeline.health.figures import LONG, MINUTE, Reading
from server.pipeline.health.offers import Entry, Health
from server.pipeline.health.standing import UNMEASURED, RouteKey, lately

WELL_ENOUGH: Final = 0.9
"""Below this success rate in the last minute a provider is degraded."""
_SEVERITY: Final = {"closed": 0, "half_open": 1, "open": 2}
_DIGITS: Final = 4
_MS_DIGITS: Final = 1


class MeasuredHealth:
    """Implements `server.domain.health.HealthView`."""

    def __init__(self, catalogs: CatalogSource, health: Health, clock: Clock) -> None:
        self._catalogs = catalogs
        self._health = health
        self._clock = clock

    def providers(self) -> tuple[ProviderHealth, ...]:
        catalog = self._catalogs.current
        keys: dict[str, list[RouteKey]] = {id_: [] for id_ in sorted(catalog.providers)}
        for key in sorted(route_keys(catalog)):
            keys[key.provider].append(key)
        return tuple(self._provider(catalog.providers[id_], of) for id_, of in keys.items())

    def of_model(self, model_id: str) -> tuple[ProviderHealth, ...]:
        model = self._catalogs.current.models[model_id]
        providers = {offer.provider.id: offer.provider for offer in model.offers}
        keys: dict[str, list[RouteKey]] = {id_: [] for id_ in sorted(providers)}
        for key in sorted(model_keys(model)):
            keys[key.provider].append(key)
        return tuple(self._provider(providers[id_], of) for id_, of in keys.items())

    def _provider(self, provider: Provider, keys: list[RouteKey]) -> ProviderHealth:
        now_s = self._clock.monotonic()
        if not provider.is_configured:
            routes = tuple(RouteHealth(key.model, key.endpoint, 0.0) for key in keys)
            return ProviderHealth(provider.id, "not_configured", score=0.0, routes=routes)
        entries = [entry for key in keys if (entry := self._health.find(key)) is not None]
        total = Reading()
        for entry in entries:
            total = total.plus(entry.reading(now_s))
        minute, sums = total.windows[MINUTE], lately(total)
        known = [entry.standing(now_s) for entry in entries]
        score = round(sum(standing.score for standing in known) / len(known), _DIGITS) if known else 1.0
        is_drained = provider.id in self._health.drained
        return ProviderHealth(
            provider.id,
            "drained" if is_drained else _status(entries, minute.success_rate(), now_s),
            score=0.0 if is_drained else score,
            breaker=self._breaker(entries, now_s),
            success_rate=round(total.windows[LONG].success_rate(), _DIGITS),
            latency_p50_ms=round(total.percentile_ms(0.5), _MS_DIGITS),
            latency_p95_ms=round(total.percentile_ms(0.95), _MS_DIGITS),
            ttft_ms=round(sums.first_token_ms or 0.0, _MS_DIGITS),
            throughput_tps=round(sums.throughput_tps or 0.0, _MS_DIGITS),
            in_flight=sum(entry.busy(now_s) for entry in entries),
            requests_1m=round(minute.attempts),
            routes=tuple(self._route(key, now_s) for key in keys),
        )

    def _route(self, key: RouteKey, now_s: float) -> RouteHealth:
        entry = self._health.find(key)
        standing = UNMEASURED if entry is None else entry.standing(now_s)
        score = 0.0 if key.provider in self._health.drained else round(standing.score, _DIGITS)
        return RouteHealth(key.model, key.endpoint, score, standing.breaker)

    def _breaker(self, entries: list[Entry], now_s: float) -> BreakerHealth:
        """That of the route that is worst off."""
        worst = max(entries, key=lambda one: _SEVERITY[one.breaker.state(now_s)], default=None)
        if worst is None or worst.breaker.opened_s is None:
            return BreakerHealth()
        offset_s, breaker = self._clock.now() - now_s, worst.breaker
        return BreakerHealth(
            breaker.state(now_s),
            round(worst.breaker.opened_s + offset_s, 3),
            round(breaker.retry_s + offset_s, 3),
            breaker.reason,
        )


def route_keys(catalog: Catalog) -> set[RouteKey]:
    """Everything that can have figures."""
    return {key for model in catalog.models.values() for key in model_keys(model)}


def model_keys(model: Model) -> set[RouteKey]:
    """Those of one model."""
    return {RouteKey(offer.provider.id, model.id, endpoint) for offer in model.offers for endpoint in offer.endpoints}


def _status(entries: list[Entry], success_rate: float, now_s: float) -> ProviderStatus:
    """`down` where every route that was used is closed to traffic."""
    states = [entry.breaker.state(now_s) for entry in entries]
    if states and all(state == "open" for state in states):
        return "down"
    if any(state != "closed" for state in states) or success_rate < WELL_ENOUGH:
        return "degraded"
    return "ok"
