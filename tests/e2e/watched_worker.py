"""A worker whose event loop is watched: each callback that holds it up is told on stdout, one JSON object a line.

    python -m tests.e2e.watched_worker SOCKET GRPC_PORT

It is the real worker, with the settings of its environment, on a loop in debug mode; SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Final

import uvloop

from server.bootstrap import worker
from server.logs import configure_logging
from server.pipeline.shutdown import Shutdown
from server.settings import load_settings

SLOW_S: Final = 0.05
"""The longest that one callback may run."""
_TICK_S: Final = 0.005


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


class Teller(logging.Handler):
    """What asyncio complains of in debug mode: slow callbacks, and calls from foreign threads."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(slow=record.getMessage())


async def ticking() -> None:
    """Tell how late the loop is, where it is later than one callback may make it."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        late_s = loop.time() - due_s
        if late_s > SLOW_S:
            tell(late_ms=round(late_s * 1000, 1))


async def main(socket: Path, grpc_port: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.slow_callback_duration = SLOW_S
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with worker(load_settings(), socket, grpc_port, Shutdown()):
        ticks = asyncio.create_task(ticking())
        tell(ready=True)
        await stop.wait()
        ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticks


if __name__ == "__main__":
    configure_logging("json")
    logging.getLogger("asyncio").addHandler(Teller())
    with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), int(sys.argv[2])))
