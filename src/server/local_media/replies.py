"""What the handlers have in common: models, sizes, and streams of events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from server.local_media.refusal import Refused, bad_request

__all__ = ["STALL_S", "opening", "require_model", "size_of", "streamed", "written"]

STALL_S: Final = 30.0
"""A reader that takes nothing for so long has gone."""
_SIZE: Final = re.compile(r"([0-9]{2,4})x([0-9]{2,4})")

Item = TypeVar("Item")


def require_model(asked: str, model: str) -> None:
    """Raises Refused for any other."""
    if asked != model:
        raise Refused(HTTPStatus.NOT_FOUND, "model_not_found", "There is no such model here.", "model")


def size_of(text: str, least: int, most: int, step: int = 1) -> tuple[int, int]:
    """Width and height. Raises Refused where it is no size, or a side is out of bounds or no multiple of `step`."""
    if found := _SIZE.fullmatch(text):
        width, height = int(found[1]), int(found[2])
        if least <= min(width, height) and max(width, height) <= most and not (width % step or height % step):
            return width, height
    even = " and even" if step == 2 else ""
    raise bad_request("invalid_size", f"A size is '<width>x<height>', each from {least} to {most}{even}.", "size")


async def opening(items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """The same items, the first of them there already: what goes wrong before it is raised here."""
    first = await anext(items, None)

    async def all_of_them() -> AsyncGenerator[Item, None]:
        async with aclosing(items):
            if first is not None:
                yield first
                async for item in items:
                    yield item

    return all_of_them()


async def streamed(request: web.Request, events: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    """Server-sent events, each under the name of its `type`. What goes wrong on the way is one called `error`."""

    async def lines() -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            try:
                async for event in events:
                    yield _event(event["type"], event)
            except Refused as refused:
                yield _event("error", {"type": "error", **refused.body()})

    return await written(request, "text/event-stream", lines())


async def written(request: web.Request, media_type: str, pieces: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """A body as it is made. Raises TimeoutError where its reader stalls."""
    response = web.StreamResponse(headers={"content-type": media_type, "cache-control": "no-store"})
    await response.prepare(request)
    async with aclosing(pieces):
        async for piece in pieces:
            async with asyncio.timeout(STALL_S):
                await response.write(piece)
    await response.write_eof()
    return response


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
