"""A listener that closes beside another of its port, on real sockets."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.hosts.listeners import StepAside, aside_file, turn_away
from tests.integration.test_supervisor import until

WITHIN_S = 60.0


def listener(port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    made.listen()
    made.settimeout(WITHIN_S)
    return made


def exchanged(client: socket.socket, server: socket.socket) -> bytes:
    client.sendall(b"question")
    return server.recv(100)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_who_is_let_in_stays_and_who_comes_later_comes_to_another(family: socket.AddressFamily) -> None:
    with listener(family=family) as old, ThreadPoolExecutor() as pool:
        address = old.getsockname()
        with socket.create_connection(address[:2], WITHIN_S) as waiting:
            assert turn_away({address[1]}) == [old.fileno()]
            late = pool.submit(socket.create_connection, address[:2], WITHIN_S)
            accepted, _ = old.accept()
            with listener(address[1], family) as new:
                old.close()
                with late.result(WITHIN_S) as client, new.accept()[0] as server:
                    assert exchanged(client, server) == b"question"
            with accepted:
                assert exchanged(waiting, accepted) == b"question"


def test_other_ports_and_what_is_no_listener_are_left_alone() -> None:
    with listener() as one, listener() as other, socket.create_connection(one.getsockname(), WITHIN_S):
        assert turn_away(()) == []
        assert turn_away({one.getsockname()[1]}) == [one.fileno()]
        with socket.create_connection(other.getsockname(), WITHIN_S) as client, other.accept()[0] as server:
            assert exchanged(client, server) == b"question"


async def test_all_that_were_on_the_way_are_let_in_before_it_is_said(tmp_path: Path) -> None:
    with listener() as one, socket.create_connection(one.getsockname(), WITHIN_S):
        aside = StepAside({one.getsockname()[1]}, tmp_path / "worker.sock")
        aside.begin()
        with pytest.raises(TimeoutError):
            await until(aside_file(tmp_path / "worker.sock").exists, 1.0)
        with one.accept()[0]:
            await until(aside_file(tmp_path / "worker.sock").exists, WITHIN_S)
