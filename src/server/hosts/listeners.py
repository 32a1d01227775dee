"""Listening sockets that are to close without anybody noticing, while others of their port stay. Linux only.

The kernel chooses one of a port's sockets (SO_REUSEPORT) for each that connects, and resets whoever is on the way to
one that closes. One that no longer hears of new connections has soon let in all that were on the way.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["StepAside", "aside_file", "turn_away"]

ROUND_TRIP_S: Final = 0.25
"""How long a connection may take to come about that has begun to."""
POLL_S: Final = 0.02
SO_ATTACH_FILTER: Final = 26
"""In no module of Python's."""
_WITHOUT_SYN: Final = (
    (0x30, 0, 0, 13),  # the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF_FFFF),
)
"""What the kernel runs on each packet for the socket, as `struct sock_filter`s."""


def aside_file(worker_socket: Path) -> Path:
    """What a worker makes, beside its socket, when nobody is on the way to it any more."""
    return worker_socket.with_suffix(".aside")


class StepAside:
    """Has nobody come to this process on these TCP ports any more, and makes `aside_file` when all have been let in."""

    def __init__(self, ports: Collection[int], worker_socket: Path) -> None:
        self._ports = ports
        self._told = aside_file(worker_socket)
        self._stepping: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        return self._stepping is not None

    def begin(self) -> None:
        """In the running event loop. Idempotent."""
        self._stepping = self._stepping or asyncio.ensure_future(self._step())

    async def _step(self) -> None:
        found = turn_away(self._ports)
        await asyncio.sleep(ROUND_TRIP_S)
        while any(map(_waiting, found)):  # noqa: ASYNC110 - the kernel can only be asked
            await asyncio.sleep(POLL_S)
        self._told.touch()


def turn_away(ports: Collection[int]) -> list[int]:
    """Have this process's listeners on these TCP ports hear of no new connection; the descriptors of them.

    Who connects meanwhile is not answered, and asks again after a second, when another listener has its turn.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), _borrowed(int(name)) as one:  # not a socket, or closed by now
            if _listens(one, ports):
                _attach(one)
                found.append(int(name))
    return found


def _waiting(descriptor: int) -> int:
    """How many have connected that the process has yet to accept."""
    with suppress(OSError), _borrowed(descriptor) as one:
        return int(struct.unpack_from("I", one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)[0])
    return 0


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    one = socket.socket(fileno=descriptor)
    try:
        yield one
    finally:
        one.detach()


def _listens(one: socket.socket, ports: Collection[int]) -> bool:
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
        return False
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and one.getsockname()[1] in ports


def _attach(one: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _WITHOUT_SYN))
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(_WITHOUT_SYN), ctypes.addressof(program)))
