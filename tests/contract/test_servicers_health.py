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
from server.domain.request import Endpoint
from server.pipeline.health.feed import FIGURES_S, LOOK_S, Feed
from server.pipeline.health.report import HealthReport, overall_status
from server.pipeline.health.standing import RouteKey
from server.pipeline.health.view import MeasuredHealth
from server.pipeline.shutdown import Shutdown
from server.rpc.health import HealthServicer
from tests.fakes.catalogues import Source
from tests.fakes.health import steady, succeed
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any


class World:
    """What the servicer under test tells of."""

    def __init__(self) -> None:
        self.clock, self.shutdown = SystemClock(), Shutdown()
        self.health = steady(self.clock)
        self.view = MeasuredHealth(Source(), self.health, self.clock)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return health_pb2_grpc.add_HealthServiceServicer_to_server


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def grpc_servicer(world: World) -> HealthServicer:
    return HealthServicer(HealthReport(world.view, world.clock, "1.2.3"), Feed(world.view, world.clock, world.shutdown))


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
    error = refused(grpc_stub.WatchHealth, health_pb2.WatchHealthRequest(), ())
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
        (("ok", "drained"), "ok"),
        (("degraded", "drained"), "degraded"),
        (("drained", "not_configured"), "down"),
    ],
)
def test_the_overall_status(statuses: tuple[Any, ...], overall: str) -> None:
    assert overall_status(tuple(ProviderHealth(f"p{i}", status) for i, status in enumerate(statuses))) == overall


def test_who_watches_is_told_at_once_and_of_each_change(grpc_stub: Stub, as_inference: Metadata, world: World) -> None:
    watch = grpc_stub.WatchHealth(health_pb2.WatchHealthRequest(), metadata=as_inference, timeout=60)
    first = next(watch).health
    assert (first.status, first.version) == ("ok", "1.2.3")
    assert [provider.id for provider in first.providers] == ["keyless", "ready"]
    world.health.drained = frozenset({"ready"})
    told = next(watch).health
    assert (told.status, told.providers[1].status) == ("down", "drained")
    world.health.drained = frozenset()
    assert next(watch).health.status == "ok"
    watch.cancel()


def test_figures_alone_are_told_seldom(grpc_stub: Stub, as_inference: Metadata, world: World) -> None:
    watch = grpc_stub.WatchHealth(health_pb2.WatchHealthRequest(), metadata=as_inference, timeout=60)
    next(watch)
    began_s = world.clock.monotonic()
    succeed(world.health, 10, RouteKey("ready", "acme/test-1", Endpoint.CHAT))
    told = next(watch).health
    assert 8 <= told.providers[1].requests_1m <= 10
    assert world.clock.monotonic() - began_s >= FIGURES_S - LOOK_S
    watch.cancel()


def test_a_worker_that_is_leaving_sends_away_who_watches(grpc_stub: Stub, as_inference: Metadata, world: World) -> None:
    watch = grpc_stub.WatchHealth(health_pb2.WatchHealthRequest(), metadata=as_inference, timeout=60)
    next(watch)
    world.shutdown.leaving.set()
    with pytest.raises(grpc.RpcError) as ended:
        next(watch)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    error = refused(grpc_stub.WatchHealth, health_pb2.WatchHealthRequest(), as_inference)
    assert (error.code(), details(error)[1].reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    world.shutdown.leaving.clear()


def test_a_gateway_without_any_configured_provider_is_down() -> None:
    source = Source()
    source.current = Catalog({"a": Provider("a", "openai", "http://x", missing_key_env="A_KEY")}, {})
    clock = SystemClock()
    assert overall_status(MeasuredHealth(source, steady(clock), clock).providers()) == "down"
