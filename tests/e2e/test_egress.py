"""What of a provider's reply reaches a client, by every way in: its answer, and none of its headers."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.conftest import ACME_KEY
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, FREE
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import completion, finish_chunk, frame, role_chunk, text_chunk
from tests.fakes.openai_upstream import Reply
from tests.fakes.replies import chunked, error, json_reply, whole
from tests.fakes.typed_client import eventually

CANARY = "canary-zq"
HOSTILE = {
    "set-cookie": f"session={CANARY}; Path=/",
    "server": CANARY,
    "via": CANARY,
    "location": f"http://{CANARY}.example/",
    "x-secret": CANARY,
    "x-request-id": f"req_{CANARY}",
    "openai-organization": CANARY,
    "openai-processing-ms": CANARY,
    "openai-version": CANARY,
    "anthropic-organization-id": CANARY,
    "x-ratelimit-limit-requests": CANARY,
    "x-ratelimit-remaining-requests": CANARY,
    "access-control-allow-origin": f"https://{CANARY}.example",
    "strict-transport-security": CANARY,
    "x-envoy-upstream-service-time": CANARY,
    "x-generation-id": CANARY,
    "x-gw-status": "418",
    "grpc-status": "13",
    "grpc-message": CANARY,
}
"""What no client is told, by name; of the request's ids its own alone."""
TOLD = {
    "cache-control", "content-length", "content-type", "date", "request-id", "retry-after", "server",
    "transfer-encoding", "x-accel-buffering", "x-generation-id", "x-request-id",
}  # fmt: skip
"""All headers that a reply may have; what stands in them is the gateway's own."""
TYPED = {"date", "grpc-status-details-bin", "server", "x-generation-id", "x-request-id"}
"""The same of a typed call's metadata."""

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "responses": ("/v1/responses", {"model": FREE, "input": "Hi"}),
    "responses stream": ("/v1/responses", {"model": FREE, "input": "Hi", "stream": True}),
    "messages": ("/v1/messages", {"model": FREE, "max_tokens": 9, "messages": CHAT["messages"]}),
    "messages stream": (
        "/v1/messages",
        {"model": FREE, "max_tokens": 9, "messages": CHAT["messages"], "stream": True},
    ),
}


def answered(stream: bool) -> Reply:
    if stream:
        return chunked([*frame([role_chunk(), text_chunk("Hi"), finish_chunk()])], headers=HOSTILE)
    return json_reply(completion("Hi"), headers=HOSTILE)


REPLIES: dict[str, tuple[int, Any]] = {
    "answered": (200, answered),
    "refused": (400, lambda _: error(400, "No.", type="invalid_request_error", headers=HOSTILE)),
    "limited": (429, lambda _: error(429, "Slow down.", headers={**HOSTILE, "retry-after": "7"})),
    "broken": (502, lambda _: error(500, "Ouch.", headers=HOSTILE)),
    "moved": (502, lambda _: whole(b"", status=302, headers=HOSTILE)),
}


@pytest.mark.parametrize("kind", REPLIES)
@pytest.mark.parametrize("way", WAYS)
def test_no_header_of_a_provider_reaches_a_client(gateway: Gateway, acme: UpstreamThread, way: str, kind: str) -> None:
    path, body = WAYS[way]
    status, made = REPLIES[kind]
    acme.script(made(bool(body.get("stream"))))
    reply = gateway.post(path, body)
    assert reply.status_code == status
    assert acme.requests
    assert CANARY not in f"{reply.headers}{reply.text}"
    assert set(reply.headers) <= TOLD


@pytest.mark.parametrize("kind", REPLIES)
@pytest.mark.parametrize("stream", [False, True])
def test_no_metadata_of_a_typed_call_is_a_providers(
    channel: grpc.Channel, metadata: list[tuple[str, str]], acme: UpstreamThread, kind: str, stream: bool
) -> None:
    acme.script(REPLIES[kind][1](stream))
    stub: Any = chat_pb2_grpc.ChatServiceStub(channel)
    method = stub.StreamChatCompletion if stream else stub.CreateChatCompletion.future
    call = method(chat_request(), metadata=metadata, timeout=20)
    try:
        said = str(list(call) if stream else call.result())
        assert kind == "answered"
    except grpc.RpcError as failed:
        said = f"{failed} {call.details()}"
        assert kind != "answered"
    told = [*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())]
    assert acme.requests
    assert CANARY not in f"{said}{told}"
    assert {name for name, _ in told} <= TYPED


@pytest.mark.parametrize("way", WAYS)
def test_a_redirect_costs_no_answer_and_takes_no_key_along(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any], way: str
) -> None:
    path, body = WAYS[way]
    sink = UpstreamThread()
    try:
        acme.script(whole(b"", status=307, headers={"location": f"{sink.base_url}/chat/completions"}))
        backup.script(answered(bool(body.get("stream"))))
        reply = gateway.post(path, {**body, **pair})
        assert reply.status_code == 200, reply.text
        assert (len(acme.requests), len(backup.requests)) == (1, 1)
        assert sink.upstream.connections_accepted == 0
    finally:
        sink.close()
    assert ACME_KEY in str(acme.requests[0].headers)
    assert ACME_KEY not in str(backup.requests[0].headers)


def test_what_a_provider_calls_a_request_is_on_record_and_a_failed_ones_in_the_log(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any]
) -> None:
    acme.script(error(500, "Ouch.", headers={"x-request-id": "req-of-acme"}))
    backup.script(json_reply(completion("Hi"), headers={"x-request-id": "req-of-backup"}))
    reply = gateway.post("/v1/chat/completions", {**CHAT, **pair})
    generation_id = reply.headers["x-generation-id"]
    record = gateway.get(f"/v1/generation/{generation_id}").json()
    assert [attempt["provider_request_id"] for attempt in record["attempts"]] == ["req-of-acme", "req-of-backup"]

    def failures() -> list[dict[str, Any]]:
        said = [line for line in gateway.log.splitlines() if generation_id in line and '"attempt_failed"' in line]
        return [json.loads(line) for line in said]

    assert eventually(lambda: bool(failures()))
    (failed,) = failures()
    assert (failed["provider"], failed["category"], failed["status"]) == ("acme", "server_error", 500)
    assert failed["provider_request_id"] == "req-of-acme"
