"""HealthService: how the gateway and its providers are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aistats.gateway.v1 import health_pb2, health_pb2_grpc
from server.domain.health import GatewayHealth, HealthFeed, ProviderHealth
from server.pipeline.health.report import HealthReport
from server.rpc.context import CallContext

__all__ = ["HealthServicer", "encode_provider"]


class HealthServicer(health_pb2_grpc.HealthServiceServicer):
    def __init__(self, report: HealthReport, feed: HealthFeed) -> None:
        self._report = report
        self._feed = feed

    async def GetHealth(  # type: ignore[override]  # the context is our own
        self, request: health_pb2.GetHealthRequest, context: CallContext
    ) -> health_pb2.GetHealthResponse:
        return _encode(self._report.now())

    async def WatchHealth(  # type: ignore[override]  # the context is our own
        self, request: health_pb2.WatchHealthRequest, context: CallContext
    ) -> AsyncGenerator[health_pb2.WatchHealthResponse, None]:
        async with aclosing(self._feed.watch()) as snapshots:
            async for providers in snapshots:
                yield health_pb2.WatchHealthResponse(health=_encode(self._report.of(providers)))

    async def GetLiveness(  # type: ignore[override]  # the context is our own
        self, request: health_pb2.GetLivenessRequest, context: CallContext
    ) -> health_pb2.GetLivenessResponse:
        return health_pb2.GetLivenessResponse(status="ok")


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


def _encode(health: GatewayHealth) -> health_pb2.GetHealthResponse:
    return health_pb2.GetHealthResponse(
        status=health.status,
        version=health.version,
        uptime_s=health.uptime_s,
        providers=[encode_provider(provider) for provider in health.providers],
    )
