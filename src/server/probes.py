"""Small questions to a process next door: does its port listen, does its socket accept, what does its HTTP say?"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import secrets
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

PROBE_TIMEOUT_S: Final = 2.0
ADMIN_TIMEOUT_S: Final = 10.0
"""What an Envoy may take to answer that is there: on a busy machine it must not be taken for one that is gone."""
MAX_BODY_BYTES: Final = 256 * 1024
_LOWEST_PORT: Final = 10_000
_GIVEN_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

# Of the listeners of the data path, not the admin's own.
_ACTIVE: Final = r"^http\.(?!admin\.)[^:]*downstream_{}_active: (\d+)$"
_ENDPOINT: Final = re.compile(r"^workers::(/[^:]*)::cx_active::", re.MULTILINE)


class HttpAnswer(NamedTuple):
    """Status and body of an answer, the body cut at MAX_BODY_BYTES."""

    status: int
    body: bytes


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


async def ask_http(url: str, timeout_s: float = PROBE_TIMEOUT_S) -> HttpAnswer | None:
    """GET an http or https address on this machine; None where nobody answers HTTP there."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # Our own listener on this machine, whose certificate names it as the outside knows it.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=unverified)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    return await asyncio.to_thread(_exchange, connection, "GET", parts.path or "/")


async def ask_unix(path: Path, method: str, target: str, timeout_s: float = PROBE_TIMEOUT_S) -> HttpAnswer | None:
    """One HTTP request over a Unix socket; None where nobody answers there."""
    return await asyncio.to_thread(_exchange, _UnixConnection(str(path), timeout_s), method, target)


def _exchange(connection: http.client.HTTPConnection, method: str, target: str) -> HttpAnswer | None:
    with contextlib.closing(connection):
        try:
            connection.request(method, target, headers={"connection": "close"})
            response = connection.getresponse()
            return HttpAnswer(response.status, response.read(MAX_BODY_BYTES))
        except (OSError, http.client.HTTPException):
            return None


async def accepts(place: Path | int) -> bool:
    """Whether a server accepts connections on this Unix socket, or on this port of 127.0.0.1."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if isinstance(place, int):
                _, writer = await asyncio.open_connection("127.0.0.1", place)
            else:
                _, writer = await asyncio.open_unix_connection(str(place))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def port_problem(host: str, port: int) -> OSError | None:
    """None where this process could listen there, else why not.

    SO_REUSEPORT is left out on purpose: with it Envoy and gRPC would share a busy port and take half its connections.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
            probe.bind(address)
    except OSError as failure:
        return failure
    return None


def unused_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment.

    It is none of those that the kernel gives to whoever names none, a client's connection for one: until its owner
    listens there, nobody else comes by it.
    """
    above = _first_given_port()
    for _ in range(100 if above > _LOWEST_PORT else 0):
        port = _LOWEST_PORT + secrets.randbelow(above - _LOWEST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = int(probe.getsockname()[1])
        return port


def _first_given_port() -> int:
    try:
        return int(_GIVEN_PORTS.read_text().split()[0])
    except OSError:
        return 0


class EnvoyAdmin:
    """Envoy's admin interface on its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def is_ready(self) -> bool:
        """Whether it listens, and all that it carries has started."""
        answer = await self._ask("GET", "/ready")
        return answer is not None and answer.status == 200

    async def announce_drain(self) -> bool:
        """Go on accepting, but end each connection with its next answer."""
        return await self._post("/drain_listeners?graceful&skip_exit")

    async def close_listeners(self) -> bool:
        """Accept no more connections; requests in flight go on."""
        return await self._post("/drain_listeners")

    async def active_requests(self) -> int | None:
        """Requests in flight on all listeners but the admin's; 0 where no Envoy is, None where it does not answer."""
        return await self._active("rq")

    async def connections(self) -> int | None:
        """Of clients, likewise."""
        return await self._active("cx")

    async def endpoints(self) -> set[str]:
        """The sockets of the workers that it sends requests to, as far as it answers."""
        answer = await self._ask("GET", "/clusters")
        return set() if answer is None else set(_ENDPOINT.findall(answer.body.decode(errors="replace")))

    async def _active(self, what: str) -> int | None:
        answer = await self._ask("GET", f"/stats?filter=downstream_{what}_active")
        if answer is None or answer.status != 200:
            return None if await accepts(self._path) else 0
        return sum(map(int, re.findall(_ACTIVE.format(what), answer.body.decode(errors="replace"), re.MULTILINE)))

    async def _post(self, target: str) -> bool:
        answer = await self._ask("POST", target)
        return answer is not None and answer.status == 200

    async def _ask(self, method: str, target: str) -> HttpAnswer | None:
        return await ask_unix(self._path, method, target, ADMIN_TIMEOUT_S)


class EnvoyAdmins:
    """Several Envoys that are drained together, as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._admins = [EnvoyAdmin(path) for path in paths]

    async def announce_drain(self) -> bool:
        return any(await asyncio.gather(*(admin.announce_drain() for admin in self._admins)))

    async def close_listeners(self) -> bool:
        return any(await asyncio.gather(*(admin.close_listeners() for admin in self._admins)))

    async def active_requests(self) -> int | None:
        return _sum(await asyncio.gather(*(admin.active_requests() for admin in self._admins)))

    async def connections(self) -> int | None:
        return _sum(await asyncio.gather(*(admin.connections() for admin in self._admins)))


def _sum(counts: Sequence[int | None]) -> int | None:
    """None where one of them is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
