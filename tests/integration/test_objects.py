"""Objects in a directory: whole or not there, read in parts, deleted when they are old; and nobody else's touched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.domain.video_contents import StoreFailure
from server.storage import objects as module
from server.storage.content_address import ContentAddress
from server.storage.objects import Objects
from tests.fakes.video_upstream import BLOCK, media_bytes
from tests.integration.databases import ManualClock
from tests.integration.object_pieces import KEY, pieces, read

OTHER = f"{'0' * 31}2-thumbnail-2"
DAY_S = 86_400


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "content"


@pytest.fixture
def objects(directory: Path, clock: ManualClock) -> Objects:
    return Objects(ContentAddress(directory), clock)


@pytest.mark.parametrize("count", [1, 16, 50], ids=["less than a part", "a part", "parts and more"])
async def test_what_was_put_comes_back(objects: Objects, directory: Path, count: int) -> None:
    await objects.put(KEY, pieces(count))
    size = count * len(BLOCK)
    assert await read(objects, 0, size, size) == media_bytes(size)
    assert await read(objects, 70, 61_000, size) == media_bytes(61_000, 70)
    assert os.listdir(directory) == [KEY]
    assert os.stat(directory).st_mode & 0o077 == 0


async def test_what_is_not_there_or_is_not_whole_is_none(objects: Objects) -> None:
    assert await read(objects, 0, 1, 1) is None
    await objects.put(KEY, pieces(1))
    assert await read(objects, 0, 10, len(BLOCK) + 1) is None
    await objects.delete(KEY)
    await objects.delete(KEY)
    assert await read(objects, 0, 10, len(BLOCK)) is None


async def test_what_is_torn_leaves_nothing(objects: Objects, directory: Path) -> None:
    class TornError(Exception):
        pass

    with pytest.raises(TornError):
        await objects.put(KEY, pieces(40, torn_by=TornError()))
    assert os.listdir(directory) == []


async def test_nothing_can_be_read_before_it_is_whole(objects: Objects, directory: Path) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        async for piece in pieces(40):
            yield piece
        begun.set()
        await gate.wait()

    putting = asyncio.create_task(objects.put(KEY, slow()))
    await begun.wait()
    assert await read(objects, 0, 1, 40 * len(BLOCK)) is None
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    async with asyncio.timeout(30):
        while os.listdir(directory):  # noqa: ASYNC110 - it is obstore that removes it
            await asyncio.sleep(0.05)


async def test_a_reader_that_leaves_lets_go_of_the_file(objects: Objects) -> None:
    size = 40 * len(BLOCK)
    await objects.put(KEY, pieces(40))
    before = set(os.listdir("/proc/self/fd"))
    found = await objects.get(KEY, 0, size, size)
    assert found is not None
    await anext(found)
    await found.aclose()
    del found
    async with asyncio.timeout(30):
        while len(os.listdir("/proc/self/fd")) > len(before):  # noqa: ASYNC110 - another thread closes it
            await asyncio.sleep(0.05)


async def test_memory_does_not_grow_with_it(objects: Objects) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    count = 800
    size = count * len(BLOCK)
    await objects.put(KEY, pieces(100))
    assert len(await read(objects, 0, 1_000_000, 100 * len(BLOCK)) or b"") == 1_000_000
    before = resident()
    await objects.put(KEY, pieces(count))
    peak, got = resident(), 0
    found = await objects.get(KEY, 0, size, size)
    assert found is not None
    async for piece in found:
        got += len(piece)
        peak = max(peak, resident())
    assert got == size
    assert peak - before < 8 << 20


async def test_a_directory_that_is_none_is_a_failure(objects: Objects, directory: Path) -> None:
    os.mkdir(directory.parent)
    os.close(os.open(directory, os.O_CREAT))
    for attempt in (objects.put(KEY, pieces(1)), objects.get(KEY, 0, 1, 1), objects.delete(KEY), objects.purge(1)):
        with pytest.raises(StoreFailure) as caught:
            await attempt
        assert "\n" not in caught.value.cause
    os.remove(directory)
    await objects.put(KEY, pieces(1))


async def test_a_disk_that_is_nearly_full_is_left_alone(
    objects: Objects, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_FREE_BYTES", 1 << 62)
    with pytest.raises(StoreFailure, match="of its disk is free"):
        await objects.put(KEY, pieces(1))
    assert os.listdir(directory) == []


async def test_age_deletes_what_is_ours(objects: Objects, directory: Path, clock: ManualClock) -> None:
    assert await objects.purge(7 * DAY_S) == 0
    assert os.listdir(directory.parents[1]) == [], "it is not made to look for what is old"
    await objects.put(KEY, pieces(1))
    await objects.put(OTHER, pieces(1))
    staged, strange = f"{KEY}#1", ("notes.txt", "0" * 32, f"{KEY}.mp4", "sub/" + KEY)
    (directory / "sub").mkdir()
    for name in (staged, *strange):
        (directory / name).write_text("x")
    now = clock.now()
    for name in (KEY, staged, *strange):
        os.utime(directory / name, (now - 8 * DAY_S, now - 8 * DAY_S))
    os.utime(directory / OTHER, (now - 6 * DAY_S, now - 6 * DAY_S))
    assert await objects.purge(7 * DAY_S) == 2
    assert sorted(os.listdir(directory)) == sorted([OTHER, *strange[:3], "sub"])
    assert (directory / "sub" / KEY).exists()
    assert await objects.purge(7 * DAY_S) == 0
