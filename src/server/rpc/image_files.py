"""An edit as a stream of messages: its settings, and each of its files as a beginning and chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aistats.gateway.v1 import images_pb2
from server.domain.errors import GatewayError, Reason
from server.domain.image_limits import IMAGE, MAX_INPUT_BYTES
from server.domain.images import MAX_INPUT_IMAGES
from server.domain.limits import invalid_value, missing_field
from server.domain.upload import Upload
from server.spool import Spool, Spooled

__all__ = ["received_files"]

ARRIVAL_S: Final = 300.0
"""How long all messages may take to come in; Envoy gives a REST request as long."""


async def received_files(
    messages: AsyncIterator[images_pb2.EditImagesRequest], spool: Spool, *, timeout_s: float = ARRIVAL_S
) -> tuple[images_pb2.CreateImagesRequest, list[tuple[bool, Upload]]]:
    """The settings, and the files in their order, each with whether it is the mask.

    Files are let go with the last reference to them. Raises GatewayError naming what is wrong, as soon as it is.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _received(messages, spool)
    except TimeoutError:
        raise GatewayError(Reason.MALFORMED_REQUEST, "The stream did not end in time.") from None


async def _received(
    messages: AsyncIterator[images_pb2.EditImagesRequest], spool: Spool
) -> tuple[images_pb2.CreateImagesRequest, list[tuple[bool, Upload]]]:
    settings: images_pb2.CreateImagesRequest | None = None
    files: list[tuple[bool, Upload]] = []
    current: Spooled | None = None
    size = 0
    async for message in messages:
        part = message.WhichOneof("part")
        if (part == "settings") is not (settings is None):
            raise missing_field("settings") if settings is None else invalid_value("settings", "is given twice")
        match part:
            case "settings":
                settings = message.settings
            case "file":
                if len(files) > MAX_INPUT_IMAGES:
                    raise invalid_value(IMAGE, f"must have at most {MAX_INPUT_IMAGES} entries")
                current = spool.begin(filename=message.file.filename)
                files.append((message.file.is_mask, current))
            case "chunk":
                if current is None:
                    raise missing_field("file")
                size += len(message.chunk)
                if size > MAX_INPUT_BYTES:
                    limit = MAX_INPUT_BYTES // 2**20
                    text = f"The pictures are larger than {limit} MiB together."
                    raise GatewayError(Reason.REQUEST_TOO_LARGE, text, param="chunk")
                await current.write(message.chunk)
    if settings is None:
        raise missing_field("settings")
    return settings, files
