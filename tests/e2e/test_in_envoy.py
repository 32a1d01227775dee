"""Workers inside Envoy, on the real module: what only it can show. All else is what `make test-in-envoy` runs."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aistats.gateway.v1 import chat_pb2_grpc
from server.in_envoy_start import missing
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import CHAT, open_raw, request_bytes, wait_left
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream, silent
from tests.fakes.typed_client import eventually, refused

WITHIN_S = 10.0

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"not on this machine: {missing()}")


@pytest.fixture(scope="module")
def inside(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    environ = {"ACME_KEY": ACME_KEY, "AISTATS_HOST": "in-envoy", "AISTATS_DRAIN_TIMEOUT_S": "8"}
    settings = config(acme_upstream, backup_upstream)
    gateway = Gateway(tmp_path_factory.mktemp("inside"), settings, workers=2, environ=environ).start()
    yield gateway
    if gateway.process is not None and gateway.process.poll() is None:
        gateway.stop()


@pytest.fixture
def channel(inside: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{inside.http_port}") as opened:
        yield opened


def metadata(gateway: Gateway) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {gateway.key}"),)


def test_every_worker_is_an_envoy(inside: Gateway, acme: UpstreamThread) -> None:
    assert len(inside.workers()) == 2
    for stream in (False, True):
        reply = inside.post("/v1/chat/completions", {**CHAT.body(), "stream": stream})
        assert reply.status_code == 200
        assert reply.text.endswith("data: [DONE]\n\n") is stream
        assert reply.headers["x-generation-id"].startswith("gen_")


def test_typed_calls_and_the_standard_services(inside: Gateway, acme: UpstreamThread, channel: grpc.Channel) -> None:
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    reply, call = chat.CreateChatCompletion.with_call(chat_request(), metadata=metadata(inside), timeout=WITHIN_S)
    assert reply.choices
    assert "x-generation-id" in {item.key for item in call.initial_metadata()}
    events = list(chat.StreamChatCompletion(chat_request(), metadata=metadata(inside), timeout=WITHIN_S))
    assert events[-1].WhichOneof("event") == "completed"
    failed = refused(chat.CreateChatCompletion, chat_request("no/model"), metadata(inside))
    assert failed.code() is grpc.StatusCode.NOT_FOUND
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WITHIN_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_compressed_messages_are_refused_with_what_is_taken(inside: Gateway, channel: grpc.Channel) -> None:
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        chat.CreateChatCompletion(
            chat_request(text="x" * 10_000),
            metadata=metadata(inside),
            timeout=WITHIN_S,
            compression=grpc.Compression.Gzip,
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_who_leaves_while_nothing_is_written_is_noticed(
    inside: Gateway, acme: UpstreamThread, channel: grpc.Channel
) -> None:
    acme.script(silent(), silent())
    connection = open_raw(inside, request_bytes(inside, CHAT))
    request = acme.wait_request()
    connection.close()
    wait_left(acme, request)
    call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion.future(chat_request(), metadata=metadata(inside))
    request = acme.wait_request(2)
    call.cancel()
    wait_left(acme, request)


def test_a_deadline_ends_a_call_on_both_sides(inside: Gateway, acme: UpstreamThread, channel: grpc.Channel) -> None:
    acme.script(silent())
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    call = chat.CreateChatCompletion.future(chat_request(), metadata=metadata(inside), timeout=1.0)
    request = acme.wait_request()
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_left(acme, request)


def test_a_dead_worker_is_started_again(inside: Gateway, acme: UpstreamThread) -> None:
    victim, other = inside.workers()
    victim.send_signal(signal.SIGKILL)
    assert eventually(lambda: len(inside.serving()) == 2 and victim.pid not in {w.pid for w in inside.serving()}, 30)
    assert other.pid in {worker.pid for worker in inside.serving()}
    assert inside.post("/v1/chat/completions", CHAT.body()).status_code == 200


def test_a_stop_lets_streams_end_and_tells_those_that_it_cuts(inside: Gateway, acme: UpstreamThread) -> None:
    acme.script(chat_stream(*["word "] * 20, every_s=0.1), chat_stream(*["word "] * 1000, every_s=0.1))
    with open_raw(inside, request_bytes(inside, CHAT)) as short:
        acme.wait_request()
        with open_raw(inside, request_bytes(inside, CHAT)) as long:
            acme.wait_request(2)
            assert inside.process is not None
            inside.process.send_signal(signal.SIGTERM)
            whole, part = rest(short), rest(long)
    assert whole.count(b"word ") == 20
    assert b"data: [DONE]" in whole
    assert 0 < part.count(b"word ") < 1000
    assert b'"shutting_down"' in part
    assert inside.process.wait(30) == 0, inside.log[-4000:]


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    connection.settimeout(30)
    return b"".join(iter(lambda: connection.recv(65_536), b""))
