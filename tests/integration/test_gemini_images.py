"""Pictures by the Gemini API over real sockets: what is sent, what comes back, and how it fails."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from server.domain.errors import FailureCategory, GatewayError, ProviderFailure, Reason
from server.domain.events import Completed, Produced, ProviderEvent, Started
from server.domain.images import Images, MadeImage
from server.domain.usage import Usage
from server.providers.gemini import GeminiAdapter
from server.providers.gemini_images import MAX_AT_ONCE, MAX_INLINE_BYTES
from tests.fakes.gemini_upstream import GeminiUpstream
from tests.fakes.gemini_wire import blocked, exhausted, refused, status, whole_reply
from tests.fakes.image_wire import (
    TOKENS_PER_INPUT,
    TOKENS_PER_PICTURE,
    gemini_pictures,
    no_gemini_picture,
    picture,
    png,
)
from tests.fakes.replies import short_body, whole
from tests.fakes.uploads import BytesUpload
from tests.fakes.wire import Call, Cut, Reply, Request
from tests.integration.image_adapters import batches, collect, data_of, flat, images_of, offer, usage_of, wanted

RAW = msgspec.Raw
WEBP = b"RIFF\0\0\0\0WEBPVP8 "


async def test_a_picture_is_asked_for_in_the_words_of_the_api() -> None:
    async with GeminiUpstream() as upstream:
        request = wanted(
            size="2048x2048",
            parameters={"size": "size"},
            provider_options={"p": {"safetySettings": RAW(b"[]"), "generationConfig": RAW(b'{"seed": 7}')}},
        )
        seen = await batches(offer("gemini", upstream.base_url), request)
        [asked] = upstream.requests
    assert asked.path == "/v1beta/models/gemini-3.1-flash-image:generateContent"
    assert asked.json == {
        "contents": [{"role": "user", "parts": [{"text": "A red dot."}]}],
        "generationConfig": {
            "responseModalities": ["IMAGE"],
            "imageConfig": {"aspectRatio": "1:1", "imageSize": "2K"},
            "seed": 7,
        },
        "safetySettings": [],
    }
    assert images_of(seen) == Images((MadeImage(picture(0), "image/png"),))
    assert flat(seen)[0] == Started("upstreamResponse1", "gemini-3.1-flash-image")
    assert [type(event) for event in flat(seen)[-2:]] == [Produced, Completed]
    assert usage_of(seen) == Usage(input_tokens=9, output_tokens=1000, output_image_tokens=1000)


async def test_pictures_go_with_the_request_as_base64() -> None:
    files = [png(1, padding=size) for size in (0, 70_000, 200_001)] + [WEBP]
    uploads = tuple(BytesUpload(file, media_type="image/gif") for file in files)
    async with GeminiUpstream() as upstream:
        request = wanted(prompt='Say "hé".', images=uploads, n=2)
        seen = await batches(offer("gemini", upstream.base_url), request)
        asked = upstream.requests
    assert len(asked) == 2
    for one in asked:
        [content] = one.json["contents"]
        assert content["parts"][0] == {"text": 'Say "hé".'}
        assert [part["inlineData"]["mimeType"] for part in content["parts"][1:]] == ["image/png"] * 3 + ["image/webp"]
        assert [base64.b64decode(part["inlineData"]["data"], validate=True) for part in content["parts"][1:]] == files
        assert one.json["generationConfig"] == {"responseModalities": ["IMAGE"]}
    assert usage_of(seen) == Usage(
        input_tokens=2 * (9 + 4 * TOKENS_PER_INPUT),
        input_image_tokens=2 * 4 * TOKENS_PER_INPUT,
        output_tokens=2 * TOKENS_PER_PICTURE,
        output_image_tokens=2 * TOKENS_PER_PICTURE,
    )


async def test_several_pictures_are_several_calls_a_few_at_a_time() -> None:
    under_way: list[int] = []
    most = 0

    async def arrive(request: Request) -> None:
        nonlocal most
        await upstream.wait_until(lambda: len(upstream.requests) >= min(MAX_AT_ONCE, 7), timeout=30)
        under_way.append(1)
        most = max(most, len(upstream.requests) - sum(one.replied_at is not None for one in upstream.requests))

    async with GeminiUpstream() as upstream:
        upstream.script(*([Call(arrive), *whole_reply(gemini_pictures([number]))] for number in range(7)))
        seen = await batches(offer("gemini", upstream.base_url), wanted(n=7))
    assert sorted(data_of(seen)) == sorted(map(picture, range(7)))
    assert len(under_way) == 7
    assert most == MAX_AT_ONCE
    used = usage_of(seen)
    assert used is not None
    assert used.output_image_tokens == 7000


async def test_the_pictures_of_thoughts_are_no_answer_and_thoughts_no_pictures() -> None:
    async with GeminiUpstream() as upstream:
        upstream.script(whole_reply(gemini_pictures([4], thoughts=250)))
        seen = await batches(offer("gemini", upstream.base_url), wanted())
    assert data_of(seen) == [picture(4)]
    assert usage_of(seen) == Usage(input_tokens=9, output_tokens=1250, reasoning_tokens=250, output_image_tokens=1000)


async def test_no_more_pictures_than_were_asked_for() -> None:
    async with GeminiUpstream() as upstream:
        upstream.script(whole_reply(gemini_pictures([1, 2, 3])))
        assert data_of(await batches(offer("gemini", upstream.base_url), wanted())) == [picture(1)]


async def test_without_details_the_output_is_pictures() -> None:
    body = gemini_pictures([1], thoughts=250)
    del body["usageMetadata"]["candidatesTokensDetails"]
    async with GeminiUpstream() as upstream:
        upstream.script(whole_reply(body))
        used = usage_of(await batches(offer("gemini", upstream.base_url), wanted()))
    assert used is not None
    assert (used.output_tokens, used.output_image_tokens) == (1250, 1000)


async def test_what_the_filter_keeps_back_is_left_out_where_there_are_others() -> None:
    async with GeminiUpstream() as upstream:
        upstream.script(whole_reply(no_gemini_picture("IMAGE_SAFETY")), *[whole_reply(gemini_pictures([1]))] * 2)
        seen = await batches(offer("gemini", upstream.base_url), wanted(n=3))
    assert data_of(seen) == [picture(1)] * 2
    used = usage_of(seen)
    assert used is not None
    assert (used.input_tokens, used.output_tokens) == (27, 2000)


async def test_another_failure_ends_all_calls_and_what_was_used_is_told() -> None:
    async def first_is_told(_: Request) -> None:
        await upstream.wait_until(lambda: upstream.requests[0].replied_at is not None, timeout=30)

    seen: list[Sequence[ProviderEvent]] = []
    async with GeminiUpstream() as upstream:
        upstream.script(
            whole_reply(gemini_pictures([0])),
            [Call(first_is_told), *refused(exhausted("39s"))],
            *([Call(forever)] for _ in range(2)),
        )
        with pytest.raises(ProviderFailure) as caught:
            await collect(offer("gemini", upstream.base_url), wanted(n=4), seen)
        await upstream.wait_disconnect(2, timeout=30)
    assert (caught.value.category, caught.value.retry_after_s) == (FailureCategory.RATE_LIMITED, 39.0)
    used = usage_of(seen)
    assert used is not None
    assert used.output_tokens == 1000


async def forever(_: Request) -> None:
    await asyncio.Event().wait()


C = FailureCategory
FAILURES: dict[str, tuple[Reply, FailureCategory]] = {
    "blocked": (whole_reply(blocked()), C.CONTENT_POLICY),
    **{
        reason: (whole_reply(no_gemini_picture(reason, "Try another prompt.")), C.CONTENT_POLICY)
        for reason in ("SAFETY", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "NO_IMAGE")
    },
    "IMAGE_OTHER": (whole_reply(no_gemini_picture("IMAGE_OTHER")), C.SERVER_ERROR),
    "STOP": (whole_reply(no_gemini_picture("STOP")), C.PROTOCOL),
    "nothing": (whole_reply({}), C.PROTOCOL),
    "a list": (whole_reply([1]), C.PROTOCOL),
    "not json": (whole(b"<html>", content_type="text/html"), C.PROTOCOL),
    "no base64": (whole_reply({"candidates": [{"content": {"parts": [{"inlineData": {"data": "$$$"}}]}}]}), C.PROTOCOL),
    "an error": (whole_reply(status(503, "UNAVAILABLE", "The model is overloaded.")), C.OVERLOADED),
    "limited": (refused(exhausted("39s")), C.RATE_LIMITED),
    "invalid": (refused(status(400, "INVALID_ARGUMENT", "Aspect ratio is not supported.")), C.CALLER_ERROR),
    "gone": ([Cut()], C.CONNECTION),
    "cut": (short_body(b'{"candidates": [', 100), C.CONNECTION),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILURES)
async def test_what_is_no_picture_is_a_failure(kind: str) -> None:
    reply, category = FAILURES[kind]
    async with GeminiUpstream() as upstream:
        upstream.script(reply)
        with pytest.raises(ProviderFailure) as caught:
            await batches(offer("gemini", upstream.base_url), wanted())
    assert caught.value.category is category
    if kind == "IMAGE_SAFETY":
        assert (caught.value.upstream.code, caught.value.upstream.message) == (kind, "Try another prompt.")


async def test_a_picture_that_was_kept_back_is_paid_for() -> None:
    seen: list[Sequence[ProviderEvent]] = []
    async with GeminiUpstream() as upstream:
        upstream.script(whole_reply(no_gemini_picture("IMAGE_SAFETY")))
        with pytest.raises(ProviderFailure):
            await collect(offer("gemini", upstream.base_url), wanted(), seen)
    assert usage_of(seen) == Usage(input_tokens=9)


SIZES = {
    "1024x1024": {"aspectRatio": "1:1"},
    "1536x1024": {"aspectRatio": "3:2"},
    "1024x1536": {"aspectRatio": "2:3"},
    "1792x1024": {"aspectRatio": "16:9"},
    "1024x1792": {"aspectRatio": "9:16"},
    "1344x768": {"aspectRatio": "16:9"},
    "864x1184": {"aspectRatio": "3:4"},
    "1152x896": {"aspectRatio": "5:4"},
    "2752x1536": {"aspectRatio": "16:9", "imageSize": "2K"},
    "3392x5056": {"aspectRatio": "2:3", "imageSize": "4K"},
    "6336x2688": {"aspectRatio": "21:9", "imageSize": "4K"},
    "auto": None,
    None: None,
}


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_a_size_is_a_shape_and_a_measure(size: str | None) -> None:
    async with GeminiUpstream() as upstream:
        request, one = wanted(size=size), offer("gemini", upstream.base_url)
        assert adapter().supports(one, request) is None
        await batches(one, request)
        assert upstream.requests[0].json["generationConfig"].get("imageConfig") == SIZES[size]


PNG = BytesUpload(png())


@pytest.mark.parametrize(
    ("fields", "model", "refused"),
    [
        ({"n": 10, "parameters": {"n": "n", "size": "size"}}, "", None),
        ({"size": "1000x1000", "parameters": {"size": "image_size"}}, "", "image_size"),
        ({"size": "256x256"}, "", "size"),
        ({"size": "2048x2048"}, "gemini-2.5-flash-image", "size"),
        ({"size": "1024x1024"}, "gemini-2.5-flash-image", None),
        ({"quality": "high", "parameters": {"quality": "quality"}}, "", "quality"),
        ({"quality": "auto", "parameters": {"quality": "quality"}}, "", None),
        ({"passthrough": {"background": RAW(b'"auto"')}, "parameters": {"background": "background"}}, "", None),
        ({"passthrough": {"background": RAW(b'"opaque"')}, "parameters": {"background": "b"}}, "", "b"),
        ({"passthrough": {"moderation": RAW(b'"low"')}, "parameters": {"moderation": "moderation"}}, "", "moderation"),
        ({"partials": 2, "stream": True, "parameters": {"partial_images": "partial_images"}}, "", "partial_images"),
        ({"partials": 0, "stream": True, "parameters": {"partial_images": "partial_images"}}, "", None),
        ({"output_format": "png", "parameters": {"output_format": "output_format"}}, "", "output_format"),
        ({"images": (PNG,), "mask": PNG}, "", "mask"),
        ({"images": (PNG, BytesUpload(b"GIF89a...", media_type="image/png"))}, "", "image"),
        ({"images": (BytesUpload(b"????", media_type="image/heic"),)}, "", None),
        ({"images": (BytesUpload(b"????"),)}, "", "image"),
    ],
)
def test_what_cannot_be_said_is_refused_by_the_clients_name(
    fields: dict[str, Any], model: str, refused: str | None
) -> None:
    assert adapter().supports(offer("gemini", model=model), wanted(**fields)) == refused


def test_more_than_the_api_takes_is_not_sent() -> None:
    class Large(BytesUpload):
        size = MAX_INLINE_BYTES // 4

    assert adapter().supports(offer("gemini"), wanted(images=(Large(png()),) * 2)) is None
    assert adapter().supports(offer("gemini"), wanted(images=(Large(png()),) * 4)) == "image"


@pytest.mark.parametrize("key", ["contents", "systemInstruction", "cached_content"])
def test_what_is_checked_cannot_be_set_around_the_gateway(key: str) -> None:
    with pytest.raises(GatewayError) as caught:
        adapter().supports(offer("gemini"), wanted(provider_options={"p": {key: RAW(b"[]")}}))
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_PARAMETER, f"provider_options.p.{key}")


def adapter() -> GeminiAdapter:
    never: Callable[..., Any] = object
    return GeminiAdapter(never(), never(), never())
