"""A worker whose event loop is watched: each callback that holds it up is told on stdout, one JSON object a line.

    python -m tests.e2e.watched_worker SOCKET

It is the real worker, with the settings of its environment and the host of AISTATS_HOST, on a loop in debug mode;
SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from server.bootstrap import worker
from server.logs import configure_logging
from server.pipeline.shutdown import Shutdown
from server.settings import load_settings
from tests.fakes.hosting import CHOSEN, Hosting

PASSES: Final = 16
"""How often one callback may read and write the largest body: its limit is the machine's own measure."""
LARGEST: Final = b'"' + b"word " * 1_000_000 + b'"'
_TICK_S: Final = 0.005


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


class Teller(logging.Handler):
    """What asyncio complains of in debug mode: slow callbacks, and calls from foreign threads."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(slow=record.getMessage())


def slow_s() -> float:
    """The longest that one callback may run here."""
    passes = []
    for _ in range(5):
        begun_s = time.perf_counter()
        msgspec.json.encode(msgspec.json.decode(LARGEST))
        passes.append(time.perf_counter() - begun_s)
    return max(0.05, PASSES * min(passes))


async def ticking(limit_s: float) -> None:
    """Tell how late the loop is, where it is later than one callback may make it."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        late_s = loop.time() - due_s
        if late_s > limit_s:
            tell(late_ms=round(late_s * 1000, 1))


async def main(socket: Path) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.slow_callback_duration = slow_s()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    make_host = partial(Hosting, CHOSEN, unix_socket=socket)
    async with worker(load_settings(), socket, make_host, Shutdown()):
        ticks = asyncio.create_task(ticking(loop.slow_callback_duration))
        tell(ready=True)
        await stop.wait()
        ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticks


if __name__ == "__main__":
    configure_logging("json")
    logging.getLogger("asyncio").addHandler(Teller())
    with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
