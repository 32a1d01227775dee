"""However a stream of pictures comes in, it comes to the pictures of the whole answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator

from hypothesis import given
from hypothesis import strategies as st

from server.domain.catalog import Provider
from server.domain.events import ImagePartial, ProviderEvent, Started, UsageReported
from server.providers.inline_body import InlineBody
from server.providers.openai_images_decode import ImagesDecoder
from server.transport import SseDecoder
from tests.fakes.image_wire import image_event, image_usage, images_body, picture
from tests.fakes.replies import compact
from tests.fakes.uploads import BytesUpload

PROVIDER = Provider("p", "openai", "https://api.example.com/v1")
NOISE = (
    b": keep-alive\n\n",
    b"event: ping\ndata: {}\n\n",
    b'data: {"type":"image_generation.queued"}\n\n',
    b'data: {"type":"response.image_generation_call.in_progress","data":null}\n\n',
    b"data:\n\n",
)
FAMILIES = st.sampled_from(["image_generation", "image_edit"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, list[int], bytes]:
    """How many pictures, how many partials before each, and the bytes of the stream."""
    partials = draw(st.lists(st.integers(0, 3), min_size=1, max_size=10))
    family, crlf = draw(FAMILIES), draw(st.booleans())
    events: list[bytes] = []
    for number, shown in enumerate(partials):
        for partial in range(shown):
            events += draw(st.lists(st.sampled_from(NOISE), max_size=1))
            told = {"partial_image_index": partial} if draw(st.booleans()) else {}
            events.append(image_event("partial_image", picture(100 + partial), family=family, **told))
        events += draw(st.lists(st.sampled_from(NOISE), max_size=2))
        events.append(image_event("completed", picture(number), family=family, usage=image_usage(1)))
    events += draw(st.lists(st.sampled_from([*NOISE, b"data: [DONE]\n\n"]), max_size=2))
    data = b"".join(events)
    return len(partials), partials, data.replace(b"\n", b"\r\n") if crlf else data


@given(streams(), st.integers(1, 5000))
def test_a_stream_comes_to_the_same_as_a_whole_answer(made: tuple[int, list[int], bytes], piece: int) -> None:
    count, partials, data = made
    streamed, out = ImagesDecoder(PROVIDER, count), list[ProviderEvent]()
    framing = SseDecoder()
    for start in range(0, len(data), piece):
        for event in framing.feed(data[start : start + piece]):
            streamed.feed(event.event, event.data, out)
    for event in framing.finish():
        streamed.feed(event.event, event.data, out)
    streamed.finish(out)

    whole, told = ImagesDecoder(PROVIDER, count), list[ProviderEvent]()
    whole.whole(compact(images_body(*range(count))), told)
    assert streamed.pictures == whole.pictures
    assert streamed.chosen == whole.chosen
    assert streamed.done
    assert isinstance(out[0], Started)
    assert [(event.index, event.partial) for event in out if isinstance(event, ImagePartial)] == [
        (index, partial) for index, shown in enumerate(partials) for partial in range(shown)
    ]
    used = [event.usage for event in out if isinstance(event, UsageReported)]
    assert used[-1].output_image_tokens == 1000 * count


class Torn(BytesUpload):
    """Read in pieces of the given sizes."""

    sizes: list[int]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        start = 0
        for size in self.sizes:
            yield self.data[start : start + size]
            start += size
        yield self.data[start:]


@given(st.lists(st.binary(max_size=200), max_size=3), st.lists(st.integers(0, 7), max_size=20))
def test_files_in_json_are_whole_however_they_are_read(files: list[bytes], sizes: list[int]) -> None:
    parts: list[bytes | Torn] = [b'{"files":[""']
    for data in files:
        upload = Torn(data)
        upload.sizes = sizes
        parts += [b',"', upload, b'"']
    body = InlineBody([*parts, b"]}"])

    async def read() -> bytes:
        return b"".join([piece async for piece in body.pieces()])

    sent = asyncio.run(read())
    assert len(sent) == body.size
    assert json.loads(sent)["files"] == ["", *(base64.b64encode(data).decode() for data in files)]
