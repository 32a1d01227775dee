"""Headers that HTTP allows and gRPC doesn't: whoever sends one is served, and no worker's library ends the call."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.gateway import Gateway

STRANGE = [
    b"$name: x",
    b"^name: ",
    b"na*me: x",
    b"na'me: x",
    b"na|me: x",
    b"name: \xe9\xff",
    b"name-bin: !",
    b"name-bin: abcd",
    b"grpc-timeout: never",
    b"grpc-timeout: 1n",
    b"grpc-encoding: none",
    b"grpc-tags-bin: !",
]


@pytest.mark.parametrize("header", STRANGE, ids=[header.decode("latin-1") for header in STRANGE])
def test_a_header_that_grpc_does_not_know_is_left_out(gateway: Gateway, header: bytes) -> None:
    assert exchange(gateway, b"GET /v1/pricing/models?limit=1 HTTP/1.1", header).startswith(b"HTTP/1.1 200 ")


def exchange(gateway: Gateway, line: bytes, header: bytes) -> bytes:
    key = f"authorization: Bearer {gateway.key}".encode()
    with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as client:
        client.sendall(b"\r\n".join([line, b"host: gateway", b"connection: close", key, header, b"", b""]))
        pieces = []
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)
