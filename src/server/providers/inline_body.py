"""JSON with whole files in it: their base64 is made while the body is sent."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from server.domain.upload import Upload

__all__ = ["InlineBody", "base64_size"]


class InlineBody:
    """Bytes as they are, and uploads as base64, one after another. See `http_port.SizedBody`."""

    def __init__(self, parts: Sequence[bytes | Upload]) -> None:
        self._parts = parts

    @property
    def size(self) -> int:
        return sum(len(part) if isinstance(part, bytes) else base64_size(part.size) for part in self._parts)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            rest = b""
            async with aclosing(part.pieces()) as pieces:
                async for piece in pieces:
                    data = rest + piece if rest else piece
                    whole = len(data) // 3 * 3
                    rest = data[whole:]
                    if whole:
                        yield base64.b64encode(data[:whole])
            if rest:
                yield base64.b64encode(rest)


def base64_size(size: int) -> int:
    """Of so many bytes in base64."""
    return (size + 2) // 3 * 4
