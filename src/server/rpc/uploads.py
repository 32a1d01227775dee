"""Typed calls with a file: a stream whose first message has the settings, and the others its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from server.domain.errors import GatewayError, Reason
from server.domain.upload import Upload
from server.spool import Spool, Spooled

__all__ = ["received"]

ARRIVAL_S: Final = 300.0
"""How long an upload may take to come in; Envoy gives a REST request as long."""
CHUNK: Final = "chunk"

M = TypeVar("M", bound=Message)


async def received(
    messages: AsyncIterator[M], limit: int, spool: Spool, *, timeout_s: float = ARRIVAL_S
) -> tuple[M, Upload]:
    """The first message of a stream, and the upload that its `chunk`s are: `limit` bytes at most.

    The upload is called as the first message's `filename` and `media_type` say, where it has these. It is let go with
    the last reference to it.
    Raises GatewayError: `malformed_request` where there is no message, a later one has more than its chunk, or they
    take too long; `request_too_large` as soon as they are; `overloaded` where there is no room for them.
    """
    try:
        async with asyncio.timeout(timeout_s):
            first: Any = await anext(messages, None)
            if first is None:
                raise GatewayError(Reason.MALFORMED_REQUEST, "The stream ended before its first message.")
            upload = spool.begin(filename=getattr(first, "filename", ""), media_type=getattr(first, "media_type", ""))
            await _add(upload, bytes(first.chunk), limit)
            async for message in messages:
                await _add(upload, _chunk(message), limit)
    except TimeoutError:
        raise GatewayError(Reason.MALFORMED_REQUEST, "The stream did not end in time.") from None
    return first, upload


async def _add(upload: Spooled, chunk: bytes, limit: int) -> None:
    if upload.size + len(chunk) > limit:
        raise GatewayError(Reason.REQUEST_TOO_LARGE, f"The chunks come to more than {limit:,} bytes.", param=CHUNK)
    await upload.write(chunk)


def _chunk(message: Any) -> bytes:
    for field, _ in message.ListFields():
        if field.name != CHUNK:
            raise GatewayError(
                Reason.MALFORMED_REQUEST, "Only the first message of the stream has settings.", param=field.name
            )
    return bytes(message.chunk)
