"""What is put into stores of objects, and read back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from server.storage.objects import Objects
from tests.fakes.video_upstream import BLOCK

KEY = f"{'0' * 31}1-video-1"


async def pieces(count: int, *, torn_by: BaseException | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield BLOCK
    if torn_by is not None:
        raise torn_by


async def read(objects: Objects, start: int, end: int, size: int) -> bytes | None:
    found = await objects.get(KEY, start, end, size)
    return None if found is None else b"".join([piece async for piece in found])
