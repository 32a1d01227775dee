"""Pictures as their users have them: SDKs, typed clients, hostile files and money, through Envoy."""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest
from phaseo import Phaseo
from PIL import Image

from aistats.gateway.v1 import images_pb2, images_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.test_record_size import MAX_ROW_BYTES, largest_rows
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.contract import check_error, told
from tests.fakes.image_wire import form_of, image_events, png
from tests.fakes.openai_upstream import error
from tests.fakes.replies import sse
from tests.fakes.wire import Hang

LOCAL = "local/test-card-image:free"
FREE = "acme/draw:free"
BY_PICTURE = "acme/draw-1"
BY_TOKEN = "acme/draw-2"
PICTURE_NANOS = 40_000_000
EDITS = "/v1/images/edits"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def purse(gateway: Gateway) -> Purse:
    return Purse(gateway)


def seen(data: str | None) -> Image.Image:
    assert data is not None
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


def a_picture(width: int = 320, height: int = 200, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGBA" if kind == "PNG" else "RGB", (width, height)).save(out, kind)
    return out.getvalue()


def edit(purse: Purse, files: Any, headers: Any = None, **fields: Any) -> httpx.Response:
    """An edit as a form. `files`: one picture, or what httpx takes."""
    return httpx.post(
        f"{purse.gateway.url}{EDITS}",
        data={"model": FREE, "prompt": "A cat.", **fields},
        files={"image": ("x.png", files)} if isinstance(files, bytes) else files,
        headers={**purse.headers, **(headers or {})},
        timeout=60,
    )


# The embedded model, by the SDKs.


def test_the_sdk_gets_a_picture_of_the_size_that_it_asked_for(client: openai.OpenAI) -> None:
    told = client.images.generate(model=LOCAL, prompt="A lighthouse.", size="512x256", output_format="jpeg", n=2)
    assert told.data is not None
    assert [(seen(one.b64_json).size, seen(one.b64_json).format) for one in told.data] == [((512, 256), "JPEG")] * 2
    assert (told.size, told.output_format) == ("512x256", "jpeg")
    assert told.usage is not None


def test_the_sdk_sees_unfinished_pictures(client: openai.OpenAI) -> None:
    events: Any = list(
        client.images.generate(model=LOCAL, prompt="A boat.", size="256x256", stream=True, partial_images=2)
    )
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert {seen(event.b64_json).size for event in events} == {(256, 256)}
    assert events[-1].usage.total_tokens == 0


def test_the_sdk_edits_a_picture(client: openai.OpenAI) -> None:
    told = client.images.edit(
        model=LOCAL, image=("a.png", a_picture()), mask=a_picture(), prompt="At night.", size="320x200"
    )
    assert told.data is not None
    assert seen(told.data[0].b64_json).size == (320, 200)


def test_a_url_is_a_picture_too(client: openai.OpenAI) -> None:
    told = client.images.generate(model=LOCAL, prompt="A cat.", size="64x64", response_format="url")
    assert told.data is not None
    url = told.data[0].url or ""
    assert url.startswith("data:image/png;base64,")
    assert seen(url.partition(",")[2]).size == (64, 64)


def test_the_products_own_sdk(gateway: Gateway) -> None:
    client = Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=60)
    told = client.images.generate({"model": LOCAL, "prompt": "A cat.", "size": "64x64"})
    assert seen(told["data"][0]["b64_json"]).size == (64, 64)
    image = f"data:image/jpeg;base64,{base64.b64encode(a_picture(kind='JPEG')).decode()}"
    edited: Any = client.generate_image_edit({"model": LOCAL, "prompt": "A dog.", "image": image, "size": "64x64"})
    assert seen(edited["data"][0]["b64_json"]).size == (64, 64)


# What reaches a provider.


def test_files_reach_the_provider_as_they_are(client: openai.OpenAI, acme: UpstreamThread) -> None:
    first, second, mask = a_picture(9, 9), a_picture(7, 5, "WEBP"), a_picture(9, 9)
    events: Any = list(
        client.images.edit(
            model=FREE, image=[("a.png", first), ("b.bin", second)], mask=mask, prompt="Both, please.", n=2,
            input_fidelity="high", stream=True, partial_images=1,
            extra_body={
                "meta": True, "provider": {"only": ["acme"]},
                "provider_options": {"acme": {"output_compression": 7, "svg": {"model": "s"}}},
            },
        )
    )  # fmt: skip
    kinds = ["image_edit.partial_image", "image_edit.completed"]
    assert [event.type for event in events] == [kinds[0]] * 2 + [kinds[1]] * 2
    assert [event.usage.total_tokens > 0 for event in events[2:]] == [False, True]
    assert events[-1].model_extra["meta"]["provider"] == "acme"
    entries = form_of(acme.requests[-1])
    files = [(name, part) for name, part in entries if not isinstance(part, str)]
    assert [(name, part.get_content_type(), part.get_payload(decode=True)) for name, part in files] == [
        ("image[]", "image/png", first), ("image[]", "image/webp", second), ("mask", "image/png", mask),
    ]  # fmt: skip
    fields = {name: value for name, value in entries if isinstance(value, str)}
    assert fields == {
        "model": "draw", "prompt": "Both, please.", "n": "2", "input_fidelity": "high", "stream": "true",
        "partial_images": "1", "output_compression": "7", "svg[model]": "s",
    }  # fmt: skip


def test_pictures_are_bytes_to_typed_clients(
    gateway: Gateway, channel: grpc.Channel, metadata: list[tuple[str, str]], acme: UpstreamThread
) -> None:
    stub: Any = images_pb2_grpc.ImagesServiceStub(channel)
    settings = images_pb2.CreateImagesRequest(model=FREE, prompt="A cat.", n=2)
    reply = stub.CreateImages(settings, metadata=metadata, timeout=60)
    assert [one.data for one in reply.images] == [png(0), png(1)]
    assert reply.usage.output_image_tokens == reply.usage.output_tokens == 2000
    sent = [a_picture(9, 9), a_picture(8, 8)]

    def messages() -> Iterator[Any]:
        yield images_pb2.EditImagesRequest(settings=settings)
        for number, data in enumerate(sent):
            yield images_pb2.EditImagesRequest(file=images_pb2.ImageFile(is_mask=number == 1, filename="x.png"))
            for start in range(0, len(data), 50):
                yield images_pb2.EditImagesRequest(chunk=data[start : start + 50])

    assert len(stub.EditImages(messages(), metadata=metadata, timeout=60).images) == 2
    files = [(name, part) for name, part in form_of(acme.requests[-1]) if not isinstance(part, str)]
    assert [(name, part.get_payload(decode=True)) for name, part in files] == [("image", sent[0]), ("mask", sent[1])]
    events = list(stub.StreamImageEdits(messages(), metadata=metadata, timeout=60))
    assert [event.WhichOneof("event") for event in events] == ["image", "image", "finished"]


# Hostile files.


def bomb(side: int = 50_000) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", binascii.crc32(one)) for one in (header, pixels)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


FILES: dict[str, tuple[dict[str, Any], str]] = {
    "bomb": ({"image": bomb()}, "image"),
    "second is a bomb": ({"image": a_picture(), "image[]": bomb()}, "image[1]"),
    "mask is a bomb": ({"image": a_picture(), "mask": bomb()}, "mask"),
    "truncated": ({"image": a_picture()[:20]}, "image"),
    "empty": ({"image": b""}, "image"),
    "text": ({"image": b"I am a picture."}, "image"),
    "gif": ({"image": b"GIF89a" + bytes(100)}, "image"),
    "svg": ({"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "image"),
    "none": ({"mask": a_picture()}, "image"),
    "another": ({"image": a_picture(), "markup": a_picture()}, "markup"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_picture_goes_nowhere_and_costs_nothing(purse: Purse, acme: UpstreamThread, kind: str) -> None:
    files, param = FILES[kind]
    sent = [(name, ("x.png", data, "image/png")) for name, data in files.items()]
    reply = edit(purse, sent, model=BY_PICTURE)
    body = check_error(told(reply))
    assert (reply.status_code, body["param"]) == (400, param)
    assert acme.requests == []
    record = purse.record(reply.headers["x-generation-id"])
    assert (record["cost_nanos"], record["attempts"]) == (0, [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": "eleven"}, "n"),
        ({"n": "11"}, "n"),
        ({"size": "large"}, "size"),
        ({"partial_images": "1"}, "partial_images"),
        ({"colour": "red"}, "colour"),
        ({"provider": "{"}, "provider"),
        ({"style": "vivid"}, "style"),
        ({"prompt": ""}, "prompt"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_fields_of_a_form_are_named(purse: Purse, acme: UpstreamThread, fields: dict[str, str], param: str) -> None:
    reply = edit(purse, a_picture(), **fields)
    assert check_error(told(reply))["param"] == param
    assert acme.requests == []


def test_a_picture_is_not_fetched_from_an_address(purse: Purse, acme: UpstreamThread) -> None:
    body = {"model": FREE, "prompt": "A cat.", "image": "http://169.254.169.254/latest/meta-data"}
    assert check_error(told(purse.post(EDITS, body)))["param"] == "image"
    assert acme.requests == []


# Money.


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_picture_costs_what_its_price_says(purse: Purse, acme: UpstreamThread, stream: bool) -> None:
    before = purse.balance()
    body = {"model": BY_PICTURE, "prompt": "A cat.", "n": 2, "stream": stream}
    reply = purse.post("/v1/images/generations", body)
    data = reply.text.split("data: ")[-2] if stream else reply.text
    pricing = json.loads(data)["usage"]["pricing"]
    assert [(line["dimension"], line["quantity"]) for line in pricing["lines"]] == [("output_image", 2)]
    assert before - purse.balance() == pricing["total_nanos"] == 2 * PICTURE_NANOS
    record = purse.record(reply.headers["x-generation-id"])
    assert (record["endpoint"], record["cost_nanos"], record["success"]) == ("images", 2 * PICTURE_NANOS, True)
    assert record["pricing_lines"] == pricing["lines"]


def test_tokens_of_pictures_have_prices_of_their_own(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    reply = edit(purse, a_picture(), model=BY_TOKEN)
    usage = reply.json()["usage"]
    assert (usage["input_tokens_details"], usage["output_tokens_details"]) == (
        {"text_tokens": 9, "image_tokens": 300}, {"text_tokens": 0, "image_tokens": 1000},
    )  # fmt: skip
    assert usage["pricing"]["total_nanos"] == before - purse.balance() == 9 * 5000 + 300 * 10_000 + 1000 * 40_000


def test_a_provider_that_fails_costs_nothing(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    acme.script(*[error(500, "No colours left.")] * 3)
    reply = purse.post("/v1/images/generations", {"model": BY_PICTURE, "prompt": "A cat.", "stream": True})
    assert check_error(told(reply))["error"] == "provider_error"
    acme.reset()
    assert purse.balance() == before


def test_who_leaves_after_an_unfinished_picture_pays_for_it_once(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    acme.script(sse(image_events(1, 1)[:1], end=Hang()))
    body = {"model": BY_PICTURE, "prompt": "A cat.", "stream": True, "partial_images": 1}
    url = f"{purse.gateway.url}/v1/images/generations"
    with httpx.stream("POST", url, json=body, headers=purse.headers, timeout=30) as reply:
        assert "partial_image" in next(reply.iter_lines())
    acme.wait_disconnect(timeout=30)
    record = purse.record(reply.headers["x-generation-id"])
    assert (record["status_code"], record["cost_nanos"]) == (499, PICTURE_NANOS)
    assert before - purse.balance() == PICTURE_NANOS


def test_a_failure_after_an_unfinished_picture_ends_the_stream(purse: Purse, acme: UpstreamThread) -> None:
    failed = b'data: {"error":{"message":"Out of paint."}}\n\n'
    acme.script(sse([*image_events(1, 1)[:1], failed]))
    body = {"model": FREE, "prompt": "A cat.", "stream": True, "partial_images": 1}
    reply = purse.post("/v1/images/generations", body)
    first, last, nothing = reply.text.split("\n\n")
    assert first.startswith("event: image_generation.partial_image\n")
    assert last.startswith('event: error\ndata: {"type":"error","error":{"message":')
    assert ("Out of paint." in last, nothing) == (True, "")


def test_an_edit_with_a_key_is_carried_out_once(purse: Purse, acme: UpstreamThread) -> None:
    before = purse.balance()
    first, again = (edit(purse, a_picture(), {"idempotency-key": "edit-once"}, model=BY_PICTURE) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert (len(acme.requests), before - purse.balance()) == (1, PICTURE_NANOS)


def test_a_record_is_small_however_large_its_pictures(gateway: Gateway, purse: Purse, acme: UpstreamThread) -> None:
    large = a_picture() + bytes(3_000_000)
    reply = edit(purse, large, prompt="A cat. " * 4000)
    assert reply.status_code == 200, reply.text[:500]
    purse.record(reply.headers["x-generation-id"])
    assert largest_rows(gateway)["generations"] < MAX_ROW_BYTES


def test_a_record_is_its_teams(gateway: Gateway, purse: Purse, acme: UpstreamThread) -> None:
    reply = purse.post("/v1/images/generations", {"model": FREE, "prompt": "A cat."})
    path = f"/v1/generation/{reply.headers['x-generation-id']}"
    assert [purse.get(path).status_code, gateway.get(path).status_code] == [200, 404]


@pytest.mark.parametrize("path", ["/v1/images/generations", EDITS])
def test_other_methods_are_405(gateway: Gateway, path: str) -> None:
    answer = httpx.get(f"{gateway.url}{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
