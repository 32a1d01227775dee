"""Prices through the front door, as HTTP, gRPC and the product's own SDK."""

from __future__ import annotations

import urllib.error
from typing import Any

import grpc
import httpx
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import pricing_pb2, pricing_pb2_grpc
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway

USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@pytest.fixture
def sdk(gateway: Gateway) -> Phaseo:
    return Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=30)


@pytest.fixture(scope="module")
def manager(gateway: Gateway) -> str:
    return gateway.create_key(scopes=("management",))


def calculate(gateway: Gateway, body: Any, key: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key or gateway.key}"}
    return httpx.post(f"{gateway.url}/v1/pricing/calculate", json=body, headers=headers, timeout=30)


def test_what_usage_would_cost(gateway: Gateway, manager: str) -> None:
    for key in (gateway.key, manager):
        reply = calculate(gateway, {"model": "acme/test-1", "provider": "acme", "usage": USAGE}, key)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        told = reply.json()
        assert (told["ok"], told["model"], told["provider"]) == (True, "acme/test-1", "acme")
        assert (told["pricing"]["total_nanos"], told["pricing"]["total_usd"]) == (13_500, "0.0000135")
        assert [(line["dimension"], line["line_nanos"]) for line in told["pricing"]["lines"]] == [
            ("input_text_tokens", 1_500),
            ("output_text_tokens", 12_000),
        ]


def test_a_shipped_model_has_the_price_that_came_with_the_gateway(gateway: Gateway) -> None:
    body = {"model": "openai/gpt-5.4-mini", "service_tier": "priority", "usage": {"input_tokens": 1000}}
    told = calculate(gateway, body).json()
    assert (told["provider"], told["pricing"]["total_nanos"]) == ("openai", 1_500_000)
    assert [offer["provider"] for offer in told["offers"]] == ["openai"]  # openrouter has no price for this tier


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "acme/test-1", "usage": {"prompt_tokns": 1}}, 400, "usage.prompt_tokns"),
        ({"model": "nobody/none", "usage": USAGE}, 404, "model"),
        ({"usage": USAGE}, 400, "model"),
    ],
)
def test_mistakes_are_named(gateway: Gateway, body: Any, status: int, param: str) -> None:
    reply = calculate(gateway, body)
    assert (reply.status_code, reply.json()["param"]) == (status, param)


def test_the_list_of_prices(gateway: Gateway, manager: str) -> None:
    reply = gateway.get(
        "/v1/pricing/models?model=acme/test-1&endpoint=chat,responses&limit=5",
        headers={"authorization": f"Bearer {manager}"},
    )
    assert reply.status_code == 200, reply.text
    assert reply.json() == {
        "ok": True,
        "object": "list",
        "limit": 5,
        "offset": 0,
        "total": 1,
        "models": [
            {
                "model": "acme/test-1",
                "provider": "acme",
                "provider_model": "test-1",
                "endpoints": ["chat", "messages", "responses"],
                "currency": "USD",
                "unit_size": 1_000_000,
                "pricing": {"input_text_tokens": "0.15", "output_text_tokens": "0.60"},
                "tiers": [],
            }
        ],
    }


@pytest.mark.parametrize(("query", "param"), [("limit=251", "limit"), ("limit=x", "limit"), ("pages=2", "pages")])
def test_a_query_that_means_nothing_is_named(gateway: Gateway, query: str, param: str) -> None:
    reply = gateway.get(f"/v1/pricing/models?{query}")
    assert (reply.status_code, reply.json()["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", "/v1/pricing/calculate", "POST"), ("POST", "/v1/pricing/models", "GET")]
)
def test_other_methods_are_refused(gateway: Gateway, method: str, path: str, allow: str) -> None:
    reply = httpx.request(method, f"{gateway.url}{path}", headers=gateway.headers, timeout=30)
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)


def test_without_a_key_nothing_is_told(gateway: Gateway) -> None:
    for reply in (
        gateway.get("/v1/pricing/models", headers={}),
        httpx.post(f"{gateway.url}/v1/pricing/calculate", json={}, timeout=30),
    ):
        assert reply.status_code == 401


def test_the_sdk(sdk: Phaseo) -> None:
    told = sdk.calculate_pricing({"model": "acme/test-1", "usage": USAGE})
    assert told["pricing"]["total_nanos"] == 13_500
    free = sdk.calculate_pricing({"model": LOCAL_MODEL, "usage": USAGE})
    assert (free["pricing"]["total_nanos"], free["pricing"]["lines"]) == (0, [])
    listed = sdk.list_pricing_models({"provider": "acme", "limit": 250})
    assert "acme/test-1" in [model["model"] for model in listed["models"]]
    assert sdk.list_pricing_models()["total"] > listed["total"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        sdk.calculate_pricing({"model": "acme/test-1", "usage": {"tokens": 1}})
    assert refused.value.code == 400
    refused.value.close()


def test_typed(channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
    stub = pricing_pb2_grpc.PricingServiceStub(channel)
    tokens = pricing_pb2.TokenCounts(input_tokens=10, output_tokens=20)
    asked = pricing_pb2.CalculatePricingRequest(model="acme/test-1", tokens=tokens)
    (offer,) = stub.CalculatePricing(asked, metadata=metadata, timeout=30).offers
    assert (offer.provider, offer.pricing.total_nanos) == ("acme", 13_500)
    listed = stub.ListPricingModels(
        pricing_pb2.ListPricingModelsRequest(model=["acme/test-1"]), metadata=metadata, timeout=10
    )
    assert dict(listed.models[0].price_nanos) == {"input_text_tokens": 150_000_000, "output_text_tokens": 600_000_000}
