"""`/v1/images/generations` as its clients see it: what may be asked, and how it is told of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from rest_bridge.app import RestApp
from rest_bridge.images import ImagesRest
from rest_bridge.images_decode import decode_generation
from server.domain.errors import GatewayError, Reason
from server.domain.events import Completed, ImagePartial, Produced, Settled
from server.domain.images import Images, MadeImage
from server.domain.usage import Usage
from server.pipeline.draw import Draw
from tests.fakes.rest import (
    ARRIVAL,
    META,
    PRICING,
    PRICING_JSON,
    STARTED,
    OpenDoor,
    Reply,
    ScriptedGenerate,
    read,
    rest_request,
)

USAGE = Usage(
    input_tokens=9, output_tokens=3, input_image_tokens=2, output_image_tokens=3, units={"output_image": 1},
    pricing=PRICING,
)  # fmt: skip
SETTLED = Settled(USAGE, META, "default")
COUNTED = {
    "input_tokens": 9, "output_tokens": 3, "total_tokens": 12, "pricing": PRICING_JSON,
    "input_tokens_details": {"text_tokens": 7, "image_tokens": 2},
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 3},
}  # fmt: skip
PICTURE = MadeImage("aGVsbG8=", "image/webp", "A revised one.")
PLAIN = MadeImage("d29ybGQ=", "image/png")
MADE = Images((PICTURE,), "1024x1024", "high", "opaque", "webp")


def generate(*images: MadeImage, steps: Any = None) -> ScriptedGenerate:
    result = replace(MADE, images=images or MADE.images)
    return ScriptedGenerate(*(steps or [[STARTED], [Produced(result), Completed()], [SETTLED]]))


async def post(scripted: ScriptedGenerate, **body: Any) -> Reply:
    pipeline: Any = scripted
    app = RestApp(OpenDoor(), ImagesRest(Draw(pipeline)).routes())
    asked = {"model": "a/b", "prompt": "A cat.", **body}
    return await read(await app(rest_request(asked, path="/v1/images/generations")))


def events(reply: Reply) -> list[tuple[str, Any]]:
    *blocks, done, nothing = reply.body.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [(name[7:], json.loads(data[6:])) for name, data in (block.split("\n") for block in blocks)]


async def test_what_a_request_says() -> None:
    scripted = generate()
    await post(
        scripted, n=2, size="1536x1024", quality="high", background="transparent", output_format="webp",
        output_compression=80, moderation="low", style="vivid", user="u", safety_identifier="s", meta=True, usage=True,
        provider={"only": ["p"]}, models=["c/d"], provider_options={"p": {"x": 1.50}}, session_id="1",
    )  # fmt: skip
    [request] = scripted.requests
    asked: Any = request
    assert (asked.model, asked.prompt, asked.n, asked.size, asked.quality) == ("a/b", "A cat.", 2, "1536x1024", "high")
    assert (asked.output_format, asked.partials, asked.stream, asked.images, asked.mask) == (
        "webp",
        None,
        False,
        (),
        None,
    )
    assert {name: bytes(raw) for name, raw in asked.passthrough.items()} == {
        "background": b'"transparent"', "output_compression": b"80", "moderation": b'"low"', "style": b'"vivid"',
        "user": b'"u"', "safety_identifier": b'"s"',
    }  # fmt: skip
    assert asked.parameters.keys() == {"n", "size", "quality", "output_format", *asked.passthrough}
    assert (asked.routing.only, asked.routing.fallback_models) == (("p",), ("c/d",))


async def test_what_is_not_said_is_no_parameter() -> None:
    scripted = generate()
    await post(scripted, n=None, size=None, response_format="b64_json", stream=False)
    assert scripted.requests[0].parameters == {}


@pytest.mark.parametrize(
    ("body", "reason", "param"),
    [
        ({"prompt": ""}, Reason.MISSING_FIELD, "prompt"),
        ({"prompt": " "}, Reason.MISSING_FIELD, "prompt"),
        ({"prompt": "a" * 32_001}, Reason.INVALID_VALUE, "prompt"),
        ({"prompt": None}, Reason.INVALID_VALUE, "prompt"),
        ({"model": ""}, Reason.MISSING_FIELD, "model"),
        ({"n": 0}, Reason.INVALID_VALUE, "n"),
        ({"n": 11}, Reason.INVALID_VALUE, "n"),
        ({"n": "2"}, Reason.INVALID_VALUE, "n"),
        ({"size": "big"}, Reason.INVALID_VALUE, "size"),
        ({"size": "0x10"}, Reason.INVALID_VALUE, "size"),
        ({"size": "8193x10"}, Reason.INVALID_VALUE, "size"),
        ({"size": "1024x1024 "}, Reason.INVALID_VALUE, "size"),
        ({"quality": "best"}, Reason.INVALID_VALUE, "quality"),
        ({"background": "red"}, Reason.INVALID_VALUE, "background"),
        ({"output_format": "gif"}, Reason.INVALID_VALUE, "output_format"),
        ({"output_compression": 101}, Reason.INVALID_VALUE, "output_compression"),
        ({"output_compression": -1}, Reason.INVALID_VALUE, "output_compression"),
        ({"moderation": "off"}, Reason.INVALID_VALUE, "moderation"),
        ({"style": "sad"}, Reason.INVALID_VALUE, "style"),
        ({"response_format": "png"}, Reason.INVALID_VALUE, "response_format"),
        ({"partial_images": 2}, Reason.INVALID_VALUE, "partial_images"),
        ({"partial_images": 4, "stream": True}, Reason.INVALID_VALUE, "partial_images"),
        ({"user": "u" * 513}, Reason.INVALID_VALUE, "user"),
        ({"input_fidelity": "high"}, Reason.UNKNOWN_PARAMETER, "input_fidelity"),
        ({"image": "data:image/png;base64,AA=="}, Reason.UNKNOWN_PARAMETER, "image"),
        ({"svg": {}}, Reason.UNKNOWN_PARAMETER, "svg"),
        ({"provider": {"colour": 1}}, Reason.UNKNOWN_PARAMETER, "provider.colour"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_cannot_be_meant_is_named(body: dict[str, Any], reason: Reason, param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        decode_generation(json.dumps({"model": "a/b", "prompt": "A cat.", **body}).encode())
    assert (refused.value.reason, refused.value.param) == (reason, param)


@pytest.mark.parametrize("size", ["auto", "1x1", "1536x1024", "8192x8192"])
def test_sizes(size: str) -> None:
    assert decode_generation(json.dumps({"model": "m", "prompt": "p", "size": size}).encode()).request.size == size


async def test_pictures_as_openai_tells_of_them() -> None:
    reply = await post(generate(PICTURE, PLAIN), meta=True)
    told = reply.json
    assert reply.status == 200
    assert told.pop("meta")["provider"] == "acme"
    assert told == {
        "created": ARRIVAL.created_at, "background": "opaque", "output_format": "webp", "quality": "high",
        "size": "1024x1024", "usage": COUNTED,
        "data": [{"b64_json": "aGVsbG8=", "revised_prompt": "A revised one."}, {"b64_json": "d29ybGQ="}],
    }  # fmt: skip


async def test_a_url_is_the_picture_itself() -> None:
    told = (await post(generate(), response_format="url")).json
    assert told["data"] == [{"url": "data:image/webp;base64,aGVsbG8=", "revised_prompt": "A revised one."}]
    assert "meta" not in told


async def test_what_the_provider_does_not_say_is_what_was_asked_for_or_null() -> None:
    scripted = generate(steps=[[STARTED, Produced(Images((PLAIN,))), Completed(), SETTLED]])
    told = (await post(scripted, size="auto", background="transparent")).json
    assert (told["size"], told["background"], told["quality"], told["output_format"]) == (
        "auto", "transparent", None, "png",
    )  # fmt: skip


async def test_ten_large_pictures_come_one_by_one() -> None:
    large = MadeImage("A" * 1_000_000, "image/png")
    reply = await post(generate(*[large] * 10))
    assert [item["b64_json"] == large.data for item in reply.json["data"]] == [True] * 10
    assert len(reply.pieces) == 10
    assert max(map(len, reply.pieces)) < 1_010_000


async def test_a_stream_shows_unfinished_pictures_and_then_the_finished_ones() -> None:
    partials = [ImagePartial(0, number, f"cGFydA{number}=", "image/webp") for number in range(2)]
    scripted = generate(steps=[[STARTED], [partials[0]], [partials[1]], [Produced(MADE), Completed()], [SETTLED]])
    reply = await post(scripted, stream=True, partial_images=2, meta=True)
    assert reply.headers["content-type"] == "text/event-stream"
    first, second, (name, completed) = events(reply)
    assert [first[0], second[0], name] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert first[1] == {
        "type": "image_generation.partial_image", "b64_json": "cGFydA0=", "partial_image_index": 0, "image_index": 0,
        "created_at": ARRIVAL.created_at, "background": "auto", "output_format": "webp", "quality": "auto",
        "size": "auto",
    }  # fmt: skip
    assert second[1]["partial_image_index"] == 1
    assert completed.pop("meta")["provider"] == "acme"
    assert completed == {
        "type": "image_generation.completed", "b64_json": "aGVsbG8=", "image_index": 0, "quality": "high",
        "created_at": ARRIVAL.created_at, "background": "opaque", "output_format": "webp", "size": "1024x1024",
        "usage": COUNTED, "revised_prompt": "A revised one.",
    }  # fmt: skip
    assert scripted.requests[0].stream


async def test_of_several_pictures_the_last_tells_what_all_of_them_used() -> None:
    told = [event for _, event in events(await post(generate(PICTURE, PLAIN), stream=True, n=2))]
    assert [event["image_index"] for event in told] == [0, 1]
    assert [event["usage"]["total_tokens"] for event in told] == [0, 12]
    assert sum(event["usage"]["pricing"]["total_nanos"] for event in told) == PRICING.total_nanos


async def test_a_failure_before_the_first_event_is_an_ordinary_error() -> None:
    failed = GatewayError(Reason.ALL_CANDIDATES_FAILED, "No luck.")
    for stream in (True, False):
        reply = await post(generate(steps=[failed]), stream=stream)
        assert (reply.status, reply.json["reason"]) == (502, "all_candidates_failed")


async def test_a_later_failure_ends_the_stream() -> None:
    steps = [[STARTED, ImagePartial(0, 0, "AAAA", "image/png")], GatewayError(Reason.STREAM_INTERRUPTED, "Cut.")]
    reply = await post(generate(steps=steps), stream=True)
    *_, last, nothing = reply.body.decode().split("\n\n")
    name, data = last.split("\n")
    told = json.loads(data.removeprefix("data: "))
    assert (name, nothing, told["type"]) == ("event: error", "", "error")
    assert (told["error"]["message"], told["error"]["reason"]) == ("Cut.", "stream_interrupted")


async def test_no_picture_at_all_is_a_failure_of_ours() -> None:
    assert (await post(generate(steps=[[STARTED, Produced(Images(())), Completed(), SETTLED]]))).status == 500
