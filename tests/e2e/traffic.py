"""Clients of every kind that go on asking while something happens to the gateway."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import pyqwest

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import CHAT
from tests.e2e.test_grpc_clients import chat_request

WITHIN_S = 60.0
BETWEEN_S = 0.05
UNARY = {**CHAT.body(), "stream": False}

Ask = Callable[[], None]


class Traffic:
    """How many answers clients of each kind got, and what went wrong for any of them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._url = f"{gateway.url}{CHAT.path}"
        self._stop = threading.Event()
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, kind: str, client: Callable[[], Any]) -> None:
        with client() as ask:
            while not self._stop.wait(BETWEEN_S):
                try:
                    ask()
                except Exception as failure:  # whatever it is, it is what a client got
                    self.failures.append(f"{kind}: {failure!r}"[:300])
                self.answered[kind] += 1

    def stop(self) -> None:
        self._stop.set()

    @contextmanager
    def kept_alive(self) -> Iterator[Ask]:
        with httpx.Client(headers=self._gateway.headers, timeout=WITHIN_S) as client:
            yield lambda: _unary(client.post(self._url, json=UNARY))

    @contextmanager
    def anew(self) -> Iterator[Ask]:
        yield lambda: _unary(self._gateway.post(CHAT.path, UNARY, timeout=WITHIN_S))

    @contextmanager
    def events(self) -> Iterator[Ask]:
        with httpx.Client(headers=self._gateway.headers, timeout=WITHIN_S) as client:
            yield lambda: _whole(client.post(self._url, json=CHAT.body()).text)

    @contextmanager
    def http2(self) -> Iterator[Ask]:
        transport = pyqwest.SyncHTTPTransport(http_version=pyqwest.HTTPVersion.HTTP2)
        headers = {**self._gateway.headers, "content-type": "application/json"}
        client, body = pyqwest.SyncClient(transport), json.dumps(CHAT.body()).encode()
        yield lambda: _whole(client.post(self._url, headers=headers, content=body, timeout=WITHIN_S).text())

    @contextmanager
    def typed(self) -> Iterator[Ask]:
        metadata = (("authorization", f"Bearer {self._gateway.key}"),)
        with grpc.insecure_channel(f"127.0.0.1:{self._gateway.http_port}") as channel:
            chat = chat_pb2_grpc.ChatServiceStub(channel)

            def ask() -> None:
                assert chat.CreateChatCompletion(chat_request(), metadata=metadata, timeout=WITHIN_S).choices
                *_, last = chat.StreamChatCompletion(chat_request(), metadata=metadata, timeout=WITHIN_S)
                assert last.WhichOneof("event") == "completed"

            yield ask


@contextmanager
def steady(gateway: Gateway) -> Iterator[Traffic]:
    """Clients that ask from here to the end of the block, and are answered before it is left."""
    traffic = Traffic(gateway)
    clients = {
        "kept alive": traffic.kept_alive,
        "a connection each": traffic.anew,
        "events": traffic.events,
        "HTTP/2": traffic.http2,
        "gRPC": traffic.typed,
    }
    threads = [threading.Thread(target=traffic.run, args=one) for one in clients.items()]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        traffic.stop()
        for thread in threads:
            thread.join()


def _unary(reply: httpx.Response) -> None:
    assert reply.status_code == httpx.codes.OK, reply.text


def _whole(text: str) -> None:
    assert text.endswith("data: [DONE]\n\n"), text[-300:]
