"""Several workers on one port: each replaced, or lost, while the others go on; clients that stay come to all."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import psutil
import pytest

from aistats.gateway.v1 import chat_pb2_grpc
from server.in_envoy_start import missing
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.purse import PAID, Purse
from tests.e2e.sse_client import CHAT, open_raw, read_until
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.traffic import steady
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import Reply, Request, as_openai, chat_stream

AGE_S = 1
LONGER_S = 8.0
"""Than a connection lives, and than Envoy leaves one that it has told to go (drain_timeout, 5 s)."""
WITHIN_S = 120.0
WORDS = 150
"""Ten a second: streams that outlast the opening of all of them."""
CONNECTED_WITHIN_S = 8.0
"""Who connects may have to ask again, after one second, or three."""

on_either_host = pytest.mark.parametrize("gateway", ["grpc.aio", "in-envoy"], indirect=True)
in_envoy = pytest.mark.parametrize("gateway", ["in-envoy"], indirect=True)


def in_a_while(request: Request) -> Reply:
    """As OpenAI answers, but streams take half a second."""
    body = json.loads(request.body or b"{}")
    if isinstance(body, dict) and body.get("stream"):
        return chat_stream(*["word "] * 10, every_s=0.05)
    return as_openai(request)


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamThread]:
    upstream = UpstreamThread(default=in_a_while)
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamThread
) -> Iterator[Gateway]:
    if request.param == "in-envoy" and missing() is not None:
        pytest.skip(f"not on this machine: {missing()}")
    environ = {
        "ACME_KEY": ACME_KEY,
        "AISTATS_HOST": request.param,
        "AISTATS_MAX_CONNECTION_AGE_S": str(AGE_S),
        "AISTATS_WORKER_LEASE_S": "3",
    }
    directory = tmp_path_factory.mktemp(request.param.replace(".", "-"))
    gateway = Gateway(directory, config(upstream, upstream), workers=2, environ=environ).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def eventually(holds: Callable[[], bool]) -> bool:
    """Asked now and then: it may read all of a long log."""
    until = time.monotonic() + WITHIN_S
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@on_either_host
def test_workers_are_replaced_one_by_one_and_no_request_fails(gateway: Gateway) -> None:
    before = {worker.pid for worker in gateway.workers()}
    with steady(gateway) as traffic:
        assert eventually(lambda: len(traffic.answered) == 5)
        asked = gateway.run("restart")
        assert asked.returncode == 0, asked.stderr
        assert eventually(lambda: '"event":"workers_replaced"' in gateway.log)
        seen = traffic.answered.copy()
        assert eventually(lambda: all(traffic.answered[kind] > count for kind, count in seen.items()))
    assert traffic.failures == []
    after = {worker.pid for worker in gateway.workers()}
    assert len(after) == 2
    assert after.isdisjoint(before)


@in_envoy
def test_who_connects_past_envoy_is_let_in_while_a_worker_waits_for_the_ends_of_its_requests(
    gateway: Gateway, upstream: UpstreamThread
) -> None:
    upstream.reset()
    workers = gateway.workers()
    served, replaced = (gateway.log.count(f'"event":"{event}"') for event in ("serving", "workers_replaced"))
    with ExitStack() as left_open, ThreadPoolExecutor(100) as pool:
        held: set[int] = set()
        while len(held) < len(workers):
            upstream.script(chat_stream(*["word "] * 10 * WORDS, every_s=0.1))
            connection = left_open.enter_context(open_raw(gateway, chat_request_bytes(gateway.key)))
            read_until(connection, b"word ")
            held.add(owner(connection, workers))
        assert gateway.run("restart").returncode == 0
        assert eventually(lambda: gateway.log.count('"event":"serving"') > served)
        connecting = []
        for _ in range(60):
            connecting.append(pool.submit(connects, gateway.grpc_port))
            time.sleep(0.05)
        assert [one.result() for one in connecting] == [True] * len(connecting)
        assert {worker.pid for worker in workers} <= {worker.pid for worker in gateway.workers()}
    assert eventually(lambda: gateway.log.count('"event":"workers_replaced"') > replaced)


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), CONNECTED_WITHIN_S).close()
    except OSError:
        return False
    return True


@in_envoy
@pytest.mark.parametrize("port", ["http", "grpc"])
def test_a_client_that_stays_comes_to_every_worker_and_its_stream_is_not_cut(
    gateway: Gateway, upstream: UpstreamThread, port: str
) -> None:
    words = 80
    upstream.script(chat_stream(*["word "] * words, every_s=LONGER_S / words))
    metadata = (("authorization", f"Bearer {gateway.key}"),)
    number = gateway.http_port if port == "http" else gateway.grpc_port
    with grpc.insecure_channel(f"127.0.0.1:{number}") as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        stream = chat.StreamChatCompletion(chat_request(), metadata=metadata, timeout=WITHIN_S)
        next(stream)

        def came_to() -> int:
            reply = chat.CreateChatCompletion(chat_request(), metadata=metadata, timeout=WITHIN_S)
            return worker_of(gateway, reply.id.removeprefix("chatcmpl-"))

        first = came_to()
        assert eventually(lambda: came_to() != first)
        text = "".join(event.text_delta.text for event in stream)
    assert text.count("word ") == words


def worker_of(gateway: Gateway, suffix: str) -> int:
    """Who served a call, by the log."""

    def told() -> list[int]:
        lines = [json.loads(line) for line in gateway.log.splitlines() if f'"gen_{suffix}"' in line]
        return [line["worker"] for line in lines if line["event"] == "call"]

    assert eventually(lambda: bool(told()))
    return told()[0]


@in_envoy
def test_a_crash_costs_the_requests_of_one_worker_and_the_books_heal(
    gateway: Gateway, upstream: UpstreamThread
) -> None:
    upstream.reset()
    purse = Purse(gateway)
    request = chat_request_bytes(purse.key, PAID)
    victim, other = gateway.workers()
    with ExitStack() as left_open:
        of: dict[int, list[socket.socket]] = {victim.pid: [], other.pid: []}
        while min(map(len, of.values())) < 3:
            upstream.script(chat_stream(*["word "] * WORDS, every_s=0.1))
            connection = left_open.enter_context(open_raw(gateway, request))
            upstream.wait_request(1 + sum(map(len, of.values())), timeout=WITHIN_S)
            of[owner(connection, [victim, other])].append(connection)
        os.kill(victim.pid, signal.SIGKILL)
        lost, kept = ([rest(one) for one in of[worker.pid]] for worker in (victim, other))
    assert all(b"[DONE]" not in reply for reply in lost)
    assert [reply.count(b"word ") for reply in kept] == [WORDS] * len(kept)
    assert all(b"data: [DONE]" in reply for reply in kept)
    assert eventually(lambda: len(gateway.serving()) == 2)
    assert other.pid in {worker.pid for worker in gateway.serving()}
    assert eventually(lambda: purse.get("/v1/credits").json()["credits"]["reserved_nanos"] == 0)
    assert gateway.run("ledger", "verify").returncode == 0


def chat_request_bytes(key: str, model: str = "acme/test-1:free") -> bytes:
    body = json.dumps(CHAT.body(model)).encode()
    head = f"POST {CHAT.path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def owner(connection: socket.socket, workers: list[psutil.Process]) -> int:
    """The process at the other end."""
    ours = connection.getsockname()[1]
    ends = {end.raddr.port: worker.pid for worker in workers for end in worker.net_connections("tcp") if end.raddr}
    return ends[ours]


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection, in whatever way."""
    connection.settimeout(WITHIN_S)
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
            if received.endswith(b"0\r\n\r\n"):
                break
    except ConnectionError:
        pass
    return received
