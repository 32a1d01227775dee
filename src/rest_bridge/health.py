"""The REST face of health: how the gateway and its providers are."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from rest_bridge.health_json import ProviderHealthJson, provider_health
from rest_bridge.http import ANY_KEY, Exchange, RestResponse, Route, json_response
from rest_bridge.query import check_query
from server.pipeline.health.report import HealthReport

__all__ = ["HealthRest"]

_encode: Final = msgspec.json.Encoder().encode


class HealthJson(msgspec.Struct, frozen=True):
    """`uptime_s`: seconds since this worker started."""

    status: Literal["ok", "degraded", "down"]
    version: str
    uptime_s: float
    providers: tuple[ProviderHealthJson, ...]


class HealthRest:
    def __init__(self, report: HealthReport) -> None:
        self._report = report

    def routes(self) -> tuple[Route, ...]:
        return (Route("GET", "/v1/health", self.get, ANY_KEY),)

    async def get(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        health = self._report.now()
        providers = tuple(map(provider_health, health.providers))
        return json_response(_encode(HealthJson(health.status, health.version, health.uptime_s, providers)))
