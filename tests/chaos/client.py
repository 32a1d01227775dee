"""Clients on raw sockets, that leave exactly where their plan says and remember all that they saw."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.plan import Leave, Plan

DONE: Final = b"[DONE]"
GIVE_UP_S: Final = 60.0
"""A request that takes longer hangs, and is a violation."""
_READ_BYTES: Final = 65536


@dataclass
class Seen:
    """What a client saw of its request; times are `time.monotonic()` seconds.

    `turn` is 1 for who asks again with the same idempotency key. `suffix` is that of x-generation-id. `complete`: the
    whole reply came, a stream up to its [DONE], without an error in it. `left`: the client went. `broken`: the
    connection ended before the reply did. `refusals` counts connections that were refused before one was accepted;
    nothing had been sent then.
    """

    index: int
    gateway: int = -1
    turn: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    refusals: int = 0
    status: int | None = None
    suffix: str | None = None
    body: bytes = b""
    complete: bool = False
    left: bool = False
    broken: bool = False
    hung: bool = False
    text: str = ""
    error: str | None = None
    reason: str | None = None
    usage: dict[str, Any] | None = None

    @property
    def total_nanos(self) -> int | None:
        """What the reply said that it cost; None where it said nothing of usage."""
        if self.usage is None:
            return None
        pricing = self.usage.get("pricing")
        return None if pricing is None else int(pricing["total_nanos"])


@dataclass
class _Left(Exception):
    """The client goes now."""

    rude: bool


@dataclass
class _Reply:
    """A reply as far as it has been read. Feed it bytes; it takes heads, chunks and lengths apart."""

    waiting: bytearray = field(default_factory=bytearray)
    body: bytearray = field(default_factory=bytearray)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    ended: bool = False

    def feed(self, data: bytes) -> None:
        self.waiting += data
        if self.status is None and not self._take_head():
            return
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while not self.ended and self._take_chunk():
                pass
        else:
            self.body += self.waiting
            self.waiting.clear()
            self.ended = len(self.body) >= int(self.headers.get("content-length", 1 << 60))

    def _take_head(self) -> bool:
        end = self.waiting.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *others = self.waiting[:end].decode("latin-1").split("\r\n")
        del self.waiting[: end + 4]
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in others)}
        self.status = int(first.split(" ", 2)[1])
        return True

    def _take_chunk(self) -> bool:
        line_end = self.waiting.find(b"\r\n")
        if line_end < 0:
            return False
        size = int(self.waiting[:line_end].split(b";")[0], 16)
        if len(self.waiting) < line_end + 2 + size + 2:
            return False
        self.body += self.waiting[line_end + 2 : line_end + 2 + size]
        del self.waiting[: line_end + 2 + size + 2]
        self.ended = size == 0
        return True


async def ask(plan: Plan, seen: Seen, port: int, key: str) -> None:
    """Make one request; `seen` is filled as it goes. Raises ConnectionRefusedError where nobody listens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reply, watch = _Reply(), _Watch(plan, seen)
    rude = False
    seen.started_at = time.monotonic()
    try:
        async with asyncio.timeout(GIVE_UP_S):
            writer.write(_request(plan, key))
            await _read(reader, reply, watch, plan.leave)
    except _Left as left:
        seen.left, rude = True, left.rude
    except TimeoutError:
        seen.hung = True
    except (ConnectionError, BrokenPipeError):
        seen.broken = True
    finally:
        seen.ended_at = time.monotonic()
        _note(reply, watch, plan, seen)
        if rude:
            reset = struct.pack("ii", 1, 0)
            with suppress(OSError):  # the gateway was killed, and the connection has gone with it
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort() if rude else writer.close()


async def _read(reader: asyncio.StreamReader, reply: _Reply, watch: _Watch, leave: Leave | None) -> None:
    if leave is not None and leave.when == "before":
        try:
            async with asyncio.timeout(leave.after_s):
                reply.feed(await _some(reader))
        except TimeoutError:
            raise _Left(leave.rude) from None
        watch.look(reply)
    while not reply.ended:
        reply.feed(await _some(reader))
        watch.look(reply)


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_READ_BYTES)
    if not data:
        raise ConnectionResetError
    return data


class _Watch:
    """Reads the events of a stream as they come, and leaves where the plan says; what comes later is not looked at."""

    def __init__(self, plan: Plan, seen: Seen) -> None:
        self._plan, self._seen = plan, seen
        self._at = 0
        self._texts = 0

    def look(self, reply: _Reply) -> None:
        """Raises _Left."""
        if reply.status is None:
            return
        leave = self._plan.leave
        if reply.status != 200 or not self._plan.stream:
            if leave is not None and leave.when == "middle" and not self._plan.stream and reply.status == 200:
                del reply.body[len(reply.body) // 2 :]
                raise _Left(leave.rude)
            return
        while (end := reply.body.find(b"\n\n", self._at)) >= 0:
            block, self._at = bytes(reply.body[self._at : end]), end + 2
            if (data := _data(block)) is None:
                continue
            if data == DONE:
                self._seen.complete = self._seen.error is None
                continue
            take = self._take_message if self._plan.surface == "messages" else self._take
            text, ends = take(json.loads(data))
            self._texts += bool(text)
            if leave is not None and (
                (leave.when == "middle" and text and self._texts >= leave.events) or (leave.when == "end" and ends)
            ):
                del reply.body[self._at :]
                raise _Left(leave.rude)

    def _take(self, value: dict[str, Any]) -> tuple[str, bool]:
        """The text of an event, and whether it says that there will be no more."""
        seen = self._seen
        if self._plan.surface == "chat":
            if "error" in value:
                seen.error = _named(value["error"])
                return "", False
            seen.usage = value.get("usage") or seen.usage
            text = "".join(choice["delta"].get("content") or "" for choice in value["choices"])
            seen.text += text
            return text, any(choice["finish_reason"] for choice in value["choices"])
        kind = value["type"]
        if kind in ("error", "response.failed"):
            seen.error = kind
        if "response" in value:
            seen.usage = value["response"].get("usage") or seen.usage
        if kind == "response.output_text.delta":
            seen.text += value["delta"]
            return value["delta"], False
        return "", kind == "response.output_text.done"

    def _take_message(self, value: dict[str, Any]) -> tuple[str, bool]:
        seen, kind = self._seen, value["type"]
        if kind == "error":
            seen.error = _named(value["error"])
        elif kind == "message_delta":
            seen.usage = value["usage"]
        elif kind == "message_stop":
            seen.complete = seen.error is None
        elif kind == "content_block_delta":
            seen.text += value["delta"]["text"]
            return value["delta"]["text"], False
        return "", kind == "content_block_stop"


def _data(block: bytes) -> bytes | None:
    lines = [line[6:] for line in block.split(b"\n") if line.startswith(b"data: ")]
    return b"\n".join(lines) if lines else None


def _named(error: Any) -> str:
    return str(error.get("error") or error.get("code") or error) if isinstance(error, dict) else str(error)


def _note(reply: _Reply, watch: _Watch, plan: Plan, seen: Seen) -> None:
    seen.status, seen.body = reply.status, bytes(reply.body)
    given = reply.headers.get("x-generation-id", "")
    seen.suffix = given.removeprefix("gen_") or None
    if reply.status is None or not reply.ended or seen.left:
        return
    if reply.status != 200:
        value = json.loads(seen.body)
        seen.error, seen.reason = str(value["error"]), value.get("reason")
    elif not plan.stream:
        value = json.loads(seen.body)
        seen.usage = value.get("usage")
        seen.text = "".join(_texts(plan, value))
        seen.complete = True


def _texts(plan: Plan, reply: dict[str, Any]) -> Iterator[str]:
    if plan.surface == "chat":
        for choice in reply["choices"]:
            yield choice["message"]["content"] or ""
        return
    if plan.surface == "embeddings":
        return
    if plan.surface == "messages":
        yield from (block["text"] for block in reply["content"])
        return
    for item in reply["output"]:
        for part in item.get("content", ()):
            yield part.get("text", "")


def _request(plan: Plan, key: str) -> bytes:
    body = json.dumps(plan.body(), ensure_ascii=False).encode()
    lines = [
        f"POST {plan.path} HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *([] if plan.key is None else [f"idempotency-key: {plan.key}"]),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
