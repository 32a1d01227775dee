"""What the gateway keeps of videos, as it is downloaded, and until when."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec.structs import replace

from server.domain.errors import GatewayError, Reason
from server.domain.video import VideoStatus
from server.pipeline import video_contents as video_reading
from server.storage.content_address import ContentAddress
from server.storage.tables import video_contents
from tests.fakes.video_upstream import BLOCK, Media, Plan, media_bytes
from tests.integration.databases import ManualClock
from tests.integration.kept_world import SIZE, WatchedObjects, download, kept, kept_studio, made, refused, states
from tests.integration.ledger_world import rows
from tests.integration.video_world import KEEP_S, Studio, paths


@pytest.fixture
def objects(tmp_path: Path, clock: ManualClock) -> WatchedObjects:
    return WatchedObjects(ContentAddress(tmp_path / "content"), clock)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "content")


@pytest.fixture
async def studio(sqlite_url: str, clock: ManualClock, objects: WatchedObjects) -> AsyncIterator[Studio]:
    async with kept_studio(sqlite_url, clock, objects) as opened:
        yield opened


async def test_it_outlives_its_provider(studio: Studio, directory: str) -> None:
    worker = studio.worker("one")
    video = await made(studio, worker)
    assert await states(studio) == [("video", "wanted", 0)]
    until = int(studio.clock.now()) + KEEP_S
    assert video.expires_at == until
    studio.clock.advance(30)
    await worker.keep()
    assert await states(studio) == [("video", "stored", 1)]
    assert os.listdir(directory) == [f"{video.suffix}-video-1"]
    studio.upstreams[0].jobs.clear()
    studio.upstreams[0].forget()
    status, headers, body = await download(studio, worker, video)
    assert (status, body) == (200, media_bytes(SIZE))
    assert headers.pop("etag").strip('"').isalnum()
    assert headers == {"content-type": "video/mp4", "content-length": str(SIZE), "accept-ranges": "bytes"}
    assert studio.upstreams[0].requests == []
    assert await worker.videos.get(studio.principal(), video.id) == video
    assert (await worker.videos.list(studio.principal())).data == [video]
    assert [row["expires_at"] for row in await rows(studio.database, video_contents)] == [until]


@pytest.mark.parametrize(
    ("asked", "status", "told", "start", "end"),
    [
        ("bytes=0-9", 206, f"bytes 0-9/{SIZE}", 0, 10),
        (f"bytes={SIZE - 1}-", 206, f"bytes {SIZE - 1}-{SIZE - 1}/{SIZE}", SIZE - 1, SIZE),
        ("bytes=-10", 206, f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}", SIZE - 10, SIZE),
        (f"bytes=100000-{SIZE * 9}", 206, f"bytes 100000-{SIZE - 1}/{SIZE}", 100_000, SIZE),
        ("bytes=0-1,5-6", 200, None, 0, SIZE),
        (f"bytes={SIZE}-", 416, f"bytes */{SIZE}", 0, 0),
    ],
)
async def test_parts_of_it(studio: Studio, asked: str, status: int, told: str | None, start: int, end: int) -> None:
    worker = studio.worker("one")
    video = await kept(studio, worker)
    got, headers, body = await download(studio, worker, video, byte_range=asked)
    assert (got, headers.get("content-range"), body) == (status, told, media_bytes(end, start))
    assert headers.get("content-length") == (None if status == 416 else str(end - start))
    assert studio.upstreams[0].requests == []


@pytest.mark.parametrize("asked", ["bytes=0-0,-1", "items=0-1", "bytes=9-3", "bytes=-", "nonsense"])
async def test_what_is_asked_in_another_way_is_the_whole_before_it_is_kept_and_after(
    studio: Studio, asked: str
) -> None:
    worker = studio.worker("one")
    video = await made(studio, worker)
    for _ in range(2):
        status, headers, body = await download(studio, worker, video, byte_range=asked)
        assert (status, headers.get("content-range"), body) == (200, None, media_bytes(SIZE))
        await worker.keep()


async def test_every_variant_of_the_offer_is_kept(studio: Studio) -> None:
    studio.current = studio.catalog(variants=("video", "thumbnail", "spritesheet"))
    worker = studio.worker("one")
    video = await kept(studio, worker)
    for variant, media_type in (("video", "video/mp4"), ("thumbnail", "image/webp"), ("spritesheet", "image/jpeg")):
        _, headers, body = await download(studio, worker, video, variant=variant)
        assert (headers["content-type"], body) == (media_type, media_bytes(SIZE))


async def test_what_is_not_kept_yet_is_relayed(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await made(studio, worker)
    _, headers, body = await download(studio, worker, video)
    assert (headers["etag"], body) == ('"native_1"', media_bytes(SIZE))


async def test_to_another_team_it_does_not_exist(studio: Studio) -> None:
    worker = studio.worker("one")
    video = await kept(studio, worker)
    for video_id in (video.id, video.suffix, f"{video.suffix}-video-1", f"../{video.suffix}-video-1"):
        with pytest.raises(GatewayError) as caught:
            await worker.videos.content(studio.principal("other"), video_id)
        assert caught.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_what_has_expired_is_deleted_and_said_to_be(studio: Studio, directory: str) -> None:
    worker = studio.worker("one")
    video = await kept(studio, worker)
    studio.clock.advance(KEEP_S)
    told = await refused(studio, worker, video)
    assert (told.reason, str(told)) == (Reason.RESOURCE_NOT_FOUND, "The content of this video has expired.")
    await worker.keep()
    assert (await states(studio), os.listdir(directory)) == ([], [])
    assert (await refused(studio, worker, video)).reason is Reason.RESOURCE_NOT_FOUND
    assert (await worker.videos.get(studio.principal(), video.id)).status is VideoStatus.COMPLETED
    assert studio.upstreams[0].requests == []


async def test_what_its_team_deletes_is_deleted(studio: Studio, directory: str) -> None:
    worker = studio.worker("one")
    video, other = await made(studio, worker), await made(studio, worker)
    await worker.keep()
    await worker.videos.delete(studio.principal(), video.id)
    assert len(os.listdir(directory)) == 2, "it is deleted by whoever has the lease, later"
    assert (await refused(studio, worker, video)).reason is Reason.RESOURCE_NOT_FOUND
    await studio.worker("two").keep()
    assert os.listdir(directory) == [f"{other.suffix}-video-1"]
    assert len(await states(studio)) == 1


async def test_a_store_that_is_away_is_asked_again_to_delete(studio: Studio, directory: str) -> None:
    worker = studio.worker("one")
    video = await kept(studio, worker)
    await worker.videos.delete(studio.principal(), video.id)
    os.rename(directory, f"{directory}-away")
    os.close(os.open(directory, os.O_CREAT))
    await worker.keep()
    assert await states(studio) == [("video", "doomed", 1)]
    os.remove(directory)
    os.rename(f"{directory}-away", directory)
    await worker.keep()
    assert await states(studio) == [("video", "doomed", 1)], "not before its time"
    studio.clock.advance(60)
    await worker.keep()
    assert (await states(studio), os.listdir(directory)) == ([], [])


async def test_what_is_deleted_while_it_is_copied_is_not_left(
    studio: Studio, objects: WatchedObjects, directory: str
) -> None:
    worker = studio.worker("one")
    video = await made(studio, worker)

    async def delete(_: str) -> None:
        await worker.videos.delete(studio.principal(), video.id)

    objects.after = delete
    await worker.keep()
    assert (await states(studio), os.listdir(directory)) == ([], [])


@pytest.mark.parametrize("trouble", ["missing", "short", "unreadable"])
async def test_where_the_store_does_not_have_it_the_provider_may(studio: Studio, directory: str, trouble: str) -> None:
    worker = studio.worker("one")
    video = await made(studio, worker)
    await worker.keep()
    path = os.path.join(directory, f"{video.suffix}-video-1")
    if trouble == "short":
        os.truncate(path, 100)
    else:
        os.remove(path)
    if trouble == "unreadable":
        os.rmdir(directory)
        os.close(os.open(directory, os.O_CREAT))
    assert (await download(studio, worker, video, byte_range="bytes=5-9"))[2] == media_bytes(10, 5)
    assert ("GET", "/videos/native_1/content?variant=video") in paths(studio.upstreams[0])


async def test_what_is_cut_while_it_is_read_is_said_to_be(
    studio: Studio, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 64 * len(BLOCK)
    studio.keep_limits = replace(studio.keep_limits, max_bytes=size)
    studio.upstreams[0].plan = Plan(polls=0, media=Media(size=size))
    worker = studio.worker("one")
    video = await kept(studio, worker)
    path = os.path.join(directory, f"{video.suffix}-video-1")
    found = await worker.videos.content(studio.principal(), video.id)
    async with found as content, aclosing(content.chunks()) as chunks:
        await anext(chunks)
        os.truncate(path, 1000)
        monkeypatch.setattr(video_reading, "STALL_S", 1.0)
        with pytest.raises(GatewayError) as caught:
            async for _ in chunks:
                pass
    assert caught.value.reason is Reason.STREAM_INTERRUPTED
