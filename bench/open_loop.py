"""Constant arrival: requests leave at times that were set before the run, however long the replies take.

    python -m bench.open_loop <<< '{"port": 8080, "path": "/v1/chat/completions", "body": "{…}", "rate": 200}'

A closed loop waits for a slow reply and sends nothing meanwhile, so that what would have met the same delay is never
counted. Here a request that cannot leave when it is due has its latency counted from then all the same. It leaves on a
free connection of those kept, on a new one where there is none, and waits for one where there are `MOST_CONNECTIONS`.
Prints an `OpenLoopResult` as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import socket
import sys
import time
from collections import deque
from typing import Final, cast

import msgspec
import uvloop

from server.tuning import raise_file_limit

MOST_CONNECTIONS: Final = 1024
KEPT_FROM_THE_START: Final = 32
PATIENCE_S: Final = 30.0
"""How long replies may take once the last request has left."""
_LEAD_S: Final = 0.1
_LEAST_S: Final = 1e-6
"""A timer of 0 is none."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class OpenLoopSpec(msgspec.Struct, frozen=True):
    """What to send, and how many a second. `headers` are added to those that every request has."""

    port: int
    path: str
    body: str
    rate: float
    duration_s: float = 5.0
    headers: dict[str, str] = {}


class OpenLoopResult(msgspec.Struct, frozen=True):
    """Seconds from when each request was due to the last byte of its reply, and to when it left."""

    latencies_s: list[float]
    left_after_s: list[float]
    failed: int
    connections: int
    """The most there were."""


class Arrivals:
    """The schedule, and who is free to carry the next."""

    def __init__(self, spec: OpenLoopSpec) -> None:
        lines = [f"POST {spec.path} HTTP/1.1", f"host: 127.0.0.1:{spec.port}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in spec.headers.items()]
        body = spec.body.encode()
        self.request: Final = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body
        self._port = spec.port
        start_s = time.monotonic() + _LEAD_S
        self._due: Final = [start_s + number / spec.rate for number in range(round(spec.rate * spec.duration_s))]
        self._next = 0
        self._waiting: deque[float] = deque()
        self._free: list[Connection] = []
        self._open = self._opening = self._most = 0
        self._latencies: list[float] = []
        self._left_after: list[float] = []
        self._failed = 0
        self.over: Final = asyncio.Event()

    def start(self) -> None:
        """Timers of the loop are a millisecond rough; the kernel's are not."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, self._send_what_is_due)
        signal.setitimer(signal.ITIMER_REAL, max(_LEAST_S, self._due[0] - time.monotonic()))

    def _send_what_is_due(self) -> None:
        due, now_s = self._due, time.monotonic()
        while self._next < len(due) and due[self._next] <= now_s:
            self._waiting.append(due[self._next])
            self._next += 1
        if self._next < len(due):
            signal.setitimer(signal.ITIMER_REAL, max(_LEAST_S, due[self._next] - time.monotonic()))
        while self._waiting and self._free:
            self._carry(self._free.pop())
        for _ in range(min(len(self._waiting) - self._opening, MOST_CONNECTIONS - self._open)):
            self.connect()

    def connect(self) -> None:
        self._open += 1
        self._opening += 1
        self._most = max(self._most, self._open)
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port))
        connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[object]) -> None:
        self._opening -= 1
        if connecting.exception() is not None:
            self.lost(self._waiting.popleft() if self._waiting else None, str(connecting.exception()))

    def _carry(self, connection: Connection) -> None:
        due_s = self._waiting.popleft()
        self._left_after.append(time.monotonic() - due_s)
        connection.send(due_s)

    def is_free(self, connection: Connection) -> None:
        if self._waiting:
            self._carry(connection)
        else:
            self._free.append(connection)

    def answered(self, due_s: float) -> None:
        self._latencies.append(time.monotonic() - due_s)
        self._end_if_done()

    def lost(self, due_s: float | None, why: str, connection: Connection | None = None) -> None:
        """A connection has ended, with the request that it carried or without one."""
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)
        if due_s is None:
            return
        if not self._failed:
            print(why, file=sys.stderr)
        self._failed += 1
        self._end_if_done()

    def _end_if_done(self) -> None:
        if len(self._latencies) + self._failed == len(self._due):
            self.over.set()

    def result(self) -> OpenLoopResult:
        unanswered = len(self._due) - len(self._latencies)
        return OpenLoopResult(self._latencies, self._left_after, unanswered, self._most)


class Connection(asyncio.Protocol):
    """One kept connection with one request under way at a time."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._transport: asyncio.Transport
        self._due_s: float | None = None
        self._reply = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._arrivals.is_free(self)

    def send(self, due_s: float) -> None:
        self._due_s, self._reply = due_s, b""
        self._transport.write(self._arrivals.request)

    def data_received(self, data: bytes) -> None:
        self._reply += data
        head_ends = self._reply.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        if not self._reply.startswith(b"HTTP/1.1 200"):
            self._transport.abort()
            return
        length = _LENGTH.search(self._reply, 0, head_ends)
        if length is None:
            is_whole = self._reply.endswith(_LAST_CHUNK)
        else:
            is_whole = len(self._reply) >= head_ends + 4 + int(length[1])
        if is_whole and self._due_s is not None:
            due_s, self._due_s = self._due_s, None
            self._arrivals.answered(due_s)
            self._arrivals.is_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrivals.lost(self._due_s, self._reply[:2000].decode("utf-8", "replace") or str(exc), self)


async def run(spec: OpenLoopSpec) -> OpenLoopResult:
    """Send it all. What has no reply in time, or another than 200, is counted as failed."""
    arrivals = Arrivals(spec)
    for _ in range(KEPT_FROM_THE_START):
        arrivals.connect()
    arrivals.start()
    try:
        await asyncio.wait_for(arrivals.over.wait(), _LEAD_S + spec.duration_s + PATIENCE_S)
    except TimeoutError:
        print("replies were missing in the end", file=sys.stderr)
    return arrivals.result()


def main() -> None:
    raise_file_limit()
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=OpenLoopSpec)
    gc.disable()
    print(msgspec.json.encode(uvloop.run(run(spec))).decode())


if __name__ == "__main__":
    main()
