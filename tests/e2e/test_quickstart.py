"""The product's own quickstart, word for word but for the address and the model, against the embedded model."""

from __future__ import annotations

import json
import subprocess

import httpx

from tests.e2e.conftest import LOCAL_MODEL
from tests.e2e.gateway import Gateway

DOCUMENTED = [
    "id", "object", "created_at", "status", "completed_at", "model", "output", "usage", "error", "incomplete_details",
]  # fmt: skip


def curl(gateway: Gateway, path: str, body: object, *flags: str) -> str:
    command = [
        "curl", "-sS", *flags, f"{gateway.url}{path}",
        "-H", f"Authorization: Bearer {gateway.key}",
        "-H", "Content-Type: application/json",
        "-d", json.dumps(body),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_quickstart_prints_a_response_of_the_documented_shape(gateway: Gateway) -> None:
    body = {"model": LOCAL_MODEL, "input": "Reply with: quickstart works", "temperature": 0}
    response = json.loads(curl(gateway, "/v1/responses", body))

    assert list(response)[: len(DOCUMENTED)] == DOCUMENTED
    assert response["id"].startswith("resp_")
    assert response["object"] == "response"
    assert response["status"] == "completed"
    assert response["model"] == LOCAL_MODEL
    assert isinstance(response["created_at"], int)
    assert response["completed_at"] >= response["created_at"]
    (message,) = response["output"]
    assert list(message) == ["type", "id", "status", "role", "content"]
    assert message["type"] == "message"
    assert message["id"].startswith("msg_")
    assert (message["status"], message["role"]) == ("completed", "assistant")
    (part,) = message["content"]
    assert list(part) == ["type", "text", "annotations"]
    assert part["type"] == "output_text"
    assert part["text"].strip()
    assert part["annotations"] == []
    usage = response["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert response["error"] is None
    assert response["incomplete_details"] is None


def test_the_quickstart_streams(gateway: Gateway) -> None:
    body = {"model": LOCAL_MODEL, "input": "Reply with: quickstart works", "temperature": 0, "stream": True}
    lines = curl(gateway, "/v1/responses", body, "-N").splitlines()

    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    payloads = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert names == [payload["type"] for payload in payloads]
    assert [payload["sequence_number"] for payload in payloads] == list(range(len(payloads)))
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    deltas = "".join(payload["delta"] for payload in payloads if payload["type"] == "response.output_text.delta")
    assert deltas == payloads[-1]["response"]["output"][0]["content"][0]["text"]
    assert deltas.strip()
    assert lines[-2:] == ["data: [DONE]", ""]


def test_chat_whole_and_streamed_say_the_same(gateway: Gateway) -> None:
    body = {
        "model": LOCAL_MODEL,
        "messages": [{"role": "user", "content": "Name a colour."}],
        "temperature": 0,
        "seed": 7,
        "max_tokens": 12,
    }
    whole = json.loads(curl(gateway, "/v1/chat/completions", body))
    assert whole["object"] == "chat.completion"
    assert whole["id"].startswith("chatcmpl-")
    text = whole["choices"][0]["message"]["content"]
    assert text

    lines = curl(gateway, "/v1/chat/completions", {**body, "stream": True}, "-N").splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert all("usage" not in chunk or chunk["usage"] is None for chunk in chunks)
    assert lines[-2:] == ["data: [DONE]", ""]


def test_one_id_names_everything_of_a_request(gateway: Gateway) -> None:
    answer = gateway.post("/v1/responses", {"model": LOCAL_MODEL, "input": "Hi", "max_output_tokens": 4})
    suffix = answer.json()["id"].removeprefix("resp_")
    assert answer.headers["x-generation-id"] == f"gen_{suffix}"
    assert len(suffix) == 32
    assert suffix[12] == "7"
    refused = gateway.get("/v1/nothing")
    assert refused.json()["generation_id"] == refused.headers["x-generation-id"]
    assert suffix < refused.headers["x-generation-id"].removeprefix("gen_")


def test_meta_tells_who_served_and_how_fast(gateway: Gateway) -> None:
    body = {"model": LOCAL_MODEL, "input": "Hi", "max_output_tokens": 8, "meta": True}
    meta = json.loads(curl(gateway, "/v1/responses", body))["meta"]
    assert meta["provider"] == "local"
    assert meta["attempts"] == 1
    assert 0 < meta["latency_ms"] <= meta["generation_ms"]
    assert meta["gateway_ms"] >= 0
    assert [row["outcome"] for row in meta["routing"]] == ["chosen"]


def test_the_seeds_own_model_says_what_to_set_and_what_works_now(gateway: Gateway) -> None:
    answer = gateway.post("/v1/responses", {"model": "google/gemma-3-27b:free", "input": "hi"})
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["error"] == "unsupported_model_or_endpoint"
    assert problem["reason"] == "provider_not_configured"
    assert "GEMINI_API_KEY" in problem["description"]
    assert LOCAL_MODEL in problem["description"]


def test_a_response_is_kept_continued_and_forgotten(gateway: Gateway) -> None:
    first = gateway.post(
        "/v1/responses", {"model": LOCAL_MODEL, "input": "My name is Ada.", "max_output_tokens": 16}
    ).json()
    for _ in range(3):  # whichever worker answers
        assert gateway.get(f"/v1/responses/{first['id']}").json() == first
    second = gateway.post(
        "/v1/responses",
        {"model": LOCAL_MODEL, "input": "And yours?", "previous_response_id": first["id"], "max_output_tokens": 16},
    ).json()
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]

    gone = httpx.delete(f"{gateway.url}/v1/responses/{first['id']}", headers=gateway.headers)
    assert gone.json() == {"id": first["id"], "object": "response", "deleted": True}
    assert gateway.get(f"/v1/responses/{first['id']}").status_code == 404
