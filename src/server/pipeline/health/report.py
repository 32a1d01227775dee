"""How the gateway is as a whole, from how its providers are."""

from __future__ import annotations

from typing import Literal

from server.domain.health import GatewayHealth, HealthView, ProviderHealth
from server.domain.ports import Clock


class HealthReport:
    """Make it when the worker starts: uptime counts from there."""

    def __init__(self, health: HealthView, clock: Clock, version: str) -> None:
        self._health = health
        self._clock = clock
        self._version = version
        self._started_s = clock.monotonic()

    def now(self) -> GatewayHealth:
        return self.of(self._health.providers())

    def of(self, providers: tuple[ProviderHealth, ...]) -> GatewayHealth:
        """As of now, with providers as they were told of."""
        uptime_s = round(self._clock.monotonic() - self._started_s, 3)
        return GatewayHealth(overall_status(providers), self._version, uptime_s, providers)


def overall_status(providers: tuple[ProviderHealth, ...]) -> Literal["ok", "degraded", "down"]:
    """`down` where no configured provider can be called, `degraded` where some is not well.

    One that the operator has drained is as good as none.
    """
    statuses = {provider.status for provider in providers} - {"not_configured", "drained"}
    if not statuses - {"down"}:
        return "down"
    return "ok" if statuses == {"ok"} else "degraded"
