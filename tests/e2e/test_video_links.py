"""Signed addresses of videos through the whole gateway: as browsers, `curl -L` and other pullers ask for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import grpc
import httpx
import pytest

from aistats.gateway.v1 import videos_pb2, videos_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.purse import Purse
from tests.e2e.test_videos import BASES, SMALL, until_done
from tests.fakes.contract import check_error, told


@pytest.fixture(scope="module")
def made(gateway: Gateway) -> dict[str, Any]:
    return until_done(gateway, gateway.post("/v1/videos", SMALL).json()["id"])


@pytest.fixture
def anybody() -> Iterator[httpx.Client]:
    """Who has no key."""
    with httpx.Client(timeout=60) as client:
        yield client


def asked(gateway: Gateway, made: dict[str, Any], **wish: Any) -> dict[str, Any]:
    reply = gateway.post(f"/v1/videos/{made['id']}/download_url", wish)
    assert reply.status_code == 200, reply.text
    link: dict[str, Any] = reply.json()
    return link


def changed(url: str, **changes: str | None) -> str:
    parts = urlsplit(url)
    query = {name: value for name, value in (dict(parse_qsl(parts.query)) | changes).items() if value is not None}
    return parts._replace(query=urlencode(query)).geturl()


def test_it_is_downloaded_without_a_key_whole_in_parts_and_by_its_headers(
    gateway: Gateway, made: dict[str, Any], anybody: httpx.Client
) -> None:
    link = asked(gateway, made)
    url = link["url"]
    assert link["download_url"] == url
    assert url.startswith(f"{gateway.url}/v1/videos/{made['id']}/download?")
    assert 3590 <= link["expires_at"] - time.time() <= 3600
    whole = anybody.get(url)
    assert (whole.status_code, whole.content) == (200, gateway.get(made["content_url"]).content)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-disposition"] == f'inline; filename="{made["id"]}.mp4"'
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-security-policy"] == "sandbox"
    part = anybody.get(url, headers={"range": "bytes=5-9", "origin": "https://app.example"})
    assert (part.status_code, part.content) == (206, whole.content[5:10])
    assert part.headers["access-control-allow-origin"] == "https://app.example"
    head = anybody.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert anybody.get(url, headers={"range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert anybody.get(url, headers={"authorization": "Bearer aistats_v1_sk_nobody_nothing"}).status_code == 200


def test_what_is_wished_for_is_in_it(gateway: Gateway, made: dict[str, Any], anybody: httpx.Client) -> None:
    link = asked(gateway, made, variant="thumbnail", expires_in_seconds=60, disposition="attachment", index=0)
    assert link["variant"] == "thumbnail"
    assert 50 <= link["expires_at"] - time.time() <= 60
    picture = anybody.get(link["url"])
    assert picture.headers["content-type"].startswith("image/")
    assert picture.headers["content-disposition"].startswith(f'attachment; filename="{made["id"]}.')
    assert 40 <= asked(gateway, made, ttl_seconds=50)["expires_at"] - time.time() <= 50
    for wish, param in (
        ({"variant": "smell"}, "variant"),
        ({"disposition": "hidden"}, "disposition"),
        ({"expires_in_seconds": 0}, "expires_in_seconds"),
        ({"ttl_seconds": 86_401}, "ttl_seconds"),
        ({"ttl_seconds": 1, "expires_in_seconds": 1}, "ttl_seconds"),
        ({"index": 1}, "index"),
        ({"colour": "red"}, "colour"),
    ):
        refused = gateway.post(f"/v1/videos/{made['id']}/download_url", wish)
        assert (refused.status_code, refused.json()["param"]) == (400, param)


@pytest.mark.parametrize("base", BASES)
def test_every_address_makes_the_same(gateway: Gateway, made: dict[str, Any], anybody: httpx.Client, base: str) -> None:
    bare = anybody.post(f"{gateway.url}{base}/{made['id']}/download_url", headers=gateway.headers)
    assert bare.status_code == 200, bare.text
    assert anybody.head(bare.json()["url"]).status_code == 200
    for method in ("GET", "DELETE"):
        refused = anybody.request(method, f"{gateway.url}{base}/{made['id']}/download_url", headers=gateway.headers)
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    refused = anybody.post(bare.json()["url"])
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_whatever_is_changed_is_refused_in_one_way(
    gateway: Gateway, made: dict[str, Any], anybody: httpx.Client
) -> None:
    url, other = asked(gateway, made)["url"], asked(gateway, made, variant="thumbnail")["url"]
    signature = dict(parse_qsl(urlsplit(url).query))["signature"]
    another = f"video_{int(made['id'][6:], 16) ^ 1:032x}"
    spoiled = [
        url.partition("?")[0],
        url.replace(made["id"], another),
        url.replace(made["id"], made["id"].removeprefix("video_")),
        changed(url, signature=None),
        changed(url, signature=signature[::-1]),
        changed(url, signature="A" * 20_000),
        changed(url, signature=dict(parse_qsl(urlsplit(other).query))["signature"]),
        changed(url, variant="thumbnail"),
        changed(url, disposition="attachment"),
        changed(url, expires="9999999999"),
        changed(url, expires="1"),
        f"{url}&signature={signature}",
        f"{url}&expires=9999999999",
    ]
    logged = len(gateway.log)
    said = set()
    for address in spoiled:
        for headers in ({}, gateway.headers):
            reply = anybody.get(address, headers=headers)
            assert check_error(told(reply))["reason"] == "resource_not_found", address
            said.add((reply.status_code, reply.json()["description"]))
        assert anybody.head(address).status_code == 404
    assert len(said) == 1
    assert anybody.get(url).status_code == 200
    deadline = time.monotonic() + 30
    while f'"path":"/v1/videos/{made["id"]}/download"' not in gateway.log[logged:]:
        assert time.monotonic() < deadline, gateway.log[logged:]
        time.sleep(0.1)
    assert signature not in gateway.log[logged:]


def test_when_its_time_is_over_it_leads_nowhere(gateway: Gateway, made: dict[str, Any], anybody: httpx.Client) -> None:
    url = asked(gateway, made, expires_in_seconds=1)["url"]
    deadline = time.monotonic() + 30
    while anybody.head(url).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert check_error(told(anybody.get(url)))["reason"] == "resource_not_found"


def test_only_ones_own_and_only_until_it_is_deleted(gateway: Gateway, anybody: httpx.Client) -> None:
    owner, other = Purse(gateway, None), Purse(gateway, None)
    video = until_done(gateway, owner.post("/v1/videos", SMALL).json()["id"], headers=owner.headers)
    path = f"/v1/videos/{video['id']}/download_url"
    assert other.post(path, {}).status_code == 404
    assert anybody.post(f"{gateway.url}{path}").status_code == 401
    url = owner.post(path, {}).json()["url"]
    assert owner.team not in url
    assert anybody.get(url).status_code == 200
    assert owner.send("DELETE", f"/v1/videos/{video['id']}").status_code == 200
    assert anybody.get(url).status_code == 404
    assert owner.post(path, {}).status_code == 404


def test_where_it_leads_to_is_not_for_strangers_to_say(gateway: Gateway, made: dict[str, Any]) -> None:
    lies = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-gw-host": "evil.example"}
    reply = gateway.post(f"/v1/videos/{made['id']}/download_url", {}, headers=gateway.headers | lies)
    assert reply.json()["url"].startswith(f"{gateway.url}/v1/")


def test_typed_clients_have_it_too(
    gateway: Gateway,
    channel: grpc.Channel,
    metadata: list[tuple[str, str]],
    made: dict[str, Any],
    anybody: httpx.Client,
) -> None:
    stub = videos_pb2_grpc.VideosServiceStub(channel)
    request = videos_pb2.CreateVideoDownloadUrlRequest(video_id=made["id"], expires_in_seconds=60)
    link = stub.CreateVideoDownloadUrl(request, metadata=metadata)
    assert (link.variant, link.url.partition("/v1/")[0]) == ("video", gateway.url)
    assert anybody.get(link.url).status_code == 200
    with pytest.raises(grpc.RpcError) as refused:
        stub.CreateVideoDownloadUrl(
            videos_pb2.CreateVideoDownloadUrlRequest(video_id=made["id"], expires_in_seconds=0), metadata=metadata
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
