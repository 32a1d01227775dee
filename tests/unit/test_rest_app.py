"""The core of the bridge: routes, keys, the body limit, and that nothing of a bug leaks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import structlog

from rest_bridge.app import MAX_BODY_BYTES, RestApp
from rest_bridge.http import Exchange, RestRequest, RestResponse, Route, json_response
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Arrival, Call, Scope
from tests.fakes.rest import ARRIVAL, KEY, OpenDoor, ScriptedGenerate, chat_app, read, rest_request, text_events, whole

BODY = {"model": "acme/test-1", "messages": [{"role": "user", "content": "hi"}]}


class Echo:
    """A surface that tells what it was given."""

    async def handle(self, exchange: Exchange) -> RestResponse:
        name = exchange.path_params.get("name", "")
        return json_response(f"{exchange.request.method} {name} {len(exchange.body)}".encode())

    async def break_down(self, exchange: Exchange) -> RestResponse:
        raise ValueError(f"/etc/secrets {exchange.call.principal.key_id}")

    def app(self) -> RestApp:
        routes = (
            Route("GET", "/v1/things/{name}", self.handle),
            Route("DELETE", "/v1/things/{name}", self.handle),
            Route("POST", "/v1/things", self.handle),
            Route("POST", "/v1/broken", self.break_down),
        )
        return RestApp(OpenDoor(), routes)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/things/a", b"GET a 0"),
        ("DELETE", "/v1/things/a%2Fb%20c%25", b"DELETE a/b c% 0"),
        ("POST", "/v1/things", b"POST  2"),
    ],
)
async def test_a_request_finds_its_route(method: str, path: str, body: bytes) -> None:
    reply = await read(await Echo().app()(rest_request(b"{}" if method == "POST" else b"", method=method, path=path)))
    assert (reply.status, reply.body) == (200, body)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/v1/things/", 404, None),
        ("GET", "/v1/things/a/b", 404, None),
        ("GET", "/V1/things/a", 404, None),
        ("POST", "/v1/things/a", 405, "DELETE, GET"),
        ("GET", "/v1/things", 405, "POST"),
        ("get", "/v1/things/a", 405, "DELETE, GET"),
    ],
)
async def test_a_request_without_a_route(method: str, path: str, status: int, allow: str | None) -> None:
    reply = await read(await Echo().app()(rest_request(method=method, path=path)))
    assert reply.status == reply.json["status_code"] == status
    assert reply.headers.get("allow") == allow


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer nonsense", KEY.removeprefix("Bearer ")])
async def test_without_a_valid_key_nothing_is_called(authorization: str | None) -> None:
    generate = ScriptedGenerate(*whole(*text_events("x")))
    headers = {"content-type": "application/json"} | ({} if authorization is None else {"authorization": authorization})
    reply = await read(await chat_app(generate)(rest_request(BODY, headers=headers)))
    assert (reply.status, reply.json["error"]) == (401, "authentication_error")
    assert reply.json["generation_id"] == ARRIVAL.generation_id
    assert not generate.requests


async def test_every_reply_carries_its_ids() -> None:
    generate = ScriptedGenerate(*whole(*text_events("x")))
    for body in (BODY, {**BODY, "stream": True}, {"model": 5}):
        reply = await read(await chat_app(generate)(rest_request(body)))
        assert reply.headers["x-generation-id"] == ARRIVAL.generation_id
        assert reply.headers["x-request-id"] == ARRIVAL.request_id


class Endless:
    """A body that goes on for ever, and counts what was taken of it."""

    def __init__(self) -> None:
        self.taken = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        piece = b" " * (1 << 20)
        while True:
            self.taken += len(piece)
            yield piece


async def test_a_body_over_the_limit_is_not_read_on() -> None:
    endless = Endless()
    headers = {"authorization": KEY, "content-type": "application/json"}
    request = RestRequest("POST", "/v1/things", headers, endless.pieces(), ARRIVAL)
    reply = await read(await Echo().app()(request))
    assert (reply.status, reply.json["error"]) == (413, "request_too_large")
    assert endless.taken <= MAX_BODY_BYTES + (1 << 20)


async def test_a_body_at_the_limit_is_whole() -> None:
    reply = await read(await Echo().app()(rest_request(b" " * MAX_BODY_BYTES, path="/v1/things")))
    assert (reply.status, reply.body) == (200, b"POST  %d" % MAX_BODY_BYTES)


async def test_an_unknown_sender_has_no_body_read() -> None:
    endless = Endless()
    reply = await read(await Echo().app()(RestRequest("POST", "/v1/things", {}, endless.pieces(), ARRIVAL)))
    assert reply.status == 401
    assert endless.taken == 0


async def test_a_bug_is_logged_and_says_nothing() -> None:
    with structlog.testing.capture_logs() as logged:
        reply = await read(await Echo().app()(rest_request(b"{}", path="/v1/broken")))
    assert (reply.status, reply.json["error"], reply.json["reason"]) == (500, "server_error", "internal")
    for secret in (b"secrets", b"key-1", b"ValueError", b"Traceback"):
        assert secret not in reply.body
    assert [entry["event"] for entry in logged] == ["request_failed"]


class ClosedDoor(OpenDoor):
    """A reception whose database is away."""

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        raise GatewayError(Reason.DATABASE_UNAVAILABLE, "Keys cannot be checked now.", retry_after_s=1.5)


async def test_a_key_that_cannot_be_checked_is_not_a_wrong_key() -> None:
    app = RestApp(ClosedDoor(), (Route("POST", "/v1/x", Echo().handle),))
    reply = await read(await app(rest_request(b"{}", path="/v1/x")))
    assert (reply.status, reply.headers["retry-after"]) == (503, "2")
