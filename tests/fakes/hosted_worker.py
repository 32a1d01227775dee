"""The real worker on the host of AISTATS_HOST, behind a server that a gRPC client can call; SIGINT and SIGTERM end it.

python -m tests.fakes.hosted_worker SOCKET
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path

import structlog
import uvloop

from server.bootstrap import worker
from server.logs import configure_logging
from server.pipeline.shutdown import Shutdown
from server.settings import load_settings
from tests.fakes.hosting import CHOSEN, Hosting


async def main(socket: Path) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with worker(load_settings(), socket, partial(Hosting, CHOSEN, unix_socket=socket), Shutdown()):
        structlog.get_logger("server.worker").info("serving", pid=os.getpid())
        await stop.wait()


if __name__ == "__main__":
    configure_logging("json")
    uvloop.run(main(Path(sys.argv[1])))
