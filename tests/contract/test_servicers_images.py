"""ImagesService as a typed client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from aistats.gateway.v1 import content_pb2, images_pb2, images_pb2_grpc
from server.domain.events import Completed, GenerationStream, ImagePartial, Produced, Settled
from server.domain.identity import Call
from server.domain.images import ImageRequest, Images, MadeImage
from server.domain.usage import Usage
from server.pipeline.draw import Draw
from server.rpc.images import ImagesServicer
from tests.fakes.image_wire import png
from tests.fakes.rest import ARRIVAL, META, PRICING, STARTED
from tests.fakes.rpc_host import Metadata
from tests.fakes.typed_client import details, refused

Stub = Any
Request = images_pb2.CreateImagesRequest
Edit = images_pb2.EditImagesRequest
PICTURE = MadeImage("aGVsbG8=", "image/png", "A revised one.")
USAGE = Usage(input_tokens=9, output_tokens=3, output_image_tokens=3, units={"output_image": 2}, pricing=PRICING)
asked: list[ImageRequest] = []


async def generate(call: Call, request: Any) -> GenerationStream:
    asked.append(request)
    yield (STARTED,)
    if request.stream:
        yield (ImagePartial(1, 0, "cGFydA==", "image/webp"),)
    yield (Produced(Images((PICTURE, PICTURE), "1024x1024", "high")), Completed())
    yield (Settled(USAGE, META, "default"),)


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return images_pb2_grpc.add_ImagesServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> ImagesServicer:
    return ImagesServicer(Draw(generate))


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return images_pb2_grpc.ImagesServiceStub


def test_pictures_are_bytes(grpc_stub: Stub, as_inference: Metadata) -> None:
    request = Request(
        model="a/b", prompt="A cat.", n=2, size="1024x1024", quality="high", background="opaque", output_format="png",
        output_compression=0, moderation="low", style="vivid", user="u", safety_identifier="s", input_fidelity="low",
        routing=content_pb2.RoutingOptions(only=["p"]), provider_options_json={"p": '{"k": 1}'},
    )  # fmt: skip
    reply = grpc_stub.CreateImages(request, metadata=as_inference)
    assert [(one.data, one.media_type, one.revised_prompt) for one in reply.images] == [
        (b"hello", "image/png", "A revised one.")
    ] * 2
    assert (reply.look.size, reply.look.quality, reply.look.HasField("background")) == ("1024x1024", "high", False)
    assert (reply.usage.output_image_tokens, dict(reply.usage.units)) == (3, {"output_image": 2})
    assert (reply.usage.pricing.total_nanos, reply.meta.provider) == (PRICING.total_nanos, "acme")
    assert abs(reply.created - ARRIVAL.created_at) < 10**9
    said = asked[-1]
    assert (said.n, said.size, said.quality, said.output_format, said.stream) == (2, "1024x1024", "high", "png", False)
    assert {name: bytes(raw) for name, raw in said.passthrough.items()} == {
        "background": b'"opaque"', "output_compression": b"0", "moderation": b'"low"', "style": b'"vivid"',
        "user": b'"u"', "safety_identifier": b'"s"', "input_fidelity": b'"low"',
    }  # fmt: skip
    assert said.routing.only == ("p",)


def test_a_stream_is_partial_pictures_finished_ones_and_the_end(grpc_stub: Stub, as_inference: Metadata) -> None:
    request = Request(model="a/b", prompt="A cat.", partial_images=1)
    partial, first, second, end = grpc_stub.StreamImages(request, metadata=as_inference)
    assert (partial.partial.index, partial.partial.partial, partial.partial.image.data) == (1, 0, b"part")
    assert [(one.image.index, one.image.image.data) for one in (first, second)] == [(0, b"hello"), (1, b"hello")]
    assert (end.finished.usage.total_tokens, end.finished.look.quality) == (12, "high")
    assert asked[-1].partials == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a" * 32_001}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "big"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"background": "red"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"partial_images": 1}, "partial_images"),
        ({"user": "u" * 513}, "user"),
        ({"provider_options_json": {"p": "{"}}, "provider_options_json.p"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_meant_is_named(
    grpc_stub: Stub, as_inference: Metadata, fields: dict[str, Any], param: str
) -> None:
    request = Request(**{"model": "a/b", "prompt": "A cat.", **fields})
    error = refused(grpc_stub.CreateImages, request, as_inference)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[1].metadata["param"] == param


def edit(*parts: Any) -> Any:
    """An edit, message by message."""
    settings = Request(model="a/b", prompt="A cat.", input_fidelity="high")
    return iter([Edit(settings=settings), *(Edit(**part) for part in parts)])


FILE: dict[str, Any] = {"file": images_pb2.ImageFile(filename="a.png")}
MASK = {"file": images_pb2.ImageFile(is_mask=True)}
DATA = {"chunk": png()}


@pytest.mark.parametrize("method", ["EditImages", "StreamImageEdits"])
def test_an_edit_is_its_settings_and_files_in_pieces(grpc_stub: Stub, as_inference: Metadata, method: str) -> None:
    pieces = [{"chunk": png()[start : start + 9]} for start in range(0, len(png()), 9)]
    answer = getattr(grpc_stub, method)(edit(FILE, *pieces, MASK, DATA, FILE, DATA), metadata=as_inference)
    assert len(list(answer) if method == "StreamImageEdits" else answer.images) in (2, 4)
    said = asked[-1]
    assert said.mask is not None
    assert [file.size for file in (*said.images, said.mask)] == [len(png())] * 3
    assert (said.images[0].head, said.images[0].filename) == (png(), "a.png")
    assert (said.parameters, said.stream) == ({"input_fidelity": "input_fidelity"}, method == "StreamImageEdits")


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([], "image"),
        ([DATA], "file"),
        ([MASK, DATA], "image"),
        ([FILE], "image"),
        ([FILE, {"chunk": b"no picture"}], "image"),
        ([FILE, DATA, FILE], "image[1]"),
        ([FILE, DATA, MASK, DATA, MASK, DATA], "mask"),
        ([FILE, DATA, {"settings": Request(model="a/b")}], "settings"),
        ([FILE, DATA] * 17, "image"),
        ([FILE] * 40, "image"),
        ([FILE] + [{"chunk": bytes(3_000_000)}] * 9, "chunk"),
    ],
    ids=("nothing", "no file", "a mask only", "empty", "a text", "the second", "masks", "again", "17", "40", "27 MB"),
)
def test_what_is_wrong_with_files_is_named(
    grpc_stub: Stub, as_inference: Metadata, parts: list[dict[str, Any]], param: str
) -> None:
    error = refused(grpc_stub.EditImages, edit(*parts), as_inference)
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert details(error)[1].metadata["param"] == param


def test_an_edit_begins_with_its_settings(grpc_stub: Stub, as_inference: Metadata) -> None:
    for messages in ([], [Edit(**FILE)], [Edit()]):
        error = refused(grpc_stub.EditImages, iter(messages), as_inference)
        assert details(error)[1].metadata["param"] == "settings"


def test_a_key_for_inference_is_needed(grpc_stub: Stub, as_management: Metadata) -> None:
    request = Request(model="a/b", prompt="A cat.")
    assert refused(grpc_stub.CreateImages, request, ()).code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused(grpc_stub.CreateImages, request, as_management).code() is grpc.StatusCode.PERMISSION_DENIED
