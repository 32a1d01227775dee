"""Lists of models, each in the form of the provider that writes it so, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from server.catalogue import load_catalog
from server.catalogue.adopt import ALREADY_THERE, NO_PRICE, NOT_SERVED, adopt
from server.catalogue.listed import Listed, read_list

CATALOG = load_catalog(None, {})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"id": "gpt-x", "object": "model", "created": 1_776_000_000, "owned_by": "openai"},
         Listed("gpt-x", release_date="2026-04-12")),
        ({"id": "qwen3:8b", "object": "model", "created": 1_735_689_600, "owned_by": "library"},
         Listed("qwen3:8b", release_date="2025-01-01")),
        ({"id": "Qwen/Qwen3-8B", "object": "model", "created": 0, "max_model_len": 40960, "root": "/m"},
         Listed("Qwen/Qwen3-8B", context_length=40960)),
        ({"id": "llama-x", "active": True, "context_window": 131072, "max_completion_tokens": 32768},
         Listed("llama-x", context_length=131072, max_output_tokens=32768)),
        ({"id": "a/b", "type": "chat", "display_name": "A B", "context_length": 8192, "pricing": {"input": 0.2}},
         Listed("a/b", name="A B", context_length=8192)),
        ({"id": "a/e", "type": "embedding", "context_length": 512}, Listed("a/e", "embedding", context_length=512)),
        ({"id": "a/i", "type": "image"}, Listed("a/i", "other")),
        ({"id": "mistral-x", "name": "mistral-x", "description": "Good. Very good.", "max_context_length": 32768,
          "capabilities": {"completion_chat": True, "vision": True}},
         Listed("mistral-x", description="Good.", context_length=32768, input_types=("text", "image"))),
        ({"id": "x/y", "name": "X: Y", "created": 1_776_000_000, "context_length": 200000,
          "architecture": {"input_modalities": ["image", "text", "pdf"], "output_modalities": ["text"]},
          "top_provider": {"max_completion_tokens": 64000},
          "supported_parameters": ["max_tokens", "temperature", "reasoning", "what"]},
         Listed("x/y", name="X: Y", release_date="2026-04-12", input_types=("text", "image"), context_length=200000,
                max_output_tokens=64000, params=frozenset({"max_output_tokens", "temperature", "reasoning_effort"}))),
        ({"id": "x/art", "architecture": {"output_modalities": ["image"]}}, Listed("x/art", "other")),
        ({"id": "acc/m", "context_length": 10, "supports_chat": True, "supports_image_input": False},
         Listed("acc/m", context_length=10, input_types=("text",))),
        ({"id": "claude-x", "type": "model", "display_name": "Claude X", "created_at": "2026-10-07T00:00:00Z",
          "max_input_tokens": 1_000_000},
         Listed("claude-x", name="Claude X", release_date="2026-10-07", context_length=1_000_000)),
        ({"name": "models/gemini-x", "displayName": "Gemini X", "inputTokenLimit": 1024, "outputTokenLimit": 64,
          "supportedGenerationMethods": ["generateContent", "countTokens"]},
         Listed("gemini-x", name="Gemini X", context_length=1024, max_output_tokens=64)),
        ({"name": "models/embed-x", "supportedGenerationMethods": ["embedContent"]}, Listed("embed-x", "embedding")),
        ({"name": "models/veo-x", "supportedGenerationMethods": ["predictLongRunning"]}, Listed("veo-x", "other")),
        ({"id": "nomic-embed-text:latest"}, Listed("nomic-embed-text:latest", "embedding")),
        ({"id": "whisper-large"}, Listed("whisper-large", "other")),
        ({"id": "omni-moderation-x"}, Listed("omni-moderation-x", "moderation")),
    ],
    ids=lambda value: value.id if isinstance(value, Listed) else "",
)  # fmt: skip
def test_what_a_provider_says_of_a_model(said: dict[str, Any], expected: Listed) -> None:
    assert read_list(json.dumps({"object": "list", "data": [said]}).encode()) == [expected]
    assert read_list(json.dumps([said]).encode()) == [expected]


def test_a_list_is_read_whatever_else_is_in_it() -> None:
    body = {
        "models": [
            {"name": "models/b"},
            "x",
            None,
            {"id": ""},
            {"id": 7},
            {"id": "a"},
            {"id": "a"},
            {"id": "z", "active": False},
        ]
    }
    assert [one.id for one in read_list(json.dumps(body).encode())] == ["a", "b"]
    odd = {
        "id": "a",
        "context_length": "8k",
        "created": "soon",
        "description": ["x"],
        "architecture": 3,
        "capabilities": [],
    }
    assert read_list(json.dumps([odd]).encode()) == [Listed("a")]
    beyond = {"id": "a", "context_length": 2**32, "max_model_len": True, "max_output_tokens": 10**30, "created": 2**32}
    assert read_list(json.dumps([beyond]).encode()) == [Listed("a")]
    assert read_list(json.dumps([beyond | {"context_window": 2**32 - 1}]).encode()) == [
        Listed("a", context_length=2**32 - 1)
    ]
    assert read_list(b'{"data": []}') == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"7", b'{"error": "no"}', b'{"data": {}}'])
def test_what_is_no_list_of_models_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON|no list of models"):
        read_list(body)


def test_what_the_catalogue_has_gets_one_more_offer() -> None:
    groq = CATALOG.providers["groq"]
    listed = [
        Listed("openai/gpt-oss-120b", context_length=131072),
        Listed("meta-llama/llama-4-scout-17b-16e-instruct", context_length=131072, max_output_tokens=8192),
        Listed("whisper-large-v3", "other"),
        Listed("nobody/knows-this"),
    ]
    adopted = adopt(CATALOG, groq, listed)
    assert adopted.left_out == {
        ALREADY_THERE: ["openai/gpt-oss-120b"],
        NOT_SERVED: ["whisper-large-v3"],
        NO_PRICE: ["nobody/knows-this"],
    }
    assert adopted.offers == []
    (model,) = adopted.models
    assert model["id"] == "meta-llama/llama-4-scout-17b-16e-instruct"
    (offer,) = model["offers"]
    assert "price" not in offer  # the table has it
    assert {"temperature", "tools"} <= set(offer["params"])  # as its other models
    priced = adopt(CATALOG, groq, [Listed("nobody/knows-this")], price=("0.1", "0.4")).models[0]
    assert priced["offers"][0]["price"] == {"input_text_tokens": "0.1", "output_text_tokens": "0.4"}


def test_a_server_near_by_has_its_models_free_of_charge() -> None:
    ollama = CATALOG.providers["ollama"]
    adopted = adopt(CATALOG, ollama, [Listed("qwen3:8b"), Listed("nomic-embed-text:latest", "embedding")])
    assert yaml.safe_load(adopted.yaml()) == {
        "models": [
            {"id": "ollama/qwen3-8b:free", "offers": [{"provider": "ollama", "provider_model": "qwen3:8b"}]},
            {
                "id": "ollama/nomic-embed-text-latest:free",
                "output_types": ["embedding"],
                "offers": [
                    {"provider": "ollama", "provider_model": "nomic-embed-text:latest", "endpoints": ["embeddings"]}
                ],
            },
        ]
    }
    priced = adopt(CATALOG, ollama, [Listed("gpt-oss:120b", context_length=8192), Listed("mine")], price=("0", "0.5"))
    price = {"input_text_tokens": "0", "output_text_tokens": "0.5"}
    assert priced.offers == [
        {
            "model": "openai/gpt-oss-120b",
            "provider": "ollama",
            "provider_model": "gpt-oss:120b",
            "context_length": 8192,
            "price": price,
        }
    ]
    assert [model["id"] for model in priced.models] == ["ollama/mine"]


def test_no_id_is_written_twice() -> None:
    vllm = CATALOG.providers["vllm"]
    adopted = adopt(CATALOG, vllm, [Listed("a/m"), Listed("b/m"), Listed("***")])
    assert [model["id"] for model in adopted.models] == ["vllm/m:free"]
    assert list(adopted.left_out.values()) == [["b/m", "***"]]
