"""ModelsService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import models_pb2, models_pb2_grpc
from server.domain.catalog import Model, Offer
from server.domain.request import Endpoint
from server.pipeline.health.offers import Health
from server.pipeline.health.standing import RouteKey
from server.pipeline.health.view import MeasuredHealth
from server.rpc.models import ModelsServicer
from tests.fakes.catalogues import CHAT, READY, Source, catalog
from tests.fakes.health import HandClock, fail, steady, succeed
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return models_pb2_grpc.add_ModelsServiceServicer_to_server


@pytest.fixture(scope="module")
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="module")
def health(clock: HandClock) -> Health:
    return steady(clock)


@pytest.fixture(scope="module")
def grpc_servicer(source: Source, health: Health, clock: HandClock) -> ModelsServicer:
    return ModelsServicer(source, MeasuredHealth(source, health, clock))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return models_pb2_grpc.ModelsServiceStub


def test_the_whole_list(grpc_stub: Stub, as_inference: Metadata) -> None:
    reply = grpc_stub.ListModels(models_pb2.ListModelsRequest(), metadata=as_inference)
    assert [one.id for one in reply.data] == ["acme/embed:free", "acme/test-1", "zeta/old"]
    assert [one.model_id for one in reply.models] == [one.id for one in reply.data]
    assert (reply.object, reply.ok, reply.limit, reply.offset, reply.total) == ("list", True, 50, 0, 3)
    assert not reply.catalogues
    assert reply.data[1] == models_pb2.ModelSummary(
        id="acme/test-1", object="model", created=1_700_000_000, owned_by="acme"
    )
    model = reply.models[1]
    assert (model.name, model.organisation_id, model.release_date, model.status) == (
        "Test 1", "acme", "2023-11-14", "active",
    )  # fmt: skip
    assert list(model.aliases) == ["acme/test-latest", "test"]
    assert list(model.endpoints) == ["chat", "responses"]
    assert list(model.supported_parameters) == ["seed", "temperature", "tools"]
    assert (model.context_length, model.max_output_tokens) == (4096, 1024)
    ready, keyless = model.providers
    assert (ready.api_provider_id, ready.status, keyless.status) == ("ready", "active", "not_configured")
    assert dict(ready.pricing) == {"input_text_tokens": "0.0000001"}
    assert list(keyless.endpoints) == ["chat"]
    old = reply.models[2]
    assert (old.organisation_id, old.HasField("release_date"), old.HasField("context_length")) == ("zeta", False, False)
    assert "temperature" in old.supported_parameters
    assert "truncation" in old.supported_parameters


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"endpoints": ["embeddings"]}, ["acme/embed:free"]),
        ({"endpoints": ["embeddings", "chat"]}, ["acme/embed:free", "acme/test-1", "zeta/old"]),
        ({"endpoints": ["embeddings, chat"]}, ["acme/embed:free", "acme/test-1", "zeta/old"]),
        ({"endpoints": ["video"]}, []),
        ({"endpoints": [""]}, ["acme/embed:free", "acme/test-1", "zeta/old"]),
        ({"organisation": ["zeta"]}, ["zeta/old"]),
        ({"provider": ["keyless"]}, ["acme/test-1", "zeta/old"]),
        ({"status": ["deprecated", "retired"]}, ["zeta/old"]),
        ({"input_types": ["image"]}, ["acme/test-1"]),
        ({"output_types": ["embedding"]}, ["acme/embed:free"]),
        ({"params": ["seed"]}, ["acme/test-1", "zeta/old"]),
        ({"params": ["max_completion_tokens"]}, ["zeta/old"]),
        ({"availability": ["available"]}, ["acme/embed:free", "acme/test-1"]),
        ({"availability": ["not_configured"]}, ["zeta/old"]),
        ({"endpoints": ["chat"], "availability": ["available"]}, ["acme/test-1"]),
        ({"limit": 1}, ["acme/embed:free"]),
        ({"limit": 1, "offset": 1}, ["acme/test-1"]),
        ({"offset": 99}, []),
        ({"limit": 250}, ["acme/embed:free", "acme/test-1", "zeta/old"]),
    ],
)
def test_filters(grpc_stub: Stub, as_inference: Metadata, filters: dict[str, Any], ids: Sequence[str]) -> None:
    reply = grpc_stub.ListModels(models_pb2.ListModelsRequest(**filters), metadata=as_inference)
    assert [one.id for one in reply.data] == list(ids)


def test_include_endpoints_adds_the_catalogues_of_all_pages(grpc_stub: Stub, as_inference: Metadata) -> None:
    request = models_pb2.ListModelsRequest(include_endpoints=["chat,embeddings", "video"], limit=1)
    reply = grpc_stub.ListModels(request, metadata=as_inference)
    assert {surface: list(found.ids) for surface, found in reply.catalogues.items()} == {
        "chat": ["acme/test-1", "zeta/old"],
        "embeddings": ["acme/embed:free"],
        "video": [],
    }
    assert (reply.total, len(reply.data)) == (3, 1)


@pytest.mark.parametrize(
    ("filters", "param", "told"),
    [
        ({"endpoints": ["chats"]}, "endpoints", "chat, responses"),
        ({"include_endpoints": ["chat,x"]}, "include_endpoints", "audio"),
        ({"organisation": ["nobody"]}, "organisation", "acme, zeta"),
        ({"provider": ["nobody"]}, "provider", "keyless, ready"),
        ({"status": ["new"]}, "status", "active, deprecated, retired"),
        ({"input_types": ["smell"]}, "input_types", "text, image"),
        ({"output_types": ["file"]}, "output_types", "embedding"),
        ({"params": ["temprature"]}, "params", "temperature"),
        ({"availability": ["yes"]}, "availability", "available, not_configured"),
        ({"limit": 0}, "limit", "from 1 to 250"),
        ({"limit": 251}, "limit", "from 1 to 250"),
    ],
)
def test_a_filter_that_means_nothing_is_named(
    grpc_stub: Stub, as_inference: Metadata, filters: dict[str, Any], param: str, told: str
) -> None:
    error = refused(grpc_stub.ListModels, models_pb2.ListModelsRequest(**filters), as_inference)
    _, info = details(error)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.metadata["param"]) == ("INVALID_VALUE", param)
    assert told in error.details()


@pytest.mark.parametrize("name", ["acme/test-1", "test", "acme/test-latest", "keyless:acme/test-1", "ready:test"])
def test_one_model_by_id_and_by_alias(grpc_stub: Stub, as_inference: Metadata, name: str) -> None:
    reply = grpc_stub.GetModel(models_pb2.GetModelRequest(model_id=name), metadata=as_inference)
    assert (reply.id, reply.object, reply.owned_by, reply.model.model_id) == (
        "acme/test-1", "model", "acme", "acme/test-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("acme/none", grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        ("nobody:acme/test-1", grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        ("keyless:acme/embed:free", grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "MISSING_FIELD"),
    ],
)
def test_no_such_model(grpc_stub: Stub, as_inference: Metadata, name: str, code: grpc.StatusCode, reason: str) -> None:
    for method, request in (
        (grpc_stub.GetModel, models_pb2.GetModelRequest(model_id=name)),
        (grpc_stub.ListModelEndpoints, models_pb2.ListModelEndpointsRequest(model_id=name)),
    ):
        error = refused(method, request, as_inference)
        assert error.code() is code
        assert (details(error)[1].reason, details(error)[1].metadata["param"]) == (reason, "model_id")


def endpoints(stub: Stub, metadata: Metadata, name: str = "acme/test-1") -> models_pb2.ListModelEndpointsResponse:
    reply = stub.ListModelEndpoints(models_pb2.ListModelEndpointsRequest(model_id=name), metadata=metadata)
    assert isinstance(reply, models_pb2.ListModelEndpointsResponse)
    return reply


def test_who_serves_a_model(grpc_stub: Stub, as_inference: Metadata) -> None:
    reply = endpoints(grpc_stub, as_inference, "test")
    assert (reply.id, reply.object, reply.created, reply.owned_by, reply.name, reply.description) == (
        "acme/test-1", "model", 1_700_000_000, "acme", "Test 1", "A model.",
    )  # fmt: skip
    ready, keyless = reply.endpoints
    assert (ready.api_provider_id, ready.provider_name, ready.provider_model, ready.status, ready.region) == (
        "ready", "Ready", "test-1", "active", "eu",
    )  # fmt: skip
    assert (list(ready.endpoints), list(ready.params)) == (["chat", "responses"], ["temperature", "tools"])
    assert (list(ready.input_types), ready.context_length, ready.max_output_tokens) == (["text", "image"], 4096, 1024)
    assert dict(ready.pricing) == {"input_text_tokens": "0.0000001"}
    (tier,) = ready.pricing_tiers
    assert (tier.input_tokens_above, tier.HasField("service_tier"), dict(tier.pricing)) == (
        2000, False, {"input_text_tokens": "0.0000002"},
    )  # fmt: skip
    assert (keyless.status, keyless.health.status, keyless.health.score) == ("not_configured", "not_configured", 0.0)
    assert (list(keyless.input_types), keyless.context_length, keyless.HasField("region")) == (["text"], 2048, False)
    assert [one.api_provider_id for one in endpoints(grpc_stub, as_inference, "keyless:test").endpoints] == ["keyless"]


def test_the_health_of_an_offer_is_that_of_its_model(grpc_stub: Stub, as_inference: Metadata, health: Health) -> None:
    before = endpoints(grpc_stub, as_inference)
    succeed(health, 3, RouteKey("ready", "acme/test-1", Endpoint.CHAT))
    fail(health, 5, RouteKey("ready", "acme/embed:free", Endpoint.EMBEDDINGS))
    ready, _ = endpoints(grpc_stub, as_inference).endpoints
    (embed,) = endpoints(grpc_stub, as_inference, "acme/embed:free").endpoints
    assert (ready.health.status, ready.health.requests_1m, ready.health.breaker.state) == ("ok", 3, "closed")
    assert (ready.health.success_rate, ready.health.latency_ms.p50 > 0, ready.health.throughput_tps) == (1.0, True, 50)
    assert [(route.model, route.endpoint) for route in ready.health.routes] == [
        ("acme/test-1", "chat"), ("acme/test-1", "responses"),
    ]  # fmt: skip
    assert (embed.health.status, embed.health.breaker.state, embed.health.score < 0.5) == ("down", "open", True)
    assert endpoints(grpc_stub, as_inference).etag != before.etag


def test_what_a_client_has_is_not_sent_again(grpc_stub: Stub, as_inference: Metadata, source: Source) -> None:
    for method, kind, asked in (
        (grpc_stub.ListModels, models_pb2.ListModelsRequest, {"provider": ["ready"], "limit": 1}),
        (grpc_stub.GetModel, models_pb2.GetModelRequest, {"model_id": "test"}),
        (grpc_stub.ListModelEndpoints, models_pb2.ListModelEndpointsRequest, {"model_id": "test"}),
    ):
        first = method(kind(**asked), metadata=as_inference)
        assert (bool(first.etag), first.not_modified) == (True, False)
        again = method(kind(**asked, if_none_match=first.etag), metadata=as_inference)
        assert again == type(first)(etag=first.etag, not_modified=True)
        assert method(kind(**asked, if_none_match='"other"'), metadata=as_inference) == first
    before = source.current
    first = grpc_stub.ListModels(models_pb2.ListModelsRequest(), metadata=as_inference)
    source.current = catalog(Model("beta/new:free", (Offer(READY, "new", CHAT),)))
    try:
        request = models_pb2.ListModelsRequest(if_none_match=first.etag)
        assert grpc_stub.ListModels(request, metadata=as_inference).total == 4
    finally:
        source.current = before


def test_any_good_key_may_look(grpc_stub: Stub, as_management: Metadata) -> None:
    assert grpc_stub.ListModels(models_pb2.ListModelsRequest(), metadata=as_management).total == 3
    error = refused(grpc_stub.ListModels, models_pb2.ListModelsRequest(), ())
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_new_catalogue_is_seen_at_once(grpc_stub: Stub, source: Source, as_inference: Metadata) -> None:
    before = source.current
    source.current = catalog(Model("beta/new:free", (Offer(READY, "new", CHAT),)))
    try:
        assert grpc_stub.ListModels(models_pb2.ListModelsRequest(), metadata=as_inference).total == 4
    finally:
        source.current = before
    assert grpc_stub.ListModels(models_pb2.ListModelsRequest(), metadata=as_inference).total == 3
