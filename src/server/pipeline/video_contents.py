"""Content of videos that the gateway keeps, as it is downloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Final, Self

import structlog

from server.domain.byte_ranges import OUTSIDE, part_of
from server.domain.errors import GatewayError, Reason
from server.domain.video import Content, Variant
from server.domain.video_contents import ContentRows, KeptContent, ObjectStore, StoreFailure
from server.domain.video_jobs import VideoJob

__all__ = ["KeptContents"]

OPEN_S: Final = 10.0
"""How long the store may take to begin, before the provider is asked instead."""
STALL_S: Final = 60.0

_log: Final = structlog.get_logger(__name__)


class KeptContents:
    def __init__(self, rows: ContentRows, objects: ObjectStore) -> None:
        self._rows = rows
        self._objects = objects

    async def open(self, job: VideoJob, variant: Variant, byte_range: str | None) -> Content | None:
        """What is kept of it, or the part that `byte_range` (a `range` header) names; to be entered, and left.

        None where it is not kept, or the store does not have it, or does not answer. Raises GatewayError.
        """
        kept = await self._rows.find(job.suffix, variant)
        if kept is None or kept.object_key is None:
            return None
        part = part_of(kept.size, byte_range)
        if part == OUTSIDE:
            return _Kept(kept, 416, {"content-range": f"bytes */{kept.size}"})
        start, end = part or (0, kept.size)
        try:
            async with asyncio.timeout(OPEN_S):
                pieces = await self._objects.get(kept.object_key, start, end, kept.size)
        except (StoreFailure, TimeoutError) as failure:
            _log.warning("video_content_unreadable", id=f"video_{job.suffix}", problem=_problem(failure))
            return None
        if pieces is None:
            _log.warning("video_content_missing", id=f"video_{job.suffix}", variant=variant)
            return None
        headers = {
            "content-type": kept.content_type,
            "content-length": str(end - start),
            "accept-ranges": "bytes",
            "etag": kept.etag,
        }
        if part is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{kept.size}"
        return _Kept(kept, 200 if part is None else 206, headers, pieces, end - start)


class _Kept:
    """A `Content` from the store."""

    def __init__(
        self,
        kept: KeptContent,
        status: int,
        headers: Mapping[str, str],
        pieces: AsyncGenerator[bytes, None] | None = None,
        length: int = 0,
    ) -> None:
        self.status = status
        self.headers = headers
        self._kept = kept
        self._pieces = pieces
        self._length = length

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        left = self._length
        try:
            while self._pieces is not None and left > 0:
                async with asyncio.timeout(STALL_S):
                    piece = await anext(self._pieces)
                left -= len(piece)
                yield piece
        except (StoreFailure, TimeoutError, StopAsyncIteration) as failure:
            _log.warning("video_content_torn", id=f"video_{self._kept.suffix}", problem=_problem(failure))
            raise GatewayError(Reason.STREAM_INTERRUPTED, "The content of this video could not be read on.") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._pieces is not None:
            await self._pieces.aclose()


def _problem(failure: Exception) -> str:
    return failure.cause if isinstance(failure, StoreFailure) else type(failure).__name__
