"""`openai`: videos, by the synchronous and the asynchronous client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.conformance.both import all_of, got
from tests.e2e.conformance.cases import shows
from tests.fakes.films import film

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

LOCAL = "local/test-card-video:free"
PATIENCE: dict[str, Any] = {"poll_interval_ms": 300}


async def made(client: Any, **asked: Any) -> Any:
    return await got(client.videos.create_and_poll(model=LOCAL, prompt="A boat.", size="128x96", **PATIENCE, **asked))


@shows("openai", "videos.create_and_poll", "videos.download_content", "videos.retrieve", "videos.list", "videos.delete")
async def test_from_the_prompt_to_the_film_and_away_again(client: Any) -> None:
    video = await made(client, seconds="2")
    assert (video.status, video.seconds, video.size, video.error) == ("completed", "2", "128x96", None)
    length, *shape = film((await got(client.videos.download_content(video.id))).content)
    assert (round(length), shape) == (2, [128, 96, "h264"])
    assert await got(client.videos.retrieve(video.id)) == video
    assert video.id in [one.id for one in await all_of(client.videos.list(limit=2))]
    assert (await got(client.videos.delete(video.id))).deleted
    with pytest.raises(openai.NotFoundError):
        await got(client.videos.retrieve(video.id))


@shows("openai", "videos.create", "videos.poll", "videos.remix")
async def test_a_picture_to_begin_with_and_a_remix(client: Any) -> None:
    first = await made(client, seconds="1")
    picture = (await got(client.videos.download_content(first.id, variant="thumbnail"))).content
    led = await got(
        client.videos.create(
            model=LOCAL, prompt="On.", seconds="1", size="128x96", input_reference=("a.webp", picture, "image/webp")
        )
    )
    assert (await got(client.videos.poll(led.id, poll_interval_ms=300))).status == "completed"
    remixed = await got(client.videos.remix(led.id, prompt="At night."))
    assert remixed.remixed_from_video_id == led.id
    assert (await got(client.videos.poll(remixed.id, poll_interval_ms=300))).status == "completed"


@shows("openai", "videos.create", refused=True)
async def test_a_size_that_is_none(client: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.videos.create(model=LOCAL, prompt="A boat.", size="huge"))
    said = refused.value.response.json()
    record_property("refusal", said["description"])
    assert said["param"] == "size"
