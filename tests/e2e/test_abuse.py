"""Clients that read slowly, leave early, or mean harm: what they cost, and whether others notice."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import grpc.aio
import h2.config
import h2.connection
import h2.errors
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import chat_chunks, text_chunks
from tests.fakes.openai_upstream import chat_stream
from tests.fakes.typed_client import eventually

MIB = 1024 * 1024
SLOW_READERS = 20
LEAVERS = 200
RESETS = 5000
STREAM_BYTES = 50 * MIB
TAKEN_PER_READER = 16 * MIB
"""Of a stream that nobody reads, what the provider gets rid of: into the kernel's buffers mostly."""
HELD_PER_READER = 5 * MIB
"""And what worker and Envoy keep of it."""


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    """One worker, and nothing else that uses memory."""
    settings = config(acme_upstream, backup_upstream)
    gateway = Gateway(tmp_path_factory.mktemp("abused"), settings, workers=1, environ={"ACME_KEY": ACME_KEY}).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def resident(gateway: Gateway) -> int:
    """Bytes of all workers and Envoy."""
    return sum(process.memory_info().rss for process in [*gateway.workers(), gateway.envoy()])


def slow_reader(gateway: Gateway) -> socket.socket:
    """A connection that has asked for a stream, and takes in as little of it as a socket can."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", gateway.http_port))
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def test_slow_readers_hold_the_upstream_up_and_nobody_else(gateway: Gateway, acme: UpstreamThread) -> None:
    event_bytes = 32 * 1024
    long = chat_chunks(text_chunks(*["x" * event_bytes] * (STREAM_BYTES // event_bytes)))
    assert gateway.post("/v1/chat/completions", {**CHAT, "stream": True}).status_code == 200
    acme.reset()
    before = resident(gateway)
    acme.script(*[long] * SLOW_READERS)
    with ExitStack() as open_connections:
        readers = [open_connections.enter_context(closing(slow_reader(gateway))) for _ in range(SLOW_READERS)]
        acme.wait_request(SLOW_READERS)
        for _ in range(4):
            time.sleep(1)
            for reader in readers:
                assert reader.recv(1024)
        sent: list[int] = []
        while sent != (sent := [request.sent for request in acme.requests]):
            time.sleep(1)
        assert max(sent) < TAKEN_PER_READER
        assert resident(gateway) - before < SLOW_READERS * HELD_PER_READER
        for _ in range(10):
            assert gateway.post("/v1/chat/completions", {**CHAT, "stream": True}, timeout=30).status_code == 200
        assert [request.sent for request in acme.requests[:SLOW_READERS]] == sent  # nothing more of it was taken
    acme.wait_disconnect(SLOW_READERS)


# Clients that leave.


async def test_streams_that_clients_leave_are_cancelled_upstream(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(*[chat_stream(*["tick "] * 1000, every_s=0.1)] * LEAVERS)
    metadata = (("authorization", f"Bearer {gateway.key}"),)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.http_port}") as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)

        async def first_message() -> Any:
            call: Any = chat.StreamChatCompletion(chat_request(), metadata=metadata)
            async for event in call:
                if event.HasField("text_delta"):
                    break
            return call

        calls = await asyncio.gather(*[first_message() for _ in range(LEAVERS)])
        left_s = time.monotonic()
        for call in calls:
            call.cancel()
        await asyncio.to_thread(acme.wait_disconnect, LEAVERS)
    assert max(one.at for one in acme.upstream.disconnects) - left_s < 30
    assert eventually(lambda: gateway.log.count('"CANCELLED"') >= LEAVERS)


def hostile(port: int) -> tuple[socket.socket, h2.connection.H2Connection]:
    """An HTTP/2 connection that the test drives frame by frame."""
    connection = socket.create_connection(("127.0.0.1", port))
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    peer.initiate_connection()
    connection.sendall(peer.data_to_send())
    return connection, peer


def is_dropped(connection: socket.socket) -> bool:
    """Whether the peer has closed, after whatever it still had to say."""
    connection.settimeout(5)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def request_headers(gateway: Gateway, path: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path),
        ("authorization", f"Bearer {gateway.key}"), ("content-type", "application/json"),
    ]  # fmt: skip


def test_a_rapid_reset_leaves_others_alone(gateway: Gateway, acme: UpstreamThread) -> None:
    def slowest_of_20() -> float:
        took = []
        with httpx.Client(headers=gateway.headers, timeout=30) as client:
            for _ in range(20):
                asked_s = time.monotonic()
                assert client.post(f"{gateway.url}/v1/chat/completions", json=CHAT).status_code == 200
                took.append(time.monotonic() - asked_s)
        return max(took)

    usual_s = slowest_of_20()
    connection, peer = hostile(gateway.http_port)
    body = json.dumps(CHAT).encode()
    headers = request_headers(gateway, "/v1/chat/completions")
    with connection:
        try:
            for number in range(RESETS):
                stream = peer.get_next_available_stream_id()
                peer.send_headers(stream, headers)
                peer.send_data(stream, body, end_stream=True)
                peer.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                if number % 50 == 49:
                    connection.sendall(peer.data_to_send())
        except OSError:
            pass  # it has been thrown out, as it deserves
        assert slowest_of_20() < max(3 * usual_s, 5.0)
        assert is_dropped(connection)
    assert eventually(lambda: acme.upstream.open_sockets <= 20)


def test_frames_that_make_the_server_reset_leave_others_alone(gateway: Gateway) -> None:
    """A window update of nothing, on a stream just opened, is an error that the server must answer with a reset."""
    connection, peer = hostile(gateway.http_port)
    headers = request_headers(gateway, "/v1/chat/completions")
    with connection:
        try:
            for number in range(RESETS):
                stream = peer.get_next_available_stream_id()
                peer.send_headers(stream, headers)
                bad = (4).to_bytes(3) + b"\x08\x00" + stream.to_bytes(4) + (0).to_bytes(4)
                if number % 50 == 49:
                    connection.sendall(peer.data_to_send())
                connection.sendall(peer.data_to_send() + bad)
        except OSError:
            pass
        assert gateway.post("/v1/chat/completions", CHAT, timeout=30).status_code == 200
        assert is_dropped(connection)


# Text that is no text.

CUT = [b"\xe2\x82", b"caf\xc3", b"\xf0\x9f\x99", b"\xff\xfe"]


@pytest.mark.parametrize("cut", CUT, ids=repr)
def test_half_a_character_anywhere_breaks_nothing(gateway: Gateway, cut: bytes) -> None:
    pid, key = gateway.envoy().pid, gateway.key.encode()
    logged = len(gateway.log)
    authorised = b"authorization: Bearer " + key + b"\r\n"
    attempts = [
        (b"GET /" + cut + b" HTTP/1.1\r\nhost: x\r\n", 400),
        (b"GET /v1/models?" + cut + b"=1 HTTP/1.1\r\nhost: x\r\n" + authorised, 400),
        (b"GET /v1/nothing HTTP/1.1\r\nhost: x\r\nuser-agent: " + cut + b"\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\nuser-agent: " + cut + b"\r\nx-y: " + cut + b"\r\n", 405),
        (b"GET /v1/models?limit=x HTTP/1.1\r\nhost: x\r\nuser-agent: " + cut + b"\r\n" + authorised, 400),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: " + cut + b"\r\nuser-agent: " + cut + b"\r\n", 401),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + cut + b"\r\n", 401),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\norigin: " + cut + b"\r\n" + authorised, 200),
        (b"GET /v1/models HTTP/1.1\r\nhost: " + cut + b"\r\n" + authorised, 400),
    ]
    for head, status in attempts:
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as connection:
            connection.sendall(head + b"\r\n")
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            body = reply.read()
        assert reply.status == status, (head, body)
        assert isinstance(json.loads(body), dict)
    assert gateway.envoy().pid == pid
    assert eventually(lambda: gateway.log[logged:].count('"event":"access"') >= len(attempts))
    lines = gateway.log[logged:].splitlines()
    assert [line for line in lines if not isinstance(json.loads(line), dict)] == []
    assert not any(gateway.key in line or "Traceback" in line for line in lines)
