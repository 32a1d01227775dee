"""The product's own public SDK."""

from __future__ import annotations

import urllib.error

import pytest
from phaseo import Phaseo

from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway


@pytest.fixture
def client(gateway: Gateway) -> Phaseo:
    return Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=60)


def test_generate_response(client: Phaseo) -> None:
    response = client.generate_response({"model": LOCAL_MODEL, "input": "Say hello.", "max_output_tokens": 16})
    assert response["object"] == "response"
    assert response["output"][0]["content"][0]["text"]


def test_stream_responses(client: Phaseo) -> None:
    chunks = list(client.stream_responses({"model": LOCAL_MODEL, "input": "Say hello.", "max_output_tokens": 16}))
    assert "".join(chunk["text"] for chunk in chunks if chunk.get("text"))


def test_generate_text(client: Phaseo) -> None:
    completion = client.generate_text(
        {"model": LOCAL_MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
    )
    assert completion["choices"][0]["message"]["content"]


def test_stream_chat(client: Phaseo) -> None:
    chunks = list(
        client.stream_chat(
            {"model": LOCAL_MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
        )
    )
    assert "".join(chunk["text"] for chunk in chunks if chunk.get("text"))


def test_models_and_health(client: Phaseo) -> None:
    models = client.get_models({"include_endpoints": "chat", "provider": "local"})
    assert LOCAL_MODEL in [model["model_id"] for model in models["models"]]
    health = client.get_health()
    assert health["status"] in ("ok", "degraded"), "other tests make the other providers fail"
    assert {provider["id"]: provider["status"] for provider in health["providers"]}["local"] == "ok"


def test_a_wrong_key_is_401(gateway: Gateway) -> None:
    client = Phaseo(api_key="aistats_v1_sk_nobody_nothing", base_url=gateway.base_url)
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.get_health()
    assert refused.value.code == 401
    refused.value.close()
