"""How figures get to Prometheus: each worker tells whoever connects to its Unix socket, the supervisor asks them all.

The supervisor answers from a thread of its own, one request at a time, on this machine only.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from typing import Final

import msgspec
import structlog

from server.metrics.exposition import CONTENT_TYPE, Reading, render
from server.metrics.figures import Family, Series

__all__ = ["figures_socket", "gathered", "serving_metrics", "telling"]

PATH: Final = "/metrics"
ANSWER_WITHIN_S: Final = 2.0
"""How long one worker, or a client of the port, may take."""
MAX_SNAPSHOT_BYTES: Final = 16 * 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024

log: Final = structlog.get_logger(__name__)
_families: Final = msgspec.json.Decoder(list[Family])


def figures_socket(worker_socket: Path) -> Path:
    """Where a worker tells its figures: beside the socket on which it serves, with a name as short."""
    return worker_socket.with_suffix(".stat")


@contextlib.asynccontextmanager
async def telling(path: Path, snapshot: Callable[[], bytes]) -> AsyncGenerator[None, None]:
    """Give a snapshot to each who connects to `path`, as long as the block runs."""

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # TimeoutError is one; who asked has gone
            async with asyncio.timeout(ANSWER_WITHIN_S):
                writer.write(snapshot())
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(tell, path)
    try:
        yield
    finally:
        server.close()


def gathered(sockets: Mapping[str, Path]) -> str:
    """The figures of all workers, by name of the worker; of one that does not answer only that it does not."""
    told = {worker: _ask(path) for worker, path in sockets.items()}
    readings = [Reading(worker, (_up(families), *(families or ()))) for worker, families in told.items()]
    return render(readings)


@contextlib.contextmanager
def serving_metrics(host: str, port: int, text: Callable[[], str]) -> Iterator[None]:
    """Answer GET /metrics there as long as the block runs. Raises OSError where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        timeout = ANSWER_WITHIN_S

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == PATH
            body = text().encode() if found else b"The figures are at /metrics.\n"
            self.send_response(200 if found else 404)
            self.send_header("content-type", CONTENT_TYPE if found else "text/plain; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Being asked every few seconds is no news."""

    class Server(TCPServer):
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            error = sys.exception()
            if not isinstance(error, OSError):  # else whoever asked has gone before the answer
                log.error("metrics_not_told", cause=type(error).__name__)

    with Server((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _ask(path: Path) -> list[Family] | None:
    give_up_s = time.monotonic() + ANSWER_WITHIN_S
    pieces: list[bytes] = []
    size = 0
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as worker:
            worker.settimeout(ANSWER_WITHIN_S)
            worker.connect(str(path))
            while piece := worker.recv(_PIECE_BYTES):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_SNAPSHOT_BYTES or time.monotonic() > give_up_s:
                    return None
        return _families.decode(b"".join(pieces))
    except (OSError, msgspec.MsgspecError):
        return None


def _up(families: list[Family] | None) -> Family:
    series = (Series((), 0 if families is None else 1),)
    return Family("aistats_worker_up", "gauge", "Whether the worker tells its figures.", (), series)
