"""What was made, relayed as it comes: parts of it, where it has moved to, and where the key must not go."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

import pytest

from server.domain.catalog import Offer
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.video import CONTENT_GONE, Content, VideoAdapter
from server.providers.openai_videos import OpenAIVideos
from server.providers.video_calls import MAX_HOPS
from server.transport import Transport
from server.transport.faults import Fault
from tests.fakes.health import HandClock
from tests.fakes.replies import chunked, encoded, error, head, json_reply, whole
from tests.fakes.video_upstream import BLOCK, Dialect, Media, Plan, VideoUpstream, media_bytes, moved
from tests.fakes.wire import Call, Cut, Request, Send, WireServer
from tests.integration.test_video_adapters import adapter_of, ended, offer_of, wanted

DIALECTS = get_args(Dialect)
MB = 1024 * 1024


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as running:
        yield running


async def made(
    upstream: VideoUpstream, transport: Transport, media: Media | None = None
) -> tuple[VideoAdapter, Offer, str, str | None]:
    """An adapter, an offer, and the id and handle of a job that is done; the stand-in's records begin after it."""
    upstream.plans.append(Plan(polls=0, media=media or Media()))
    videos, offer = adapter_of(upstream, transport), offer_of(upstream)
    begun = await videos.submit(offer, wanted(), "video_1")
    told = await ended(videos, offer, begun.native_id)
    upstream.forget()
    return videos, offer, told.native_id, told.handle


async def body_of(content: Content) -> bytes:
    async with content, aclosing(content.chunks()) as chunks:
        return b"".join([chunk async for chunk in chunks])


def keys_in(request: Request) -> list[str]:
    return [value for name, value in request.headers if "canary" in value.lower()]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_whole_of_it(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect) as upstream:
        videos, offer, native_id, handle = await made(upstream, transport, Media(size=200_001))
        content = await videos.content(offer, native_id, handle, "video", None)
        assert content.status == 200
        assert dict(content.headers) == {
            "content-type": "video/mp4",
            "content-length": "200001",
            "accept-ranges": "bytes",
            "etag": f'"{native_id.rpartition("/")[2]}"',
        }
        assert await body_of(content) == media_bytes(200_001)
        assert len(keys_in(upstream.requests[0])) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("asked", "told", "start", "end"),
    [
        ("bytes=0-9", "bytes 0-9/1000", 0, 10),
        ("bytes=990-", "bytes 990-999/1000", 990, 1000),
        ("bytes=-10", "bytes 990-999/1000", 990, 1000),
        ("bytes=900-5000", "bytes 900-999/1000", 900, 1000),
    ],
)
async def test_a_part_of_it(
    transport: Transport, dialect: Dialect, asked: str, told: str, start: int, end: int
) -> None:
    async with VideoUpstream(dialect) as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        content = await videos.content(offer, native_id, handle, "video", asked)
        assert (content.status, content.headers["content-range"]) == (206, told)
        assert content.headers["content-length"] == str(end - start)
        assert await body_of(content) == media_bytes(end, start)


async def test_a_part_that_is_not_there(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        content = await videos.content(offer, native_id, handle, "video", "bytes=1000-")
        assert (content.status, dict(content.headers)) == (416, {"content-range": "bytes */1000"})
        assert await body_of(content) == b""


async def test_where_parts_are_unknown_the_whole_comes(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport, Media(ranges=False))
        content = await videos.content(offer, native_id, handle, "video", "bytes=0-9")
        assert (content.status, content.headers["content-length"]) == (200, "1000")
        assert await body_of(content) == media_bytes(1000)


@pytest.mark.parametrize(("variant", "media_type"), [("thumbnail", "image/webp"), ("spritesheet", "image/jpeg")])
async def test_variants(transport: Transport, variant: Any, media_type: str) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        content = await videos.content(offer, native_id, handle, variant, None)
        assert content.headers["content-type"] == media_type
        assert len(await body_of(content)) == 1000
        assert upstream.requests[0].path.endswith(f"/content?variant={variant}")


async def test_what_a_head_asks_is_told_without_the_body(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport, Media(size=50 * MB))
        async with await videos.content(offer, native_id, handle, "video", None) as content:
            assert content.headers["content-length"] == str(50 * MB)
        await upstream.wait_disconnect(timeout=30)
        assert upstream.requests[0].sent < 10 * MB


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_first_bytes_do_not_wait_for_the_last(transport: Transport, dialect: Dialect) -> None:
    gate = asyncio.Event()

    async def opened(_: Request) -> None:
        await gate.wait()

    async with VideoUpstream(dialect) as upstream:
        media = Media(size=3 * len(BLOCK), gate=Call(opened))
        videos, offer, native_id, handle = await made(upstream, transport, media)
        content = await videos.content(offer, native_id, handle, "video", None)
        async with content, aclosing(content.chunks()) as chunks:
            read = await anext(chunks)
            while len(read) < len(BLOCK):
                read += await anext(chunks)
            gate.set()
            async for chunk in chunks:
                read += chunk
        assert read == media_bytes(media.size)


async def test_content_that_is_cut_is_a_failure(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport, Media(size=100_000, cut_at=70_000))
        content = await videos.content(offer, native_id, handle, "video", None)
        with pytest.raises(ProviderFailure) as caught:
            await body_of(content)
        assert caught.value.upstream.code == Fault.CUT


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_memory_does_not_grow_with_the_video(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        size = 50 * MB
        videos, offer, native_id, handle = await made(upstream, transport, Media(size=size))
        await body_of(await videos.content(offer, native_id, handle, "video", "bytes=0-1000000"))
        before, peak, read = _resident(), 0, 0
        content = await videos.content(offer, native_id, handle, "video", None)
        async with content, aclosing(content.chunks()) as chunks:
            async for chunk in chunks:
                read += len(chunk)
                peak = max(peak, _resident())
        assert read == size
        assert peak - before < 8 * MB


# Where it has moved to.


def serves(data: bytes) -> WireServer:
    return WireServer(default=whole(data, content_type="video/mp4"))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_key_goes_to_no_other_origin(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect) as upstream, serves(b"film") as store:
        media = Media(location=f"{store.origin}/bucket/film.mp4?sig=1#part")
        videos, offer, native_id, handle = await made(upstream, transport, media)
        assert await body_of(await videos.content(offer, native_id, handle, "video", "bytes=0-3")) == b"film"
        (got,) = store.requests
        assert (got.path, got.header("range")) == ("/bucket/film.mp4?sig=1", "bytes=0-3")
        assert keys_in(got) == []
        assert got.header("authorization") is None
        assert got.header("x-goog-api-key") is None


@pytest.mark.parametrize("dialect", ["xai", "gemini"])
async def test_a_file_elsewhere_is_got_without_the_key(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect) as upstream, serves(b"film") as store:
        upstream.files_origin = store.origin
        videos, offer, native_id, handle = await made(upstream, transport)
        assert await body_of(await videos.content(offer, native_id, handle, "video", None)) == b"film"
        assert keys_in(store.requests[0]) == []
        assert upstream.requests == []


async def test_a_move_within_its_origin_keeps_the_key(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        upstream.script(moved("../content-2"), whole(b"film", content_type="video/mp4"))
        assert await body_of(await videos.content(offer, native_id, handle, "video", None)) == b"film"
        assert upstream.requests[1].path == "/v1/videos/content-2"
        assert len(keys_in(upstream.requests[1])) == 1


@pytest.mark.parametrize("hops", [MAX_HOPS, MAX_HOPS + 1])
async def test_it_may_move_so_often(transport: Transport, hops: int) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        upstream.script(*[moved("/v1/next")] * hops, whole(b"film", content_type="video/mp4"))
        if hops <= MAX_HOPS:
            assert await body_of(await videos.content(offer, native_id, handle, "video", None)) == b"film"
            return
        with pytest.raises(ProviderFailure) as caught:
            await videos.content(offer, native_id, handle, "video", None)
        assert caught.value.category is FailureCategory.PROTOCOL
        assert len(upstream.requests) == MAX_HOPS + 1


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://0xa9fea9fe/",
        "http://0.0.0.0/",
        "file:///etc/passwd",
        "http://user:pass@127.0.0.1/",
        "//[",
        "ftp://127.0.0.1/x",
    ],
)
async def test_it_is_not_followed_anywhere(transport: Transport, location: str) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport, Media(location=location))
        with pytest.raises(ProviderFailure) as caught:
            await videos.content(offer, native_id, handle, "video", None)
        assert caught.value.category in (FailureCategory.CONNECTION, FailureCategory.PROTOCOL)
        assert len(upstream.requests) == 1
        assert "169" not in str(caught.value.upstream)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "[::1]", "localhost", "192.168.1.1"])
async def test_a_provider_far_away_leads_to_nothing_near_by(transport: Transport, host: str) -> None:
    async with VideoUpstream("xai") as upstream:
        offer = offer_of(upstream)
        far = Offer(
            type(offer.provider)("xai", "openai", "https://video.example.com/v1", "xai-canary"),
            "film-1",
            offer.endpoints,
            videos=offer.videos,
        )
        with pytest.raises(ProviderFailure) as caught:
            await OpenAIVideos(transport, HandClock()).content(
                far, "v1", f"https://{host}:{upstream.port}/x", "video", None
            )
        assert caught.value.upstream.code == Fault.FORBIDDEN
        with pytest.raises(ProviderFailure) as caught:
            await OpenAIVideos(transport, HandClock()).content(far, "v1", "http://video.example.com/x", "video", None)
        assert caught.value.category is FailureCategory.PROTOCOL
        assert upstream.connections_accepted == 0


# What is no content.


@pytest.mark.parametrize(
    ("reply", "category", "code"),
    [
        (error(404), FailureCategory.SERVER_ERROR, CONTENT_GONE),
        (error(410), FailureCategory.SERVER_ERROR, CONTENT_GONE),
        (error(401, code="invalid_api_key"), FailureCategory.CREDENTIALS, "invalid_api_key"),
        (error(429, code="rate_limit_exceeded"), FailureCategory.RATE_LIMITED, "rate_limit_exceeded"),
        (error(503, code="unavailable"), FailureCategory.OVERLOADED, "unavailable"),
        (json_reply({"status": "queued"}), FailureCategory.PROTOCOL, None),
        (whole(b"<html>", content_type="text/html; charset=utf-8"), FailureCategory.PROTOCOL, None),
        (whole(b"x", status=206, content_type="video/mp4"), FailureCategory.PROTOCOL, None),
        ([Cut()], FailureCategory.CONNECTION, Fault.DROPPED),
        ([head(302, {"content-length": "0"})], FailureCategory.PROTOCOL, "redirect"),
    ],
)
async def test_what_comes_instead(
    transport: Transport, reply: Any, category: FailureCategory, code: str | None
) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        upstream.script(reply)
        with pytest.raises(ProviderFailure) as caught:
            await videos.content(offer, native_id, handle, "video", None)
        assert (caught.value.category, caught.value.upstream.code) == (category, code)
        await upstream.wait_open_sockets(1, timeout=30)


@pytest.mark.parametrize(
    ("status", "category", "code"),
    [
        (403, FailureCategory.SERVER_ERROR, CONTENT_GONE),
        (404, FailureCategory.SERVER_ERROR, CONTENT_GONE),
        (400, FailureCategory.SERVER_ERROR, None),
        (503, FailureCategory.OVERLOADED, None),
    ],
)
async def test_a_store_that_refuses_is_not_the_account(
    transport: Transport, status: int, category: FailureCategory, code: str | None
) -> None:
    refusal = whole(b"<Error><Bucket>secret-bucket</Bucket></Error>", status=status, content_type="application/xml")
    async with VideoUpstream("xai") as upstream, WireServer(default=refusal) as store:
        upstream.files_origin = store.origin
        videos, offer, native_id, handle = await made(upstream, transport)
        with pytest.raises(ProviderFailure) as caught:
            await videos.content(offer, native_id, handle, "video", None)
        assert (caught.value.category, caught.value.upstream.code) == (category, code)
        assert "bucket" not in (caught.value.upstream.message or "").lower()


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ("video/webm; codecs=vp9", "video/webm"),
        ("application/octet-stream", "video/mp4"),
        ("application/javascript", "video/mp4"),
        ("", "video/mp4"),
    ],
)
async def test_a_browser_is_told_of_no_script(transport: Transport, declared: str, told: str) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        headers = {
            "content-length": "4",
            "content-range": "x\ty",
            "etag": "unquoted",
            **({"content-type": declared} if declared else {}),
        }
        upstream.script([head(200, headers), Send(b"film")])
        content = await videos.content(offer, native_id, handle, "video", None)
        assert dict(content.headers) == {"content-type": told, "content-length": "4"}
        assert await body_of(content) == b"film"


async def test_chunks_say_how_long_it_is(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        upstream.script(chunked([b"fi", b"lm"], content_type="video/mp4", headers={"content-length": "9"}))
        content = await videos.content(offer, native_id, handle, "video", None)
        assert dict(content.headers) == {"content-type": "video/mp4"}
        assert await body_of(content) == b"film"


async def test_what_was_compressed_has_another_length(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        upstream.script(encoded(media_bytes(9_000), "gzip", content_type="video/mp4"))
        content = await videos.content(offer, native_id, handle, "video", None)
        assert dict(content.headers) == {"content-type": "video/mp4"}
        assert await body_of(content) == media_bytes(9_000)


@pytest.mark.parametrize("dialect", ["xai", "gemini"])
async def test_there_is_only_the_video(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect) as upstream:
        videos, offer, native_id, handle = await made(upstream, transport)
        for asked in ((handle, "thumbnail"), (None, "video")):
            with pytest.raises(ProviderFailure) as caught:
                await videos.content(offer, native_id, asked[0], asked[1], None)
            assert (caught.value.status, caught.value.upstream.code) == (404, CONTENT_GONE)
        assert upstream.requests == []
