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
_SCHEDULED: Final = Path("/proc/thread-self/schedstat")


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


class Turn:
    """Begins now. What of it the loop's thread stood in line for a processor is somebody else's doing."""

    def __init__(self) -> None:
        self._begun_s, self._waited_s = time.monotonic(), _waited_s()

    def took_s(self) -> float:
        return time.monotonic() - self._begun_s - (_waited_s() - self._waited_s)


def _waited_s() -> float:
    """How long this thread has stood in line in all; nothing where the kernel does not tell."""
    try:
        return int(_SCHEDULED.read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Watch(logging.Handler):
    """Tells what asyncio complains of in debug mode, calls from foreign threads and slow callbacks, and how late it is.

    `limit_s`: the longest that one callback may run.
    """

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._limit_s = limit_s
        self._turn = Turn()

    def emit(self, record: logging.LogRecord) -> None:
        if " took " not in record.getMessage() or self._turn.took_s() > self._limit_s:
            tell(slow=record.getMessage())

    async def tick(self) -> None:
        while True:
            self._turn = Turn()
            await asyncio.sleep(_TICK_S)
            late_s = self._turn.took_s() - _TICK_S
            if late_s > self._limit_s:
                tell(late_ms=round(late_s * 1000, 1))


def slow_s() -> float:
    """The longest that one callback may run here."""
    passes = []
    for _ in range(5):
        begun_s = time.perf_counter()
        msgspec.json.encode(msgspec.json.decode(LARGEST))
        passes.append(time.perf_counter() - begun_s)
    return max(0.05, PASSES * min(passes))


async def main(socket: Path) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.slow_callback_duration = slow_s()
    watch = Watch(loop.slow_callback_duration)
    logging.getLogger("asyncio").addHandler(watch)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    make_host = partial(Hosting, CHOSEN, unix_socket=socket)
    async with worker(load_settings(), socket, make_host, Shutdown()):
        ticks = asyncio.create_task(watch.tick())
        tell(ready=True)
        await stop.wait()
        ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticks


if __name__ == "__main__":
    configure_logging("json")
    with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
