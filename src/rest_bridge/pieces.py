"""A large body that is written as it is read, so that it is never there as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from rest_bridge.http import JSON, RestResponse, json_response

__all__ = ["json_in_pieces"]


def json_in_pieces(pieces: Iterator[bytes]) -> RestResponse:
    """At least one piece: one as it is, more of them one after another."""
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        return json_response(first)
    return RestResponse(200, (("content-type", JSON),), _Body(first, second, pieces))


class _Body:
    """A `rest_bridge.http.ByteStream` that is written as it is read; others have their turn in between."""

    def __init__(self, first: bytes, second: bytes, rest: Iterator[bytes]) -> None:
        self._ready: list[bytes] = [first, second]
        self._rest = rest

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if not self._ready:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        piece = self._ready.pop(0)
        if (following := next(self._rest, None)) is not None:
            self._ready.append(following)
        return piece

    @property
    def ended(self) -> bool:
        return not self._ready

    async def aclose(self) -> None:
        self._ready.clear()
