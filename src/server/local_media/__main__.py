"""Serve embedded media, under a supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from server.clock import SystemClock, UuidV7
from server.local_media.server import serve
from server.processes import exit_when_parent_dies


async def _until_stopped(port: int, directory: Path) -> None:
    serving = asyncio.create_task(serve(port, directory, SystemClock(), UuidV7()))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m server.local_media", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    parser.add_argument("--directory", type=Path, required=True, help="where videos are kept")
    asked = parser.parse_args()
    exit_when_parent_dies()
    asyncio.run(_until_stopped(asked.port, asked.directory))


if __name__ == "__main__":
    main()
