"""Jobs of videos of the embedded server: what is made, what is told meanwhile, and what outlives the process."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from av.video.stream import VideoStream
from openai import OpenAI
from PIL import Image

from server.local_media import VIDEO_MODEL
from server.local_media.film import FRAMES_A_SECOND
from tests.integration.local_media_stage import PATIENCE_S, MediaServer, media_server, picture

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
"""The SDK says so of OpenAI's own; the shape is that of others too."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaServer]:
    with media_server(tmp_path_factory.mktemp("media")) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: MediaServer) -> Iterator[OpenAI]:
    with server.sdk() as found:
        yield found


def made(client: OpenAI, id_: str) -> Any:
    """The job when it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while (job := client.videos.retrieve(id_)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job


def create(client: OpenAI, **changes: Any) -> Any:
    extra = changes.pop("extra_body", None)
    asked = {"model": VIDEO_MODEL, "prompt": "A cat plays the piano", "seconds": "1", "size": "320x180", **changes}
    return client.videos.create(**asked, extra_body=extra)


def frames(film: bytes) -> tuple[Any, list[Image.Image]]:
    with av.open(io.BytesIO(film)) as container:
        stream = container.streams.video[0]
        assert isinstance(stream, VideoStream)
        facts = (stream.codec_context.name, stream.codec_context.pix_fmt, stream.width, stream.height)
        return (*facts, container.duration), [frame.to_image() for frame in container.decode(stream)]


@pytest.mark.parametrize(("size", "seconds"), [("320x180", 1), ("720x1280", 2), ("66x64", 1)])
def test_a_film_has_the_size_and_length_that_was_asked_for(client: OpenAI, size: str, seconds: int) -> None:
    job = create(client, size=size, seconds=str(seconds))
    assert (job.object, job.status, job.progress, job.model) == ("video", "queued", 0, VIDEO_MODEL)
    job = made(client, job.id)
    assert (job.status, job.progress, job.size, job.seconds) == ("completed", 100, size, str(seconds))
    assert job.created_at <= job.completed_at < job.expires_at
    film = client.videos.download_content(job.id).content
    facts, pictures = frames(film)
    width, height = map(int, size.split("x"))
    assert facts == ("h264", "yuv420p", width, height, seconds * av.time_base)
    assert len(pictures) == seconds * FRAMES_A_SECOND
    assert pictures[0].tobytes() != pictures[-1].tobytes()
    assert film.index(b"moov") < film.index(b"mdat")


@pytest.fixture(scope="module")
def job(client: OpenAI) -> Any:
    reference = ("photo.png", picture((320, 180)), "image/png")
    created = create(client, prompt="Over a photo", input_reference=reference, extra_body={"seed": 3})
    return made(client, created.id)


def test_a_film_may_be_over_a_picture(client: OpenAI, job: Any) -> None:
    _, pictures = frames(client.videos.download_content(job.id).content)
    pixel = pictures[0].getpixel((4, 90))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 150
    assert pixel[1] < 80


def test_a_picture_within_json_is_the_same(client: OpenAI, server: MediaServer) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture()).decode()
    body = {"prompt": "x", "seconds": 1, "size": "128x72", "input_reference": {"image_url": url}}
    status, _, told = server.ask("POST", "/v1/videos", json.dumps(body).encode())
    assert status == 200
    assert made(client, json.loads(told)["id"]).status == "completed"


def test_a_thumbnail_and_a_sheet_of_pictures(server: MediaServer, job: Any) -> None:
    for variant, media_type, size in (
        ("thumbnail", "image/webp", (320, 180)),
        ("spritesheet", "image/jpeg", (1280, 540)),
    ):
        status, headers, data = server.ask("GET", f"/v1/videos/{job.id}/content?variant={variant}")
        assert (status, headers["content-type"]) == (200, media_type)
        assert Image.open(io.BytesIO(data)).size == size


def test_a_part_of_the_content_and_its_length_alone(server: MediaServer, job: Any) -> None:
    path = f"/v1/videos/{job.id}/content"
    _, headers, whole = server.ask("GET", path)
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    status, headers, part = server.ask("GET", path, headers={"range": "bytes=10-19"})
    assert (status, part, headers["content-range"]) == (206, whole[10:20], f"bytes 10-19/{len(whole)}")
    status, headers, part = server.ask("HEAD", path)
    assert (status, part, headers["content-length"]) == (200, b"", str(len(whole)))
    assert server.ask("GET", path, headers={"range": f"bytes={len(whole)}-"})[0] == 416


def test_a_remix_is_another_job_of_the_same_kind(client: OpenAI, job: Any) -> None:
    remix = made(client, client.videos.remix(job.id, prompt="A dog").id)
    assert (remix.status, remix.prompt, remix.size) == ("completed", "A dog", job.size)
    assert remix.remixed_from_video_id == job.id != remix.id


def test_a_key_names_one_job(client: OpenAI) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (create(client, size="128x72", extra_headers=headers) for _ in range(2))
    assert first.id == second.id
    assert client.videos.delete(made(client, first.id).id).deleted
    again = create(client, size="128x72", extra_headers=headers)
    assert again.id != first.id


def test_jobs_are_listed_a_page_at_a_time(client: OpenAI) -> None:
    jobs = [create(client, size="64x64").id for _ in range(3)]
    page = client.videos.list(limit=2)
    assert [job.id for job in page.data] == jobs[:0:-1]
    assert page.has_more
    assert [job.id for job in client.videos.list(limit=1, after=jobs[1]).data] == jobs[:1]
    assert client.videos.list(order="asc", after=jobs[1]).data[0].id == jobs[2]
    for id_ in jobs:
        client.videos.delete(id_)


def test_a_job_can_be_cancelled_and_deleted(server: MediaServer, client: OpenAI) -> None:
    long, waiting = create(client, seconds="12", size="1920x1080").id, create(client).id
    for id_ in (waiting, long):
        status, _, told = server.ask("POST", f"/v1/videos/{id_}/cancel")
        assert (status, json.loads(told)["status"]) == (200, "cancelled")
    assert client.videos.retrieve(long).status == "cancelled"
    assert server.ask("GET", f"/v1/videos/{long}/content")[0] == 409
    assert client.videos.delete(long).deleted
    assert server.ask("GET", f"/v1/videos/{long}")[0] == 404
    assert made(client, create(client, size="64x64").id).status == "completed"


def test_a_reference_that_is_no_picture_fails_the_job(client: OpenAI) -> None:
    job = made(client, create(client, input_reference=("x.png", b"nothing", "image/png")).id)
    assert job.status == "failed"
    assert (job.error.code, job.completed_at) == ("invalid_image", None)


REFUSED: dict[str, tuple[Any, str, str | None]] = {
    "seconds": ({"prompt": "x", "seconds": "13"}, "invalid_value", "seconds"),
    "no seconds": ({"prompt": "x", "seconds": "²"}, "invalid_value", "seconds"),
    "an odd size": ({"prompt": "x", "size": "101x100"}, "invalid_size", "size"),
    "a large size": ({"prompt": "x", "size": "1920x1920"}, "invalid_size", "size"),
    "an address": ({"prompt": "x", "input_reference": "http://127.0.0.1/x.png"}, "invalid_value", "input_reference"),
    "no prompt": ({}, "missing_required_parameter", "prompt"),
    "a misspelling": ({"prompt": "x", "secs": 4}, "unknown_parameter", "secs"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_made_is_refused_by_name(server: MediaServer, case: str) -> None:
    body, code, param = REFUSED[case]
    assert server.refusal("/v1/videos", body) == (400, code, param)


@pytest.mark.parametrize("id_", ["video_0", "..", "%2e%2e%2fspool", "job.json"])
def test_other_ids_are_none(server: MediaServer, id_: str) -> None:
    assert server.ask("GET", f"/v1/videos/{id_}/content")[0] == 404


def test_jobs_outlive_the_process(tmp_path: Path) -> None:
    with media_server(tmp_path) as server, server.sdk() as client:
        done = made(client, create(client, size="128x72").id)
        film = client.videos.download_content(done.id).content
        running = create(client, seconds="12", size="1280x720")
        queued = create(client, size="128x72", extra_body={"seed": 5})
        deadline = time.monotonic() + PATIENCE_S
        while client.videos.retrieve(running.id).progress == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        server.kill()
        (tmp_path / "videos" / "video_torn").mkdir()
        server.start()
        assert client.videos.retrieve(done.id) == done
        assert client.videos.download_content(done.id).content == film
        assert client.videos.retrieve(running.id).status in ("queued", "in_progress")
        assert not (tmp_path / "videos" / "video_torn").exists()
        assert server.ask("POST", f"/v1/videos/{running.id}/cancel")[0] == 200
        assert made(client, queued.id).status == "completed"
        assert not list((tmp_path / "videos" / queued.id).glob("*.tmp"))
