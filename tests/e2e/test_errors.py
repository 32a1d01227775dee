"""Every error has one shape, whoever detects it: Envoy, the gateway, or a provider."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import error, silent

FREE = "acme/test-1:free"
CHAT: dict[str, Any] = {"model": FREE, "messages": [{"role": "user", "content": "hi"}]}
FIELDS = {
    "generation_id", "status_code", "error", "error_type", "error_origin", "description", "reason", "param", "details",
}  # fmt: skip


def assert_contract(reply: httpx.Response, status: int, error: str, **expected: Any) -> dict[str, Any]:
    """The reply is an error of the contract's shape, whole and consistent; its body."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert reply.headers["x-request-id"]
    assert reply.headers["x-generation-id"].startswith("gen_")
    body: dict[str, Any] = reply.json()
    assert body.keys() >= FIELDS
    assert body["generation_id"] == reply.headers["x-generation-id"]
    assert (body["status_code"], body["error"]) == (status, error)
    assert body["error_origin"] in {"user", "gateway", "upstream"}
    assert body["description"]
    assert {name: body[name] for name in expected} == expected
    return body


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer x", "Basic abc", "Bearer aistats_v1_sk_nobody_secret"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/responses"), ("GET", "/v1/models"), ("GET", "/v1/health")])
def test_401_says_nothing_of_why(gateway: Gateway, key: str, method: str, path: str) -> None:
    reply = httpx.request(method, f"{gateway.url}{path}", headers={"authorization": key} if key else {}, json=CHAT)
    body = assert_contract(reply, 401, "authentication_error", reason="invalid_api_key", error_type="user")
    without_key = httpx.request(method, f"{gateway.url}{path}", json=CHAT).json()
    assert body["description"] == without_key["description"]


def test_403_without_the_scope(gateway: Gateway) -> None:
    key = gateway.create_key(scopes=("management",))
    reply = gateway.post("/v1/chat/completions", CHAT, headers={"authorization": f"Bearer {key}"})
    assert_contract(reply, 403, "authorization_error", reason="missing_scope")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"{'model': 1}", "malformed_json"),
        (b'{"model": "x",}', "malformed_json"),
        (b'{"model": "\xff"}', "malformed_json"),
        (b'{"model": "\\ud800"}', "malformed_json"),
        (b"\xef\xbb\xbf{}", "malformed_json"),
        (b"null", "invalid_value"),
        (b"[]", "invalid_value"),
        (b"{}", "missing_field"),
        (b'{"model": 7, "input": "x", "messages": []}', None),
        (b'{"model": "x", "input": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", None),
        (b'{"model": "x", "messages": [{"role": "user", "content": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001, None),
    ],
    ids=range(13),
)
def test_400_for_a_broken_body(
    gateway: Gateway, acme: UpstreamThread, path: str, body: bytes, reason: str | None
) -> None:
    headers = {**gateway.headers, "content-type": "application/json"}
    reply = httpx.post(f"{gateway.url}{path}", content=body, headers=headers)
    problem = assert_contract(reply, 400, "validation_error", error_type="user", error_origin="user")
    assert reason is None or problem["reason"] == reason
    assert acme.requests == []


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
         "messages[0].content[0].image_url.url", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "nmae": "y"}]}, "messages[0].nmae", "unknown_parameter"),
        ({"messages": None}, "messages", None),
        ({"model": "acme/nothing"}, "model", "unknown_model"),
        ({"model": "acme/embeddings-only:free"}, "model", "unsupported_endpoint"),
        ({"base_url": "http://127.0.0.1:1"}, "base_url", "unknown_parameter"),
        ({"provider_options": {"acme": {"base_url": "http://127.0.0.1:1"}}}, "provider_options.acme.base_url", None),
        ({"provider": {"only": ["nobody"]}}, "provider.only[0]", None),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_the_field_at_fault_is_named(
    gateway: Gateway, acme: UpstreamThread, change: dict[str, Any], param: str, reason: str | None
) -> None:
    reply = gateway.post("/v1/chat/completions", {**CHAT, **change})
    body = reply.json()
    assert_contract(reply, 404 if reason == "unknown_model" else 400, body["error"], param=param)
    assert reason is None or body["reason"] == reason
    assert acme.requests == []


def test_404_and_405(gateway: Gateway) -> None:
    assert_contract(gateway.get("/v1/nothing"), 404, "not_found_error", reason="unknown_route")
    assert_contract(gateway.get("/"), 404, "not_found_error")
    reply = gateway.get("/v1/chat/completions")
    assert_contract(reply, 405, "method_not_allowed", reason="method_not_allowed")
    assert reply.headers["allow"] == "POST"
    reply = gateway.post("/v1/models", {})
    assert_contract(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "GET"
    assert_contract(gateway.get("/v1/models/nobody/nothing"), 404, "not_found_error", reason="unknown_model")
    assert_contract(gateway.get("/v1/responses/resp_nothing"), 404, "not_found_error", reason="resource_not_found")


def test_a_query_parameter_at_fault_is_named(gateway: Gateway) -> None:
    assert_contract(gateway.get("/v1/models?limit=abc"), 400, "validation_error", param="limit")
    assert_contract(gateway.get("/v1/models?limit=0"), 400, "validation_error", param="limit")
    assert_contract(gateway.get("/v1/models?lmit=3"), 400, "validation_error", param="lmit", reason="unknown_parameter")
    assert_contract(gateway.get("/v1/models?status=dead"), 400, "validation_error", param="status")


def test_413_for_70_mb(gateway: Gateway) -> None:
    headers = {**gateway.headers, "content-type": "application/json"}
    reply = httpx.post(f"{gateway.url}/v1/chat/completions", content=b" " * 70_000_000, headers=headers, timeout=30)
    assert_contract(reply, 413, "request_too_large", reason="request_too_large")


def test_431_for_a_huge_header(gateway: Gateway) -> None:
    reply = httpx.get(f"{gateway.url}/v1/models", headers={**gateway.headers, "x-long": "a" * 60_000})
    assert reply.status_code == 431
    assert reply.json()["error"] == "request_too_large"


def test_502_for_a_dead_upstream(gateway: Gateway) -> None:
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "model": "acme/dead:free"}),
        ("/v1/responses", {"model": "acme/dead:free", "input": "x", "stream": True}),
    ):
        problem = assert_contract(gateway.post(path, body), 502, "provider_error", reason="all_candidates_failed")
        assert problem["error_origin"] == "upstream"
        assert problem["attempt_count"] == 1
        assert problem["failed_providers"] == ["dead"]
        diagnosis = problem["provider_failure_diagnostics"]
        assert (diagnosis["provider"], diagnosis["category"]) == ("dead", "connection")
        assert diagnosis["hint"]
        assert "127.0.0.1" not in json.dumps(problem)


def test_504_for_a_hung_upstream(strict_gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(silent())
    asked_s = time.monotonic()
    reply = strict_gateway.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert_contract(reply, 504, "timeout_error", reason="upstream_timeout")
    assert time.monotonic() - asked_s < 40
    acme.wait_disconnect()


def test_an_upstreams_own_words_come_through(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(error(400, "Invalid schema for function 'f'.", type="invalid_request_error", param="tools[0]"))
    reply = gateway.post("/v1/chat/completions", {**CHAT, "stream": True})
    problem = assert_contract(reply, 400, "validation_error", error_origin="upstream")
    assert "Invalid schema" in problem["description"]
    assert problem["upstream_error"]["param"] == "tools[0]"


def test_our_credentials_failing_is_not_the_clients_401(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(error(401, "Incorrect API key provided.", code="invalid_api_key"))
    reply = gateway.post("/v1/chat/completions", {**CHAT, "model": "acme/strange:free"})
    problem = assert_contract(reply, 502, "provider_error")
    assert problem["failed_statuses"] == [401]


def test_garbage_and_half_requests_leave_others_alone(gateway: Gateway) -> None:
    def send(raw: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=15) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(65536):
                received += piece
            return received

    attacks = [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /%c3%28\xc3 HTTP/1.1\r\nhost: x\r\nuser-agent: \xe2\x82\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"",
    ]
    pid = gateway.envoy().pid
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, attacks * 4))
    assert gateway.envoy().pid == pid
    assert gateway.get("/healthz").status_code == 200
    for answer in filter(None, answers):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 4" in head.split(b"\r\n")[0]
        if body:
            assert json.loads(body)["error_origin"] == "user"
    for line in gateway.log.rpartition("\n")[0].splitlines():
        if line.startswith("{"):
            json.loads(line)
