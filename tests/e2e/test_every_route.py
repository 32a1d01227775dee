"""What went wrong elsewhere with keys and with SDKs, asked of every route and every typed method."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import pytest

from server.domain.errors import Reason
from tests.e2e.conftest import ACME_KEY
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.test_isolation import SENT_BY_CLIENTS, check_headers
from tests.e2e.test_sdk_expectations import chatty
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.bodies import FREE, bodies, request_of
from tests.fakes.chat_wire import frame, role_chunk, text_chunk
from tests.fakes.contract import check, check_error, check_rpc_error, told
from tests.fakes.replies import compact, error_body, sse, sse_event
from tests.fakes.routes import RestRoute, TypedMethod, rest_routes, typed_methods
from tests.fakes.timing import soonest

ROUTES = rest_routes()
SIGNED = {"/v1/videos/{video_id}/download"}
"""Where a signature in the address stands for a key (test_video_links.py)."""
KEYLESS = {"/healthz", "/docs", "/docs/{name}", "/openapi.json", "/openapi.yaml"} | SIGNED
"""What anybody may ask for."""
KEYED = [route for route in ROUTES if route.path not in KEYLESS]
TYPED = [method for method in typed_methods() if method.name != "GetLiveness"]
WITH_BODY = [route for route in ROUTES if route.body]
STREAMING = [route for route in WITH_BODY if any("stream" in body for body in bodies(route))]
UNKNOWN = "0" * 32


def asked(client: httpx.Client, route: RestRoute, key: str | bytes, **options: Any) -> httpx.Response:
    """A good request to the route, with that key."""
    authorization = b"Bearer " + (key if isinstance(key, bytes) else key.encode())
    body = request_of(bodies(route)[0]) if route.body else {}
    path = route.at(*(UNKNOWN for _ in route.variables))
    return client.request(route.method, path, headers=[(b"authorization", authorization)], **body, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def purse(gateway: Gateway) -> Purse:
    return Purse(gateway)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


# K1: what has ended is out everywhere, within a second.


def answers(channel: grpc.Channel, method: TypedMethod, key: str) -> Reason | None:
    """Why a worker refuses a request without content; None where it does not."""
    ask: Any = channel.unary_stream(
        method.path, request_serializer=bytes, response_deserializer=method.output.FromString
    )
    call = ask(b"", metadata=[("authorization", f"Bearer {key}")], timeout=30)
    try:
        next(call)
    except grpc.RpcError as failed:
        return check_rpc_error(failed)
    finally:
        call.cancel()
    return None


def test_k1_a_key_that_has_ended_is_refused_by_every_route_of_every_worker(
    gateway: Gateway, client: httpx.Client, purse: Purse, acme: UpstreamThread
) -> None:
    keys = [
        purse.post("/v1/api-keys", {"name": "ends", "scopes": ["inference", "management"]}).json() for _ in range(3)
    ]
    revoked, deleted, disabled = (made["data"]["key"] for made in keys)
    ids = [made["data"]["id"] for made in keys]
    with ExitStack() as channels:
        workers = [
            channels.enter_context(grpc.insecure_channel(f"unix:{gateway.directory}/data/run/worker-{index}.sock"))
            for index in range(len(gateway.workers()))
        ]
        for key in (revoked, deleted, disabled):
            for route in KEYED:
                assert asked(client, route, key).status_code != httpx.codes.UNAUTHORIZED, route
            for worker in workers:
                assert all(answers(worker, method, key) is not Reason.INVALID_API_KEY for method in TYPED)
        assert purse.gateway.run("keys", "revoke", ids[0]).returncode == 0
        for method, key_id, body in (("DELETE", ids[1], None), ("PATCH", ids[2], {"disabled": True})):
            ended = client.request(method, f"/v1/api-keys/{key_id}", json=body, headers=purse.headers)
            assert ended.status_code == httpx.codes.OK, ended.text
        time.sleep(1)
        for key in (revoked, deleted, disabled):
            for route in KEYED:
                assert check_error(told(asked(client, route, key)))["error"] == "authentication_error", route
            for worker in workers:
                assert {answers(worker, method, key) for method in TYPED} == {Reason.INVALID_API_KEY}


# K2 to K4: what is no key gets nobody anywhere.

NO_KEYS = (
    b"' OR '1'='1", b"aistats_v1_sk_x'; SELECT pg_sleep(5); --_secret", b"aistats_v1_sk_" + b"a" * 20_000, b"x",
    "ключ".encode(), b"aistats_v1_sk_%00_%00",
)  # fmt: skip


@pytest.mark.parametrize("route", KEYED, ids=str)
def test_k2_what_is_no_key_is_refused_at_once(gateway: Gateway, client: httpx.Client, route: RestRoute) -> None:
    logged = len(gateway.log)
    nearly = gateway.key[:-1] + ("0" if gateway.key[-1] != "0" else "1")
    for key in (*NO_KEYS, nearly):

        def refused(key: bytes | str = key) -> float:
            asked_s = time.monotonic()
            body = check_error(told(asked(client, route, key)))
            assert (body["error"], body["reason"]) == ("authentication_error", "invalid_api_key"), key
            return time.monotonic() - asked_s

        assert soonest(refused, within_s=1.0) < 1.0, key
    assert "pg_sleep" not in gateway.log[logged:]


TARGETS = (
    "{}", "//{}", "/.{}", "/healthz/..{}", "/healthz/%2e%2e{}", "/healthz/..;{}", "/docs/..{}", "/docs/..%2f..{}",
    "/openapi.json#{}", "http://x/healthz#{}", "http://evil@x{}", "http://x/docs/..{}", "{}/", "{}?/healthz", "{}%20",
    "{}#/docs", "{}%23/healthz",
)  # fmt: skip
HOSTS = ("x", "x/#@y", "127.0.0.1@evil")


@pytest.mark.parametrize("route", KEYED, ids=str)
def test_k3_no_spelling_of_a_route_gets_around_the_key(
    gateway: Gateway, acme: UpstreamThread, route: RestRoute
) -> None:
    path = route.at(*("acme/test-1" if name == "model_id" else UNKNOWN for name in route.variables))
    body = json.dumps(bodies(route)[0]).encode() if route.body else b""
    for target, host in [(target, "x") for target in TARGETS] + [("{}", host) for host in HOSTS]:
        head = f"{route.method} {target.format(path)} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as connection:
            connection.sendall(f"{head}\r\n".encode() + body)
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            received = reply.read()
        # What stands behind a fragment is not asked for, and the page before it is everybody's.
        assert reply.status in {400, 401, 404, 405} or (reply.status == 200 and "#{}" in target), (target, received)
        assert b"acme/" not in received, target
    assert acme.requests == []


# K10: what clients send about themselves goes to no provider.


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
def test_k10_a_clients_headers_go_to_no_provider(
    client: httpx.Client, purse: Purse, acme: UpstreamThread, route: RestRoute
) -> None:
    sent = {**SENT_BY_CLIENTS, **purse.headers, "idempotency-key": f"canary-{secrets.token_hex(8)}"}
    sent.pop("x-api-key")  # the key itself to some, and then it counts
    for body in bodies(route):
        reply = client.request(
            route.method, route.at(*(UNKNOWN for _ in route.variables)), **request_of(body),
            headers={**sent, "idempotency-key": f"canary-{secrets.token_hex(8)}"},
        )  # fmt: skip
        check(told(reply))
    assert not acme.requests or len(acme.requests) >= len(bodies(route))
    assert acme.films is not None
    for request in (*acme.requests, *acme.films.requests):
        check_headers(request, f"Bearer {ACME_KEY}")
        assert purse.key.encode() not in request.body


def test_k10_is_asked_of_every_route_that_asks_a_provider(
    client: httpx.Client, purse: Purse, acme: UpstreamThread
) -> None:
    asking = set()
    for route in WITH_BODY:
        acme.reset()
        asked(client, route, purse.key)
        if acme.requests:
            asking.add(route.path)
    assert asking >= {
        "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/audio", "/v1/audio/speech",
        "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/generations", "/v1/images/edits",
    }  # fmt: skip


# D1, D2: streams hold nothing that SDKs stumble over, and tell of failures.


@pytest.mark.parametrize("route", STREAMING, ids=str)
def test_d1_no_field_passes_that_sdks_stumble_over(
    client: httpx.Client, purse: Purse, acme: UpstreamThread, route: RestRoute
) -> None:
    acme.script(chatty())
    reply = client.post(route.path, json={**bodies(route)[0], "model": FREE, "stream": True}, headers=purse.headers)
    assert check(told(reply)) is None
    assert "Hel" in reply.text
    assert {line.partition(":")[0] for line in reply.text.split("\n")} <= {"", "data", "event"}
    assert not [line for line in reply.text.split("\n") if line.strip() == "data:"]


@pytest.mark.parametrize("route", STREAMING, ids=str)
def test_d2_a_failure_in_mid_stream_is_told_once_and_ends_it(
    client: httpx.Client, purse: Purse, acme: UpstreamThread, route: RestRoute
) -> None:
    failed = sse_event(compact(error_body("The GPU is on fire.", type="server_error", code="gpu_on_fire")))
    acme.script(sse([*frame([role_chunk(), *map(text_chunk, "abc")], done=False), failed]))
    reply = client.post(route.path, json={**bodies(route)[0], "model": FREE, "stream": True}, headers=purse.headers)
    assert reply.status_code == httpx.codes.OK
    data = [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
    errors = [event["error"] for event in data if isinstance(event.get("error"), dict)]
    assert len(errors) == 1
    assert "The GPU is on fire." in errors[0]["message"]


# D7: an id that is told is one that can be asked for.


@pytest.mark.parametrize("route", [route for route in WITH_BODY if not route.variables], ids=str)
def test_d7_an_id_is_read_back_as_it_was_told(
    client: httpx.Client, purse: Purse, acme: UpstreamThread, route: RestRoute
) -> None:
    reply = client.post(route.path, **request_of(bodies(route)[0]), headers=purse.headers)
    assert reply.is_success, reply.text
    body = reply.json() if reply.headers["content-type"] == "application/json" else {}
    if "keys" in route.path or "webhooks" in route.path:
        where, its_id = f"{route.path}/{body['data']['id']}", body["data"]["id"]
    elif route.path == "/v1/responses":
        where, its_id = f"/v1/responses/{body['id']}", body["id"]
    else:
        where = f"/v1/generation/{body.get('id', reply.headers['x-generation-id'])}"
        its_id = reply.headers["x-generation-id"]
    for _ in range(4):
        if reply.status_code == httpx.codes.ACCEPTED:  # the record of a job is written when it ends
            while client.get(body["polling_url"], headers=purse.headers).json()["status"] != "completed":
                time.sleep(0.1)
        again = client.get(where, headers=purse.headers)
        if again.status_code == httpx.codes.NOT_FOUND and route.path in UNRECORDED:
            continue
        assert again.status_code == httpx.codes.OK, again.text
        assert (again.json().get("data") or again.json())["id"] == its_id
    assert set(UNRECORDED) <= {one.path for one in WITH_BODY}


UNRECORDED = ("/v1/messages/count_tokens", "/v1/pricing/calculate")
"""What asks no provider, and so leaves no record."""
