"""Videos in OpenAI's shape and in xAI's: what is sent, what cannot be said, and what answers mean."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.catalog import Offer, Provider, VideoFacts
from server.domain.errors import FailureCategory, GatewayError, ProviderFailure
from server.domain.request import Endpoint
from server.domain.video import VideoRequest, VideoStatus
from server.providers.openai_videos_decode import begun, report
from server.providers.openai_videos_encode import submission, unsupported
from server.providers.video_calls import Answer
from server.providers.video_frames import RATIOS, SHORT_SIDES, pixels, words_of
from tests.fakes.uploads import BytesUpload

PROVIDER = Provider("acme", "openai", "https://video.example.com/v1", "sk-canary-0123456789")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
SIZES = VideoFacts(sizes=("1280x720", "720x1280"), seconds=(4, 8), default_seconds=4, default_size="720x1280")
WORDS = VideoFacts(fields=frozenset({"resolution", "aspect_ratio", "seed", "negative_prompt"}))
XAI = VideoFacts(api="generations")
JSON = "application/json"


def offer(facts: VideoFacts | None = None) -> Offer:
    return Offer(PROVIDER, "film-1", frozenset({Endpoint.VIDEO}), videos=facts or VideoFacts())


def request(**fields: Any) -> VideoRequest:
    return VideoRequest(**{"endpoint": Endpoint.VIDEO, "model": "acme/film", "prompt": "A cat.", **fields})


def options(**fields: Any) -> dict[str, Any]:
    return {"acme": {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}}


SENT: dict[str, tuple[VideoFacts, dict[str, Any], dict[str, Any]]] = {
    "bare": (VideoFacts(), {}, {}),
    "seconds": (VideoFacts(), {"seconds": 8}, {"seconds": "8"}),
    "size": (VideoFacts(), {"size": "1280x720"}, {"size": "1280x720"}),
    "resolution": (VideoFacts(), {"resolution": "1080p"}, {"size": "1920x1080"}),
    "ratio": (VideoFacts(), {"aspect_ratio": "9:16"}, {"size": "720x1280"}),
    "both": (VideoFacts(), {"resolution": "480p", "aspect_ratio": "1:1"}, {"size": "480x480"}),
    "all three": (
        VideoFacts(),
        {"size": "1280x720", "resolution": "720p", "aspect_ratio": "16:9"},
        {"size": "1280x720"},
    ),
    "defaults": (SIZES, {}, {"seconds": "4", "size": "720x1280"}),
    "resolution beside a default": (SIZES, {"resolution": "720p"}, {"seconds": "4", "size": "720x1280"}),
    "ratio beside a default": (SIZES, {"aspect_ratio": "16:9"}, {"seconds": "4", "size": "1280x720"}),
    "words": (WORDS, {"resolution": "540p", "aspect_ratio": "5:4"}, {"resolution": "540p", "aspect_ratio": "5:4"}),
    "seed": (WORDS, {"seed": 7, "negative_prompt": "dogs"}, {"seed": 7, "negative_prompt": "dogs"}),
    "options": (VideoFacts(), {"provider_options": options(style="noir")}, {"style": "noir"}),
}


@pytest.mark.parametrize("case", SENT)
def test_a_job_is_asked_for_as_json(case: str) -> None:
    facts, fields, sent = SENT[case]
    assert unsupported(offer(facts), request(**fields)) is None
    said = submission(offer(facts), request(**fields))
    assert (said.path, said.content_type) == ("/videos", JSON)
    assert isinstance(said.body, bytes)
    assert msgspec.json.decode(said.body) == {"model": "film-1", "prompt": "A cat.", **sent}


XAI_SENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bare": ({}, {}),
    "seconds": ({"seconds": 6}, {"duration": 6}),
    "words": ({"resolution": "480p", "aspect_ratio": "3:2"}, {"resolution": "480p", "aspect_ratio": "3:2"}),
    "size": ({"size": "1280x720"}, {"resolution": "720p", "aspect_ratio": "16:9"}),
    "options": ({"provider_options": options(user="u1")}, {"user": "u1"}),
}


@pytest.mark.parametrize("case", XAI_SENT)
def test_xai_is_asked_in_its_own_words(case: str) -> None:
    fields, sent = XAI_SENT[case]
    assert unsupported(offer(XAI), request(**fields)) is None
    said = submission(offer(XAI), request(**fields))
    assert said.path == "/videos/generations"
    assert isinstance(said.body, bytes)
    assert msgspec.json.decode(said.body) == {"model": "film-1", "prompt": "A cat.", **sent}


async def test_xai_takes_a_picture_as_a_data_url() -> None:
    for declared in ("", "image/jpeg"):
        reference = BytesUpload(PNG, media_type=declared)
        body = submission(offer(XAI), request(reference=reference)).body
        assert not isinstance(body, bytes)
        sent = b"".join([piece async for piece in body.pieces()])
        assert len(sent) == body.size
        url = "data:image/png;base64," + base64.b64encode(PNG).decode()
        assert msgspec.json.decode(sent) == {"model": "film-1", "prompt": "A cat.", "image": {"url": url}}


def test_a_remix_is_a_prompt_for_another_video() -> None:
    said = submission(offer(), request(remix_of="video_1/../x"))
    assert said.path == "/videos/video_1%2F..%2Fx/remix"
    assert said.body == b'{"prompt":"A cat."}'


@pytest.mark.parametrize(
    ("facts", "fields", "named"),
    [
        (VideoFacts(), {"seed": 7}, "seed"),
        (VideoFacts(), {"negative_prompt": "dogs"}, "negative_prompt"),
        (VideoFacts(), {"resolution": "999p"}, "resolution"),
        (VideoFacts(), {"aspect_ratio": "5:4"}, "aspect_ratio"),
        (VideoFacts(), {"size": "1280x720", "resolution": "1080p"}, "resolution"),
        (VideoFacts(), {"size": "1280x720", "aspect_ratio": "1:1"}, "aspect_ratio"),
        (VideoFacts(), {"reference": BytesUpload(b"BM not a picture")}, "input_reference"),
        (VideoFacts(), {"parameters": {"quality": "quality"}}, "quality"),
        (VideoFacts(), {"remix_of": "v1", "seconds": 4}, "seconds"),
        (VideoFacts(), {"remix_of": "v1", "reference": BytesUpload(PNG)}, "input_reference"),
        (SIZES, {"seconds": 5}, "seconds"),
        (SIZES, {"seconds": 5, "parameters": {"seconds": "duration"}}, "duration"),
        (SIZES, {"size": "1024x1792"}, "size"),
        (SIZES, {"resolution": "1080p"}, "resolution"),
        (SIZES, {"aspect_ratio": "1:1"}, "aspect_ratio"),
        (XAI, {"seed": 7}, "seed"),
        (XAI, {"size": "1000x1000"}, "size"),
        (XAI, {"remix_of": "v1"}, "remix_of"),
    ],
)
def test_what_cannot_be_said_is_named_as_the_client_calls_it(
    facts: VideoFacts, fields: dict[str, Any], named: str
) -> None:
    assert unsupported(offer(facts), request(**fields)) == named


@pytest.mark.parametrize(
    "name", ["model", "prompt", "seconds", "Duration", "size", "n", "input_reference", "upload_url"]
)
def test_options_do_not_change_what_is_paid_for(name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        unsupported(offer(), request(provider_options=options(**{name: 20})))
    assert caught.value.param == f"provider_options.acme.{name}"


def answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, value)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("queued", VideoStatus.QUEUED),
        ("pending", VideoStatus.QUEUED),
        ("in_progress", VideoStatus.IN_PROGRESS),
        ("Processing", VideoStatus.IN_PROGRESS),
        ("running", VideoStatus.IN_PROGRESS),
        ("simmering", VideoStatus.IN_PROGRESS),
        ("", VideoStatus.IN_PROGRESS),
        (None, VideoStatus.IN_PROGRESS),
        (7, VideoStatus.IN_PROGRESS),
        ("completed", VideoStatus.COMPLETED),
        ("SUCCEEDED", VideoStatus.COMPLETED),
        ("done", VideoStatus.COMPLETED),
        ("failed", VideoStatus.FAILED),
        ("error", VideoStatus.FAILED),
        ("cancelled", VideoStatus.CANCELLED),
        ("canceled", VideoStatus.CANCELLED),
        ("expired", VideoStatus.EXPIRED),
        ("timed-out", VideoStatus.EXPIRED),
    ],
)
def test_words_for_a_status(word: Any, status: VideoStatus) -> None:
    told = report(answer({"id": "v1", "status": word}), offer(), "v1")
    assert told.status is status
    assert (told.failure is not None) == (status in (VideoStatus.FAILED, VideoStatus.EXPIRED))


@pytest.mark.parametrize(
    ("error", "category", "code"),
    [
        ({"code": "moderation_blocked", "message": "No."}, FailureCategory.CONTENT_POLICY, "moderation_blocked"),
        ({"code": "content_policy_violation", "message": "No."}, FailureCategory.CONTENT_POLICY, None),
        ({"code": "rate_limit_exceeded", "message": "Slow."}, FailureCategory.RATE_LIMITED, None),
        ({"code": "insufficient_quota", "message": "Pay."}, FailureCategory.QUOTA_EXHAUSTED, None),
        ({"code": "invalid_value", "message": "Bad."}, FailureCategory.CALLER_ERROR, None),
        ({"code": "video_generation_failed", "message": "Oops."}, FailureCategory.SERVER_ERROR, None),
        ({"code": None, "message": None}, FailureCategory.SERVER_ERROR, None),
        ("It broke at https://internal.example.com/x", FailureCategory.SERVER_ERROR, None),
        (None, FailureCategory.SERVER_ERROR, "failed"),
    ],
)
def test_why_a_job_failed(error: Any, category: FailureCategory, code: str | None) -> None:
    told = report(answer({"id": "v1", "status": "failed", "error": error}), offer(), "v1")
    assert told.failure is not None
    assert (told.failure.provider, told.failure.category) == ("acme", category)
    assert code is None or told.failure.upstream.code == code
    assert "example" not in (told.failure.upstream.message or "")


def test_what_is_told_of_a_job() -> None:
    value = {
        "id": "v1",
        "status": "queued",
        "progress": 42.7,
        "seconds": "8",
        "size": "1280x720",
        "expires_at": 1_795_000_000,
    }
    told = report(answer(value, openai_poll_after_ms="2500"), offer(), "v1")
    assert (told.status, told.progress, told.seconds, told.size) == (VideoStatus.IN_PROGRESS, 42, 8.0, "1280x720")
    assert (told.expires_at, told.poll_after_s, told.handle) == (1_795_000_000, 2.5, None)


@pytest.mark.parametrize("odd", [True, "soon", [], {}, float("nan"), 1e300, -3, "9" * 5000, None])
def test_what_is_no_figure_is_not_told(odd: Any) -> None:
    value = {"id": "v1", "status": "completed", "seconds": odd, "size": odd, "expires_at": odd, "progress": odd}
    told = report(answer(value), offer(), "v1")
    assert (told.status, told.seconds, told.size, told.expires_at) == (VideoStatus.COMPLETED, None, None, None)
    assert told.progress in (None, 0)


XAI_TOLD = [
    (answer(None, 202), VideoStatus.IN_PROGRESS, None),
    (answer({"status": "pending"}, 202), VideoStatus.QUEUED, None),
    (answer({"status": "pending", "progress": 3}, 202), VideoStatus.IN_PROGRESS, None),
    (answer({"status": "done", "video": {"url": "https://f.example/v"}}), VideoStatus.COMPLETED, None),
    (answer({"video": {"url": "https://f.example/v"}}), VideoStatus.COMPLETED, None),
    (answer({"status": "done"}), VideoStatus.FAILED, FailureCategory.PROTOCOL),
    (answer({"status": "done", "video": {"url": ""}}), VideoStatus.FAILED, FailureCategory.PROTOCOL),
    (
        answer({"status": "done", "video": {"url": "https://f.example/v", "respect_moderation": False}}),
        VideoStatus.FAILED,
        FailureCategory.CONTENT_POLICY,
    ),
    (answer({"status": "expired"}), VideoStatus.EXPIRED, FailureCategory.SERVER_ERROR),
    (answer({"status": "failed", "error": {"code": "x"}}), VideoStatus.FAILED, FailureCategory.SERVER_ERROR),
]


@pytest.mark.parametrize("number", range(len(XAI_TOLD)))
def test_what_xai_tells(number: int) -> None:
    said, status, category = XAI_TOLD[number]
    told = report(said, offer(XAI), "r1")
    assert (told.status, told.failure and told.failure.category) == (status, category)
    assert (told.handle is not None) == (isinstance(said.value, dict) and bool(said.value.get("video", {}).get("url")))


def test_xai_tells_its_cost_in_ticks() -> None:
    value = {
        "status": "done",
        "video": {"url": "https://f.example/v", "duration": 6},
        "usage": {"cost_in_usd_ticks": 31},
    }
    told = report(answer(value), offer(XAI), "r1")
    assert (told.seconds, told.cost_nanos) == (6.0, 4)


@pytest.mark.parametrize(
    "value", [{}, {"id": ""}, {"id": 7}, {"id": "a b"}, {"id": ".."}, {"id": "x" * 513}, [], "v1", None]
)
def test_a_job_without_an_id_is_none(value: Any) -> None:
    with pytest.raises(ProviderFailure) as caught:
        begun(answer(value), offer())
    assert caught.value.category is FailureCategory.PROTOCOL


@pytest.mark.parametrize("read", [begun, lambda said, of: report(said, of, "v1")])
def test_an_error_in_a_200_is_one(read: Any) -> None:
    with pytest.raises(ProviderFailure) as caught:
        read(answer({"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}), offer())
    assert caught.value.category is FailureCategory.RATE_LIMITED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["id", "status", "progress", "seconds", "size", "error", "video", "usage", "expires_at", "request_id"]
)


@given(st.dictionaries(NAMES, JSON_VALUES), st.sampled_from([200, 202]), st.sampled_from([VideoFacts(), XAI]))
def test_whatever_is_told_is_a_report_or_a_failure(value: dict[str, Any], status: int, facts: VideoFacts) -> None:
    try:
        told = report(answer(value, status), offer(facts), "v1")
    except ProviderFailure:
        return
    assert told.native_id == "v1"
    assert told.progress is None or 0 <= told.progress <= 100
    assert (told.failure is None) or told.status in (VideoStatus.FAILED, VideoStatus.EXPIRED)


@pytest.mark.parametrize("resolution", SHORT_SIDES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_pixels_and_words_say_the_same(resolution: str, ratio: str) -> None:
    size = pixels(resolution, ratio)
    assert size is not None
    assert all(int(side) % 2 == 0 for side in size.split("x"))
    assert words_of(size) == (resolution, ratio)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (("480p", "16:9"), "854x480"),
        (("720p", "16:9"), "1280x720"),
        (("1080p", "9:16"), "1080x1920"),
        (("4K", "16:9"), "3840x2160"),
        (("2160p", "16:9"), "3840x2160"),
        (("720p", "16:10"), None),
    ],
)
def test_pixels(words: tuple[str, str], size: str | None) -> None:
    assert pixels(*words) == size
