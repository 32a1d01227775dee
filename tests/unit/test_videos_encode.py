"""Videos as JSON: the contract's names, in its order."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from openai.types import Video as OpenAIVideo

from rest_bridge.videos_encode import encode_deleted, encode_page, encode_video
from server.domain.money import Pricing, PricingLine
from server.domain.usage import Usage
from server.domain.video import Video, VideoBilling, VideoFault, VideoStatus

SUFFIX = "0" * 32
QUEUED = Video(
    suffix=SUFFIX,
    model="acme/film",
    status=VideoStatus.QUEUED,
    prompt="a cat",
    created_at=1_700_000_000,
    billing=VideoBilling("reserved", 800_000_000, 0),
    seconds=4,
    size="1280x720",
    poll_after_seconds=3,
    provider="acme",
)
USED = Usage(
    units={"video_seconds": 4},
    pricing=Pricing((PricingLine("video_seconds", 4, 200_000_000_000_000, 800_000_000),), 800_000_000),
)


def told(video: Video) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(encode_video(video))
    return told


def test_a_job_has_the_contracts_fields() -> None:
    assert told(QUEUED) == {
        "id": f"video_{SUFFIX}",
        "object": "video",
        "model": "acme/film",
        "status": "queued",
        "progress": 0,
        "created_at": 1_700_000_000,
        "started_at": None,
        "completed_at": None,
        "expires_at": None,
        "seconds": "4",
        "size": "1280x720",
        "prompt": "a cat",
        "remixed_from_video_id": None,
        "polling_url": f"/v1/videos/video_{SUFFIX}",
        "content_url": None,
        "poll_after_seconds": 3,
        "provider": "acme",
        "usage": None,
        "billing": {"state": "reserved", "reserved_nanos": 800_000_000, "total_nanos": 0},
        "error": None,
    }


def test_what_is_complete_says_where_it_is_and_what_it_cost() -> None:
    video = msgspec.structs.replace(
        QUEUED,
        status=VideoStatus.COMPLETED,
        progress=100,
        poll_after_seconds=None,
        billing=VideoBilling("settled", 800_000_000, 800_000_000),
        usage=USED,
    )
    job = told(video)
    assert job["content_url"] == f"/v1/videos/video_{SUFFIX}/content"
    assert job["usage"]["seconds"] == 4
    assert job["usage"]["pricing"]["total_usd"] == "0.8"
    assert job["usage"]["pricing"]["total_nanos"] == job["billing"]["total_nanos"]
    assert OpenAIVideo.model_validate(job).status == "completed"


def test_what_failed_says_why() -> None:
    fault = VideoFault("content_policy_violation", "It was not made.")
    video = msgspec.structs.replace(QUEUED, status=VideoStatus.FAILED, error=fault)
    assert told(video)["error"] == {"code": "content_policy_violation", "message": "It was not made."}


def test_lengths_are_texts_without_a_needless_fraction() -> None:
    assert told(msgspec.structs.replace(QUEUED, seconds=5.0))["seconds"] == "5"
    assert told(msgspec.structs.replace(QUEUED, seconds=5.2))["seconds"] == "5.2"
    assert told(msgspec.structs.replace(QUEUED, seconds=None))["seconds"] is None


def test_pages_and_deletions_are_openais() -> None:
    page = json.loads(encode_page((QUEUED,), has_more=True))
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (QUEUED.id, QUEUED.id)
    empty = json.loads(encode_page((), has_more=False))
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert json.loads(encode_deleted(QUEUED.id)) == {"id": QUEUED.id, "object": "video.deleted", "deleted": True}
