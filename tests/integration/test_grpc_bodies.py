"""Streams of HTTP bodies on a real gRPC host: the last message goes with the status, and nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs

from aistats.gateway.v1 import chat_pb2_grpc
from server.domain.errors import GatewayError, Reason
from server.rpc.context import CallContext
from tests.fakes.hosting import KINDS
from tests.fakes.rpc_host import HostThread
from tests.fakes.typed_client import eventually, trailers

ROUNDS = 200


class Bodies:
    """A REST face that sends what its request says: `hm!` is headers, a message and a last one that is announced."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def CreateChatCompletion(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        try:
            for step in request.data.decode():
                match step:
                    case "h":
                        await context.send_initial_metadata((("x-gw-status", "418"),))
                    case "m":
                        yield HttpBody(data=b"m")
                    case "!":
                        context.announce_last_message()
                        yield HttpBody(data=b"!")
                    case "e":
                        raise GatewayError(Reason.INTERNAL, "It broke.")
                    case "b":
                        raise ValueError("a bug")
        finally:
            self.left.set()


@pytest.fixture
def bodies() -> Bodies:
    return Bodies()


@pytest.fixture(params=KINDS)
def host(tmp_path: Path, bodies: Bodies, request: pytest.FixtureRequest) -> Iterator[HostThread]:
    thread = HostThread(tmp_path, request.param)
    chat_pb2_grpc.add_ChatRestServiceServicer_to_server(bodies, thread)  # type: ignore[arg-type]
    thread.add_insecure_port(f"unix:{tmp_path}/s")
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


@pytest.fixture
def create(host: HostThread) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{host.tcp_port}") as channel:
        stub: Any = chat_pb2_grpc.ChatRestServiceStub(channel)
        yield lambda steps: stub.CreateChatCompletion(HttpBody(data=steps.encode()), timeout=30)


@pytest.mark.parametrize(
    ("steps", "sent"),
    [
        ("!", [b"!"]),
        ("h!", [b"!"]),
        ("m!", [b"m", b"!"]),
        ("hmmm!", [b"m", b"m", b"m", b"!"]),
        ("m", [b"m", b""]),
        ("hm", [b"m", b""]),
        ("h", [b""]),
        ("", [b""]),
    ],
)
def test_every_message_arrives_and_an_empty_one_where_the_last_was_not_announced(
    host: HostThread, create: Any, steps: str, sent: list[bytes]
) -> None:
    reply = create(steps)
    assert [message.data for message in reply] == sent
    assert reply.code() is grpc.StatusCode.OK
    headers = {item.key: item.value for item in reply.initial_metadata()}
    assert headers.get("x-gw-status") == ("418" if "h" in steps else None)
    assert "x-generation-id" in headers
    assert [line["status"] for line in host.log.lines] == ["OK"]


@pytest.mark.parametrize("steps", ["e", "he", "me", "hmme", "b", "mb", "hb"])
def test_an_error_ends_it_without_a_message_of_its_own(host: HostThread, create: Any, steps: str) -> None:
    reply = create(steps)
    received = []
    with pytest.raises(grpc.RpcError) as caught:
        received += [message.data for message in reply]
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "grpc-status-details-bin" in trailers(caught.value)
    assert [line["status"] for line in host.log.lines if line["event"] == "call"] == ["INTERNAL"]
    assert host.guard.under_way == 0


def test_who_leaves_before_the_last_message_is_noticed(host: HostThread, create: Any, bodies: Bodies) -> None:
    for steps in ("m" * 10_000, "m" * 10_000 + "!"):
        host.log.clear()
        bodies.left.clear()
        reply = create(steps)
        next(reply)
        reply.cancel()
        assert bodies.left.wait(30)
        assert eventually(lambda: [line["status"] for line in host.log.lines] == ["CANCELLED"])
        assert host.guard.under_way == 0


def test_who_leaves_on_the_last_message_leaves_nothing_behind(host: HostThread, create: Any) -> None:
    for number in range(ROUNDS):
        reply = create("m!" if number % 2 else "h!")
        for message in reply:
            if message.data == b"!":
                break
        reply.cancel()
    assert eventually(lambda: len(host.log.lines) == ROUNDS)
    assert {line["status"] for line in host.log.lines} == {"OK"}
    assert host.guard.under_way == 0
