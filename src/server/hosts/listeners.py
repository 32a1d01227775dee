"""Listening sockets that are to close without anybody noticing, while others of their port stay. Linux only.

The kernel chooses one of a port's sockets (SO_REUSEPORT) for each that connects, and resets whoever is on the way to
one that closes. One that no longer hears of new connections has soon let in all that were on the way.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from typing import Final

__all__ = ["turn_away"]

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


def turn_away(ports: Collection[int]) -> int:
    """Have this process's listeners on these TCP ports hear of no new connection; how many they are.

    Who connects meanwhile is not answered, and asks again after a second, when another listener has its turn.
    """
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # not a socket, or closed by now
            one = socket.socket(fileno=int(name))
            try:
                if _listens(one, ports):
                    _attach(one)
                    found += 1
            finally:
                one.detach()
    return found


def _listens(one: socket.socket, ports: Collection[int]) -> bool:
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
        return False
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and one.getsockname()[1] in ports


def _attach(one: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _WITHOUT_SYN))
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(_WITHOUT_SYN), ctypes.addressof(program)))
