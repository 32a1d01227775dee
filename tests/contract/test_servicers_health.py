"""HealthService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import health_pb2, health_pb2_grpc
from server.clock import SystemClock
from server.domain.catalog import Catalog, Provider
from server.domain.health import ProviderHealth
from server.pipeline.health.view import MeasuredHealth
from server.rpc.health import HealthServicer, overall_status
from tests.fakes.catalogues import Source
from tests.fakes.health import steady
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import refused

Stub = Any


def measured(source: Source) -> MeasuredHealth:
    clock = SystemClock()
    return MeasuredHealth(source, steady(clock), clock)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return health_pb2_grpc.add_HealthServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> HealthServicer:
    return HealthServicer(measured(Source()), SystemClock(), "1.2.3")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return health_pb2_grpc.HealthServiceStub


def test_health_tells_of_every_provider(grpc_stub: Stub, as_inference: Metadata, as_management: Metadata) -> None:
    for metadata in (as_inference, as_management):
        reply = grpc_stub.GetHealth(health_pb2.GetHealthRequest(), metadata=metadata)
        assert (reply.status, reply.version) == ("ok", "1.2.3")
        assert 0 < reply.uptime_s < 60
        keyless, ready = reply.providers
        assert (keyless.id, keyless.status, keyless.score) == ("keyless", "not_configured", 0.0)
        assert (ready.id, ready.status, ready.score, ready.success_rate) == ("ready", "ok", 1.0, 1.0)
        assert (ready.breaker.state, ready.breaker.HasField("opened_at"), ready.in_flight) == ("closed", False, 0)
        routes = [(route.model, route.endpoint, route.breaker) for route in ready.routes]
        assert routes == [
            ("acme/embed:free", "embeddings", "closed"),
            ("acme/test-1", "chat", "closed"),
            ("acme/test-1", "responses", "closed"),
        ]


def test_health_needs_a_key_and_liveness_none(grpc_stub: Stub) -> None:
    error = refused(grpc_stub.GetHealth, health_pb2.GetHealthRequest(), ())
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    reply = grpc_stub.GetLiveness(health_pb2.GetLivenessRequest())
    assert reply == health_pb2.GetLivenessResponse(status="ok")


@pytest.mark.parametrize(
    ("statuses", "overall"),
    [
        ((), "down"),
        (("not_configured",), "down"),
        (("ok",), "ok"),
        (("ok", "not_configured"), "ok"),
        (("ok", "degraded"), "degraded"),
        (("ok", "down"), "degraded"),
        (("degraded",), "degraded"),
        (("down", "down"), "down"),
    ],
)
def test_the_overall_status(statuses: tuple[Any, ...], overall: str) -> None:
    assert overall_status(tuple(ProviderHealth(f"p{i}", status) for i, status in enumerate(statuses))) == overall


def test_a_gateway_without_any_configured_provider_is_down() -> None:
    source = Source()
    source.current = Catalog({"a": Provider("a", "openai", "http://x", missing_key_env="A_KEY")}, {})
    assert overall_status(measured(source).providers()) == "down"
