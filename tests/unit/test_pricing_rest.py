"""`/v1/pricing`: usage under any of its names, priced at every offer, and the prices themselves."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from rest_bridge.app import RestApp
from rest_bridge.pricing import PricingRest
from server.domain.pricing import DIMENSIONS
from tests.fakes.priced import PricedCatalog
from tests.fakes.rest import OpenDoor, Reply, read, rest_request

MODEL = "acme/test-1"
CHAT = {"prompt_tokens": 1000, "completion_tokens": 100}
RESPONSES = {"input_tokens": 1000, "output_tokens": 100}


async def send(method: str, path: str, body: bytes = b"", **query: tuple[str, ...]) -> Reply:
    app = RestApp(OpenDoor(), PricingRest(PricedCatalog()).routes())
    request = rest_request(body, method=method, path=path)
    return await read(await app(msgspec.structs.replace(request, query=query)))


async def calculate(usage: Any, **rest: Any) -> Reply:
    body = {"model": MODEL, "usage": usage, **rest}
    return await send("POST", "/v1/pricing/calculate", json.dumps(body).encode())


async def models(**query: str) -> Reply:
    return await send("GET", "/v1/pricing/models", **{name: (value,) for name, value in query.items()})


async def test_the_documented_shape() -> None:
    reply = await calculate(CHAT, provider="cheap", service_tier="flex")
    assert reply.status == 200
    assert reply.json == {
        "ok": True,
        "model": MODEL,
        "provider": "cheap",
        "provider_model": "cheap-1",
        "service_tier": "flex",
        "pricing": {
            "currency": "USD",
            "total_nanos": 105_000,
            "total_usd": "0.000105",
            "lines": [
                {
                    "dimension": "input_text_tokens",
                    "quantity": 1000,
                    "unit_size": 1_000_000,
                    "unit_price_usd": "0.075",
                    "line_nanos": 75_000,
                    "line_usd": "0.000075",
                },
                {
                    "dimension": "output_text_tokens",
                    "quantity": 100,
                    "unit_size": 1_000_000,
                    "unit_price_usd": "0.30",
                    "line_nanos": 30_000,
                    "line_usd": "0.00003",
                },
            ],
        },
    }


async def test_without_a_provider_all_are_asked_and_the_cheapest_is_first() -> None:
    told = (await calculate(CHAT)).json
    assert (told["provider"], told["service_tier"], told["pricing"]["total_nanos"]) == ("cheap", None, 210_000)
    assert [(one["provider"], one["pricing"]["total_nanos"]) for one in told["offers"]] == [
        ("cheap", 210_000),
        ("dear", 1_200_000),
    ]


@pytest.mark.parametrize(
    "usage",
    [
        CHAT,
        RESPONSES,
        {**CHAT, "total_tokens": 1100, "prompt_tokens_details": None, "completion_tokens_details": {"audio_tokens": 0}},
        {"input_text_tokens": 1000, "output_text_tokens": 100},
        {"dimensions": {"input_text_tokens": 1000, "output_text_tokens": 100}},
        {"dimensions": {"input_text_tokens": 1000, "reasoning_text_tokens": 60, "output_text_tokens": 40}},
        {**RESPONSES, "output_tokens_details": {"reasoning_tokens": 60}},
    ],
)
async def test_the_same_usage_under_any_of_its_names(usage: dict[str, Any]) -> None:
    assert (await calculate(usage)).json["pricing"]["total_nanos"] == 210_000


@pytest.mark.parametrize(
    "usage",
    [
        {**CHAT, "prompt_tokens_details": {"cached_tokens": 400}},
        {**RESPONSES, "input_tokens_details": {"cached_tokens": 400}},
        {"dimensions": {"input_text_tokens": 600, "cached_read_text_tokens": 400, "output_text_tokens": 100}},
    ],
)
async def test_cached_tokens_have_their_own_line(usage: dict[str, Any]) -> None:
    pricing = (await calculate(usage, provider="cheap")).json["pricing"]
    quantities = {line["dimension"]: line["quantity"] for line in pricing["lines"]}
    assert quantities == {"input_text_tokens": 600, "cached_read_text_tokens": 400, "output_text_tokens": 100}
    assert pricing["total_nanos"] == 90_000 + 6_000 + 60_000


@pytest.mark.parametrize(
    ("usage", "unit_price"),
    [
        ({"prompt_tokens": 200_000}, "0.15"),
        ({"prompt_tokens": 200_001}, "0.30"),
        ({"dimensions": {"input_text_tokens": 2, "cached_read_text_tokens": 199_999}}, "0.30"),
        ({"dimensions": {"input_text_tokens": 1, "cached_read_text_tokens": 199_999}}, "0.15"),
    ],
)
async def test_long_inputs_have_their_own_price(usage: dict[str, Any], unit_price: str) -> None:
    told = (await calculate(usage, provider="cheap")).json
    assert told["pricing"]["lines"][0]["unit_price_usd"] == unit_price


@pytest.mark.parametrize(
    ("name", "provider"), [(MODEL, "dear"), ("test", "dear"), ("dear:acme/test-1", None), ("dear:test", "dear")]
)
async def test_a_model_by_any_of_its_names(name: str, provider: str | None) -> None:
    told = (await calculate(CHAT, model=name, provider=provider)).json
    assert (told["model"], told["provider"], told["pricing"]["total_nanos"]) == (MODEL, "dear", 1_200_000)


async def test_what_is_free_is_free_in_every_tier_and_dimension() -> None:
    for usage in (CHAT, {"web_searches": 5}):
        told = (await calculate(usage, model="acme/tiny:free", service_tier="flex")).json
        assert told["pricing"] == {"currency": "USD", "total_nanos": 0, "total_usd": "0", "lines": []}


async def test_only_offers_that_can_be_priced_are_told() -> None:
    for asked in ({"usage": CHAT, "service_tier": "flex"}, {"usage": {"web_searches": 3}}):
        told = (await calculate(**asked)).json
        assert [one["provider"] for one in told["offers"]] == ["cheap"]
    assert told["pricing"]["total_usd"] == "0.03"


async def test_every_dimension_may_stand_at_the_top() -> None:
    for dimension in DIMENSIONS:
        reply = await calculate({dimension: 1}, model="acme/tiny:free")
        assert reply.status == 200, dimension


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"usage": CHAT, "model": "nobody/none"}, "model", "There is no model"),
        ({"usage": CHAT, "model": None}, "model", "must be a string"),
        ({"usage": CHAT, "model": ""}, "model", "at least 1 characters"),
        ({"usage": CHAT, "provider": "nobody"}, "provider", "must be one of dear, cheap"),
        ({"usage": CHAT, "provider": 7}, "provider", "must be a string"),
        ({"usage": CHAT, "model": "dear:test", "provider": "cheap"}, "provider", 'must be "dear"'),
        ({"usage": CHAT, "service_tier": "scale"}, "service_tier", 'must be one of flex, standard, not "scale"'),
        ({"usage": CHAT, "service_tier": "flex", "provider": "dear"}, "service_tier", "must be one of standard"),
        ({"usage": CHAT, "tier": "flex"}, "tier", "not a known parameter"),
        ({}, "usage", "is required"),
        ({"usage": None}, "usage", "must be an object"),
        ({"usage": {}}, "usage.prompt_tokens", "is required"),
        ({"usage": {"total_tokens": 5}}, "usage.prompt_tokens", "is required"),
        ({"usage": {"tokens": 5}}, "usage.tokens", "not a known parameter"),
        ({"usage": {"prompt_tokens": -1}}, "usage.prompt_tokens", "at least 0"),
        ({"usage": {"prompt_tokens": 1.5}}, "usage.prompt_tokens", "must be an integer"),
        ({"usage": {"prompt_tokens": "9"}}, "usage.prompt_tokens", "must be an integer"),
        ({"usage": {"prompt_tokens": True}}, "usage.prompt_tokens", "must be an integer"),
        ({"usage": {"prompt_tokens": 10**13}}, "usage.prompt_tokens", "at most"),
        ({"usage": {"prompt_tokens": 10**30}}, "usage.prompt_tokens", "must be"),
        ({"usage": {**CHAT, "input_tokens": 5}}, "usage.input_tokens", "cannot stand beside `usage.prompt_tokens`"),
        ({"usage": {**CHAT, "web_searches": 5}}, "usage.web_searches", "cannot stand beside"),
        ({"usage": {**RESPONSES, "dimensions": {}}}, "usage.dimensions", "cannot stand beside"),
        ({"usage": {"web_searches": 1, "total_tokens": 5}}, "usage.total_tokens", "cannot stand beside dimensions"),
        ({"usage": {**CHAT, "total_tokens": 5}}, "usage.total_tokens", "must be 1100, or absent"),
        (
            {"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": 1001}}},
            "usage",
            "1001 cached tokens",
        ),
        (
            {"usage": {**CHAT, "prompt_tokens_details": {"cached": 1}}},
            "usage.prompt_tokens_details.cached",
            "not a known",
        ),
        ({"usage": {**CHAT, "completion_tokens_details": {"reasoning_tokens": 101}}}, "usage", "101 reasoning tokens"),
        ({"usage": {"dimensions": {"tokens": 1}}}, "usage.dimensions.tokens", "is not a dimension"),
        ({"usage": {"dimensions": {"input_text_tokens": -1}}}, "usage.dimensions", "at least 0"),
        ({"usage": {"dimensions": {"input_text_tokens": "1"}}}, "usage.dimensions", "must be an integer"),
        ({"usage": {"dimensions": {"input_image": 1}}}, "usage.dimensions.input_image", "has no price"),
        ({"usage": {"input_image": 1}}, "usage.input_image", "has no price"),
        ({"usage": {"web_searches": 1}, "provider": "dear"}, "usage.web_searches", "has no price"),
        ({"usage": {"web_searches": 10**12}}, "usage", "comes to more than can be told"),
    ],
)
async def test_what_cannot_be_meant_is_named(body: dict[str, Any], param: str, said: str) -> None:
    reply = await send("POST", "/v1/pricing/calculate", json.dumps({"model": MODEL, **body}).encode())
    assert reply.status == (404 if said == "There is no model" else 400), reply.body
    assert reply.json["param"] == param
    assert said in reply.json["description"]


async def test_a_body_that_is_no_json() -> None:
    assert (await send("POST", "/v1/pricing/calculate", b"{")).json["reason"] == "malformed_json"


async def test_the_list_of_prices() -> None:
    told = (await models()).json
    assert {key: told[key] for key in ("ok", "object", "limit", "offset", "total")} == {
        "ok": True, "object": "list", "limit": 50, "offset": 0, "total": 4,
    }  # fmt: skip
    assert [(one["model"], one["provider"]) for one in told["models"]] == [
        (MODEL, "dear"), (MODEL, "cheap"), ("acme/tiny:free", "dear"), ("zeta/one", "cheap"),
    ]  # fmt: skip
    assert told["models"][1] == {
        "model": MODEL,
        "provider": "cheap",
        "provider_model": "cheap-1",
        "endpoints": ["chat"],
        "currency": "USD",
        "unit_size": 1_000_000,
        "pricing": {
            "input_text_tokens": "0.15",
            "cached_read_text_tokens": "0.015",
            "output_text_tokens": "0.60",
            "web_searches": "10000.00",
        },
        "tiers": [
            {"input_tokens_above": 200_000, "service_tier": None, "pricing": {"input_text_tokens": "0.30"}},
            {
                "input_tokens_above": None,
                "service_tier": "flex",
                "pricing": {"input_text_tokens": "0.075", "output_text_tokens": "0.30"},
            },
        ],
    }
    assert told["models"][2]["pricing"] == {}


@pytest.mark.parametrize(
    ("query", "expected", "total"),
    [
        ({"model": "test"}, ["dear-1", "cheap-1"], 2),
        ({"model": "test,zeta/one", "provider": "cheap"}, ["cheap-1", "one"], 2),
        ({"provider": "dear"}, ["dear-1", "tiny"], 2),
        ({"endpoint": "responses"}, ["dear-1", "tiny", "one"], 3),
        ({"endpoint": "embeddings"}, [], 0),
        ({"limit": "1", "offset": "1"}, ["cheap-1"], 4),
        ({"limit": "250", "offset": "9"}, [], 4),
    ],
)
async def test_the_list_is_narrowed_and_paged(query: dict[str, str], expected: list[str], total: int) -> None:
    told = (await models(**query)).json
    assert [one["provider_model"] for one in told["models"]] == expected
    assert told["total"] == total


@pytest.mark.parametrize(
    ("query", "param", "status"),
    [
        ({"model": "nobody/none"}, "model", 404),
        ({"provider": "nobody"}, "provider", 400),
        ({"endpoint": "speech"}, "endpoint", 400),
        ({"limit": "0"}, "limit", 400),
        ({"limit": "251"}, "limit", 400),
        ({"limit": "x"}, "limit", 400),
        ({"offset": "-1"}, "offset", 400),
        ({"page": "2"}, "page", 400),
    ],
)
async def test_a_filter_that_means_nothing_is_named(query: dict[str, str], param: str, status: int) -> None:
    reply = await models(**query)
    assert (reply.status, reply.json["param"]) == (status, param)
