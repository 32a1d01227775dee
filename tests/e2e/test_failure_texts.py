"""What callers read when a connection below the gateway fails: sentences from a table, never what a driver says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Final

import grpc
import pytest
import trustme

from server.probes import unused_port
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.e2e.ways_in import SURFACES, TYPED, body, typed
from tests.fakes.failure_texts import INNER, TABLE, sentences
from tests.fakes.openai_upstream import chat_stream
from tests.fakes.replies import broken_after
from tests.fakes.typed_client import details, refused

KINDS: Final = ("refused", "no_name", "no_tls", "untrusted", "reset", "closed")


class Rude:
    """Accepts connections and does one thing with each."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    self._treat(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer_plainly(connection: socket.socket) -> None:
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


def untrusted() -> Callable[[socket.socket], None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return lambda connection: context.wrap_socket(connection, server_side=True).close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread) -> Iterator[Gateway]:
    """A model for each way in which a connection fails, and one whose provider answers."""
    servers = [Rude(reset), Rude(hang_up), Rude(untrusted()), Rude(answer_plainly)]
    urls = {
        "refused": f"http://127.0.0.1:{unused_port()}/v1",
        "no_name": "http://upstream.invalid/v1",
        "no_tls": f"https://127.0.0.1:{servers[3].port}/v1",
        "reset": f"http://127.0.0.1:{servers[0].port}/v1",
        "closed": f"http://127.0.0.1:{servers[1].port}/v1",
        "untrusted": f"https://127.0.0.1:{servers[2].port}/v1",
        "well": acme_upstream.base_url,
    }
    endpoints = "endpoints: [chat, responses, messages]"
    config = "\n".join(
        [
            "providers:",
            *(f'  - {{id: {name}, dialect: openai, base_url: "{url}"}}' for name, url in urls.items()),
            "models:",
            *(
                f"  - {{id: acme/{name}:free, offers: [{{provider: {name}, provider_model: m, {endpoints}}}]}}"
                for name in urls
            ),
        ]
    )
    gateway = Gateway(tmp_path_factory.mktemp("failing"), config, workers=1).start()
    yield gateway
    for server in servers:
        server.close()
    assert gateway.stop() == 0, gateway.log[-4000:]


def assert_from_the_table(said: bytes | str) -> None:
    found = sentences(said)
    assert found
    assert found <= TABLE


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("kind", KINDS)
def test_o4_a_failed_connection_is_told_in_words_of_our_own(stage: Gateway, kind: str, path: str, stream: bool) -> None:
    reply = stage.post(path, body(path, kind, stream=stream))
    assert reply.status_code == 502, reply.text
    assert_from_the_table(reply.content)
    assert not INNER.search(reply.text), reply.text


@pytest.mark.parametrize("path", SURFACES)
def test_o4_so_is_a_stream_that_is_cut(stage: Gateway, acme: UpstreamThread, path: str) -> None:
    acme.script(broken_after(chat_stream("a", "b", "c"), 3))
    reply = stage.post(path, body(path, "well", stream=True))
    assert reply.status_code == 200
    events = [line for line in reply.text.splitlines() if line.startswith("data: {") and "provider_error" in line]
    assert events, reply.text
    for event in events:
        assert_from_the_table(event)
        assert not INNER.search(event), event


@pytest.mark.parametrize("surface", TYPED)
@pytest.mark.parametrize("kind", KINDS)
def test_o4_and_so_it_is_to_typed_clients(stage: Gateway, kind: str, surface: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{stage.rpc_port}") as channel:
        method, request = typed(surface, channel, f"acme/{kind}:free")
        error = refused(method, request, (("authorization", f"Bearer {stage.key}"),))
    status, info = details(error)
    said = [error.details(), status.message, *info.metadata.values()]
    assert {text for text in said if " " in text} <= TABLE
    assert not INNER.search(" ".join(map(str, said))), said
