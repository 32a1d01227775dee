"""Pictures by OpenAI's image API over real sockets: what is sent, what comes back, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from server.domain.errors import FailureCategory, GatewayError, ProviderFailure, Reason
from server.domain.events import Completed, Produced, ProviderEvent, Started
from server.domain.images import Images, MadeImage
from server.domain.usage import Usage
from server.providers.openai import OpenAIAdapter
from tests.fakes.image_wire import (
    TOKENS_PER_INPUT,
    TOKENS_PER_PICTURE,
    as_openai_images,
    blocked,
    form_of,
    image_event,
    image_events,
    image_stream,
    image_usage,
    images_body,
    picture,
    png,
)
from tests.fakes.openai_upstream import Cut, Reply, Upstream, error, json_reply, rate_limited, sse, whole
from tests.fakes.replies import broken_after, compact, error_body, short_body, sse_event
from tests.fakes.uploads import BytesUpload
from tests.integration.image_adapters import (
    batches,
    collect,
    data_of,
    flat,
    images_of,
    offer,
    partials_of,
    usage_of,
    wanted,
)

RAW = msgspec.Raw


async def test_a_picture_is_asked_for_in_the_words_of_the_api() -> None:
    async with Upstream(as_openai_images) as upstream:
        request = wanted(
            n=2,
            size="1536x1024",
            quality="low",
            output_format="webp",
            parameters={"n": "n", "background": "background"},
            passthrough={"background": RAW(b'"opaque"'), "output_compression": RAW(b"80"), "user": RAW(b'"u"')},
            provider_options={"p": {"complexity": RAW(b'"high"')}},
        )
        seen = await batches(offer("openai", upstream.base_url), request)
        [asked] = upstream.requests
    assert (asked.method, asked.path) == ("POST", "/v1/images/generations")
    assert asked.json == {
        "model": "gpt-image-2",
        "prompt": "A red dot.",
        "n": 2,
        "size": "1536x1024",
        "quality": "low",
        "output_format": "webp",
        "background": "opaque",
        "output_compression": 80,
        "user": "u",
        "complexity": "high",
    }
    assert images_of(seen) == Images(
        (MadeImage(picture(0), "image/png"), MadeImage(picture(1), "image/png")),
        size="1024x1024",
        quality="low",
        background="opaque",
        output_format="png",
    )
    started = flat(seen)[0]
    assert isinstance(started, Started)
    assert started.request_id == "req_image"
    assert isinstance(flat(seen)[-1], Completed)
    assert usage_of(seen) == Usage(input_tokens=9, output_tokens=2000, output_image_tokens=2000)


@pytest.mark.parametrize(("count", "name"), [(1, "image"), (3, "image[]")])
async def test_pictures_are_changed_by_a_form(count: int, name: str) -> None:
    files = [BytesUpload(png(n, padding=100_000 * n), media_type="application/octet-stream") for n in range(count)]
    mask = BytesUpload(b"\xff\xd8\xff rest", filename="m.jpg")
    async with Upstream(as_openai_images) as upstream:
        request = wanted(
            images=tuple(files),
            mask=mask,
            n=2,
            passthrough={"input_fidelity": RAW(b'"high"'), "output_compression": RAW(b"80")},
            provider_options={"p": {"svg": RAW(b'{"model": "m"}')}},
        )
        seen = await batches(offer("openai", upstream.base_url), request)
        [asked] = upstream.requests
    assert asked.path == "/v1/images/edits"
    entries = form_of(asked)
    assert [entry for entry in entries if isinstance(entry[1], str)] == [
        ("model", "gpt-image-2"),
        ("prompt", "A red dot."),
        ("n", "2"),
        ("input_fidelity", "high"),
        ("output_compression", "80"),
        ("svg[model]", "m"),
    ]
    sent = [
        (field, part.get_content_type(), part.get_filename(), part.get_payload(decode=True))
        for field, part in entries
        if not isinstance(part, str)
    ]
    assert sent == [
        *((name, "image/png", "image.png", file.data) for file in files),
        ("mask", "image/jpeg", "m.jpg", mask.data),
    ]
    assert usage_of(seen) == Usage(
        input_tokens=9 + TOKENS_PER_INPUT * count,
        input_image_tokens=TOKENS_PER_INPUT * count,
        output_tokens=2 * TOKENS_PER_PICTURE,
        output_image_tokens=2 * TOKENS_PER_PICTURE,
    )


@pytest.mark.parametrize("editing", [False, True], ids=["generation", "edit"])
async def test_a_stream_shows_partials_before_each_picture(editing: bool) -> None:
    files = (BytesUpload(png()),) if editing else ()
    async with Upstream(as_openai_images) as upstream:
        seen = await batches(offer("openai", upstream.base_url), wanted(stream=True, partials=2, n=2, images=files))
        [asked] = upstream.requests
    if not editing:
        assert (asked.json["stream"], asked.json["partial_images"]) == (True, 2)
    assert [(event.index, event.partial, event.data) for event in partials_of(seen)] == [
        (index, partial, picture(100 + 10 * index + partial)) for index in (0, 1) for partial in (0, 1)
    ]
    assert data_of(seen) == [picture(0), picture(1)]
    assert [type(event) for event in flat(seen)[-2:]] == [Produced, Completed]
    used = usage_of(seen)
    assert used is not None
    assert used.output_image_tokens == used.output_tokens == 2000


async def test_a_partial_is_told_before_the_rest_has_come() -> None:
    async with Upstream() as upstream:
        upstream.script(broken_after(image_stream(1, 1), 2))
        seen: list[Sequence[ProviderEvent]] = []
        with pytest.raises(ProviderFailure) as caught:
            await collect(offer("openai", upstream.base_url), wanted(stream=True, partials=1), seen)
    assert caught.value.category is FailureCategory.CONNECTION
    assert [event.partial for event in partials_of(seen)] == [0]


async def test_a_large_picture_fits_in_one_event() -> None:
    large = picture(5, padding=4_000_000)
    async with Upstream() as upstream:
        upstream.script(sse([image_event("completed", large, usage=image_usage())]))
        assert data_of(await batches(offer("openai", upstream.base_url), wanted(stream=True))) == [large]


ANSWERS: dict[str, tuple[Reply, list[str]]] = {
    "fewer than wanted": (json_reply(images_body(0)), [picture(0)]),
    "more than wanted": (json_reply(images_body(0, 1, 2)), [picture(0), picture(1)]),
    "a data url": (json_reply(images_body({"url": f"data:image/png;base64,{picture(1)}"})), [picture(1)]),
    "base64 in lines": (json_reply(images_body({"b64_json": picture(1)[:20] + "\n" + picture(1)[20:]})), [picture(1)]),
    "a filtered one beside": (json_reply(images_body({"respect_moderation": False}, 1)), [picture(1)]),
    "nulls": (json_reply(images_body({"b64_json": picture(1), "url": None, "revised_prompt": None})), [picture(1)]),
    "events unasked": (image_stream(2), [picture(0), picture(1)]),
    "events without names": (
        sse([b"data: " + compact({"type": "image_generation.completed", "b64_json": picture(3)}) + b"\n\n"]),
        [picture(3)],
    ),
    "an event of another kind": (
        sse([sse_event(compact({"type": "progress", "data": {"percent": 3}})), *image_events(2)]),
        [picture(0), picture(1)],
    ),
    "one event with all of it": (sse([sse_event(compact(images_body(0, 1)))]), [picture(0), picture(1)]),
    "a terminator": (sse([*image_events(1), b"data: [DONE]\n\n"]), [picture(0)]),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", ANSWERS)
async def test_what_servers_of_this_shape_answer(kind: str, stream: bool) -> None:
    reply, expected = ANSWERS[kind]
    async with Upstream() as upstream:
        upstream.script(reply)
        seen = await batches(offer("openai", upstream.base_url), wanted(n=2, stream=stream))
    assert data_of(seen) == expected


async def test_without_an_account_of_the_tokens_none_is_made_up() -> None:
    body = images_body(0, usage={"cost_in_usd_ticks": 200_000_000})
    async with Upstream() as upstream:
        upstream.script(json_reply(body))
        assert usage_of(await batches(offer("openai", upstream.base_url), wanted())) is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"output_tokens_details": {"image_tokens": 800, "text_tokens": 200}}, (9, 1000, 800)),
        ({"output_tokens_details": {"text_tokens": 200}}, (9, 1000, 800)),
        ({"output_tokens_details": None}, (9, 1000, 1000)),
        ({"output_tokens_details": {"image_tokens": 5000}}, (9, 1000, 1000)),
    ],
    ids=["both", "text", "none", "nonsense"],
)
async def test_output_is_pictures_but_for_what_is_said_to_be_text(told: Any, expected: tuple[int, int, int]) -> None:
    async with Upstream() as upstream:
        upstream.script(json_reply(images_body(0, usage=image_usage(1, 0, **told))))
        used = usage_of(await batches(offer("openai", upstream.base_url), wanted()))
    assert used is not None
    assert (used.input_tokens, used.output_tokens, used.output_image_tokens) == expected


async def test_who_writes_an_svg_is_paid_for_as_well() -> None:
    body = images_body(0, svg_usage={"model": "m", "input_tokens": 5, "output_tokens": 70, "reasoning_tokens": 20})
    async with Upstream() as upstream:
        upstream.script(json_reply(body))
        used = usage_of(await batches(offer("openai", upstream.base_url), wanted()))
    assert used == Usage(input_tokens=14, output_tokens=1070, reasoning_tokens=20, output_image_tokens=1000)


C = FailureCategory
BLOCKED = error_body("Blocked.", type="image_generation_user_error", code="moderation_blocked")
FAILED = {"type": "error", **error_body("No.", type="server_error")}
FAILURES: dict[str, tuple[Reply, FailureCategory]] = {
    "no pictures": (json_reply(images_body()), C.PROTOCOL),
    "nothing": (json_reply({"created": 1}), C.PROTOCOL),
    "not json": (whole(b"<html>", content_type="text/html"), C.PROTOCOL),
    "no base64": (json_reply(images_body({"b64_json": "$$$$"})), C.PROTOCOL),
    "a number": (json_reply(images_body({"b64_json": 7})), C.PROTOCOL),
    "an error": (json_reply(error_body("Out of memory.", type="server_error")), C.SERVER_ERROR),
    "filtered": (json_reply(images_body({"url": "", "respect_moderation": False})), C.CONTENT_POLICY),
    "filtered by azure": (
        json_reply(images_body({"content_filter_results": {"violence": {"filtered": True, "severity": "high"}}})),
        C.CONTENT_POLICY,
    ),
    "blocked": (blocked(), C.CONTENT_POLICY),
    "limited": (rate_limited("7"), C.RATE_LIMITED),
    "500": (error(500), C.SERVER_ERROR),
    "gone": ([Cut()], C.CONNECTION),
    "cut": (short_body(b'{"created":1,"data":[{"b64_json":"iVBOR', 100), C.CONNECTION),
    "garbage in a stream": (sse([b"data: {nothing\n\n"]), C.PROTOCOL),
    "an error event in a stream": (sse([sse_event(compact(BLOCKED), event="error")]), C.CONTENT_POLICY),
    "an error among partials": (sse([image_events(1, 1)[0], sse_event(compact(FAILED))]), C.SERVER_ERROR),
    "an empty stream": (sse([]), C.CONNECTION),
    "an event without its picture in a stream": (sse([image_event("completed", "")]), C.PROTOCOL),
    "a filtered event in a stream": (sse([image_event("completed", "", respect_moderation=False)]), C.CONTENT_POLICY),
    "a text as a picture": (json_reply(images_body() | {"data": ["iVBORw0KGgo="]}), C.PROTOCOL),
    "only partials": (sse(image_events(1, 2)[:2]), C.CONNECTION),
    "one of two and cut": (broken_after(image_stream(2), 2), C.CONNECTION),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILURES)
async def test_what_is_no_picture_is_a_failure(kind: str) -> None:
    reply, category = FAILURES[kind]
    async with Upstream() as upstream:
        upstream.script(reply)
        with pytest.raises(ProviderFailure) as caught:
            await batches(offer("openai", upstream.base_url), wanted(n=2, stream="stream" in kind or "partial" in kind))
    assert caught.value.category is category
    assert caught.value.retry_after_s == (7.0 if kind == "limited" else None)


async def test_what_came_to_nothing_is_paid_for_all_the_same() -> None:
    async with Upstream() as upstream:
        upstream.script(json_reply(images_body({"respect_moderation": False})))
        seen: list[Sequence[ProviderEvent]] = []
        with pytest.raises(ProviderFailure):
            await collect(offer("openai", upstream.base_url), wanted(), seen)
    used = usage_of(seen)
    assert used is not None
    assert used.input_tokens == 9


@pytest.mark.parametrize(
    ("images", "parameters", "refused"),
    [
        (0, ("n", "size", "style", "moderation", "partial_images", "user", "safety_identifier"), None),
        (0, ("input_fidelity",), "input_fidelity"),
        (1, ("input_fidelity", "quality", "output_compression", "background"), None),
        (1, ("size", "style"), "style"),
        (0, ("temperature",), "temperature"),
    ],
)
def test_what_the_api_does_not_know_is_refused_by_name(
    images: int, parameters: tuple[str, ...], refused: str | None
) -> None:
    request = wanted(images=(BytesUpload(png()),) * images, parameters={name: name for name in parameters})
    assert adapter().supports(offer("openai"), request) == refused


@pytest.mark.parametrize("key", ["prompt", "n", "image", "image[]", "mask", "response_format", "stream", "model", " N"])
def test_what_is_checked_or_reserved_for_cannot_be_set_around_the_gateway(key: str) -> None:
    request = wanted(provider_options={"p": {key: RAW(b"1")}})
    with pytest.raises(GatewayError) as caught:
        adapter().supports(offer("openai"), request)
    assert (caught.value.reason, caught.value.param) == (Reason.UNSUPPORTED_PARAMETER, f"provider_options.p.{key}")


@pytest.mark.parametrize("word", ["b64_json", "base64", None])
async def test_base64_is_asked_for_where_the_provider_wants_to_be_asked(word: str | None) -> None:
    reply = json_reply(images_body(0))
    async with Upstream() as upstream:
        upstream.script(reply)
        await batches(offer("openai", upstream.base_url, image_response_format=word), wanted())
        assert json.loads(upstream.requests[0].body).get("response_format") == word


def adapter() -> OpenAIAdapter:
    never: Callable[..., Any] = object
    return OpenAIAdapter(never(), never(), never())
