"""Videos through the whole gateway, made by the embedded provider, asked for over REST and by typed clients."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from aistats.gateway.v1 import videos_pb2, videos_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.fakes.films import film

MODEL = "local/test-card-video:free"
SMALL = {"model": MODEL, "prompt": "A cinematic sunrise over a mountain lake", "seconds": 1, "size": "320x180"}
PATIENCE_S = 60.0
DAY_S = 86_400
BASES = ("/v1/videos", "/v1/video/generation", "/v1/video/generations")


def until_done(gateway: Gateway, video_id: str, **options: Any) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job: dict[str, Any] = gateway.get(f"/v1/videos/{video_id}", **options).json()
        if job["status"] not in ("queued", "in_progress"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


@pytest.fixture(scope="module")
def made(gateway: Gateway) -> dict[str, Any]:
    """A video that is complete."""
    reply = gateway.post("/v1/videos", SMALL)
    assert reply.status_code == httpx.codes.ACCEPTED, reply.text
    return until_done(gateway, reply.json()["id"])


@pytest.fixture(scope="module")
def stub(gateway: Gateway) -> Iterator[videos_pb2_grpc.VideosServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc_port}") as channel:
        yield videos_pb2_grpc.VideosServiceStub(channel)


def test_a_job_comes_to_a_video_of_the_length_and_size_that_were_asked_for(
    gateway: Gateway, made: dict[str, Any]
) -> None:
    assert (made["status"], made["progress"], made["error"]) == ("completed", 100, None)
    assert (made["seconds"], made["size"], made["provider"]) == ("1", "320x180", "local-media")
    assert made["billing"] == {"state": "settled", "reserved_nanos": 0, "total_nanos": 0}
    assert made["polling_url"] == f"/v1/videos/{made['id']}"
    content = gateway.get(made["content_url"])
    assert content.headers["content-type"] == "video/mp4"
    assert int(content.headers["content-length"]) == len(content.content)
    length, *shape = film(content.content)
    assert (round(length, 1), shape) == (1.0, [320, 180, "h264"])
    record = gateway.get(f"/v1/generation/{made['id']}").json()
    assert (record["endpoint"], record["success"], record["model_id"]) == ("video", True, MODEL)


def test_parts_of_it_and_its_headers_alone(gateway: Gateway, made: dict[str, Any]) -> None:
    url = made["content_url"]
    whole = gateway.get(url).content
    for asked, start, end in (("bytes=0-99", 0, 100), (f"bytes={len(whole) - 10}-", len(whole) - 10, len(whole))):
        part = gateway.get(url, headers=gateway.headers | {"range": asked})
        assert (part.status_code, part.content) == (206, whole[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole)}"
    outside = gateway.get(url, headers=gateway.headers | {"range": f"bytes={len(whole)}-"})
    assert (outside.status_code, outside.content) == (416, b"")
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {gateway.key}"}) as client:
        head = client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert (head.headers["content-type"], head.headers["content-length"]) == ("video/mp4", str(len(whole)))


@pytest.mark.parametrize(("variant", "kind"), [("thumbnail", "image/"), ("spritesheet", "image/")])
def test_other_variants(gateway: Gateway, made: dict[str, Any], variant: str, kind: str) -> None:
    reply = gateway.get(f"{made['content_url']}?variant={variant}")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith(kind)
    refused = gateway.get(f"{made['content_url']}?variant=smell")
    assert (refused.status_code, refused.json()["param"]) == (400, "variant")


def test_what_is_downloaded_is_what_is_kept(gateway: Gateway, made: dict[str, Any]) -> None:
    assert made["expires_at"] == made["completed_at"] + 7 * DAY_S
    directory, deadline = gateway.directory / "data" / "content", time.monotonic() + PATIENCE_S
    while not (paths := list(directory.glob(f"{made['id'].removeprefix('video_')}-video-*[0-9]"))):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert directory.stat().st_mode & 0o077 == 0
    data = paths[0].read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    while (whole := gateway.get(made["content_url"])).headers.get("etag") != etag:
        assert time.monotonic() < deadline, "the object is there a moment before its row says so"
        time.sleep(0.2)
    assert whole.content == data


def test_before_it_is_complete_there_is_nothing_to_download(gateway: Gateway) -> None:
    job = gateway.post("/v1/videos", SMALL | {"seconds": 12, "size": "1280x720"}).json()
    early = gateway.get(f"/v1/videos/{job['id']}/content")
    assert (early.status_code, early.json()["reason"]) == (409, "not_ready")
    ended = gateway.post(f"/v1/videos/{job['id']}/cancel", {}).json()
    assert (ended["status"], ended["billing"]["state"]) == ("cancelled", "void")
    assert gateway.post(f"/v1/videos/{job['id']}/cancel", {}).json() == ended
    assert gateway.get(f"/v1/videos/{job['id']}/content").status_code == 404


@pytest.mark.parametrize("base", BASES)
def test_every_address_of_the_same(gateway: Gateway, made: dict[str, Any], base: str) -> None:
    assert gateway.get(f"{base}/{made['id']}").json() == made
    assert gateway.get(f"{base}?limit=1").json()["object"] == "list"
    [told] = [one["providers"] for one in gateway.get(f"{base}/models").json()["data"] if one["id"] == MODEL]
    assert {"resolution", "aspect_ratio", "seconds", "seed", "remix"} <= set(told[0]["params"])
    part = gateway.get(f"{base}/{made['id']}/content", headers=gateway.headers | {"range": "bytes=0-9"})
    assert part.status_code == 206
    refused = gateway.post(base, {"model": MODEL})
    assert (refused.status_code, refused.json()["param"]) == (400, "prompt")


def test_typed_clients_watch_and_download(
    stub: videos_pb2_grpc.VideosServiceStub, metadata: list[tuple[str, str]], made: dict[str, Any]
) -> None:
    asked = videos_pb2.CreateVideoRequest(model=MODEL, prompt="a boat", seconds=1, size="320x180")
    video = stub.CreateVideo(asked, metadata=metadata).video
    seen = [one.video for one in stub.WatchVideo(videos_pb2.WatchVideoRequest(video_id=video.id), metadata=metadata)]
    assert seen[-1].status == videos_pb2.VIDEO_STATUS_COMPLETED
    assert [one.progress for one in seen] == sorted(one.progress for one in seen)
    assert seen[-1].billing.state == videos_pb2.BILLING_STATE_SETTLED
    head, *pieces = stub.DownloadVideo(videos_pb2.DownloadVideoRequest(video_id=video.id), metadata=metadata)
    data = b"".join(piece.data for piece in pieces)
    assert (head.head.content_type, head.head.size) == ("video/mp4", len(data))
    assert film(data)[1:3] == (320, 180)
    page = stub.ListVideos(videos_pb2.ListVideosRequest(limit=1), metadata=metadata)
    assert page.next_cursor
    remix = videos_pb2.RemixVideoRequest(video_id=made["id"], prompt="again")
    assert stub.RemixVideo(remix, metadata=metadata).video.remixed_from_video_id == made["id"]
    models = stub.ListVideoModels(videos_pb2.ListVideoModelsRequest(), metadata=metadata).models
    [offer] = next(model.offers for model in models if model.id == MODEL)
    assert {"resolution", "aspect_ratio", "seconds", "seed", "remix"} <= set(offer.params)
    stub.DeleteVideo(videos_pb2.DeleteVideoRequest(video_id=video.id), metadata=metadata)
    with pytest.raises(grpc.RpcError) as gone:
        stub.GetVideo(videos_pb2.GetVideoRequest(video_id=video.id), metadata=metadata)
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_to_another_team_it_does_not_exist(gateway: Gateway, made: dict[str, Any]) -> None:
    other = Purse(gateway, None)
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("GET", "/content"), ("HEAD", "/content"), ("POST", "/cancel"), ("POST", "/remix"),
    ):  # fmt: skip
        url = f"{gateway.url}/v1/videos/{made['id']}{path}"
        body = {"prompt": "mine"} if path == "/remix" else None
        reply = httpx.request(method, url, headers=other.headers, json=body)
        assert reply.status_code == 404, (method, path, reply.text)
    assert other.get("/v1/videos").json()["data"] == []
    for key in ("", "Bearer none"):
        refused = httpx.head(f"{gateway.url}/v1/videos/{made['id']}/content", headers={"authorization": key})
        assert (refused.status_code, refused.content) == (401, b"")
    assert gateway.get(f"/v1/videos/{made['id']}").json() == made


def test_a_key_makes_two_requests_one_job(gateway: Gateway) -> None:
    purse = Purse(gateway, None)
    headers = {"idempotency-key": "film-1"}
    first = purse.post("/v1/videos", SMALL, headers=headers)
    again = purse.post("/v1/videos", SMALL, headers=headers)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
    assert len(purse.get("/v1/videos").json()["data"]) == 1
    changed = purse.post("/v1/videos", SMALL | {"seconds": 2}, headers=headers)
    assert changed.status_code == 409


def test_pages_go_on_where_the_last_ended(gateway: Gateway, made: dict[str, Any]) -> None:
    purse = Purse(gateway, None)
    ids = [purse.post("/v1/videos", SMALL).json()["id"] for _ in range(3)]
    page = purse.get("/v1/videos?limit=2").json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    rest = purse.get(f"/v1/videos?limit=2&after={page['last_id']}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    oldest = purse.get("/v1/videos?order=asc&limit=1").json()
    assert oldest["first_id"] == ids[0]
    for query, param in (("limit=0", "limit"), ("order=best", "order"), ("after=x", "after"), ("colour=red", "colour")):
        refused = purse.get(f"/v1/videos?{query}")
        assert (refused.status_code, refused.json()["param"]) == (400, param)
