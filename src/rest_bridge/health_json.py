"""How a provider is, as JSON says it."""

from __future__ import annotations

import msgspec

from server.domain.health import BreakerHealth, BreakerState, ProviderHealth, ProviderStatus


class PercentilesJson(msgspec.Struct, frozen=True):
    p50: float
    p95: float


class RouteHealthJson(msgspec.Struct, frozen=True):
    model: str
    endpoint: str
    score: float
    breaker: BreakerState


class ProviderHealthJson(msgspec.Struct, frozen=True):
    """The names and units of `GET /v1/health`; times of the breaker are null while it is closed."""

    id: str
    status: ProviderStatus
    score: float
    breaker: BreakerHealth
    success_rate: float
    latency_ms: PercentilesJson
    ttft_ms: float
    throughput_tps: float
    in_flight: int
    requests_1m: int
    routes: tuple[RouteHealthJson, ...]


def provider_health(health: ProviderHealth) -> ProviderHealthJson:
    return ProviderHealthJson(
        id=health.id,
        status=health.status,
        score=health.score,
        breaker=health.breaker,
        success_rate=health.success_rate,
        latency_ms=PercentilesJson(health.latency_p50_ms, health.latency_p95_ms),
        ttft_ms=health.ttft_ms,
        throughput_tps=health.throughput_tps,
        in_flight=health.in_flight,
        requests_1m=health.requests_1m,
        routes=tuple(
            RouteHealthJson(route.model, route.endpoint.value, route.score, route.breaker) for route in health.routes
        ),
    )
