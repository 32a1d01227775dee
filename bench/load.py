"""The load generator: a process of its own, on a core of its own, much cheaper than what it measures.

    python -m bench.load <<< '{"port": 8080, "path": "/v1/chat/completions", "body": "{…}", "connections": 32}'

A closed loop: each connection sends its next request when the last reply is complete. With `once` each connection sends
one request only, the connections spread over `ramp_s` seconds: that is how many slow streams are held open at a time.
Prints a `LoadResult` as JSON.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from typing import cast

import msgspec
import uvloop

from server.tuning import raise_file_limit

STAMP = re.compile(rb"@(\d{10}\.\d{6})")
"""The stand-in writes the monotonic time of sending into each event of a slow stream."""
_VISIBLE = re.compile(rb'"(?:content|delta)":"[^"]')
"""Text in a frame; those before the first text may hold a role, which a gateway is free to keep until it knows more."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class LoadSpec(msgspec.Struct, frozen=True):
    """What to send, and how. `headers` are added to those that every request has."""

    port: int
    path: str
    body: str
    headers: dict[str, str] = {}
    connections: int = 32
    duration_s: float = 2.0
    once: bool = False
    ramp_s: float = 0.0
    patience_s: float = 60.0
    """How long requests under way may take to end once the time is over."""


class Spread(msgspec.Struct, frozen=True):
    """How long something took, in seconds, over all that were counted."""

    count: int = 0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if not values:
            return cls()
        ordered = sorted(values)
        last = len(ordered) - 1
        p50, p99, p999 = (ordered[round(last * share)] for share in (0.5, 0.99, 0.999))
        return cls(len(ordered), p50, p99, p999, ordered[last])


class LoadResult(msgspec.Struct, frozen=True):
    """What came of it. `elapsed_s` ends with the last reply.

    `first_event` is the first with text in it. `events` counts frames of streams, `stamped` those with a time of
    sending in them, and `delay` is how late those were; `full_delay` the same while all connections were open, between
    the monotonic times `full_from_s` and `full_until_s`.
    """

    requests: int
    failed: int
    elapsed_s: float
    latency: Spread
    first_event: Spread
    events: int = 0
    stamped: int = 0
    delay: Spread = Spread()
    full_delay: Spread = Spread()
    full_from_s: float = 0.0
    full_until_s: float = 0.0


class Totals:
    """What all connections of a run add up to."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        head = [f"POST {spec.path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
        head += [f"{name}: {value}" for name, value in spec.headers.items()]
        body = spec.body.encode()
        self.request = "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body
        self.failed = 0
        self.events = 0
        self.latencies: list[float] = []
        self.first_events: list[float] = []
        self.received: list[tuple[float, float]] = []
        """When each stamped event came, and how long after it was sent."""
        self.opened_s: list[float] = []
        self.ended_s: list[float] = []
        self.ends_at_s = time.monotonic() + spec.duration_s
        self.open = 0
        self.idle = asyncio.Event()

    def result(self, started_s: float) -> LoadResult:
        # Full: from the last opening to the first end; where that never was, nothing is counted.
        full_from_s = max(self.opened_s, default=0.0)
        full_until_s = min(self.ended_s, default=0.0)
        full = [delay for at_s, delay in self.received if full_from_s <= at_s <= full_until_s]
        return LoadResult(
            requests=len(self.latencies),
            failed=self.failed,
            elapsed_s=max(self.ended_s, default=time.monotonic()) - started_s,
            latency=Spread.of(self.latencies),
            first_event=Spread.of(self.first_events),
            events=self.events,
            stamped=len(self.received),
            delay=Spread.of([delay for _, delay in self.received]),
            full_delay=Spread.of(full),
            full_from_s=full_from_s,
            full_until_s=full_until_s,
        )


class Connection(asyncio.Protocol):
    """One kept connection with one request under way at a time."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._transport: asyncio.Transport
        self._sent_s = 0.0
        self._head = b""
        self._missing = 0
        self._tail = b""
        self._is_stream = False
        self._saw_text = False
        self._busy = False
        totals.open += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send()

    def _send(self) -> None:
        self._head, self._missing, self._tail = b"", -1, b""
        self._is_stream = self._saw_text = False
        self._busy = True
        self._sent_s = time.monotonic()
        self._transport.write(self._totals.request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0 and not self._is_stream:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[:end], self._head[end + 4 :]
            if not head.startswith(b"HTTP/1.1 200"):
                self._fail(head + b"\r\n\r\n" + data)
                return
            if (found := _LENGTH.search(head)) is not None:
                self._missing = int(found[1])
            else:
                self._is_stream = True
            if not data:
                return
        if self._is_stream:
            self._stream(data)
        else:
            self._missing -= len(data)
            if self._missing <= 0:
                self._done()

    def _stream(self, data: bytes) -> None:
        totals = self._totals
        # A frame or a stamp that two reads share: what is left of the first is put before the second.
        text = self._tail + data
        cut = text.rfind(b"\n\n") + 2
        if cut >= 2:
            whole = text[:cut]
            now_s = time.monotonic()
            totals.events += whole.count(b"\n\n")
            if not self._saw_text and _VISIBLE.search(whole):
                self._saw_text = True
                totals.first_events.append(now_s - self._sent_s)
                totals.opened_s.append(now_s)
            totals.received += [(now_s, now_s - float(stamp)) for stamp in STAMP.findall(whole)]
            text = text[cut:]
        self._tail = text
        if text.endswith(_LAST_CHUNK):
            self._done()

    def _done(self) -> None:
        totals, now_s = self._totals, time.monotonic()
        totals.latencies.append(now_s - self._sent_s)
        totals.ended_s.append(now_s)
        self._busy = False
        if totals.spec.once or now_s >= totals.ends_at_s:
            self._transport.close()
        else:
            self._send()

    def _fail(self, reply: bytes) -> None:
        if not self._totals.failed:
            print(reply[:2000].decode("utf-8", "replace"), file=sys.stderr)
        self._totals.failed += 1
        self._busy = False
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._totals.failed += self._busy
        self._totals.open -= 1
        if not self._totals.open:
            self._totals.idle.set()


async def run(spec: LoadSpec) -> LoadResult:
    """Send it all. A connection that fails is counted and not opened again."""
    loop = asyncio.get_running_loop()
    totals = Totals(spec)
    started_s = time.monotonic()
    totals.open += 1  # held until all connections have been opened
    for number in range(spec.connections):
        await asyncio.sleep(started_s + number * spec.ramp_s / spec.connections - time.monotonic())
        await loop.create_connection(lambda: Connection(totals), "127.0.0.1", spec.port)
    totals.open -= 1
    if totals.open:
        left_s = totals.ends_at_s - time.monotonic()
        try:
            await asyncio.wait_for(totals.idle.wait(), max(0.0, left_s) + spec.patience_s)
        except TimeoutError:
            totals.failed += totals.open
    return totals.result(started_s)


def main() -> None:
    raise_file_limit()
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
    print(msgspec.json.encode(uvloop.run(run(spec))).decode())


if __name__ == "__main__":
    main()
