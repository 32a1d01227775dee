"""Serve embedded media, under a supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Final

_NICENESS: Final = 3
"""Of the server and of all that it makes: whatever else the gateway does goes before."""
_BACKLOG: Final = 128


def main() -> None:
    """Serve until told to stop. Who calls while this is still starting waits for a moment, and is not turned away."""
    parser = argparse.ArgumentParser(prog="python -m server.local_media", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    parser.add_argument("--directory", type=Path, required=True, help="where videos are kept")
    parser.add_argument("--log-format", choices=("console", "json"), default="console")
    asked = parser.parse_args()
    os.nice(_NICENESS)
    with socket.create_server(("127.0.0.1", asked.port), backlog=_BACKLOG) as listening:
        from server.logs import configure_logging
        from server.processes import exit_when_parent_dies

        exit_when_parent_dies()
        configure_logging("json" if asked.log_format == "json" else "console")
        asyncio.run(_until_stopped(listening, asked.directory))


async def _until_stopped(listening: socket.socket, directory: Path) -> None:
    from server.clock import SystemClock, UuidV7
    from server.local_media.server import serve  # half a second of imports, during which there is a port already

    serving = asyncio.create_task(serve(listening, directory, SystemClock(), UuidV7()))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    main()
