"""Files of typed calls: a first message with the settings, and chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aistats.gateway.v1.audio_pb2 import CreateTranscriptionRequest
from server.domain.errors import ErrorCode, GatewayError, Reason
from server.rpc.uploads import received
from server.spool import Spool

SETTINGS = CreateTranscriptionRequest(model="a/b", filename="/tmp/a.mp3", media_type="Audio/MPEG; x=y")


def chunk(data: bytes) -> CreateTranscriptionRequest:
    return CreateTranscriptionRequest(chunk=data)


async def sent(
    *messages: CreateTranscriptionRequest, then: asyncio.Event | None = None
) -> AsyncIterator[CreateTranscriptionRequest]:
    for message in messages:
        yield message
    if then is not None:
        await then.wait()


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
async def test_the_chunks_are_the_file(size: int) -> None:
    data = bytes(range(250)) * (size // 250) + b"x" * (size % 250)
    chunks = [chunk(data[start : start + 70_000]) for start in range(0, size, 70_000)]
    first, upload = await received(sent(SETTINGS, *chunks, chunk(b"")), 1_000_000, Spool())
    assert first is SETTINGS
    assert (upload.filename, upload.media_type, upload.size) == ("a.mp3", "audio/mpeg", size)
    assert b"".join([piece async for piece in upload.pieces()]) == data


async def test_the_first_message_may_have_a_chunk_as_well() -> None:
    first = CreateTranscriptionRequest(model="a/b", chunk=b"RI")
    _, upload = await received(sent(first, chunk(b"FF")), 4, Spool())
    assert b"".join([piece async for piece in upload.pieces()]) == b"RIFF"


async def test_too_many_bytes_are_refused_as_soon_as_they_are() -> None:
    messages, spool = sent(SETTINGS, chunk(b"x" * 600), chunk(b"x" * 600), chunk(b"x"), then=asyncio.Event()), Spool()
    with pytest.raises(GatewayError) as refused:
        await received(messages, 1000, spool)
    assert (refused.value.reason, refused.value.param) == (Reason.REQUEST_TOO_LARGE, "chunk")


async def test_settings_come_first_and_once() -> None:
    with pytest.raises(GatewayError) as refused:
        await received(sent(SETTINGS, chunk(b"x"), SETTINGS), 1000, Spool())
    assert (refused.value.code, refused.value.param) == (ErrorCode.VALIDATION, "model")


async def test_an_empty_stream_is_none() -> None:
    with pytest.raises(GatewayError) as refused:
        await received(sent(), 1000, Spool())
    assert refused.value.reason is Reason.MALFORMED_REQUEST


async def test_a_stream_that_never_ends_is_not_waited_for() -> None:
    with pytest.raises(GatewayError) as refused:
        await received(sent(SETTINGS, chunk(b"x"), then=asyncio.Event()), 1000, Spool(), timeout_s=0.05)
    assert refused.value.reason is Reason.MALFORMED_REQUEST
