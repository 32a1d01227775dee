"""Models through the front door: plain HTTP, the SDKs, and typed gRPC."""

from __future__ import annotations

import http.client
import json
from typing import Any

import grpc
import httpx
import openai
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import models_pb2, models_pb2_grpc
from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_unary
from tests.fakes.typed_client import eventually

SURFACES = ("chat", "moderations", "embeddings", "images", "video", "audio")
FREE = "acme/test-1:free"
ESCAPED = "acme%2Ftest-1%3Afree"


def get(gateway: Gateway, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{gateway.base_url}/{path}", headers={**gateway.headers, **headers}, timeout=30)


def test_one_call_gives_the_catalogues_of_all_surfaces(gateway: Gateway) -> None:
    told = get(gateway, f"models?include_endpoints={','.join(SURFACES)}&limit=1").json()
    assert set(told["catalogues"]) == set(SURFACES)
    assert {FREE, LOCAL_MODEL} <= set(told["catalogues"]["chat"])
    assert "acme/embeddings-only:free" in told["catalogues"]["embeddings"]
    assert "acme/embeddings-only:free" not in told["catalogues"]["chat"]
    repeated = get(gateway, "models?" + "&".join(f"include_endpoints={one}" for one in SURFACES) + "&limit=1")
    assert repeated.json() == told
    for surface in SURFACES:
        assert get(gateway, f"models?endpoints={surface}&limit=1").json()["total"] == len(told["catalogues"][surface])


def test_a_list_may_have_brackets_as_sdks_write_it(gateway: Gateway) -> None:
    told = get(gateway, "models?provider=acme&provider=local&limit=250").json()
    for name in ("provider[]", "provider%5B%5D", "provider%5b%5d"):
        assert get(gateway, f"models?{name}=acme&{name}=local&limit=250").json() == told
    reply = get(gateway, "models?limit[]=1&nosuch[]=2")
    assert (reply.status_code, reply.json()["param"]) == (400, "nosuch")
    assert get(gateway, "models?organisation=a[]=b").json()["param"] == "organisation"


def test_what_is_not_known_is_null_and_numbers_are_numbers(gateway: Gateway) -> None:
    text = get(gateway, f"models/{FREE}").text
    assert text.startswith(
        '{"id":"acme/test-1:free","object":"model","created":0,"owned_by":"acme","model":{"model_id"'
    )
    assert '"release_date":null,"status":"active","aliases":[],' in text
    assert '"context_length":null,"max_output_tokens":null,' in text


def test_the_pages_are_the_whole_list(gateway: Gateway) -> None:
    ids: list[str] = []
    total = None
    while total is None or len(ids) < total:
        page = get(gateway, f"models?limit=40&offset={len(ids)}").json()
        total = page["total"]
        ids += [one["id"] for one in page["data"]]
    assert ids == sorted(set(ids))
    assert len(ids) == total


@pytest.mark.parametrize("path", [FREE, ESCAPED, "acme/test-1%3Afree", "acme:acme/test-1:free", f"acme%3A{ESCAPED}"])
@pytest.mark.parametrize("rest", ["", "/endpoints"])
def test_a_model_by_any_spelling_of_its_path(gateway: Gateway, path: str, rest: str) -> None:
    reply = get(gateway, f"models/{path}{rest}")
    assert (reply.status_code, reply.json().get("id")) == (200, FREE), reply.text


def test_an_alias_needs_no_author(gateway: Gateway) -> None:
    listed = get(gateway, "models?provider=anthropic").json()["models"]
    alias, model_id = next((alias, one["model_id"]) for one in listed for alias in one["aliases"] if "/" not in alias)
    assert get(gateway, f"models/{alias}").json()["id"] == model_id
    assert get(gateway, f"models/{alias}/endpoints").json()["id"] == model_id


def test_who_serves_a_model_and_how_it_is_now(gateway: Gateway) -> None:
    (row,) = get(gateway, f"models/{FREE}/endpoints").json()["endpoints"]
    assert (row["api_provider_id"], row["provider_model"], row["status"]) == ("acme", "test-1", "active")
    assert {route["endpoint"] for route in row["health"]["routes"]} == {"chat", "messages", "responses"}
    assert 0.0 <= row["health"]["score"] <= 1.0
    assert row["health"]["breaker"]["state"] in ("closed", "open", "half_open")


def test_a_provider_is_shown_as_it_was_with_this_model(
    gateway: Gateway, acme: UpstreamThread, pair: dict[str, Any]
) -> None:
    acme.script(chat_unary("hello"))
    asked = {**pair, "messages": [{"role": "user", "content": "Hi."}]}
    assert gateway.post("/v1/chat/completions", asked).status_code == 200

    def figures() -> Any:
        rows = get(gateway, f"models/{pair['model']}/endpoints").json()["endpoints"]
        return [(row["api_provider_id"], row["health"]["requests_1m"]) for row in rows]

    assert eventually(lambda: figures() == [("acme", 1), ("backup", 0)])


def test_a_provider_without_a_key_is_listed_with_its_prices(gateway: Gateway) -> None:
    (keyless,) = (
        one
        for one in get(gateway, "models/openai/gpt-5.4-mini/endpoints").json()["endpoints"]
        if one["api_provider_id"] == "openai"
    )
    assert (keyless["status"], keyless["health"]["status"]) == ("not_configured", "not_configured")
    assert keyless["pricing"]["input_text_tokens"]
    assert any(tier["service_tier"] == "priority" for tier in keyless["pricing_tiers"])


@pytest.mark.parametrize("path", ["models?limit=3", f"models/{ESCAPED}", f"models/{FREE}"])
def test_what_a_client_has_is_not_sent_again(gateway: Gateway, path: str) -> None:
    first = get(gateway, path)
    etag = first.headers["etag"]
    connection = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=30)
    try:
        for asked, status in ((etag, 304), ('"other"', 200), (f'"other", {etag}', 304)):
            headers = {**gateway.headers, "if-none-match": asked}
            connection.request("GET", f"/v1/{path}", headers=headers)
            reply = connection.getresponse()
            body = reply.read()
            assert (reply.status, reply.headers["etag"], reply.headers["cache-control"]) == (
                status, etag, "private, no-cache",
            )  # fmt: skip
            assert body == (b"" if status == 304 else first.content)
            assert (reply.headers["content-length"] is None) == (status == 304)
            assert (reply.headers["content-type"] is None) == (status == 304)
            assert reply.headers["x-generation-id"]
    finally:
        connection.close()
    with httpx.Client(http1=False, http2=True) as client:
        again = client.get(f"{gateway.base_url}/{path}", headers={**gateway.headers, "if-none-match": etag})
        assert (again.http_version, again.status_code, again.content) == ("HTTP/2", 304, b"")


def test_who_may_not_look_learns_nothing_from_an_etag(gateway: Gateway) -> None:
    etag = get(gateway, "models").headers["etag"]
    reply = httpx.get(f"{gateway.base_url}/models", headers={"if-none-match": etag})
    assert (reply.status_code, "etag" in reply.headers) == (401, False)


def test_a_key_sees_what_it_may_use(gateway: Gateway, channel: grpc.Channel) -> None:
    asked = (
        "--team",
        "default",
        "--name",
        "held",
        "--scope",
        "inference",
        "--model",
        "acme/t*",
        "--provider",
        "backup",
    )
    made = gateway.run("keys", "create", *asked, "--json")
    assert made.returncode == 0, made.stderr
    bearer = f"Bearer {json.loads(made.stdout)['key']}"
    told = get(gateway, "models", authorization=bearer).json()
    assert [one["id"] for one in told["data"]] == ["acme/two:free"]
    assert [one["api_provider_id"] for one in told["models"][0]["providers"]] == ["backup"]
    assert get(gateway, f"models/{ESCAPED}", authorization=bearer).status_code == 404
    stub = models_pb2_grpc.ModelsServiceStub(channel)
    typed = stub.ListModels(models_pb2.ListModelsRequest(), metadata=[("authorization", bearer)])
    assert [one.id for one in typed.data] == ["acme/two:free"]


def test_a_long_page_comes_compressed(gateway: Gateway) -> None:
    plain, zipped = (get(gateway, "models?limit=250", **{"accept-encoding": coding}) for coding in ("identity", "gzip"))
    assert (plain.headers.get("content-encoding"), zipped.headers["content-encoding"]) == (None, "gzip")
    assert int(zipped.headers["content-length"]) * 10 < int(plain.headers["content-length"])
    assert zipped.json() == plain.json()
    assert zipped.headers["etag"] == plain.headers["etag"]


def test_a_browser_may_ask_with_an_etag_and_read_one(gateway: Gateway) -> None:
    origin = {"origin": "https://app.example"}
    asked = {**origin, "access-control-request-method": "GET", "access-control-request-headers": "if-none-match"}
    preflight = httpx.options(f"{gateway.base_url}/models", headers=asked)
    assert "if-none-match" in preflight.headers["access-control-allow-headers"]
    assert "etag" in get(gateway, "models", **origin).headers["access-control-expose-headers"]


async def test_the_openai_sdk_lists_and_retrieves(gateway: Gateway) -> None:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client:
        listed = [one.id for one in client.models.list(extra_query={"provider": "acme,local", "limit": 250})]
        assert {FREE, LOCAL_MODEL} <= set(listed)
        assert len(client.models.list().data) == 50
        one = client.models.retrieve(FREE)
        assert (one.id, one.object, one.owned_by) == (FREE, "model", "acme")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("acme/none")
        raw = client.models.with_raw_response.list(extra_query={"limit": 1})
        with pytest.raises(openai.APIStatusError) as held:
            client.models.list(extra_query={"limit": 1}, extra_headers={"if-none-match": raw.headers["etag"]})
        assert held.value.status_code == 304
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client:
        asked = {"provider": ["acme", "local"], "limit": 250}
        assert [one.id async for one in client.models.list(extra_query=asked)] == listed
        assert (await client.models.retrieve(LOCAL_MODEL)).id == LOCAL_MODEL


def test_the_products_sdk_reads_the_list(gateway: Gateway) -> None:
    sdk: Any = Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=30)
    told = sdk.get_models({"include_endpoints": "embeddings", "availability": "available", "provider": "acme"})
    assert told["ok"] is True
    assert "acme/embeddings-only:free" in [model["model_id"] for model in told["models"]]


def test_typed_clients_see_the_same(gateway: Gateway, channel: grpc.Channel, metadata: Any) -> None:
    stub = models_pb2_grpc.ModelsServiceStub(channel)
    page = stub.ListModels(models_pb2.ListModelsRequest(limit=250, include_endpoints=["chat,video"]), metadata=metadata)
    told = get(gateway, "models?limit=250&include_endpoints=chat,video").json()
    assert [one.model_id for one in page.models] == [one["model_id"] for one in told["models"]]
    assert {name: list(found.ids) for name, found in page.catalogues.items()} == told["catalogues"]
    held = stub.ListModels(
        models_pb2.ListModelsRequest(limit=250, include_endpoints=["chat", "video"], if_none_match=page.etag),
        metadata=metadata,
    )
    assert (held.not_modified, held.etag, list(held.models)) == (True, page.etag, [])
    rows = stub.ListModelEndpoints(models_pb2.ListModelEndpointsRequest(model_id="acme/two:free"), metadata=metadata)
    assert [row.api_provider_id for row in rows.endpoints] == ["acme", "backup"]
    assert {row.status for row in rows.endpoints} == {"active"}
