"""PricingService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import pricing_pb2, pricing_pb2_grpc
from server.rpc.pricing import PricingServicer
from tests.fakes.priced import PricedCatalog
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any
TOKENS = pricing_pb2.TokenCounts(input_tokens=1000, output_tokens=100)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return pricing_pb2_grpc.add_PricingServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> PricingServicer:
    return PricingServicer(PricedCatalog())


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return pricing_pb2_grpc.PricingServiceStub


def request(**fields: Any) -> pricing_pb2.CalculatePricingRequest:
    return pricing_pb2.CalculatePricingRequest(**{"model": "acme/test-1", **fields})


def test_tokens_are_priced_at_every_offer(grpc_stub: Stub, as_inference: Metadata) -> None:
    reply = grpc_stub.CalculatePricing(request(model="test", tokens=TOKENS), metadata=as_inference)
    assert (reply.model, reply.service_tier) == ("acme/test-1", "")
    assert [(one.provider, one.provider_model, one.pricing.total_nanos) for one in reply.offers] == [
        ("cheap", "cheap-1", 210_000),
        ("dear", "dear-1", 1_200_000),
    ]
    pricing = reply.offers[0].pricing
    assert pricing.currency == "USD"
    assert [
        (line.dimension, line.quantity, line.unit_size, line.unit_price_nanos, line.line_nanos)
        for line in pricing.lines
    ] == [
        ("input_text_tokens", 1000, 1_000_000, 150_000_000, 150_000),
        ("output_text_tokens", 100, 1_000_000, 600_000_000, 60_000),
    ]


def test_quantities_at_one_provider_in_one_tier(grpc_stub: Stub, as_management: Metadata) -> None:
    asked = request(quantities={"input_text_tokens": 1000, "web_searches": 1}, provider="cheap", service_tier="flex")
    reply = grpc_stub.CalculatePricing(asked, metadata=as_management)
    (offer,) = reply.offers
    assert reply.service_tier == "flex"
    assert {line.dimension: line.line_nanos for line in offer.pricing.lines} == {
        "input_text_tokens": 75_000,
        "web_searches": 10_000_000,
    }


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        (request(model="", tokens=TOKENS), grpc.StatusCode.INVALID_ARGUMENT, "model"),
        (request(model="nobody/none", tokens=TOKENS), grpc.StatusCode.NOT_FOUND, "model"),
        (request(), grpc.StatusCode.INVALID_ARGUMENT, "tokens"),
        (request(tokens=TOKENS, quantities={"requests": 1}), grpc.StatusCode.INVALID_ARGUMENT, "quantities"),
        (request(quantities={"tokens": 1}), grpc.StatusCode.INVALID_ARGUMENT, "quantities"),
        (request(quantities={"requests": 2**64 - 1}), grpc.StatusCode.INVALID_ARGUMENT, "quantities.requests"),
        (request(quantities={"input_image": 1}), grpc.StatusCode.INVALID_ARGUMENT, "quantities.input_image"),
        (request(tokens=pricing_pb2.TokenCounts(input_tokens=2**60)), grpc.StatusCode.INVALID_ARGUMENT,
         "tokens.input_tokens"),
        (request(tokens=pricing_pb2.TokenCounts(reasoning_tokens=1)), grpc.StatusCode.INVALID_ARGUMENT, "tokens"),
        (request(tokens=TOKENS, provider="nobody"), grpc.StatusCode.INVALID_ARGUMENT, "provider"),
        (request(tokens=TOKENS, service_tier="scale"), grpc.StatusCode.INVALID_ARGUMENT, "service_tier"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(
    grpc_stub: Stub,
    as_inference: Metadata,
    asked: pricing_pb2.CalculatePricingRequest,
    status: grpc.StatusCode,
    field: str,
) -> None:
    error = refused(grpc_stub.CalculatePricing, asked, as_inference)
    assert error.code() is status
    assert details(error)[1].metadata["param"] == field


def test_the_list_of_prices(grpc_stub: Stub, as_management: Metadata) -> None:
    reply = grpc_stub.ListPricingModels(pricing_pb2.ListPricingModelsRequest(), metadata=as_management)
    assert (reply.limit, reply.offset, reply.total, len(reply.models)) == (50, 0, 4, 4)
    cheap = reply.models[1]
    assert (cheap.model, cheap.provider, cheap.currency, cheap.unit_size) == ("acme/test-1", "cheap", "USD", 1_000_000)
    assert dict(cheap.price_nanos)["cached_read_text_tokens"] == 15_000_000
    long, flex = cheap.tiers
    assert (long.input_tokens_above, long.HasField("service_tier")) == (200_000, False)
    assert (flex.service_tier, flex.HasField("input_tokens_above")) == ("flex", False)
    assert dict(flex.price_nanos) == {"input_text_tokens": 75_000_000, "output_text_tokens": 300_000_000}


def test_the_list_is_narrowed_and_paged(grpc_stub: Stub, as_inference: Metadata) -> None:
    asked = pricing_pb2.ListPricingModelsRequest(provider=["cheap,dear"], endpoint=["chat"], limit=1, offset=3)
    reply = grpc_stub.ListPricingModels(asked, metadata=as_inference)
    assert ([one.model for one in reply.models], reply.total) == (["zeta/one"], 4)
    error = refused(grpc_stub.ListPricingModels, pricing_pb2.ListPricingModelsRequest(limit=0), as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_key_is_needed(grpc_stub: Stub) -> None:
    assert refused(grpc_stub.CalculatePricing, request(tokens=TOKENS), ()).code() is grpc.StatusCode.UNAUTHENTICATED
