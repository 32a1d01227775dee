"""What a crash may cost: the requests of the process that crashed, and those never in silence."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import grpc
import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, assert_contract
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream, silent


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    """One of this module's own, for it is about to suffer."""
    settings = config(acme_upstream, backup_upstream)
    gateway = Gateway(tmp_path_factory.mktemp("crashing"), settings, environ={"ACME_KEY": ACME_KEY}).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


@pytest.fixture(autouse=True)
def recovered(gateway: Gateway, acme: UpstreamThread) -> Iterator[None]:
    """Each test leaves a gateway that serves again, by itself and soon."""
    yield
    acme.reset()
    deadline = time.monotonic() + 60
    while len(gateway.serving()) < 2 or gateway.post("/v1/chat/completions", CHAT).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_workers_after(gateway: Gateway, reply: httpx.Response, events: int) -> None:
    """Read so many events, then end every worker at once, and read on."""
    seen = 0
    for line in reply.iter_lines():
        seen += line.startswith("data:")
        if seen == events:
            for worker in gateway.workers():
                worker.send_signal(signal.SIGKILL)


def over_http1(gateway: Gateway) -> Generator[object, None, None]:
    return over_http(gateway, httpx.Client(headers=gateway.headers))


def over_http2(gateway: Gateway) -> Generator[object, None, None]:
    return over_http(gateway, httpx.Client(headers=gateway.headers, http1=False, http2=True))


def over_http(gateway: Gateway, client: httpx.Client) -> Generator[object, None, None]:
    body = {**CHAT, "stream": True}
    with client, client.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as reply:
        yield from (line for line in reply.iter_lines() if line.startswith("data:"))


def over_grpc(gateway: Gateway) -> Generator[object, None, None]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.http_port}") as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        yield from chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(chat_request(), metadata=metadata)


def test_a_worker_killed_in_mid_stream_is_never_a_silent_end(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(*[chat_stream(*["tick "] * 200, every_s=0.05)] * 3)
    streams = [over_http1(gateway), over_http2(gateway), over_grpc(gateway)]
    with ExitStack() as left_open:
        for stream in streams:
            left_open.enter_context(closing(stream))
            for _ in range(5):
                next(stream)
        kill_workers(gateway)
        for stream in streams:
            with pytest.raises((httpx.RemoteProtocolError, grpc.RpcError)) as broken:
                deque(stream, maxlen=0)
            if isinstance(broken.value, grpc.Call):
                assert broken.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}


def test_a_request_that_a_worker_had_read_is_not_sent_to_another(gateway: Gateway, acme: UpstreamThread) -> None:
    """It may have been billed: the client decides whether to send it again."""
    acme.script(silent())
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(gateway.post, "/v1/chat/completions", CHAT)
        acme.wait_request()
        kill_workers(gateway)
        if gateway.is_in_envoy:  # the client's connection has gone with the worker
            with pytest.raises(httpx.TransportError):
                asking.result()
        else:
            assert_contract(asking.result(), 503, "unavailable_error", error_origin="gateway")
    assert len(acme.requests) == 1


def test_while_one_worker_is_away_the_other_serves_everybody(gateway: Gateway, acme: UpstreamThread) -> None:
    """Who is away has no requests under way, which makes it the first choice of whoever looks for the least busy."""
    victim = gateway.workers()[0]
    victim.kill()
    victim.wait(30)
    time.sleep(0.1)
    with httpx.Client(headers=gateway.headers, timeout=30) as client, ThreadPoolExecutor(8) as pool:
        url = f"{gateway.url}/v1/chat/completions"
        statuses = set(pool.map(lambda _: client.post(url, json=CHAT).status_code, range(200)))
    assert statuses == {200}
    assert len(acme.requests) == 200


def test_a_client_that_ends_its_request_late_gets_the_whole_reply(gateway: Gateway, acme: UpstreamThread) -> None:
    """The reply is over before the request is; what resets the stream then must not take the reply with it."""
    message = chat_request().SerializeToString()
    headers = [
        (":method", "POST"), (":scheme", "http"), (":authority", "x"),
        (":path", "/aistats.gateway.v1.ChatService/StreamChatCompletion"), ("content-type", "application/grpc"),
        ("te", "trailers"), ("authorization", f"Bearer {gateway.key}"),
    ]  # fmt: skip
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    peer.initiate_connection()
    peer.send_headers(1, headers)
    peer.send_data(1, b"\0" + len(message).to_bytes(4) + message)
    data, trailers = b"", {}
    with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as connection:
        while not trailers:
            connection.sendall(peer.data_to_send())
            for event in peer.receive_data(connection.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    data += event.data
                    peer.acknowledge_received_data(event.flow_controlled_length, 1)
                if isinstance(event, h2.events.TrailersReceived):
                    trailers = dict(event.headers)
    assert trailers["grpc-status"] == "0"
    assert b"Hello" in data
    assert b" there!" in data


def test_http1_has_no_other_sign_of_leaving_than_half_a_close(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(silent())
    body = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        acme.wait_request()
        left_s = time.monotonic()
        connection.shutdown(socket.SHUT_WR)
        assert acme.wait_disconnect().at - left_s < 5


def kill_workers(gateway: Gateway) -> None:
    for worker in gateway.workers():
        worker.send_signal(signal.SIGKILL)
