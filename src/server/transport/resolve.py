"""From a host to the addresses that may be called. What is checked here is what is connected to: no second look-up."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, TypeAlias

from server.domain.addresses import may_call
from server.transport.faults import Fault, failure

__all__ = ["Lookup", "OwnLookups", "callable_addresses"]

MAX_LOOKUPS: Final = 64

Lookup: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a name. Raises OSError, UnicodeError."""


async def callable_addresses(
    host: str, port: int, *, allow_link_local: bool, allow_near: bool = True, lookup: Lookup | None = None
) -> list[str]:
    """The addresses of a name, or the one that `host` is, without those that are never called.

    Raises ProviderFailure where none is left; OSError and UnicodeError where there are none at all.
    """
    try:
        found = [str(ip_address(host))]
    except ValueError:
        found = await (lookup or _by_the_loop)(host, port)
    allowed = [
        address
        for address in dict.fromkeys(found)
        if may_call(address, allow_link_local=allow_link_local, allow_near=allow_near)
    ]
    if not allowed:
        raise failure(Fault.FORBIDDEN)
    return allowed


async def _by_the_loop(host: str, port: int) -> list[str]:
    looked_up = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in looked_up]


class OwnLookups:
    """Looks up names that clients choose: away from the few threads of the loop, which providers' names need.

    A name is looked up once at a time, and whoever asks meanwhile gets the same answer: one whose server does not
    answer holds one of MAX_LOOKUPS threads. They are daemons, so that no process waits for them to end.
    """

    def __init__(
        self, *, max_lookups: int = MAX_LOOKUPS, look_up: Callable[[str, int], list[str]] | None = None
    ) -> None:
        self._look_up = look_up or _addresses
        self._room = asyncio.Semaphore(max_lookups)
        self._under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        key = host, port
        if key not in self._under_way:
            await self._room.acquire()
            if key in self._under_way:
                self._room.release()
            else:
                self._begin(key)
        return await asyncio.shield(self._under_way[key])

    def _begin(self, key: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()
        self._under_way[key] = found

        def end(addresses: list[str] | None, error: Exception | None) -> None:
            del self._under_way[key]
            self._room.release()
            if error is None:
                found.set_result(addresses or [])
            else:
                found.set_exception(error)
                found.exception()  # perhaps nobody waits any longer

        def run() -> None:
            addresses, error = None, None
            try:
                addresses = self._look_up(*key)
            except Exception as failed:  # the boundary of the thread: it is raised where the answer is waited for
                error = failed
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(end, addresses, error)

        threading.Thread(target=run, name="lookup", daemon=True).start()


def _addresses(host: str, port: int) -> list[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
