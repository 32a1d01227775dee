"""What a process of work tells the server on its standard output: lines of JSON, and bytes that go with them."""

from __future__ import annotations

import sys
from asyncio import IncompleteReadError, StreamReader
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

__all__ = ["MAX_BYTES", "Message", "received", "tell"]

MAX_BYTES: Final = 32 * 1024 * 1024
"""Of one message."""


class Message(msgspec.Struct, frozen=True):
    """`kind` says what it is, `facts` are its own; `size` bytes follow its line, `data` where it is read."""

    kind: str
    facts: dict[str, Any] = {}
    size: int = 0
    data: bytes = b""


_decoder: Final = msgspec.json.Decoder(Message)


def tell(kind: str, data: bytes = b"", **facts: Any) -> None:
    """Send one, from within the process of work. Raises BrokenPipeError where nobody listens any more."""
    out = sys.stdout.buffer
    out.write(msgspec.json.encode({"kind": kind, "facts": facts, "size": len(data)}) + b"\n")
    out.write(data)
    out.flush()


async def received(stream: StreamReader) -> AsyncIterator[Message]:
    """The messages until the process ends, less one that it was cut off in. Raises ValueError for anything else."""
    while line := await stream.readline():
        try:
            message = _decoder.decode(line)
            if not 0 <= message.size <= MAX_BYTES:
                raise ValueError("a message is too large")
            data = await stream.readexactly(message.size)
        except IncompleteReadError:
            return
        yield msgspec.structs.replace(message, data=data)
