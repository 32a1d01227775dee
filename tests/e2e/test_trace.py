"""`debug.trace` says on every surface why a provider was chosen, and nothing that is nobody's business."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, content_pb2
from tests.e2e.conftest import ACME_KEY
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import DONE
from tests.e2e.test_grpc_clients import user
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import error
from tests.fakes.typed_client import eventually

TRACED = {"meta": True, "debug": {"enabled": True, "trace": True}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}
surfaces = pytest.mark.parametrize("path", BODIES)


def post(gateway: Gateway, path: str, **more: Any) -> httpx.Response:
    body = {"model": "acme/two:free", **BODIES[path], **more}
    reply = httpx.post(f"{gateway.url}{path}", json=body, headers=gateway.headers, timeout=60)
    assert reply.status_code == httpx.codes.OK, reply.text
    return reply


def meta_of(reply: httpx.Response) -> Any:
    """`meta` wherever the surface puts it: in the answer, or in one of the last events."""
    if reply.headers["content-type"] == "application/json":
        return reply.json().get("meta")
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    said = [json.loads(line) for line in lines if line != DONE.decode()]
    found = [one.get("meta") or one.get("response", {}).get("meta") for one in said]
    return next((meta for meta in reversed(found) if meta), None)


@pytest.mark.parametrize("stream", [False, True])
@surfaces
def test_a_trace_tells_of_candidates_and_attempts(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any], path: str, stream: bool
) -> None:
    acme.script(error(500))
    reply = post(gateway, path, stream=stream, **pair, **TRACED)
    meta = meta_of(reply)
    trace = meta["trace"]
    assert (trace["mode"], trace["affinity"]) == ("balanced", None)
    first, second = trace["candidates"]
    assert (first["provider"], first["model"], first["provider_model"]) == ("acme", pair["model"], "test-1")
    assert (second["provider"], second["provider_model"], second["breaker"]) == ("backup", "test-2", "closed")
    assert 0 <= first["chance"] <= 1 == first["score"] == first["health"]
    assert (first["latency_ms"], first["in_flight"], first["price_nanos"], first["reason"]) == (None, 0, 0, "")
    failed, served = trace["attempts"]
    assert (failed["provider"], failed["status"], failed["error"], failed["latency_ms"]) == (
        "acme", 500, "server_error", None,
    )  # fmt: skip
    assert (served["provider"], served["status"], served["error"]) == ("backup", 200, None)
    assert 0 <= failed["began_ms"] <= failed["began_ms"] + failed["took_ms"] <= served["began_ms"] + 0.002
    assert served["latency_ms"] == meta["latency_ms"]
    assert served["took_ms"] == meta["generation_ms"]
    for secret in (ACME_KEY, "127.0.0.1", "http://", str(gateway.directory)):
        assert secret not in json.dumps(meta)


@pytest.mark.parametrize(
    ("asked", "mode", "affinity"),
    [
        ({"provider": {"sort": "latency"}}, "latency", None),
        ({"provider": {"sort": "price"}, "session_id": "s"}, "price", "session_id"),
        ({"prompt_cache_key": "k"}, "balanced", "prompt_cache_key"),
    ],
)
def test_a_trace_tells_by_what_the_choice_was_made(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, asked: dict[str, Any], mode: str, affinity: str
) -> None:
    trace = meta_of(post(gateway, "/v1/chat/completions", **asked, **TRACED))["trace"]
    assert (trace["mode"], trace["affinity"]) == (mode, affinity)


def test_a_team_s_own_wish_holds_where_its_requests_say_nothing(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread
) -> None:
    gateway.create_team("quick")
    headers = {"authorization": f"Bearer {gateway.create_key(team='quick')}"}
    done = gateway.run("teams", "set", "quick", "--sort", "latency")
    assert done.returncode == 0, done.stderr
    for asked, mode in (({}, "latency"), ({"provider": {"sort": "price"}}, "price")):
        body = {"model": "acme/two:free", **BODIES["/v1/responses"], **asked, **TRACED}
        reply = httpx.post(f"{gateway.url}/v1/responses", json=body, headers=headers, timeout=60)
        assert meta_of(reply)["trace"]["mode"] == mode
    done = gateway.run("teams", "set", "quick", "--regions", "moon")
    assert done.returncode == 0, done.stderr
    refused = {**body, "model": "acme/native:free"}
    eventually(lambda: httpx.post(f"{gateway.url}/v1/responses", json=refused, headers=headers).status_code == 400)


@pytest.mark.parametrize(
    ("asked", "has_meta"),
    [
        ({"meta": True}, True),
        ({"meta": True, "debug": {"enabled": False, "trace": True}}, True),
        ({"meta": True, "debug": {"enabled": True}}, True),
        ({"debug": {"enabled": True, "trace": True}}, False),
    ],
)
@surfaces
def test_who_does_not_ask_for_both_gets_none(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, path: str, asked: dict[str, Any], has_meta: bool
) -> None:
    meta = meta_of(post(gateway, path, **asked))
    assert (meta is not None, "trace" in (meta or {})) == (has_meta, False)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_typed_client_asks_in_its_routing(
    channel: grpc.Channel, metadata: list[tuple[str, str]], acme: UpstreamThread, pair: dict[str, Any], streamed: bool
) -> None:
    acme.script(error(500))
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    request = chat_pb2.CreateChatCompletionRequest(
        model=pair["model"], messages=[user("hi")], routing=content_pb2.RoutingOptions(order=["acme"], trace=True)
    )
    if streamed:
        meta = list(chat.StreamChatCompletion(request, metadata=metadata, timeout=60))[-1].completed.meta
    else:
        meta = chat.CreateChatCompletion(request, metadata=metadata, timeout=60).meta
    trace = meta.trace
    assert [one.provider for one in trace.candidates] == ["acme", "backup"]
    assert (trace.mode, trace.affinity, trace.candidates[0].HasField("latency_ms")) == ("balanced", "", False)
    assert [(one.provider, one.status, one.error) for one in trace.attempts] == [
        ("acme", 500, "server_error"),
        ("backup", 200, ""),
    ]
    request.routing.trace = False
    assert not chat.CreateChatCompletion(request, metadata=metadata, timeout=60).meta.HasField("trace")
