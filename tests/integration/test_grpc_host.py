"""The gRPC host on real sockets: where it listens, what it takes, and what it tells besides our own services."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # the package has no stubs
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from aistats.gateway.v1 import chat_pb2, chat_pb2_grpc, content_pb2
from server.hosts.grpc_aio import MAX_MESSAGE_BYTES, GrpcAioHost, ListenError
from server.hosts.health import MAX_WATCHERS
from server.rpc.chat import ChatServicer
from tests.fakes.generation import ScriptedGenerate, endless, says
from tests.fakes.hosting import KINDS, Hosting
from tests.fakes.rpc_host import HostThread, Metadata, bearer
from tests.fakes.typed_client import details, eventually, refused

CHAT = "aistats.gateway.v1.ChatService"
MAX_CALLS = 8
BURST = 2500
ONLY_GRPC_AIO = pytest.mark.parametrize("host", ["grpc.aio"], indirect=True)
"""Inside Envoy these are Envoy's; the largest messages only take the stand-in for it long."""
LIMITS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture
def generate() -> ScriptedGenerate:
    return ScriptedGenerate()


@pytest.fixture(params=KINDS)
def host(tmp_path: Path, generate: ScriptedGenerate, request: pytest.FixtureRequest) -> Iterator[HostThread]:
    thread = HostThread(tmp_path, request.param, max_concurrent_calls=MAX_CALLS)
    chat_pb2_grpc.add_ChatServiceServicer_to_server(ChatServicer(generate), thread)  # type: ignore[arg-type]
    thread.add_insecure_port(f"unix:{tmp_path}/s")
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


@pytest.fixture
def channel(host: HostThread) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{host.tcp_port}", options=LIMITS) as opened:
        yield opened


@pytest.fixture
def chat(channel: grpc.Channel) -> Any:
    return chat_pb2_grpc.ChatServiceStub(channel)


@pytest.fixture
def as_inference(host: HostThread) -> Metadata:
    return bearer(host.keys.inference)


def request(text: str = "Say hello.") -> chat_pb2.CreateChatCompletionRequest:
    part = content_pb2.ContentPart(text=content_pb2.TextPart(text=text))
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
    return chat_pb2.CreateChatCompletionRequest(model="acme/test-1", messages=[message])


def test_direct_clients_are_served_over_tcp(host: HostThread, chat: Any, as_inference: Metadata) -> None:
    reply = chat.CreateChatCompletion(request(), metadata=as_inference, timeout=30)
    assert reply.choices[0].parts[0].text.text == "Hello"
    assert eventually(lambda: bool(host.log.lines))
    assert host.log.lines[0]["peer"] == "127.0.0.1"


def test_the_peer_behind_envoy_is_envoys_client(host: HostThread, tmp_path: Path, as_inference: Metadata) -> None:
    with grpc.insecure_channel(f"unix:{tmp_path}/s") as envoy:
        forwarded = (*as_inference, ("x-forwarded-for", "6.6.6.6"), ("x-gw-client", "192.0.2.7"))
        chat_pb2_grpc.ChatServiceStub(envoy).CreateChatCompletion(request(), metadata=forwarded, timeout=30)
    assert eventually(lambda: bool(host.log.lines))
    assert host.log.lines[0]["peer"] == "192.0.2.7"


@ONLY_GRPC_AIO
def test_only_this_user_can_reach_the_socket(host: HostThread, tmp_path: Path) -> None:
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


async def test_a_dead_workers_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    host = GrpcAioHost((), unix_socket=path)
    await host.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await host.stop(0)
    assert not path.exists()


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(ListenError, match="not a socket"):
        await GrpcAioHost((), unix_socket=path).start()
    assert path.read_text() == "mine"


async def test_workers_share_one_tcp_port_and_strangers_do_not() -> None:
    first, second = GrpcAioHost((), tcp=("127.0.0.1", 0)), None
    await first.start()
    try:
        assert first.tcp_port
        second = GrpcAioHost((), tcp=("127.0.0.1", first.tcp_port))
        await second.start()
        assert second.tcp_port == first.tcp_port
    finally:
        await first.stop(0)
        if second is not None:
            await second.stop(0)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(ListenError, match="another program has it"):
            await GrpcAioHost((), tcp=("127.0.0.1", stranger.getsockname()[1])).start()


@pytest.mark.parametrize("size", [32_769, 2**20 + 1, 4 * 2**20 + 1])
def test_large_messages_pass_both_ways(
    chat: Any, generate: ScriptedGenerate, as_inference: Metadata, size: int
) -> None:
    pass_both_ways(chat, generate, as_inference, size)


@ONLY_GRPC_AIO
def test_the_largest_messages_pass_both_ways(chat: Any, generate: ScriptedGenerate, as_inference: Metadata) -> None:
    pass_both_ways(chat, generate, as_inference, 63 * 2**20)


def pass_both_ways(chat: Any, generate: ScriptedGenerate, as_inference: Metadata, size: int) -> None:
    generate.reset(*says("y" * size))
    reply = chat.CreateChatCompletion(request("x" * size), metadata=as_inference, timeout=30)
    assert len(reply.choices[0].parts[0].text.text) == size
    assert len(generate.requests[0][1].turns[0].parts[0].text) == size  # type: ignore[union-attr]


def test_a_message_over_the_limit_is_refused_and_the_connection_lives(
    chat: Any, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    error = refused(chat.CreateChatCompletion, request("x" * MAX_MESSAGE_BYTES), as_inference, timeout=30)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert generate.requests == []
    assert chat.CreateChatCompletion(request(), metadata=as_inference, timeout=30).choices


def test_beyond_the_limit_on_calls_a_client_is_told_to_come_back(
    host: HostThread, chat: Any, generate: ScriptedGenerate, as_inference: Metadata
) -> None:
    generate.reset(*endless(), repeat_s=0.05)
    streams = [chat.StreamChatCompletion(request(), metadata=as_inference) for _ in range(MAX_CALLS)]
    for stream in streams:
        next(stream)
    error = refused(chat.CreateChatCompletion, request(), as_inference)
    status, info = details(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 1
    streams.pop().cancel()
    assert eventually(lambda: generate.open == MAX_CALLS - 1)
    generate.script, generate.repeat_s = says("room again"), None
    assert chat.CreateChatCompletion(request(), metadata=as_inference, timeout=30).choices
    for stream in streams:
        stream.cancel()
    assert eventually(lambda: host.guard.under_way == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_waits_its_turn(tmp_path: Path, kind: str) -> None:
    """By itself grpc cancels some of what has not been begun past a thousand calls, without a word to anybody."""
    async with hosted(tmp_path, kind) as (_, channel):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
        burst = [stub.Check(health_pb2.HealthCheckRequest(), timeout=100) for _ in range(BURST)]
        await asyncio.sleep(0)  # they go out; nothing is begun while this loop is busy
        time.sleep(1)  # noqa: ASYNC251 - that is the point
        replies = await asyncio.gather(*burst, return_exceptions=True)
    assert [reply for reply in replies if isinstance(reply, BaseException)] == []


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    for name in (f"/{CHAT}/Nothing", "/nobody.Service/Nothing"):
        assert refused(channel.unary_unary(name), b"", ()).code() is grpc.StatusCode.UNIMPLEMENTED


def test_standard_health_by_service_and_until_the_end(host: HostThread, channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", CHAT):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    error = refused(stub.Check, health_pb2.HealthCheckRequest(service="nobody.Service"), ())
    assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drain_is_announced_before_it_begins(tmp_path: Path, kind: str) -> None:
    host = Hosting(kind, (), unix_socket=tmp_path / "s")
    await host.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(host.stop(1.0))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


def test_reflection_describes_our_services(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=CHAT),
    ]
    listed, described = stub.ServerReflectionInfo(iter(asked), timeout=30)
    names = {service.name for service in listed.list_services_response.service}
    assert names == {CHAT, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert b"StreamChatCompletion" in described.file_descriptor_response.file_descriptor_proto[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_so_many_conversations_need_no_key_and_no_more(tmp_path: Path, kind: str) -> None:
    async with hosted(tmp_path, kind) as (_, channel):
        open_ones = [await conversation(channel) for _ in range(MAX_WATCHERS)]
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert await stub.ServerReflectionInfo(timeout=60).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        last = open_ones.pop()
        await last.done_writing()
        assert await last.code() is grpc.StatusCode.OK
        await conversation(channel)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_holds_no_drain_up(tmp_path: Path, kind: str) -> None:
    async with hosted(tmp_path, kind) as (host, channel):
        idle = await conversation(channel)
        host.leave()
        async with asyncio.timeout(30):
            assert await idle.code() is grpc.StatusCode.UNAVAILABLE
            await host.stop(60.0)


@asynccontextmanager
async def hosted(directory: Path, kind: str) -> AsyncIterator[tuple[Hosting, grpc.aio.Channel]]:
    host = Hosting(kind, (), unix_socket=directory / "s")
    await host.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{directory / 's'}") as channel:
            yield host, channel
    finally:
        await host.stop(0)


async def conversation(channel: grpc.aio.Channel) -> Any:
    """One with reflection that is under way."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(timeout=60)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await call.read()).list_services_response.service
    return call


def pings_answered(port: int, count: int, every_s: float) -> int:
    """Ping an idle connection; how many were answered before the server said GOAWAY."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    answered = 0
    with socket.create_connection(("127.0.0.1", port), timeout=every_s / 10) as tcp:
        for _ in range(count):
            connection.ping(b"12345678")
            tcp.sendall(connection.data_to_send())
            asked, until = answered, time.monotonic() + 30
            while time.monotonic() < until:
                try:
                    events = connection.receive_data(tcp.recv(65_536))
                except TimeoutError:
                    continue
                tcp.sendall(connection.data_to_send())
                if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                    return answered
                answered += sum(isinstance(event, h2.events.PingAckReceived) for event in events)
                if answered > asked:
                    until = min(until, time.monotonic() + every_s)
    return answered


@ONLY_GRPC_AIO
def test_keepalives_through_silence_are_no_abuse_and_a_flood_is(host: HostThread) -> None:
    # Envoy pings every 5 s and clients every 10 s; grpc's own default takes offence at the third within 5 minutes.
    assert pings_answered(host.tcp_port, 4, every_s=1.2) == 4
    assert pings_answered(host.tcp_port, 40, every_s=0.02) < 40
