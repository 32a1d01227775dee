"""Videos by the Gemini API: what an operation is begun with, what cannot be said, and what it comes to."""

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
from server.providers.gemini_videos import GeminiVideos
from server.providers.gemini_videos_decode import KEPT_S, begun, report
from server.providers.video_calls import Answer
from server.transport import Transport
from tests.fakes.health import HandClock
from tests.fakes.uploads import BytesUpload
from tests.fakes.video_upstream import VideoUpstream

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100_000)
NAME = "models/veo-3/operations/op1"
NOW = 1_790_000_000.0
FACTS = VideoFacts(seconds=(4, 6, 8), default_seconds=8, default_size="1280x720", sizes=("1280x720", "720x1280"))


def offer(facts: VideoFacts | None = None, base_url: str = "https://video.example.com/v1beta") -> Offer:
    provider = Provider("google", "gemini", base_url, "AIzaVideoCanary0123456789")
    return Offer(provider, "veo-3", frozenset({Endpoint.VIDEO}), videos=facts or VideoFacts())


def request(**fields: Any) -> VideoRequest:
    return VideoRequest(**{"endpoint": Endpoint.VIDEO, "model": "google/veo", "prompt": 'A "cat".', **fields})


def options(**fields: Any) -> dict[str, Any]:
    return {"google": {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}}


SENT: dict[str, tuple[VideoFacts, dict[str, Any], dict[str, Any] | None]] = {
    "bare": (VideoFacts(), {}, None),
    "seconds": (VideoFacts(), {"seconds": 6}, {"durationSeconds": 6}),
    "size": (VideoFacts(), {"size": "1080x1920"}, {"aspectRatio": "9:16", "resolution": "1080p"}),
    "resolution": (VideoFacts(), {"resolution": "4k"}, {"aspectRatio": "16:9", "resolution": "4k"}),
    "seed": (VideoFacts(), {"seed": 0, "negative_prompt": "dogs"}, {"seed": 0, "negativePrompt": "dogs"}),
    "defaults": (FACTS, {}, {"durationSeconds": 8, "aspectRatio": "16:9", "resolution": "720p"}),
    "options": (
        VideoFacts(),
        {"provider_options": options(personGeneration="allow_adult")},
        {"personGeneration": "allow_adult"},
    ),
}


@pytest.mark.parametrize("case", SENT)
async def test_an_operation_is_begun(case: str) -> None:
    facts, fields, parameters = SENT[case]
    async with VideoUpstream("gemini") as upstream, Transport() as transport:
        videos, wanted = GeminiVideos(transport, HandClock()), request(**fields)
        assert videos.unsupported(offer(facts), wanted) is None
        told = await videos.submit(offer(facts, upstream.base_url), wanted, "video_1")
        sent = upstream.requests[0]
    assert (told.native_id, told.status) == (NAME, VideoStatus.IN_PROGRESS)
    assert sent.path == "/v1beta/models/veo-3:predictLongRunning"
    assert sent.json == {
        "instances": [{"prompt": 'A "cat".'}],
        **({} if parameters is None else {"parameters": parameters}),
    }


async def test_a_picture_is_sent_as_google_wants_it() -> None:
    data = base64.b64encode(PNG).decode()
    reference = BytesUpload(PNG, media_type="image/jpeg")
    async with VideoUpstream("gemini") as upstream, Transport() as transport:
        videos = GeminiVideos(transport, HandClock())
        await videos.submit(offer(FACTS, upstream.base_url), request(reference=reference), "video_1")
        image = upstream.requests[0].json["instances"][0]["image"]
    assert image == {"mimeType": "image/png", "bytesBase64Encoded": data}


@pytest.mark.parametrize(
    ("facts", "fields", "named"),
    [
        (VideoFacts(), {"remix_of": "v1"}, "remix_of"),
        (VideoFacts(), {"size": "1000x1000"}, "size"),
        (VideoFacts(), {"aspect_ratio": "5:4"}, "aspect_ratio"),
        (VideoFacts(), {"parameters": {"n": "n"}}, "n"),
        (VideoFacts(), {"reference": BytesUpload(b"GIF89a....")}, "input_reference"),
        (FACTS, {"seconds": 5, "parameters": {"seconds": "duration"}}, "duration"),
        (FACTS, {"resolution": "1080p"}, "resolution"),
    ],
)
async def test_what_cannot_be_said_is_named(facts: VideoFacts, fields: dict[str, Any], named: str) -> None:
    async with Transport() as transport:
        assert GeminiVideos(transport, HandClock()).unsupported(offer(facts), request(**fields)) == named


@pytest.mark.parametrize("name", ["durationSeconds", "sample_count", "video", "image", "storageUri", "model"])
async def test_options_do_not_change_what_is_paid_for(name: str) -> None:
    async with Transport() as transport:
        with pytest.raises(GatewayError) as caught:
            GeminiVideos(transport, HandClock()).unsupported(offer(), request(provider_options=options(**{name: 4})))
    assert caught.value.param == f"provider_options.google.{name}"


def read(value: Any) -> Any:
    return report(Answer(200, {}, value), offer(), NAME, NOW)


@pytest.mark.parametrize("value", [{"name": NAME}, {"name": NAME, "done": False}, {"name": NAME, "metadata": {}}, {}])
def test_what_is_not_done_goes_on(value: Any) -> None:
    told = read(value)
    assert (told.status, told.poll_after_s) == (VideoStatus.IN_PROGRESS, 10.0)


@pytest.mark.parametrize(
    ("code", "message", "category"),
    [
        (3, "Bad duration.", FailureCategory.CALLER_ERROR),
        (3, "The prompt could violate our usage guidelines.", FailureCategory.CONTENT_POLICY),
        (3, "Blocked by Responsible AI practices.", FailureCategory.CONTENT_POLICY),
        (4, "Too late.", FailureCategory.TIMEOUT),
        (7, "No.", FailureCategory.CREDENTIALS),
        (8, "Quota.", FailureCategory.RATE_LIMITED),
        (13, "Internal, see usage guidelines.", FailureCategory.SERVER_ERROR),
        (14, "Later.", FailureCategory.OVERLOADED),
        (16, "Who?", FailureCategory.CREDENTIALS),
        (99, "Eh?", FailureCategory.SERVER_ERROR),
        (429, "Quota.", FailureCategory.RATE_LIMITED),
        ("x", "Eh?", FailureCategory.SERVER_ERROR),
        (None, "Eh?", FailureCategory.SERVER_ERROR),
    ],
)
def test_why_an_operation_failed(code: Any, message: str, category: FailureCategory) -> None:
    told = read({"name": NAME, "done": True, "error": {"code": code, "message": message}})
    assert told.status is VideoStatus.FAILED
    assert (told.failure.category, told.failure.upstream.message) == (category, message)


def test_an_operation_that_was_cancelled() -> None:
    assert read({"name": NAME, "done": True, "error": {"code": 1, "message": "Off."}}).status is VideoStatus.CANCELLED


def done(made: Any) -> Any:
    return read({"name": NAME, "done": True, "response": {"generateVideoResponse": made}})


def test_what_was_made_is_kept_for_two_days() -> None:
    told = done({"generatedSamples": [{}, {"video": {"uri": "https://g.example/v1beta/files/x:download?alt=media"}}]})
    assert (told.status, told.progress) == (VideoStatus.COMPLETED, 100)
    assert told.handle == "https://g.example/v1beta/files/x:download?alt=media"
    assert told.expires_at == int(NOW) + KEPT_S


@pytest.mark.parametrize(
    "made",
    [
        {"raiMediaFilteredCount": 1},
        {"raiMediaFilteredCount": "1", "generatedSamples": []},
        {"raiMediaFilteredReasons": ["Celebrities. Support codes: 17301594"]},
    ],
)
def test_a_video_that_was_filtered(made: Any) -> None:
    told = done(made)
    assert (told.status, told.failure.category) == (VideoStatus.FAILED, FailureCategory.CONTENT_POLICY)
    assert told.failure.upstream.code == "content_filter"


@pytest.mark.parametrize("made", [{}, None, [], {"generatedSamples": [{"video": {}}]}, {"raiMediaFilteredCount": 0}])
def test_done_without_a_video_is_no_success(made: Any) -> None:
    told = done(made)
    assert (told.status, told.failure.category) == (VideoStatus.FAILED, FailureCategory.PROTOCOL)


@pytest.mark.parametrize("name", [None, "", 7, "../x", "models/../../x", "a?b", "a#b", "https://x.example", "a" * 600])
def test_an_operation_without_a_name_is_none(name: Any) -> None:
    with pytest.raises(ProviderFailure) as caught:
        begun(Answer(200, {}, {"name": name}), offer(), NOW)
    assert caught.value.category is FailureCategory.PROTOCOL


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "done": st.booleans(),
            "error": JSON_VALUES | st.fixed_dictionaries({"code": JSON_VALUES, "message": JSON_VALUES}),
            "response": JSON_VALUES
            | st.fixed_dictionaries(
                {
                    "generateVideoResponse": JSON_VALUES
                    | st.fixed_dictionaries({"generatedSamples": JSON_VALUES, "raiMediaFilteredReasons": JSON_VALUES})
                }
            ),
        },
    )
)
def test_whatever_is_told_is_a_report_or_a_failure(value: dict[str, Any]) -> None:
    try:
        told = read(value)
    except ProviderFailure:
        return
    assert (told.failure is not None) == (told.status is VideoStatus.FAILED)
