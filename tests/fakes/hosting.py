"""Either of the hosts that carry servicers, with something in front that a gRPC client can call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from server.hosts.grpc_aio import GrpcAioHost
from server.hosts.host import Host
from server.hosts.in_envoy import InEnvoyHost
from server.rpc.registry import Route
from tests.fakes.asgi_h2 import AsgiServer

KINDS = ("grpc.aio", "in-envoy")
CHOSEN = os.environ.get("AISTATS_HOST", KINDS[0])
"""What carries the servicers in tests that are about something else."""


class Hosting:
    """A `server.hosts.host.Host` of this `kind`; it listens on 127.0.0.1, at `tcp_port` once it has started."""

    def __init__(self, kind: str, routes: Sequence[Route], *, unix_socket: Path | None = None) -> None:
        self.host: Host
        self._server: AsgiServer | None = None
        self._unix_socket = unix_socket
        self.tcp_port = 0
        if kind == "grpc.aio":
            self.host = self._aio = GrpcAioHost(routes, unix_socket=unix_socket, tcp=("127.0.0.1", 0))
        else:
            self.host = inside = InEnvoyHost(routes)
            self._server = AsgiServer(inside, inside.gone)

    async def start(self) -> None:
        await self.host.start()
        if self._server is None:
            self.tcp_port = self._aio.tcp_port or 0
            return
        await self._server.start()
        self.tcp_port = self._server.port
        if self._unix_socket is not None:
            await self._server.listen(str(self._unix_socket))

    def tell_ready(self, is_ready: Callable[[str], bool]) -> None:
        self.host.tell_ready(is_ready)

    def leave(self) -> None:
        self.host.leave()

    async def stop(self, grace_s: float) -> None:
        await self.host.stop(grace_s)
        if self._server is not None:
            await self._server.stop()
