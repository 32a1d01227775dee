"""Connections between two requests: bounded, and never used when the peer may be about to close them."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Final

import msgspec

from server.transport.connection import READ_BYTES, STALE_AFTER_S, Connection
from server.transport.faults import Fault, failure, is_out_of_descriptors
from server.transport.resolve import Lookup, callable_addresses

MAX_IN_FLIGHT: Final = 8192
"""Requests of one worker that may hold a connection; one more waits for as long as it may wait to connect."""
MAX_IDLE_PER_ORIGIN: Final = 256
MAX_IDLE_S: Final = 30.0
"""A connection that was idle for longer is closed instead of used."""
MAX_ORIGINS: Final = 256
"""Of which no connection is left, and is still known how long they keep one."""
SWEEP_S: Final = 1.0
"""The least time from one look for connections that are idle for too long to the next."""
SAFE_SHARE: Final = 0.8
"""An upstream that closes idle connections after T seconds gets no request on one that was idle for 0.8 T: what we
send in the moment that it closes would be lost, and a POST must not be sent twice."""


class Origin(msgspec.Struct, frozen=True):
    """Where connections are interchangeable. `host_header` is the host as the URL spells it.

    `allow_link_local`: whether it may be at a link-local address, or where a cloud keeps its metadata;
    `allow_near`: at one of this machine or of a private network.
    """

    host: str
    port: int
    secure: bool
    host_header: str
    allow_link_local: bool = False
    allow_near: bool = True


class _Idle:
    """The idle connections of one origin, the most recently used last, and how long they may be so."""

    def __init__(self) -> None:
        self.connections: deque[Connection] = deque()
        self.limit_s = MAX_IDLE_S

    def learn(self, kept_s: float) -> None:
        """The upstream closes connections that were idle for `kept_s`."""
        self.limit_s = min(MAX_IDLE_S, kept_s * SAFE_SHARE)


class Pool:
    """Hands out connections, new or used. `tls` is for all secure origins; `lookup` finds names' addresses."""

    def __init__(self, tls: ssl.SSLContext, lookup: Lookup | None = None) -> None:
        self._tls = tls
        self._lookup = lookup
        self._idle: dict[Origin, _Idle] = {}
        self._in_use: set[Connection] = set()
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._closed = False
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def known_origins(self) -> int:
        return len(self._idle)

    async def acquire(self, origin: Origin, timeout_s: float, *, new: bool = False) -> Connection:
        """A connection that is ready for a request, or a `new` one. Raises OSError, ProviderFailure."""
        if not self._slots.locked():
            await self._slots.acquire()
        else:
            await self._wait_for_slot(timeout_s)
        try:
            connection = None if new else self._reuse(origin)
            connection = connection or await self._connect(origin, timeout_s)
            if self._closed:
                connection.abort()
                raise failure(Fault.CLOSED)
        except BaseException:
            self._slots.release()
            raise
        self._in_use.add(connection)
        return connection

    def release(self, origin: Origin, connection: Connection) -> None:
        """Take back a connection; keep it where its reply has come in whole."""
        if connection not in self._in_use:
            return
        if not connection.complete:
            self.discard(connection)
            return
        self._in_use.discard(connection)
        self._slots.release()
        if connection.finish():
            idle = self._idle.get(origin) or self._idle.setdefault(origin, _Idle())
            if connection.keep_alive_s is not None:
                idle.learn(connection.keep_alive_s)
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            idle.connections.append(connection)
            self._prune(idle, connection.idle_since)
            if self._sweeping is None:
                self._sweeping = loop.call_later(idle.limit_s, self._sweep)

    def discard(self, connection: Connection) -> None:
        """Close a connection that was in use."""
        if connection in self._in_use:
            self._in_use.discard(connection)
            self._slots.release()
        connection.abort()

    def close(self) -> None:
        """Close all connections, and each that is still being made as soon as it is."""
        self._closed = True
        for connection in [*self._in_use, *(one for idle in self._idle.values() for one in idle.connections)]:
            connection.abort()
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def _wait_for_slot(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise failure(Fault.NO_CAPACITY) from None

    def _reuse(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        if idle is None or not idle.connections:
            return None
        now = asyncio.get_running_loop().time()
        self._prune(idle, now)
        while idle.connections:
            connection = idle.connections[-1]
            if connection.is_fresh():
                return idle.connections.pop()
            self._closed_by_peer(origin, connection, now)
            connection.abort()
        return None

    def _prune(self, idle: _Idle, now: float) -> None:
        connections = idle.connections
        while connections and (
            len(connections) > MAX_IDLE_PER_ORIGIN or now - connections[0].idle_since > idle.limit_s
        ):
            connections.popleft().abort()

    def _sweep(self) -> None:
        """Close what nobody has used for too long, and look again when the next is due."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due, unused = [], []
        for origin, idle in self._idle.items():
            self._prune(idle, now)
            if idle.connections:
                due.append(idle.connections[0].idle_since + idle.limit_s)
            else:
                unused.append(origin)
        for origin in unused[:-MAX_ORIGINS]:
            del self._idle[origin]
        self._sweeping = loop.call_at(max(min(due), now + SWEEP_S), self._sweep) if due else None

    async def _connect(self, origin: Origin, timeout_s: float) -> Connection:
        """A new connection. Where no socket is left, idle connections to any origin give up theirs."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await self._open(origin)
                except OSError as error:
                    if not is_out_of_descriptors(error) or not self._close_longest_idle():
                        raise
                await asyncio.sleep(0)  # the loop closes aborted sockets in its next turn

    def _close_longest_idle(self) -> bool:
        """Close one connection that nobody uses; whether there was any."""
        candidates = [idle.connections for idle in self._idle.values() if idle.connections]
        if not candidates:
            return False
        min(candidates, key=lambda connections: connections[0].idle_since).popleft().abort()
        return True

    async def _open(self, origin: Origin) -> Connection:
        """A connection to the first of its addresses that takes one. Raises OSError, UnicodeError, ProviderFailure."""
        addresses = await callable_addresses(
            origin.host,
            origin.port,
            allow_link_local=origin.allow_link_local,
            allow_near=origin.allow_near,
            lookup=self._lookup,
        )
        for address in addresses[:-1]:
            try:
                return await self._open_at(address, origin)
            except ssl.SSLError:
                raise
            except OSError as error:
                if is_out_of_descriptors(error):
                    raise
        return await self._open_at(addresses[-1], origin)

    async def _open_at(self, address: str, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()

        def forget(connection: Connection) -> None:
            self._closed_by_peer(origin, connection, loop.time())

        _, connection = await loop.create_connection(
            lambda: Connection(self._buffer, forget),
            address,
            origin.port,
            ssl=self._tls if origin.secure else None,
            server_hostname=origin.host if origin.secure else None,
        )
        return connection

    def _closed_by_peer(self, origin: Origin, connection: Connection, now: float) -> None:
        """Learn how long this upstream keeps idle connections, from the one that it has just closed."""
        idle = self._idle.get(origin)
        if idle is None or connection not in idle.connections:
            return
        idle.connections.remove(connection)
        kept_s = now - connection.idle_since
        if kept_s >= STALE_AFTER_S:
            idle.learn(kept_s)
