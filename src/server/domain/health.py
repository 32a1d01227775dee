"""How providers are, as far as this worker has seen."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

import msgspec

from server.domain.request import Endpoint

ProviderStatus = Literal["ok", "degraded", "down", "drained", "not_configured"]
BreakerState = Literal["closed", "open", "half_open"]


class BreakerHealth(msgspec.Struct, frozen=True):
    """`opened_at` and `retry_at` are in seconds since 1970, None while closed; `reason` is empty while closed."""

    state: BreakerState = "closed"
    opened_at: float | None = None
    retry_at: float | None = None
    reason: str = ""


class RouteHealth(msgspec.Struct, frozen=True):
    """One model and endpoint of a provider; `score` is from 0 (avoided) to 1 (preferred)."""

    model: str
    endpoint: Endpoint
    score: float = 1.0
    breaker: BreakerState = "closed"


class ProviderHealth(msgspec.Struct, frozen=True):
    """One provider. `score` as in `RouteHealth`; the defaults are those of a provider that was never called.

    `success_rate` is 0 to 1; latencies and `ttft_ms` are milliseconds; `throughput_tps` output tokens a second.
    """

    id: str
    status: ProviderStatus
    score: float = 1.0
    breaker: BreakerHealth = BreakerHealth()
    success_rate: float = 1.0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    ttft_ms: float = 0.0
    throughput_tps: float = 0.0
    in_flight: int = 0
    requests_1m: int = 0
    routes: tuple[RouteHealth, ...] = ()


class GatewayHealth(msgspec.Struct, frozen=True):
    """The gateway with all providers of its catalogue. `uptime_s`: seconds since this worker started."""

    status: Literal["ok", "degraded", "down"]
    version: str
    uptime_s: float
    providers: tuple[ProviderHealth, ...]


class HealthView(Protocol):
    def providers(self) -> tuple[ProviderHealth, ...]:
        """Every provider of the catalogue, in the order of their ids."""
        ...

    def of_model(self, model_id: str) -> tuple[ProviderHealth, ...]:
        """Every provider of a model of the catalogue, in the order of their ids, with the figures of that alone."""
        ...


class HealthFeed(Protocol):
    def watch(self) -> AsyncGenerator[tuple[ProviderHealth, ...], None]:
        """What `HealthView` tells, at once and again whenever it has changed; the newest, for who reads slowly.

        Raises GatewayError (`shutting_down`) when the worker is about to stop.
        """
        ...


class SharedReport(msgspec.Struct, frozen=True):
    """What another worker published last; `number` is another with each of its reports."""

    worker_id: str
    number: int
    report: bytes


class HealthExchange(Protocol):
    """Where workers tell each other how providers are.

    All raise GatewayError (`database_unavailable`) where it is away; the beginning of that has been logged then.
    """

    async def publish(self, number: int, report: bytes) -> None:
        """Replace this worker's report; others find it when this returns."""
        ...

    async def others(self, known: Mapping[str, int]) -> list[SharedReport]:
        """Reports of other workers, of those that ended not long ago as well, but for those whose number is known."""
        ...


class DrainedProvider(msgspec.Struct, frozen=True):
    """A provider that the operator has taken out of service; `drained_at` is in seconds since 1970."""

    provider: str
    drained_at: int
    reason: str = ""


class DrainedProviders(Protocol):
    async def list(self) -> list[DrainedProvider]:
        """All of them, by id. Raises GatewayError (`database_unavailable`)."""
        ...
