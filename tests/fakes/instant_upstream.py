"""The stand-in for benchmarks: a chat upstream that answers at once from ready-made bytes, as cheaply as it can.

    python -m tests.fakes.instant_upstream --port 18081 --events 100

The request's body decides: without `"stream":true` one small completion, of a model called `late-<milliseconds>` so
much later; with it a stream of `--events` text deltas
in one write, or `--every` seconds apart. A model called `slow-<events>-<milliseconds>` overrides both. A
model called `embed-<dimensions>` makes vectors, as base64 where that is asked for. An event that
is sent at a time of its own says when, as text: `@` and the monotonic clock, so that whoever gets it on this machine
knows how late it is. Scripts are not played here (see `openai_upstream`): requests are only cut out of the byte stream.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import math
import re
import signal
import socket
import struct
import time
from functools import cache
from typing import cast

import uvloop

from tests.fakes.chat_wire import chat_unary, frame, role_chunk, text_chunk, text_chunks
from tests.fakes.replies import chunk, head, whole
from tests.fakes.wire import Send

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream" *: *true')
_SLOW = re.compile(rb'"model" *: *"slow-(\d+)-(\d+)"')
_LATE = re.compile(rb'"model" *: *"late-(\d+)"')
_EMBED = re.compile(rb'"model" *: *"embed-(\d+)"')


def _bytes(step: object) -> bytes:
    assert isinstance(step, Send)
    return step.data


UNARY = b"".join(_bytes(step) for step in chat_unary())
STREAM_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}).data
DELTA = chunk(frame([text_chunk(" token")], done=False)[0])
_UNSTAMPED = "@0000000000.000000"
PACED_DELTA = chunk(frame([text_chunk(_UNSTAMPED)], done=False)[0])
FIRST = chunk(frame([role_chunk()], done=False)[0])
LAST = b"".join(map(chunk, frame(text_chunks()[-2:]))) + b"0\r\n\r\n"


@cache
def embeddings(count: int, dimensions: int, encoding: bytes) -> bytes:
    """A whole reply with so many vectors, of numbers such as models make."""
    values = [math.sin(n) / 24 for n in range(dimensions)]
    data = struct.pack(f"<{dimensions}f", *values)
    numbers = struct.unpack(f"<{dimensions}f", data)
    one = json.dumps(base64.b64encode(data).decode() if encoding == b"base64" else numbers)
    items = ",".join(f'{{"object":"embedding","index":{n},"embedding":{one}}}' for n in range(count))
    usage = f'{{"prompt_tokens":{count},"total_tokens":{count}}}'
    return _bytes(whole(f'{{"object":"list","data":[{items}],"model":"embed","usage":{usage}}}'.encode())[0])


class Instant(asyncio.Protocol):
    """One connection. `events` text deltas make a stream, `every_s` apart (0: all in one write)."""

    def __init__(self, events: int, every_s: float) -> None:
        self._events = events
        self._every_s = every_s
        self._whole_stream = STREAM_HEAD + FIRST + DELTA * events + LAST
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        while end >= 0:
            found = _LENGTH.search(buffer, 0, end)
            body_end = end + 4 + (int(found[1]) if found else 0)
            if len(buffer) < body_end:
                return
            self._answer(buffer[end + 4 : body_end])
            self._buffer = buffer = buffer[body_end:]
            end = buffer.find(b"\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        if (embed := _EMBED.search(body)) is not None:
            encoding = b"base64" if b'"encoding_format":"base64"' in body else b"float"
            self._transport.write(embeddings(body.count(b'"x"'), int(embed[1]), encoding))
            return
        if not _STREAM.search(body):
            if (late := _LATE.search(body)) is not None:
                delay_s = int(late[1]) / 1000
                self._timer = asyncio.get_running_loop().call_later(delay_s, self._transport.write, UNARY)
            else:
                self._transport.write(UNARY)
            return
        events, every_s = self._events, self._every_s
        if (slow := _SLOW.search(body)) is not None:
            events, every_s = int(slow[1]), int(slow[2]) / 1000
        if not every_s:
            whole = self._whole_stream if events == self._events else STREAM_HEAD + FIRST + DELTA * events + LAST
            self._transport.write(whole)
            return
        self._transport.write(STREAM_HEAD + FIRST)
        loop = asyncio.get_running_loop()
        self._tick(loop, loop.time(), 1, events, every_s)

    def _tick(self, loop: asyncio.AbstractEventLoop, start: float, number: int, events: int, every_s: float) -> None:
        """Send event `number` at its own time, so that delays do not add up."""
        if number > 1:
            self._transport.write(PACED_DELTA.replace(_UNSTAMPED.encode(), b"@%017.6f" % time.monotonic()))
        if number > events:
            self._transport.write(LAST)
            return
        due = start + number * every_s
        self._timer = loop.call_at(due, self._tick, loop, start, number + 1, events, every_s)


async def serve(port: int, events: int, every_s: float) -> None:
    """Until SIGTERM or SIGINT; prints the port when it listens."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Instant(events, every_s), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free port, printed on the first line")
    parser.add_argument("--events", type=int, default=100, help="text deltas in a stream")
    parser.add_argument("--every", type=float, default=0.0, help="seconds between them")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(options.port, options.events, options.every))


if __name__ == "__main__":
    main()
