"""The one case in which a POST is sent again: TCP says that nobody read it. And all those in which it is not."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from server.domain.errors import ProviderFailure
from server.transport import Transport, connection
from server.transport.faults import Fault, failure

REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
LONG_S = 60.0
"""As a limit: one that no machine is too slow for."""
IDLE_S = 0.1
NO_LINGER = struct.pack("ii", 1, 0)


class Peer:
    """A server of which each step is taken by hand; `bodies` are those that it has read."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self.link: socket.socket
        self.bodies: list[bytes] = []

    async def accept(self) -> None:
        self.link, _ = await self._loop.sock_accept(self._listener)
        self.link.setblocking(False)

    async def read(self) -> None:
        seen = b""
        while not seen.endswith(b"}"):
            seen += await self._loop.sock_recv(self.link, 65536)
        self.bodies.append(seen.partition(b"\r\n\r\n")[2])

    async def answer(self, data: bytes = REPLY) -> None:
        await self._loop.sock_sendall(self.link, data)

    async def arrival(self) -> None:
        """Until a request is in the kernel, unread."""
        while True:
            with suppress(BlockingIOError):
                self.link.recv(1, socket.MSG_PEEK)
                return
            await asyncio.sleep(0.001)

    def close(self) -> None:
        """FIN; but RST where something is unread, as TCP has it."""
        self.link.close()

    def reset(self) -> None:
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.link.close()


async def closes_unread(peer: Peer) -> None:
    await peer.arrival()
    peer.close()


async def closes_unread_but_late(peer: Peer) -> None:
    await peer.arrival()
    await asyncio.sleep(2 * IDLE_S)
    peer.close()


async def reads_and_closes(peer: Peer) -> None:
    await peer.read()
    peer.close()


async def answers_a_byte_and_resets(peer: Peer) -> None:
    await peer.read()
    await peer.answer(b"H")
    for _ in range(20):  # turns of the loop, in which it is read
        await asyncio.sleep(0)
    peer.reset()


Fate = Callable[[Peer], Coroutine[Any, Any, None]]


async def outcome(fate: Fate, *, then: Fate | None = None) -> tuple[Fault | None, list[bytes], int]:
    """What becomes of the second call on a connection: its fault, the bodies that were read, the connections."""
    connections = 1
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        peer = Peer(listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        async def call(transport: Transport, body: bytes) -> Fault | None:
            try:
                async with await transport.post(url, headers={}, body=body, connect_timeout_s=20) as response:
                    assert await response.read() == b"{}"
            except ProviderFailure as error:
                return next(fault for fault in Fault if failure(fault).upstream == error.upstream)
            return None

        async def serve() -> None:
            nonlocal connections
            await fate(peer)
            while True:
                await peer.accept()
                connections += 1
                if then is not None:
                    await then(peer)
                else:
                    await peer.read()
                    await peer.answer()

        async with Transport() as transport:
            first = asyncio.create_task(call(transport, b'{"first":1}'))
            await peer.accept()
            await peer.read()
            await peer.answer()
            assert await first is None
            await asyncio.sleep(IDLE_S)
            server = asyncio.create_task(serve())
            async with asyncio.timeout(30):
                fault = await call(transport, b'{"second":1}')
            server.cancel()
            with suppress(asyncio.CancelledError):
                await server
        peer.link.close()
    return fault, peer.bodies[1:], connections


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two limits of time each is over, or far away, on any machine."""
    monkeypatch.setattr(connection, "STALE_AFTER_S", 0.0)
    monkeypatch.setattr(connection, "LOST_AT_ONCE_S", LONG_S)


LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@LOOPS
def test_what_an_idle_connection_threw_back_unread_is_sent_again(run: Callable[..., Any]) -> None:
    assert run(outcome(closes_unread)) == (None, [b'{"second":1}'], 2)


@LOOPS
def test_it_is_sent_again_once(run: Callable[..., Any]) -> None:
    assert run(outcome(closes_unread, then=closes_unread)) == (Fault.DROPPED, [], 2)


@LOOPS
@pytest.mark.parametrize(
    ("fate", "limit", "read"),
    [
        (closes_unread, {"STALE_AFTER_S": LONG_S}, 0),  # it was in use a moment ago
        (closes_unread_but_late, {"LOST_AT_ONCE_S": IDLE_S}, 0),  # not within a round trip
        (reads_and_closes, {}, 1),  # the peer has acknowledged it
        (answers_a_byte_and_resets, {}, 1),  # the peer has begun to answer
    ],
)
def test_in_any_other_case_the_call_has_failed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fate: Fate, limit: dict[str, float], read: int
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(connection, name, value)
    assert run(outcome(fate)) == (Fault.DROPPED, [b'{"second":1}'] * read, 1)
