"""What stands before `/v1/messages`: keys in either header, Envoy's own errors, betas, records, retries with a key."""

from __future__ import annotations

import secrets
from typing import Any

import httpx
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.purse import PAID, Purse
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, role_chunk, text_chunk
from tests.fakes.openai_upstream import Pause

FREE = "acme/test-1:free"
BODY: dict[str, Any] = {"model": FREE, "max_tokens": 50, "messages": [{"role": "user", "content": "Say hello."}]}


def send(
    gateway: Gateway, headers: dict[str, str], *, path: str = "/messages", body: Any = BODY, method: str = "POST"
) -> httpx.Response:
    return httpx.request(method, gateway.base_url + path, json=body, headers=headers, timeout=60)


def check_shape(reply: httpx.Response, kind: str, code: str) -> None:
    told = reply.json()
    assert told["type"] == "error", told
    assert told["error"]["type"] == kind
    assert told["error"]["message"] == told["description"]
    assert told["error"]["details"] == {"error_code": told["reason"]}
    assert (told["error_code"], told["status_code"]) == (code, reply.status_code)
    assert told["request_id"] == reply.headers["x-request-id"]
    assert reply.headers["content-length"] == str(len(reply.content))


def test_a_key_may_stand_in_either_header(gateway: Gateway, acme: UpstreamThread) -> None:
    for headers in ({"x-api-key": gateway.key}, {"authorization": f"Bearer {gateway.key}"}):
        reply = send(gateway, {**headers, "anthropic-version": "2023-06-01", "anthropic-beta": "a-2026-01-01"})
        assert reply.status_code == 200, reply.text
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert all("x-api-key" not in request.headers for request in acme.requests)
    assert gateway.key not in gateway.log
    assert send(gateway, {"x-api-key": gateway.key}, path="/chat/completions").status_code == 401


def test_what_the_sdk_calls_beta_comes_by_the_same_door(gateway: Gateway, acme: UpstreamThread) -> None:
    assert send(gateway, {"x-api-key": gateway.key}, path="/messages?beta=true").status_code == 200
    count = {name: value for name, value in BODY.items() if name != "max_tokens"}
    reply = send(gateway, {"x-api-key": gateway.key}, path="/messages/count_tokens?beta=true", body=count)
    assert reply.json()["input_tokens"] > 0


def test_errors_that_no_worker_sees(gateway: Gateway) -> None:
    headers = {"x-api-key": gateway.key}
    wrong = send(gateway, headers, method="GET")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    check_shape(wrong, "invalid_request_error", "method_not_allowed")
    strange = send(gateway, headers, path="/messages?colour=red")
    assert (strange.status_code, strange.json()["param"]) == (400, "colour")
    check_shape(strange, "invalid_request_error", "validation_error")
    nowhere = send(gateway, headers, path="/messages/batches")
    assert nowhere.status_code == 404
    check_shape(nowhere, "not_found_error", "not_found_error")
    large = httpx.post(
        f"{gateway.base_url}/messages", content=b" " * (64 * 1024 * 1024 + 1), headers=headers, timeout=60
    )
    assert large.status_code == 413
    check_shape(large, "request_too_large", "request_too_large")


def test_errors_of_a_worker(gateway: Gateway) -> None:
    headers = {"x-api-key": gateway.key}
    unknown = send(gateway, headers, body={**BODY, "top_q": 1})
    assert (unknown.status_code, unknown.json()["param"]) == (400, "top_q")
    check_shape(unknown, "invalid_request_error", "validation_error")
    version = send(gateway, {**headers, "anthropic-version": "2020-01-01"})
    assert (version.status_code, version.json()["param"]) == (400, "anthropic-version")
    stranger = send(gateway, {"x-api-key": "aistats_v1_sk_x_y"})
    check_shape(stranger, "authentication_error", "authentication_error")


@pytest.mark.parametrize("tool", [{"type": "web_search_20250305", "name": "web_search"}])
def test_tools_of_anthropics_own_are_refused_by_name(gateway: Gateway, acme: UpstreamThread, tool: Any) -> None:
    reply = send(gateway, {"x-api-key": gateway.key}, body={**BODY, "tools": [tool]})
    assert (reply.status_code, reply.json()["param"]) == (400, "tools[0]")
    assert acme.requests == []


def test_the_record_of_a_message_and_of_a_refusal(gateway: Gateway, acme: UpstreamThread) -> None:
    purse = Purse(gateway)
    reply = purse.post("/v1/messages", {**BODY, "model": PAID})
    record = purse.record(reply.json()["id"])
    assert (record["endpoint"], record["status_code"], record["model_id"]) == ("messages", 200, PAID)
    assert record["usage"]["input_tokens"] == reply.json()["usage"]["input_tokens"]
    assert record["usage"]["cache_read_input_tokens"] == 0
    refused = purse.post("/v1/messages", {**BODY, "nonsense": 1})
    record = purse.record(refused.json()["generation_id"])
    assert (record["endpoint"], record["status_code"], record["error_code"]) == ("messages", 400, "unknown_parameter")


def test_a_stream_that_is_asked_for_again_is_told_again(gateway: Gateway, acme: UpstreamThread) -> None:
    purse = Purse(gateway)
    headers = {"idempotency-key": secrets.token_hex(8)}
    body = {**BODY, "model": PAID, "stream": True}
    first, second = (purse.post("/v1/messages", body, headers=headers) for _ in range(2))
    assert first.content == second.content
    assert first.content.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert second.headers["idempotent-replayed"] == "true"
    assert len(acme.requests) == 1


def test_a_stream_that_breaks_off_says_so(strict_gateway: Gateway, acme: UpstreamThread) -> None:
    """A second without a byte is too long for this gateway."""
    acme.script(chat_chunks([role_chunk(), text_chunk("Hel")], done=False, end=Pause(30)))
    headers = {"x-api-key": strict_gateway.key}
    reply = send(strict_gateway, headers, body={**BODY, "stream": True})
    assert reply.status_code == 200
    assert b"event: message_start\n" in reply.content
    last = reply.text.rstrip().rpartition("event: ")[2]
    assert last.startswith('error\ndata: {"type":"error","error":{"type":')
    assert "message_stop" not in reply.text
