"""Uploads while they wait: small ones in memory, large ones in unnamed files, and all are let go."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from server.domain.errors import GatewayError, Reason
from server.spool import HEAD_BYTES, IN_MEMORY_BYTES, PIECE_BYTES, Spool, Spooled

LARGE = bytes(range(256)) * 4096 + b"end"


async def spooled(spool: Spool, data: bytes, piece: int = 50_000) -> Spooled:
    upload = spool.begin(filename="a.wav", media_type="audio/wav")
    for start in range(0, len(data), piece):
        await upload.write(data[start : start + piece])
    return upload


async def read(upload: Spooled) -> bytes:
    pieces = [piece async for piece in upload.pieces()]
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


def files_open() -> AbstractSet[str]:
    """What this process has open and no folder lists."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.endswith("(deleted)"):
            found.add(f"{number} {target}")
    return found


async def until_let_go(before: AbstractSet[str]) -> None:
    """Until none but those of `before` is open: a thread that has just written or read one has it for a moment yet."""
    async with asyncio.timeout(30):
        while files_open() - before:  # noqa: ASYNC110  # there is no event of it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "size", [0, 1, HEAD_BYTES, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, 3 * IN_MEMORY_BYTES, len(LARGE)]
)
@pytest.mark.parametrize("piece", [10_000, 300_000])
async def test_what_is_written_is_read_as_often_as_it_is_asked_for(tmp_path: Path, size: int, piece: int) -> None:
    upload = await spooled(Spool(tmp_path), LARGE[:size], piece)
    assert (upload.size, upload.head) == (size, LARGE[: min(size, HEAD_BYTES)])
    both = tuple(await asyncio.gather(read(upload), read(upload)))
    assert both == (LARGE[:size], LARGE[:size])


async def test_only_what_is_large_is_on_disk_and_no_folder_lists_it(tmp_path: Path) -> None:
    before = files_open()
    small, large = await spooled(Spool(tmp_path), LARGE[:IN_MEMORY_BYTES]), await spooled(Spool(tmp_path), LARGE)
    assert len(files_open() - before) == 1
    assert os.listdir(tmp_path) == []
    small.close()
    large.close()
    await until_let_go(before)


async def test_a_file_that_is_let_go_while_it_is_read_is_gone_after_that(tmp_path: Path) -> None:
    before = files_open()
    upload = await spooled(Spool(tmp_path), LARGE)
    pieces = upload.pieces()
    await anext(pieces)
    upload.close()
    with pytest.raises(RuntimeError, match="let go"):
        await anext(pieces)
    await until_let_go(before)


async def test_what_nobody_has_any_more_is_let_go(tmp_path: Path) -> None:
    before, spool = files_open(), Spool(tmp_path)
    upload = await spooled(spool, LARGE)
    assert spool.held_bytes == len(LARGE)
    del upload
    gc.collect()
    assert spool.held_bytes == 0
    await until_let_go(before)


async def test_all_uploads_together_have_a_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1_000_000)
    first = await spooled(spool, LARGE[:900_000])
    second = spool.begin()
    with pytest.raises(GatewayError) as refused:
        await second.write(LARGE[:200_000])
    assert refused.value.reason is Reason.OVERLOADED
    first.close()
    first.close()
    assert spool.held_bytes == 0
    await second.write(LARGE[:200_000])
    assert await read(second) == LARGE[:200_000]


async def test_a_disk_that_takes_nothing_is_no_bug(tmp_path: Path) -> None:
    upload = Spool(tmp_path / "missing").begin()
    with pytest.raises(GatewayError) as refused:
        await upload.write(LARGE)
    assert refused.value.reason is Reason.OVERLOADED
    assert str(tmp_path) not in refused.value.description
