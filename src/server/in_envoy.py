"""A worker inside Envoy's process, on the interpreter that pyvoy embeds there: Envoy's configuration names `app`.

Envoy imports this on its main thread, which runs no Python after that; the event loop has a thread of its own. Whom
a signal is meant for is therefore told by a pipe, and SIGTERM and SIGINT are Envoy's own: on either it ends all
connections, and then has the application end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from server.in_envoy_start import ENDS_FD, VARIABLE, Assignment
from server.logs import configure_logging, log_always
from server.processes import ASIDE, CUT, LEAVE, RECORDS_LOST, exit_when_parent_dies
from server.settings import Settings, load_settings
from server.tuning import collect_seldom, prefer_grpc_polling

prefer_grpc_polling()  # before anything imports grpc

from server.bootstrap import GOODBYE_S, RecordsLost, worker  # noqa: E402
from server.catalogue.problems import CatalogError  # noqa: E402
from server.hosts.grpc_aio import GrpcAioHost  # noqa: E402
from server.hosts.host import ListenError  # noqa: E402
from server.hosts.in_envoy import InEnvoyHost, Scope, Send  # noqa: E402
from server.hosts.listeners import StepAside  # noqa: E402
from server.hosts.wire import Receive  # noqa: E402
from server.pipeline.shutdown import Shutdown  # noqa: E402
from server.rpc.registry import Route  # noqa: E402
from server.storage.database import DatabaseUnusable  # noqa: E402

_READ_BYTES: Final = 65_536
_UNTIL_TOLD_S: Final = 86_400.0
"""Longer than it ever takes until SIGTERM, whose grace counts."""

log = structlog.get_logger("server.worker")


class Carriers:
    """A `server.hosts.host.Host` of two: inside Envoy, and grpc.aio for those that call this worker without Envoy."""

    def __init__(self, routes: Sequence[Route], direct: GrpcAioHost, aside: StepAside) -> None:
        self.inside = InEnvoyHost(routes)
        self._direct = direct
        self._aside = aside
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._direct.start()
        await self.inside.start()

    def tell_ready(self, is_ready: Callable[[str], bool]) -> None:
        self.inside.tell_ready(is_ready)
        self._direct.tell_ready(is_ready)

    def leave(self) -> None:
        """One whose place is taken no longer listens for direct calls either: the kernel would go on choosing it for
        some that connect, whom it does not hear. Those under way go on until `stop`.
        """
        self.inside.leave()
        self._direct.leave()
        if self._aside.has_begun and self._closing is None:
            self._closing = asyncio.ensure_future(self._direct.stop(_UNTIL_TOLD_S))

    async def stop(self, grace_s: float) -> None:
        """Nobody hears the calls inside Envoy any more, which has ended its connections: they have no grace."""
        await asyncio.gather(self.inside.stop(0.0), self._direct.stop(grace_s))
        if self._closing is not None:
            await self._closing


class Signals:
    """ASIDE, LEAVE and CUT, from the thread that Python takes for its main one to the event loop's."""

    def __init__(self, aside: StepAside) -> None:
        self._aside = aside
        self._told, telling = socket.socketpair()
        self._telling = telling
        for end in (self._told, telling):
            end.setblocking(False)
        signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
        for number in (ASIDE, LEAVE, CUT):
            signal.signal(number, lambda *_: None)

    def follow(self, shutdown: Shutdown) -> None:
        asyncio.get_running_loop().add_reader(self._told.fileno(), self._read, shutdown)

    def _read(self, shutdown: Shutdown) -> None:
        numbers = self._told.recv(_READ_BYTES)
        if ASIDE in numbers:
            self._aside.begin()
        if LEAVE in numbers:
            shutdown.leaving.set()
        if CUT in numbers:
            shutdown.begin()


class Ends:
    """Tells a host of the calls whose requests have ended, by what Envoy writes."""

    def __init__(self, host: InEnvoyHost) -> None:
        self._host = host
        self._rest = b""
        os.set_blocking(ENDS_FD, False)
        asyncio.get_running_loop().add_reader(ENDS_FD, self._read)

    def _read(self) -> None:
        *lines, self._rest = (self._rest + os.read(ENDS_FD, _READ_BYTES)).split(b"\n")
        for line in lines:
            self._host.gone(line.decode(errors="replace"))


class App:
    """The ASGI application: one worker, from Envoy's start to its end."""

    def __init__(self, settings: Settings, assignment: Assignment) -> None:
        self._settings = settings
        self._assignment = assignment
        self._aside = StepAside({settings.http_port, settings.grpc_port}, Path(assignment.socket_path))
        self._signals = Signals(self._aside)
        self._host: InEnvoyHost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        log_always(worker=self._assignment.index)
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._host(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Serve until Envoy ends. What Envoy cannot be told by an exit code is told by ending the process here."""
        await receive()
        try:
            await self._serve(receive, send)
        except (DatabaseUnusable, ListenError, CatalogError) as error:
            log.error("cannot serve", problem=str(error))
            await send({"type": "lifespan.startup.failed", "message": "the worker cannot serve"})
            return
        except RecordsLost as lost:
            log.error("records_lost", count=lost.count)
            os._exit(RECORDS_LOST)
        log.info("stopped")
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, receive: Receive, send: Send) -> None:
        settings, shutdown = self._settings, Shutdown()
        socket_path = Path(self._assignment.socket_path)
        tcp = (settings.grpc_host, settings.grpc_port) if settings.grpc_port else None

        def make_host(routes: Sequence[Route]) -> Carriers:
            age_s = settings.max_connection_age_s
            direct = GrpcAioHost(routes, unix_socket=socket_path, tcp=tcp, max_connection_age_s=age_s)
            carriers = Carriers(routes, direct, self._aside)
            self._host = carriers.inside
            return carriers

        self._signals.follow(shutdown)
        async with worker(settings, socket_path, make_host, shutdown) as host:
            Ends(self._host)
            collect_seldom()
            await send({"type": "lifespan.startup.complete"})
            log.info("serving", pid=os.getpid())
            await receive()
            shutdown.leaving.set()
            # Not taken back: what goes on without a client ends by it as well.
            asyncio.get_running_loop().call_later(settings.drain_timeout_s, shutdown.begin)
            await host.stop(settings.drain_timeout_s + GOODBYE_S)


def _app() -> App:
    assignment = msgspec.json.decode(os.environ[VARIABLE], type=Assignment)
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    exit_when_parent_dies()
    return App(settings, assignment)


def __getattr__(name: str) -> App:
    """`app`, made when Envoy asks for it: a mere import of this module must not make a worker."""
    if name == "app":
        return _app()
    raise AttributeError(name)
