"""Objects in a bucket: the same promises as in a directory, kept by way of S3's own words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.doctor import check_content
from server.domain.video_contents import StoreFailure
from server.preflight import Finding
from server.settings import Settings
from server.storage.content_address import parse_content_address
from server.storage.objects import BUCKET_PART_BYTES, Objects
from tests.fakes.bucket import Bucket
from tests.fakes.video_upstream import BLOCK, media_bytes
from tests.integration.databases import ManualClock
from tests.integration.object_pieces import KEY, pieces, read

MB = 1 << 20


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    async with Bucket() as running:
        for name, value in (("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "s3cret"), ("REGION", "nowhere")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.origin)
        yield running


@pytest.fixture
def objects(bucket: Bucket, clock: ManualClock) -> Objects:
    address = parse_content_address("s3://films/of/ours")
    assert address is not None
    return Objects(address, clock)


@pytest.mark.parametrize("count", [1, 200], ids=["a part", "parts"])
async def test_what_was_put_comes_back(objects: Objects, bucket: Bucket, count: int) -> None:
    await objects.put(KEY, pieces(count))
    size = count * len(BLOCK)
    assert bucket.objects == {f"of/ours/{KEY}": media_bytes(size)}
    assert bucket.uploads == {}
    assert await read(objects, 0, size, size) == media_bytes(size)
    assert await read(objects, 70, 6_000, size) == media_bytes(6_000, 70)
    assert all(len(request.body) <= BUCKET_PART_BYTES for request in bucket.requests)


async def test_what_is_not_there_or_is_not_whole_is_none(objects: Objects) -> None:
    assert await read(objects, 0, 1, 1) is None
    await objects.put(KEY, pieces(1))
    assert await read(objects, 0, 10, len(BLOCK) + 1) is None
    await objects.delete(KEY)
    await objects.delete(KEY)
    assert await read(objects, 0, 10, len(BLOCK)) is None


async def test_what_is_torn_is_called_off(objects: Objects, bucket: Bucket) -> None:
    class TornError(Exception):
        pass

    with pytest.raises(TornError):
        await objects.put(KEY, pieces(200, torn_by=TornError()))
    assert (bucket.objects, bucket.uploads) == ({}, {})


async def test_who_is_cancelled_calls_it_off(objects: Objects, bucket: Bucket) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        async for piece in pieces(200):
            yield piece
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(objects.put(KEY, slow()))
    await begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert (bucket.objects, bucket.uploads) == ({}, {})


async def test_age_deletes_what_is_ours(objects: Objects, bucket: Bucket, clock: ManualClock) -> None:
    await objects.put(KEY, pieces(1))
    bucket.objects["of/ours/notes.txt"] = bucket.objects[f"of/{KEY}"] = b"x"
    assert await objects.purge(60) == 0
    clock.advance(61)
    assert await objects.purge(60) == 1
    assert sorted(bucket.objects) == [f"of/{KEY}", "of/ours/notes.txt"]


async def test_a_bucket_that_is_away_is_a_failure(objects: Objects, bucket: Bucket) -> None:
    await bucket.stop()
    with pytest.raises(StoreFailure) as caught:
        await objects.get(KEY, 0, 1, 1)
    assert "s3cret" not in caught.value.cause
    assert "\n" not in caught.value.cause


async def test_doctor_asks_whether_it_is_there(bucket: Bucket, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, content_store="s3://films/here")
    assert await check_content(settings) == [Finding("content store", "ok", "s3://films/here")]
    [absent] = await check_content(settings.model_copy(update={"content_store": "s3://absent/here"}))
    assert (absent.level, "404" in absent.text, "s3cret" in str(absent)) == ("warn", True, False)
    await bucket.stop()
    [away] = await check_content(settings)
    assert away.level == "warn"
    assert bucket.objects == {}
