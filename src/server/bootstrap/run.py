"""A process with a worker that grpc.aio carries, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import structlog
import uvloop

from server.bootstrap.base import GOODBYE_S
from server.bootstrap.serving import worker
from server.bootstrap.stores import RecordsLost
from server.catalogue.problems import CatalogError
from server.hosts.grpc_aio import GrpcAioHost
from server.hosts.host import ListenError
from server.hosts.listeners import StepAside
from server.logs import log_always
from server.pipeline.shutdown import Shutdown
from server.processes import ASIDE, LEAVE, RECORDS_LOST
from server.settings import Settings
from server.storage.database import DatabaseUnusable
from server.tuning import collect_seldom

__all__ = ["run_worker"]

log = structlog.get_logger("server.worker")


def run_worker(settings: Settings, *, socket_path: Path, grpc_port: int | None, index: int) -> int:
    """Serve until told to stop; the exit code.

    SIGTERM lets the calls under way end for as long as the settings say. SIGINT, or the end of that time, ends each of
    them with an error that says why.
    """
    log_always(worker=index)
    try:
        uvloop.run(_run(settings, socket_path, grpc_port))
    except (DatabaseUnusable, ListenError, CatalogError) as error:
        log.error("cannot serve", problem=str(error))
        return 1
    except RecordsLost as lost:
        log.error("records_lost", count=lost.count)
        return RECORDS_LOST
    return 0


async def _run(settings: Settings, socket_path: Path, grpc_port: int | None) -> None:
    loop, stop, shutdown = asyncio.get_running_loop(), asyncio.Event(), Shutdown()

    def end_calls() -> None:
        stop.set()
        shutdown.begin()

    ports = () if grpc_port is None else (grpc_port,)
    loop.add_signal_handler(ASIDE, StepAside(ports, socket_path).begin)
    loop.add_signal_handler(LEAVE, shutdown.leaving.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, end_calls)
    tcp = None if grpc_port is None else (settings.grpc_host, grpc_port)
    age_s = settings.max_connection_age_s
    make_host = partial(GrpcAioHost, unix_socket=socket_path, tcp=tcp, max_connection_age_s=age_s)
    async with worker(settings, socket_path, make_host, shutdown) as host:
        collect_seldom()
        log.info("serving", pid=os.getpid())
        await stop.wait()
        shutdown.leaving.set()
        # Not taken back: what goes on without a client ends by it as well.
        loop.call_later(settings.drain_timeout_s, shutdown.begin)
        await host.stop(settings.drain_timeout_s + GOODBYE_S)
    log.info("stopped")
