"""Keys and tenants: who gets in, for how long, and that nobody sees what is another's."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2_grpc, models_pb2, models_pb2_grpc, responses_pb2, responses_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, FREE, assert_contract
from tests.e2e.test_grpc_clients import chat_request, error_info
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import Request, chat_stream, chat_unary, error
from tests.fakes.timing import soonest
from tests.fakes.wire import Reply

RESPONSE: dict[str, Any] = {"model": FREE, "input": "Mine."}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def other_key(gateway: Gateway) -> str:
    """A key of another team."""
    gateway.create_team("neighbours")
    return gateway.create_key(team="neighbours")


# Who gets in.


@pytest.fixture(scope="module")
def four_workers(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    settings = config(acme_upstream, backup_upstream)
    directory = tmp_path_factory.mktemp("four")
    gateway = Gateway(directory, settings, workers=4, environ={"ACME_KEY": ACME_KEY}).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def is_let_in(channel: grpc.Channel, key: str) -> bool:
    """Whether the worker at the other end takes the key; it may say nothing but yes or UNAUTHENTICATED."""
    listing = models_pb2_grpc.ModelsServiceStub(channel).ListModels
    metadata = (("authorization", f"Bearer {key}"),)
    try:
        listing(models_pb2.ListModelsRequest(), metadata=metadata, timeout=30)
    except grpc.RpcError as refused:
        if error_info(refused).reason == "INVALID_API_KEY":
            return False
        raise
    return True


def test_a_revoked_key_is_out_everywhere_within_a_second_and_its_streams_end_well(
    four_workers: Gateway, acme: UpstreamThread
) -> None:
    keys = [four_workers.create_key(scopes=(scope,)) for scope in ("inference", "management")]
    acme.script(*[chat_stream(*["tick "] * 40, every_s=0.1)] * 4)
    with ExitStack() as channels:
        workers = [
            channels.enter_context(grpc.insecure_channel(f"unix:{four_workers.directory}/data/run/worker-{index}.sock"))
            for index in range(4)
        ]
        assert all(is_let_in(worker, key) for worker in workers for key in keys)
        metadata = (("authorization", f"Bearer {keys[0]}"),)
        streams: list[Any] = [
            chat_pb2_grpc.ChatServiceStub(worker).StreamChatCompletion(chat_request(), metadata=metadata, timeout=30)
            for worker in workers
        ]
        acme.wait_request(4)
        for key in keys:
            revoked = four_workers.run("keys", "revoke", key.split("_")[3])
            assert revoked.returncode == 0, revoked.stderr
            if key == keys[0]:
                assert is_let_in(workers[0], keys[1]), "only the key that was named is revoked"
        time.sleep(1)
        assert not any(is_let_in(worker, key) for worker in workers for key in keys)
        for stream in streams:
            *_, last = stream
            assert last.WhichOneof("event") == "completed"
    reply = four_workers.post("/v1/chat/completions", CHAT, headers=bearer(keys[0]))
    assert_contract(reply, 401, "authentication_error")


@pytest.mark.parametrize(
    "token",
    [
        "' OR '1'='1",
        "aistats_v1_sk_x'; SELECT pg_sleep(5); --_secret",
        "aistats_v1_sk_' UNION SELECT 1--_" + "a" * 64,
        "aistats_v1_sk_%00_%00",
        "aistats_v1_sk_" + "a" * 20_000,
        "aistats_v1_sk__",
        "ключ",
    ],
    ids=lambda token: token[:30],
)
def test_what_is_no_key_is_refused_at_once(gateway: Gateway, token: str) -> None:
    with httpx.Client(headers=[(b"authorization", f"Bearer {token}".encode())]) as client:
        client.get(f"{gateway.url}/healthz")

        def refused() -> float:
            asked_s = time.monotonic()
            reply = client.get(f"{gateway.url}/v1/models")
            took_s = time.monotonic() - asked_s
            assert_contract(reply, 401, "authentication_error", reason="invalid_api_key")
            return took_s

        assert soonest(refused, within_s=0.5) < 0.5
    assert not [line for line in gateway.log.splitlines() if "pg_sleep" in line or "UNION SELECT" in line]


def test_a_key_that_is_nearly_right_is_wrong_even_while_the_right_one_is_warm(gateway: Gateway) -> None:
    nearly = gateway.key[:-1] + ("0" if gateway.key[-1] != "0" else "1")
    for _ in range(4):
        assert gateway.get("/v1/models").status_code == 200
        assert_contract(gateway.get("/v1/models", headers=bearer(nearly)), 401, "authentication_error")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"/v1/models", b"x/#@y"),
        (b"/v1/models", b"127.0.0.1@evil"),
        (b"http://evil/v1/models", b"x"),
        (b"http://evil@x/v1/models", b"x"),
        (b"http://x/healthz#/v1/models", b"x"),
        (b"http://x/healthz/../v1/models", b"x"),
        (b"//v1//models", b"x"),
        (b"/healthz/../v1/models", b"x"),
        (b"/healthz/..;/v1/models", b"x"),
        (b"/healthz/%2e%2e/v1/models", b"x"),
        (b"/healthz%2f..%2fv1%2fmodels", b"x"),
        (b"/v1/x/..%2fmodels", b"x"),
        (b"/v1/responses/..%2fmodels", b"x"),
        (b"/V1/models", b"x"),
        (b"/v1/models/", b"x"),
        (b"/./v1/./models", b"x"),
        (b"\\v1\\models", b"x"),
        (b"*", b"x"),
    ],
)
def test_no_spelling_of_a_route_gets_around_the_key(gateway: Gateway, target: bytes, host: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n")
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        body = reply.read()
    assert reply.status in {400, 401, 404}, body
    assert json.loads(body)["status_code"] == reply.status
    assert b"acme" not in body


# What is another's.


def test_another_teams_response_is_as_if_it_had_never_been(
    gateway: Gateway, acme: UpstreamThread, other_key: str, channel: grpc.Channel
) -> None:
    made = gateway.post("/v1/responses", RESPONSE).json()["id"]
    suffix, never = made.removeprefix("resp_"), "0" * 32
    for ours, unknown in ((made, f"resp_{never}"), (suffix, never)):
        for method in ("GET", "DELETE"):
            answers = []
            for response_id in (ours, unknown):
                reply = httpx.request(method, f"{gateway.base_url}/responses/{response_id}", headers=bearer(other_key))
                body = assert_contract(reply, 404, "not_found_error", reason="resource_not_found")
                del body["generation_id"]
                answers.append((body, sorted(reply.headers)))
            assert answers[0] == answers[1]
    for spelling in (f"gen_{suffix}", f"chatcmpl-{suffix}", suffix.upper(), f" {made}", f"{made}%20", f"..%2F{made}"):
        reply = gateway.get(f"/v1/responses/{spelling}", headers=bearer(other_key))
        assert_contract(reply, 404, "not_found_error")
    goes_on = [
        gateway.post("/v1/responses", {**RESPONSE, "previous_response_id": one}, headers=bearer(other_key))
        for one in (made, f"resp_{never}")
    ]
    told = [assert_contract(reply, reply.status_code, reply.json()["error"]) for reply in goes_on]
    assert [reply.status_code for reply in goes_on] == [goes_on[1].status_code] * 2
    assert told[0]["description"].replace(made, "?") == told[1]["description"].replace(f"resp_{never}", "?")

    stub = responses_pb2_grpc.ResponsesServiceStub(channel)
    metadata = (("authorization", f"Bearer {other_key}"),)
    calls: tuple[tuple[Any, Any], ...] = (
        (stub.GetResponse, responses_pb2.GetResponseRequest),
        (stub.DeleteResponse, responses_pb2.DeleteResponseRequest),
    )
    for call, asked in calls:
        seen = []
        for response_id in (made, suffix, f"resp_{never}"):
            with pytest.raises(grpc.RpcError) as gone:
                call(asked(response_id=response_id), metadata=metadata, timeout=30)
            info = error_info(gone.value)
            seen.append((gone.value.code(), gone.value.details(), info.reason))
        assert seen == [seen[2]] * 3
    assert gateway.get(f"/v1/responses/{made}").json()["id"] == made
    assert len(acme.requests) == 1


def test_a_cache_key_means_something_else_in_every_team(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, other_key: str
) -> None:
    for path, body in (("/v1/chat/completions", {**CHAT, "user": "u-17"}), ("/v1/responses", RESPONSE)):
        acme.reset()
        for key in (gateway.key, other_key, gateway.key, other_key):
            assert gateway.post(path, {**body, "prompt_cache_key": "x"}, headers=bearer(key)).status_code == 200
        ours, theirs, ours_again, theirs_again = (request.json["prompt_cache_key"] for request in acme.requests)
        assert (ours, theirs) == (ours_again, theirs_again)
        assert len({ours, theirs, "x"}) == 3
        assert not any(b"u-17" in request.body for request in acme.requests)


SENT_BY_CLIENTS = {
    "x-api-key": "canary-1", "cookie": "session=canary-2", "x-gw-status": "canary-3", "proxy-authorization": "canary-4",
    "openai-organization": "canary-5", "openai-project": "canary-6", "x-forwarded-for": "192.0.2.77",
    "x-request-id": "canary-7", "traceparent": "00-canary8", "user-agent": "canary-9", "referer": "http://canary.example",
    "idempotency-key": "canary-10", "x-session-id": "canary-11", "anthropic-api-key": "canary-12",
}  # fmt: skip
SENT_TO_PROVIDERS = {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "connection"}


def check_headers(request: Request, authorization: str | None) -> None:
    headers = {name.lower(): value for name, value in request.headers}
    assert headers.pop("authorization", None) == authorization
    assert headers.keys() <= SENT_TO_PROVIDERS | ({"idempotency-key"} if "/videos" in request.path else set())
    assert not any("canary" in value or "192.0.2.77" in value for value in headers.values())
    assert b"canary" not in request.body


def test_a_clients_headers_go_to_no_provider(
    gateway: Gateway, acme: UpstreamThread, backup: UpstreamThread, channel: grpc.Channel, pair: dict[str, Any]
) -> None:
    headers = {**gateway.headers, **SENT_BY_CLIENTS}
    acme.script(chat_unary(), error(503), error(503))
    for model, path, body in (
        ({"model": FREE}, "/v1/chat/completions", CHAT),
        (pair, "/v1/chat/completions", CHAT),  # falls back to a provider without a key
        (pair, "/v1/responses", RESPONSE),
        ({"model": "acme/native:free"}, "/v1/responses", RESPONSE),
    ):
        headers["idempotency-key"] = f"canary-{secrets.token_hex(8)}"
        reply = gateway.post(path, {**body, **model}, headers=headers)
        assert reply.status_code == 200, reply.text
    metadata = tuple((name, value) for name, value in headers.items() if name != "user-agent")
    chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(chat_request(), metadata=metadata, timeout=30)
    assert (len(acme.requests), len(backup.requests)) == (4, 3)
    for request in acme.requests:
        check_headers(request, f"Bearer {ACME_KEY}")
    for request in backup.requests:
        check_headers(request, None)


# Many at once.

MARKER = re.compile(r"marker-\d{4}-")
AT_ONCE = 600


def echo(request: Request) -> Reply:
    """Says what it was asked, in several pieces, with pauses in between."""
    [said] = set(MARKER.findall(request.body.decode()))
    if request.json.get("stream"):
        return chat_stream(*[said] * 6, every_s=0.02)
    return chat_unary(said)


class Clients:
    """Five ways to ask; each adds what it hears to `heard` as it comes, so that what was cancelled counts too."""

    def __init__(self, http: httpx.AsyncClient, chat: Any, key: str) -> None:
        self._http = http
        self._chat = chat
        self._metadata = (("authorization", f"Bearer {key}"),)
        self.heard: dict[int, list[str]] = {number: [] for number in range(AT_ONCE)}

    async def ask(self, number: int) -> None:
        marker, heard = f"marker-{number:04}-", self.heard[number]
        as_chat = {**CHAT, "messages": [{"role": "user", "content": marker}]}
        as_response = {**RESPONSE, "input": marker}
        match number % 5:
            case 0:
                await self._whole("/chat/completions", as_chat, heard)
            case 1:
                await self._streamed("/chat/completions", as_chat, heard)
            case 2:
                await self._whole("/responses", as_response, heard)
            case 3:
                await self._streamed("/responses", as_response, heard)
            case _:
                await self._native(marker, heard)

    async def _whole(self, path: str, body: Mapping[str, Any], heard: list[str]) -> None:
        reply = await self._http.post(path, json=body)
        heard.append(reply.text)
        assert reply.status_code == 200, reply.text

    async def _streamed(self, path: str, body: Mapping[str, Any], heard: list[str]) -> None:
        async with self._http.stream("POST", path, json={**body, "stream": True}) as reply:
            async for piece in reply.aiter_text():
                heard += [piece]
            assert reply.status_code == 200

    async def _native(self, marker: str, heard: list[str]) -> None:
        call = self._chat.StreamChatCompletion(chat_request(text=marker), metadata=self._metadata)
        try:
            async for event in call:
                heard += [event.text_delta.text]
        finally:
            call.cancel()


async def test_no_answer_reaches_another_client(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(*[echo] * AT_ONCE)
    chance = random.Random(7)
    patience = {number: chance.uniform(0, 1.5) for number in range(AT_ONCE) if chance.random() < 1 / 3}
    async with (
        httpx.AsyncClient(
            base_url=gateway.base_url, headers=gateway.headers, limits=httpx.Limits(max_connections=200), timeout=60
        ) as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.http_port}") as channel,
    ):
        clients = Clients(http, chat_pb2_grpc.ChatServiceStub(channel), gateway.key)

        async def one(number: int) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(clients.ask(number), patience.get(number))

        await asyncio.gather(*map(one, range(AT_ONCE)))
    for number, heard in clients.heard.items():
        said = {*MARKER.findall("".join(heard))}
        assert said == {f"marker-{number:04}-"} or (said == set() and number in patience)
    asked = [{*MARKER.findall(request.body.decode())} for request in acme.requests]
    assert [len(markers) for markers in asked] == [1] * len(asked)
    assert len(set.union(*asked)) == len(asked) >= AT_ONCE - len(patience)
