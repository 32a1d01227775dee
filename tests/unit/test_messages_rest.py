"""The surface around messages: headers, keys, errors in Anthropic's shape, pings, counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rest_bridge.app import RestApp
from rest_bridge.messages import MessagesRest
from server.domain.errors import CODE_OF_REASON, ErrorCode, GatewayError, Reason
from server.domain.request import GenerationRequest
from tests.fakes.rest import KEY, SUFFIX, OpenDoor, Reply, ScriptedGenerate, read, rest_request, text_events, whole

BODY: dict[str, Any] = {
    "model": "acme/test-1",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "hi"}],
}
TOKEN = KEY.removeprefix("Bearer ")
HEADERS = {"authorization": KEY, "content-type": "application/json"}


def count_turns(request: GenerationRequest) -> int:
    return len(request.turns)


async def post(
    generate: ScriptedGenerate,
    body: Any = BODY,
    *,
    path: str = "/v1/messages",
    headers: Mapping[str, str] = HEADERS,
    ping_interval_s: float = 15.0,
) -> Reply:
    surface = MessagesRest(generate, count_turns, ping_interval_s=ping_interval_s)
    app = RestApp(OpenDoor(), surface.routes())
    return await read(await app(rest_request(body, path=path, headers=headers)))


async def test_a_message() -> None:
    generate = ScriptedGenerate(*whole(*text_events("Hello")))
    reply = await post(generate)
    assert (reply.status, reply.json["id"], reply.json["content"][0]["text"]) == (200, f"msg_{SUFFIX}", "Hello")
    assert reply.headers["x-generation-id"] == f"gen_{SUFFIX}"
    assert generate.closed == 1


async def test_a_stream_and_its_pings() -> None:
    generate = ScriptedGenerate(*whole(*text_events("a"))[:3], 0.2, *whole(*text_events("a"))[3:])
    reply = await post(generate, {**BODY, "stream": True}, ping_interval_s=0.05)
    assert reply.headers["content-type"] == "text/event-stream"
    assert b'event: ping\ndata: {"type":"ping"}\n\n' in reply.body
    assert b"\n: " not in reply.body
    assert reply.body.startswith(b"event: message_start\n")
    assert reply.body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


async def test_a_stream_that_breaks_ends_in_an_error() -> None:
    failed = GatewayError(Reason.STREAM_INTERRUPTED, "It broke off.")
    reply = await post(ScriptedGenerate(*whole(*text_events("a"))[:3], failed), {**BODY, "stream": True})
    assert reply.status == 200
    assert b'event: error\ndata: {"type":"error","error":{"type":"api_error"' in reply.body
    assert b"message_stop" not in reply.body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": KEY}, 200),
        ({"x-api-key": TOKEN}, 200),
        ({"x-api-key": TOKEN, "authorization": "Bearer of something else"}, 200),
        ({"x-api-key": "wrong", "authorization": KEY}, 401),
        ({"x-api-key": "", "authorization": KEY}, 401),
        ({}, 401),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_where_a_key_may_stand(headers: dict[str, str], status: int, path: str) -> None:
    body = {name: value for name, value in BODY.items() if path == "/v1/messages" or name != "max_tokens"}
    reply = await post(ScriptedGenerate(*whole(*text_events("a"))), body, path=path, headers=headers)
    assert reply.status == status
    if status != 200:
        assert reply.json["error"]["type"] == "authentication_error"
        assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
async def test_versions_and_betas(version: str | None) -> None:
    headers = {**HEADERS, "anthropic-beta": "some-beta-2026-01-01,another"}
    if version is not None:
        headers["anthropic-version"] = version
    reply = await post(ScriptedGenerate(*whole(*text_events("a"))), headers=headers)
    assert reply.status == 200


async def test_a_version_that_is_not_known_is_named() -> None:
    reply = await post(ScriptedGenerate(), headers={**HEADERS, "anthropic-version": "2024-01-01"})
    assert (reply.status, reply.json["param"]) == (400, "anthropic-version")
    assert "2026-10-21" in reply.json["error"]["message"]


async def test_a_count() -> None:
    body = {"model": "m", "messages": BODY["messages"], "system": "x"}
    generate = ScriptedGenerate()
    reply = await post(generate, body, path="/v1/messages/count_tokens")
    assert (reply.status, reply.json) == (200, {"input_tokens": 2})
    assert generate.requests == []


@pytest.mark.parametrize("reason", list(Reason))
async def test_every_error_has_anthropics_shape_and_the_contracts_fields(reason: Reason) -> None:
    reply = await post(ScriptedGenerate(GatewayError(reason, "Why.", param="model")))
    told = reply.json
    assert told["type"] == "error"
    assert told["error"]["message"] == told["description"] == "Why."
    assert told["error"]["type"].endswith(("_error", "_too_large"))
    assert told["error"]["details"] == {"error_code": reason.value}
    assert (told["reason"], told["error_code"]) == (reason.value, CODE_OF_REASON[reason].value)
    assert (told["status_code"], told["param"]) == (reply.status, "model")
    assert (told["generation_id"], told["request_id"]) == (f"gen_{SUFFIX}", reply.headers["x-request-id"])
    if CODE_OF_REASON[reason] is ErrorCode.INSUFFICIENT_FUNDS:
        assert (reply.status, told["error"]["type"]) == (402, "billing_error")


async def test_a_bug_is_told_in_the_same_shape() -> None:
    reply = await post(ScriptedGenerate(RuntimeError("secret")))
    assert (reply.status, reply.json["error"]["type"]) == (500, "api_error")
    assert b"secret" not in reply.body
