"""`openai`: pictures, by the synchronous and the asynchronous client."""

from __future__ import annotations

import base64
import io
from typing import Any

import openai
import pytest
from PIL import Image

from tests.e2e.conformance.both import all_of, got
from tests.e2e.conformance.cases import shows
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.image_wire import form_of, png

LOCAL = "local/test-card-image:free"
ACME = "acme/draw:free"


def size(b64_json: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(b64_json))).size


@shows("openai", "images.generate")
async def test_pictures_of_the_size_that_was_asked_for(client: Any) -> None:
    made = await got(client.images.generate(model=LOCAL, prompt="A boat.", n=2, size="128x64", output_format="webp"))
    assert [size(one.b64_json) for one in made.data] == [(128, 64)] * 2
    assert (made.size, made.output_format) == ("128x64", "webp")


@shows("openai", "images.generate")
async def test_unfinished_pictures_of_a_stream(client: Any) -> None:
    asked = {"model": LOCAL, "prompt": "A boat.", "size": "64x64", "stream": True, "partial_images": 2}
    events = await all_of(client.images.generate(**asked))
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
    assert {size(event.b64_json) for event in events} == {(64, 64)}


@shows("openai", "images.edit")
async def test_an_edit_of_several_files(client: Any, acme: UpstreamThread) -> None:
    made = await got(
        client.images.edit(model=ACME, prompt="Both.", image=[("a.png", png(1)), ("b.png", png(2))], mask=png(3))
    )
    assert base64.b64decode(made.data[0].b64_json) == png(0)
    assert made.usage.input_tokens_details.image_tokens == 600
    assert [name for name, _ in form_of(acme.requests[0])] == ["model", "prompt", "image[]", "image[]", "mask"]


@shows("openai", "images.edit")
async def test_an_edit_streamed(client: Any) -> None:
    asked = {"model": LOCAL, "prompt": "At night.", "image": png(), "size": "64x64", "stream": True}
    events = await all_of(client.images.edit(**asked))
    assert [event.type for event in events] == ["image_edit.completed"]


@shows("openai", "images.generate", refused=True)
async def test_what_is_no_format_of_a_picture(client: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.images.generate(model=LOCAL, prompt="A boat.", output_format="svg"))
    said = refused.value.response.json()
    record_property("refusal", said["description"])
    assert said["param"] == "output_format"
