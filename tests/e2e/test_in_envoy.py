"""Workers inside Envoy, on the real module: what only it can show. All else is what `make test-in-envoy` runs."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from aistats.gateway.v1 import chat_pb2_grpc, images_pb2, images_pb2_grpc
from server.hosts.host import MAX_MESSAGE_BYTES
from server.in_envoy_start import missing
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import CHAT, open_raw, request_bytes, wait_left
from tests.e2e.test_abuse import MIB, TAKEN_PER_READER, slow_reader
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.test_images import a_picture
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.image_wire import form_of, png
from tests.fakes.openai_upstream import chat_stream, chat_unary, silent
from tests.fakes.typed_client import eventually, refused

WITHIN_S = 30.0
CREATE = "/aistats.gateway.v1.ChatService/CreateChatCompletion"
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

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
    with grpc.insecure_channel(f"127.0.0.1:{inside.http_port}", options=ANY_SIZE) as opened:
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


def test_streams_of_requests(inside: Gateway, acme: UpstreamThread, channel: grpc.Channel) -> None:
    picture = a_picture(400, 400)

    def messages() -> Iterator[Any]:
        yield images_pb2.EditImagesRequest(settings=images_pb2.CreateImagesRequest(model="acme/draw:free", prompt="x"))
        yield images_pb2.EditImagesRequest(file=images_pb2.ImageFile(filename="x.png"))
        for start in range(0, len(picture), 100):
            yield images_pb2.EditImagesRequest(chunk=picture[start : start + 100])

    stub = images_pb2_grpc.ImagesServiceStub(channel)
    options: dict[str, Any] = {"metadata": metadata(inside), "timeout": WITHIN_S}
    assert [image.data for image in stub.EditImages(messages(), **options).images] == [png(0)]
    events = list(stub.StreamImageEdits(messages(), **options))
    assert [event.WhichOneof("event") for event in events] == ["image", "finished"]
    for request in acme.requests:
        assert picture in [part.get_payload(decode=True) for _, part in form_of(request) if not isinstance(part, str)]


def test_a_conversation_goes_to_and_fro(inside: Gateway, channel: grpc.Channel) -> None:
    """Each answer comes while the next question has not been asked."""
    questions: SimpleQueue[str | None] = SimpleQueue()
    asked = (reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in iter(questions.get, None))
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=WITHIN_S)
    for name in ("aistats.gateway.v1.ChatService", "no.such.thing", "grpc.health.v1.Health"):
        questions.put(name)
        assert (next(answers).WhichOneof("message_response") == "error_response") is (name == "no.such.thing")
    questions.put(None)
    assert list(answers) == []
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WITHIN_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_large_messages_pass_and_larger_ones_are_refused(
    inside: Gateway, acme: UpstreamThread, channel: grpc.Channel
) -> None:
    create = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion
    acme.script(chat_unary("y" * 8 * MIB))
    reply = create(chat_request(text="x" * 8 * MIB), metadata=metadata(inside), timeout=WITHIN_S)
    assert len(reply.choices[0].parts[0].text.text) == 8 * MIB
    assert acme.requests[0].body.count(b"x") >= 8 * MIB
    failed = refused(create, chat_request(text="x" * MAX_MESSAGE_BYTES), metadata(inside), timeout=WITHIN_S)
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert create(chat_request(), metadata=metadata(inside), timeout=WITHIN_S).choices
    assert len(acme.requests) == 2


def test_who_does_not_read_holds_the_provider_up(inside: Gateway, acme: UpstreamThread) -> None:
    acme.script(chat_stream(*["x" * 32 * 1024] * (2 * TAKEN_PER_READER // (32 * 1024))))
    with closing(slow_reader(inside)) as reader:
        request = acme.wait_request()
        assert reader.recv(1)
        sent = settled(lambda: request.sent)
        assert 0 < sent < TAKEN_PER_READER
    wait_left(acme, request, within_s=WITHIN_S)


def settled(count: Callable[[], int]) -> int:
    """What it is when it has not changed for half a second."""
    last = -1
    while (now := count()) != last:
        last = now
        time.sleep(0.5)
    return now


FRAMES = {
    b"": grpc.StatusCode.INTERNAL,
    b"\0\0\0\0": grpc.StatusCode.INTERNAL,
    b"\0\0\0\0\5ab": grpc.StatusCode.INTERNAL,
    b"\1\0\0\0\1x": grpc.StatusCode.INTERNAL,
    b"GET / HTTP/1.1\r\n\r\n": grpc.StatusCode.INTERNAL,
    b"\0\xff\xff\xff\xffx": grpc.StatusCode.RESOURCE_EXHAUSTED,
    b"\0\0\0\0\3\xff\xff\xff": grpc.StatusCode.INVALID_ARGUMENT,
}


def test_bytes_that_are_no_message_are_refused_one_by_one(inside: Gateway, acme: UpstreamThread) -> None:
    assert {sent: status_of(inside, sent) for sent in FRAMES} == FRAMES
    assert acme.requests == []
    assert inside.post("/v1/chat/completions", CHAT.body()).status_code == 200


NO_METHODS = (
    "/aistats.gateway.v1.%ff", "/aistats.gateway.v1.ChatService/%ff", "/grpc.health.v1.Health/%ff",
    "/grpc.reflection.%ff", "/grpc.reflection.v1.ServerReflection/%C3%28",
)  # fmt: skip


@pytest.mark.parametrize("path", NO_METHODS)
def test_a_path_that_is_no_text_is_no_method(inside: Gateway, path: str) -> None:
    """The module reads a path as UTF-8 before it calls the worker, and nobody would answer."""
    assert status_of(inside, b"\0\0\0\0\0", path) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/generation/%ff", 400), ("/v1/models/%ff", 400), ("/v1/models?%ff", 200)]
)
def test_a_rest_path_that_is_no_text_is_answered(inside: Gateway, path: str, status: int) -> None:
    assert inside.get(path).status_code == status


def status_of(gateway: Gateway, body: bytes, path: str = CREATE) -> grpc.StatusCode | None:
    """The status of a call whose frames are these bytes."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    peer.initiate_connection()
    headers = [
        (":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path), ("te", "trailers"),
        ("content-type", "application/grpc"), *metadata(gateway),
    ]  # fmt: skip
    peer.send_headers(1, headers)
    peer.send_data(1, body, end_stream=True)
    told: dict[str, str] = {}
    with socket.create_connection(("127.0.0.1", gateway.http_port), WITHIN_S) as connection:
        connection.sendall(peer.data_to_send())
        while data := connection.recv(65_536):
            for event in peer.receive_data(data):
                told.update(dict(getattr(event, "headers", None) or ()))
                if isinstance(event, h2.events.StreamEnded):
                    return next((code for code in grpc.StatusCode if str(code.value[0]) == told["grpc-status"]), None)
            connection.sendall(peer.data_to_send())
    return None


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
    wait_left(acme, request, within_s=WITHIN_S)
    call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion.future(chat_request(), metadata=metadata(inside))
    request = acme.wait_request(2)
    call.cancel()
    wait_left(acme, request, within_s=WITHIN_S)


def test_a_deadline_ends_a_call_on_both_sides(inside: Gateway, acme: UpstreamThread, channel: grpc.Channel) -> None:
    acme.script(silent())
    chat = chat_pb2_grpc.ChatServiceStub(channel)
    call = chat.CreateChatCompletion.future(chat_request(), metadata=metadata(inside), timeout=5.0)
    request = acme.wait_request()
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_left(acme, request, within_s=WITHIN_S)


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
