"""The adapters of videos before stand-ins, over real sockets: the life of a job, and how it goes wrong."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest

from server.domain.catalog import Dialect as ProviderDialect
from server.domain.catalog import Offer, Provider, VideoFacts
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.request import Endpoint
from server.domain.video import JobReport, VideoAdapter, VideoRequest, VideoStatus, may_have_begun
from server.providers.gemini_videos import GeminiVideos
from server.providers.openai_videos import OpenAIVideos
from server.transport import Transport
from tests.fakes.health import HandClock
from tests.fakes.replies import error, json_reply, rate_limited, whole
from tests.fakes.uploads import BytesUpload
from tests.fakes.video_upstream import Dialect, Plan, VideoUpstream, moved

DIALECTS = get_args(Dialect)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(200_000)


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as running:
        yield running


def offer_of(upstream: VideoUpstream, **facts: Any) -> Offer:
    dialect: ProviderDialect = "gemini" if upstream.dialect == "gemini" else "openai"
    provider = Provider(upstream.dialect, dialect, upstream.base_url, upstream.key)
    told = VideoFacts(api="generations" if upstream.dialect == "xai" else "videos", **facts)
    return Offer(provider, "film-1", frozenset({Endpoint.VIDEO}), videos=told)


def adapter_of(upstream: VideoUpstream, transport: Transport) -> VideoAdapter:
    kind = GeminiVideos if upstream.dialect == "gemini" else OpenAIVideos
    return kind(transport, HandClock())


def wanted(**fields: Any) -> VideoRequest:
    return VideoRequest(**{"endpoint": Endpoint.VIDEO, "model": "acme/film", "prompt": "A cat.", **fields})


async def ended(videos: VideoAdapter, offer: Offer, native_id: str) -> JobReport:
    """Poll until it has, and no more than ten times."""
    for _ in range(10):
        told = await videos.poll(offer, native_id)
        if told.status not in (VideoStatus.QUEUED, VideoStatus.IN_PROGRESS):
            return told
    raise AssertionError("it goes on and on")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_job_lives_and_is_done(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect, Plan(polls=2)) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        begun = await videos.submit(offer, wanted(seconds=8, size="1280x720"), "video_1")
        assert begun.status in (VideoStatus.QUEUED, VideoStatus.IN_PROGRESS)
        for _ in range(2):
            told = await videos.poll(offer, begun.native_id)
            assert told.status is VideoStatus.IN_PROGRESS
            assert told.poll_after_s == (10.0 if dialect == "gemini" else None)
        told = await videos.poll(offer, begun.native_id)
        assert (told.status, told.failure) == (VideoStatus.COMPLETED, None)
        assert upstream.submits.total() == 1
        assert {request.header("idempotency-key") for request in upstream.requests} == (
            {None} if dialect == "gemini" else {"video_1", None}
        )
        if dialect == "openai":
            assert (told.seconds, told.size, told.progress, told.handle) == (8.0, "1280x720", 100, None)
        else:
            assert told.handle is not None


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("plan", "status", "category"),
    [
        (Plan(outcome="failed"), VideoStatus.FAILED, FailureCategory.SERVER_ERROR),
        (Plan(outcome="filtered"), VideoStatus.FAILED, FailureCategory.CONTENT_POLICY),
        (Plan(outcome="gone"), VideoStatus.FAILED, FailureCategory.SERVER_ERROR),
        (Plan(polls=3, word="simmering"), VideoStatus.COMPLETED, None),
    ],
)
async def test_how_a_job_ends(
    transport: Transport, dialect: Dialect, plan: Plan, status: VideoStatus, category: FailureCategory | None
) -> None:
    async with VideoUpstream(dialect, plan) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        begun = await videos.submit(offer, wanted(), "video_1")
        told = await ended(videos, offer, begun.native_id)
        assert (told.status, told.failure and told.failure.category) == (status, category)
        if plan.outcome == "gone":
            assert told.failure is not None
            assert (told.failure.status, told.failure.upstream.code) == (404, "job_not_found")


@pytest.mark.parametrize("dialect", ["xai", "openai"])
async def test_a_job_that_expires(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect, Plan(outcome="expired")) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        begun = await videos.submit(offer, wanted(), "video_1")
        assert (await ended(videos, offer, begun.native_id)).status is VideoStatus.EXPIRED


@pytest.mark.parametrize(
    ("reply", "category", "retry_after_s"),
    [
        (rate_limited("7"), FailureCategory.RATE_LIMITED, 7.0),
        (error(503, code="service_unavailable", headers={"retry-after": "3"}), FailureCategory.OVERLOADED, 3.0),
        (error(401, code="invalid_api_key"), FailureCategory.CREDENTIALS, None),
        (error(500), FailureCategory.SERVER_ERROR, None),
        (whole(b"<html>", content_type="text/html"), FailureCategory.PROTOCOL, None),
        (json_reply([1]), FailureCategory.PROTOCOL, None),
        (moved("/v1/elsewhere"), FailureCategory.PROTOCOL, None),
    ],
)
async def test_a_poll_that_fails_ends_nothing(
    transport: Transport, reply: Any, category: FailureCategory, retry_after_s: float | None
) -> None:
    async with VideoUpstream("openai", Plan(trouble=(reply,))) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        begun = await videos.submit(offer, wanted(), "video_1")
        with pytest.raises(ProviderFailure) as caught:
            await videos.poll(offer, begun.native_id)
        assert (caught.value.category, caught.value.retry_after_s) == (category, retry_after_s)
        assert (await ended(videos, offer, begun.native_id)).status is VideoStatus.COMPLETED


@pytest.mark.parametrize("submit", ["lost", "reset"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_submit_whose_reply_is_lost_is_not_sent_again(
    transport: Transport, dialect: Dialect, submit: Any
) -> None:
    async with VideoUpstream(dialect) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        await videos.submit(offer, wanted(prompt="first"), "video_0")
        upstream.plans.append(Plan(submit=submit))
        with pytest.raises(ProviderFailure) as caught:
            await videos.submit(offer, wanted(prompt="second"), "video_1")
        assert (caught.value.category, caught.value.was_sent) == (FailureCategory.CONNECTION, True)
        assert may_have_begun(caught.value)
        assert set(upstream.submits.values()) == {1}
        assert len(upstream.jobs) == 2
        assert upstream.connections_accepted == 2


async def test_with_a_provider_that_heeds_keys_a_lost_submit_may_be_sent_again(transport: Transport) -> None:
    async with VideoUpstream("openai", honours_keys=True) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream, idempotent=True)
        upstream.plans.append(Plan(submit="lost"))
        with pytest.raises(ProviderFailure):
            await videos.submit(offer, wanted(), "video_1")
        begun = await videos.submit(offer, wanted(), "video_1")
        assert (len(upstream.jobs), upstream.submits["video_1"]) == (1, 2)
        assert (await ended(videos, offer, begun.native_id)).status is VideoStatus.COMPLETED


def unserved() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@pytest.mark.parametrize(
    "base_url", [None, "http://name.invalid/v1", "http://169.254.169.254/v1", "ftp://127.0.0.1/v1"]
)
async def test_a_submit_that_reached_nobody_may_go_elsewhere(transport: Transport, base_url: str | None) -> None:
    provider = Provider("acme", "openai", base_url or unserved(), "sk-canary")
    offer = Offer(provider, "film-1", frozenset({Endpoint.VIDEO}))
    with pytest.raises(ProviderFailure) as caught:
        await OpenAIVideos(transport, HandClock()).submit(offer, wanted(), "video_1")
    assert not caught.value.was_sent
    assert not may_have_begun(caught.value)


@pytest.mark.parametrize(
    ("reply", "begun"),
    [
        (error(400, "Bad.", type="invalid_request_error"), False),
        (error(401, code="invalid_api_key"), False),
        (error(402, code="insufficient_quota"), False),
        (error(403, "Our safety system says no."), False),
        (error(404, code="model_not_found"), False),
        (rate_limited(), False),
        (error(503, code="service_unavailable"), False),
        (whole(b"", status=503, content_type="text/plain", headers={"retry-after": "5"}), False),
        (whole(b"upstream connect error", status=503, content_type="text/plain"), True),
        (error(500), True),
        (error(504), True),
        (whole(b"<html>", status=502, content_type="text/html"), True),
        (whole(b"<html>", content_type="text/html"), True),
        (json_reply({"status": "queued"}), True),
        (moved("/v2/videos"), False),
    ],
)
async def test_which_refusals_leave_no_job_behind(transport: Transport, reply: Any, begun: bool) -> None:
    async with VideoUpstream("openai", Plan(submit=reply)) as upstream:
        with pytest.raises(ProviderFailure) as caught:
            await adapter_of(upstream, transport).submit(offer_of(upstream), wanted(), "video_1")
        assert caught.value.was_sent
        assert may_have_begun(caught.value) is begun


async def test_a_picture_goes_as_a_file_of_a_form(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        reference = BytesUpload(PNG, filename="cat.png", media_type="image/jpeg")
        begun = await videos.submit(offer, wanted(seconds=4, reference=reference), "video_1")
        job = upstream.jobs[begun.native_id]
        assert job.files == {"input_reference": PNG}
        assert {name: job.asked[name] for name in ("model", "prompt", "seconds")} == {
            "model": "film-1",
            "prompt": "A cat.",
            "seconds": "4",
        }
        assert b"content-type: image/png" in upstream.requests[0].body


async def test_a_remix(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        first = await videos.submit(offer, wanted(), "video_1")
        second = await videos.submit(offer, wanted(prompt="A dog.", remix_of=first.native_id), "video_2")
        assert upstream.requests[-1].path == f"/v1/videos/{first.native_id}/remix"
        assert upstream.jobs[second.native_id].asked["remixed"] == first.native_id


async def test_a_job_is_cancelled_where_the_provider_can(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream, cancel=True)
        begun = await videos.submit(offer, wanted(), "video_1")
        assert not await videos.cancel(offer_of(upstream), begun.native_id)
        assert await videos.cancel(offer, begun.native_id)
        assert (await videos.poll(offer, begun.native_id)).status is VideoStatus.CANCELLED
        assert not await videos.cancel(offer, begun.native_id)
        assert not await videos.cancel(offer, "native_unknown")


async def test_what_was_made_is_deleted(transport: Transport) -> None:
    async with VideoUpstream("openai") as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        begun = await videos.submit(offer, wanted(), "video_1")
        assert await videos.delete(offer, begun.native_id)
        assert not upstream.jobs
        assert await videos.delete(offer, begun.native_id)


@pytest.mark.parametrize("dialect", ["xai", "gemini"])
async def test_who_cannot_cancel_or_delete_is_not_asked(transport: Transport, dialect: Dialect) -> None:
    async with VideoUpstream(dialect) as upstream:
        videos, offer = adapter_of(upstream, transport), offer_of(upstream)
        begun = await videos.submit(offer, wanted(), "video_1")
        assert not await videos.cancel(offer, begun.native_id)
        assert not await videos.delete(offer, begun.native_id)
        assert len(upstream.requests) == 1
