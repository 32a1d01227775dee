"""HealthService: how the gateway and its providers are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from aistats.gateway.v1 import health_pb2, health_pb2_grpc
from server.domain.health import HealthFeed, HealthView, ProviderHealth
from server.domain.ports import Clock
from server.rpc.context import CallContext

__all__ = ["HealthServicer", "encode_provider"]


class HealthServicer(health_pb2_grpc.HealthServiceServicer):
    """Make it when the worker starts: uptime counts from there."""

    def __init__(self, health: HealthView, feed: HealthFeed, clock: Clock, version: str) -> None:
        self._health = health
        self._feed = feed
        self._clock = clock
        self._version = version
        self._started_s = clock.monotonic()

    async def GetHealth(  # type: ignore[override]  # the context is our own
        self, request: health_pb2.GetHealthRequest, context: CallContext
    ) -> health_pb2.GetHealthResponse:
        return self._encode(self._health.providers())

    async def WatchHealth(  # type: ignore[override]  # the context is our own
        self, request: health_pb2.WatchHealthRequest, context: CallContext
    ) -> AsyncGenerator[health_pb2.WatchHealthResponse, None]:
        async with aclosing(self._feed.watch()) as snapshots:
            async for providers in snapshots:
                yield health_pb2.WatchHealthResponse(health=self._encode(providers))

    async def GetLiveness(  # type: ignore[override]  # the context is our own
        self, request: health_pb2.GetLivenessRequest, context: CallContext
    ) -> health_pb2.GetLivenessResponse:
        return health_pb2.GetLivenessResponse(status="ok")

    def _encode(self, providers: tuple[ProviderHealth, ...]) -> health_pb2.GetHealthResponse:
        return health_pb2.GetHealthResponse(
            status=overall_status(providers),
            version=self._version,
            uptime_s=round(self._clock.monotonic() - self._started_s, 3),
            providers=[encode_provider(provider) for provider in providers],
        )


def overall_status(providers: tuple[ProviderHealth, ...]) -> Literal["ok", "degraded", "down"]:
    """`down` where no configured provider can be called, `degraded` where some is not well.

    One that the operator has drained is as good as none.
    """
    statuses = {provider.status for provider in providers} - {"not_configured", "drained"}
    if not statuses - {"down"}:
        return "down"
    return "ok" if statuses == {"ok"} else "degraded"


def encode_provider(provider: ProviderHealth) -> health_pb2.ProviderHealth:
    breaker = provider.breaker
    return health_pb2.ProviderHealth(
        id=provider.id,
        status=provider.status,
        score=provider.score,
        breaker=health_pb2.Breaker(
            state=breaker.state, opened_at=breaker.opened_at, retry_at=breaker.retry_at, reason=breaker.reason
        ),
        success_rate=provider.success_rate,
        latency_ms=health_pb2.Percentiles(p50=provider.latency_p50_ms, p95=provider.latency_p95_ms),
        ttft_ms=provider.ttft_ms,
        throughput_tps=provider.throughput_tps,
        in_flight=provider.in_flight,
        requests_1m=provider.requests_1m,
        routes=[
            health_pb2.RouteHealth(
                model=route.model, endpoint=route.endpoint.value, score=route.score, breaker=route.breaker
            )
            for route in provider.routes
        ],
    )
