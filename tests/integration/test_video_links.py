"""Signed addresses: what makes one, what spoils one, and who can make them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from sqlalchemy import delete

from server.domain.errors import GatewayError, Reason
from server.domain.video import Video
from server.domain.video_links import DEFAULT_LIFETIME_S, MAX_LIFETIME_S, GivenLink, Link, LinkWish
from server.pipeline.video_links import HOST_HEADER, SCHEME_HEADER, VideoLinks
from server.storage.deployment_secrets import SECRET_BYTES, SqlSecrets
from server.storage.tables import deployment_secrets
from tests.fakes.video_upstream import Media, Plan
from tests.integration.databases import ManualClock, migrated
from tests.integration.ledger_world import rows
from tests.integration.video_world import Studio, Worker, film, studio_with

BASE = "https://films.example"


@pytest.fixture
def clock() -> ManualClock:
    """Some hours before the stand-in's content expires."""
    return ManualClock(1_794_990_000.0)


@pytest.fixture
async def studio(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Studio]:
    async with migrated(sqlite_url) as database, studio_with(database, clock, 1) as opened:
        yield opened


def links(studio: Studio, worker: Worker, *, public_url: str | None = BASE) -> VideoLinks:
    """Those of a gateway that has just started."""
    secrets = SqlSecrets(studio.database, studio.clock)
    return VideoLinks(
        worker.videos, worker.store, secrets, studio.clock, public_url=public_url, local_url="http://127.0.0.1:8080"
    )


async def made(studio: Studio, worker: Worker, **plan: Any) -> Video:
    studio.upstreams[0].plan = Plan(media=Media(size=1000), **plan)
    return await studio.wait(worker, await worker.videos.create(studio.call(), film()))


def given(link: Link, **changes: Any) -> GivenLink:
    parts = urlsplit(link.url)
    found = re.fullmatch(r"/v1/videos/([^/]+)/download", parts.path)
    assert found is not None
    said: dict[str, Any] = {"video_id": found[1], **dict(parse_qsl(parts.query))}
    return GivenLink(**{**said, **changes})


async def refused(links: VideoLinks, link: GivenLink) -> str:
    with pytest.raises(GatewayError) as caught:
        await links.principal(link)
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
    return caught.value.description


async def test_who_has_it_acts_for_the_team_and_with_no_right_but_that(studio: Studio) -> None:
    worker = studio.worker("one")
    video, ours = await made(studio, worker), links(studio, worker)
    link = await ours.make(studio.principal(), video.id, LinkWish(), {})
    assert link.url.startswith(f"{BASE}/v1/videos/{video.id}/download?")
    assert link.expires_at == studio.clock.now() + DEFAULT_LIFETIME_S
    found = await ours.principal(given(link))
    assert (found.team_id, found.key_id, found.scopes) == ("team", "", frozenset())
    assert "team" not in link.url
    async with await worker.videos.content(found, video.id) as content:
        assert content.status == 200


async def test_whatever_is_changed_it_leads_nowhere(studio: Studio) -> None:
    worker = studio.worker("one")
    video, other, ours = await made(studio, worker), await made(studio, worker), links(studio, worker)
    link = await ours.make(studio.principal(), video.id, LinkWish(), {})
    good = given(link)
    assert good.signature is not None
    assert good.expires is not None
    changes: list[Mapping[str, Any]] = [
        {"video_id": other.id},
        {"video_id": video.suffix},
        {"video_id": f"gen_{video.suffix}"},
        {"video_id": video.id.upper()},
        {"video_id": f"{video.id}\n"},
        {"video_id": ""},
        {"variant": "thumbnail"},
        {"variant": None},
        {"variant": "smell"},
        {"disposition": "attachment"},
        {"disposition": "attachment\r\nset-cookie: a=b"},
        {"expires": str(int(good.expires) + 1)},
        {"expires": f"0{good.expires}"},
        {"expires": f"+{good.expires}"},
        {"expires": f"{good.expires}.0"},
        {"expires": f" {good.expires}"},
        {"expires": "٣" * 10},
        {"expires": "9" * 5000},
        {"expires": "-1"},
        {"expires": None},
        {"signature": None},
        {"signature": ""},
        {"signature": good.signature[:-1]},
        {"signature": f"{good.signature}="},
        {"signature": good.signature.swapcase()},
        {"signature": "é" * 43},
        {"signature": "A" * 30_000},
    ]
    said = {await refused(ours, given(link, **change)) for change in changes}
    assert (await ours.principal(good)).team_id == "team"
    studio.clock.advance(DEFAULT_LIFETIME_S)
    said.add(await refused(ours, good))
    assert len(said) == 1


async def test_it_goes_with_the_video(studio: Studio) -> None:
    worker = studio.worker("one")
    video, ours = await made(studio, worker), links(studio, worker)
    link = given(await ours.make(studio.principal(), video.id, LinkWish(), {}))
    await worker.videos.delete(studio.principal(), video.id)
    await refused(ours, link)


async def test_no_longer_than_the_content(studio: Studio) -> None:
    worker = studio.worker("one")
    video, ours = await made(studio, worker), links(studio, worker)
    assert video.expires_at is not None
    studio.clock.seconds = video.expires_at - 10.0
    link = await ours.make(studio.principal(), video.id, LinkWish(lifetime_s=MAX_LIFETIME_S), {})
    assert link.expires_at == video.expires_at
    studio.clock.advance(10)
    with pytest.raises(GatewayError, match="expired"):
        await ours.make(studio.principal(), video.id, LinkWish(), {})


async def test_only_of_what_is_complete_and_ones_own(studio: Studio) -> None:
    worker = studio.worker("one")
    ours = links(studio, worker)
    studio.upstreams[0].plan = Plan(polls=50)
    video = await worker.videos.create(studio.call(), film())
    with pytest.raises(GatewayError) as early:
        await ours.make(studio.principal(), video.id, LinkWish(), {})
    assert early.value.reason is Reason.NOT_READY
    await worker.videos.cancel(studio.principal(), video.id)
    for principal in (studio.principal(), studio.principal("other")):
        with pytest.raises(GatewayError) as none:
            await ours.make(principal, video.id, LinkWish(), {})
        assert none.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_all_gateways_on_a_database_know_the_secret(database_url: str, clock: ManualClock) -> None:
    async with migrated(database_url) as database, studio_with(database, clock, 1) as studio:
        one, two = studio.worker("one"), studio.worker("two")
        first, second = SqlSecrets(database, clock), SqlSecrets(database, clock)
        found = await asyncio.gather(*(secrets.get("video_links") for secrets in (first, second, first, second)))
        assert len({*found}) == 1
        assert len(found[0]) == SECRET_BYTES
        assert await first.get("another") != found[0]
        video = await made(studio, one)
        link = given(await links(studio, one).make(studio.principal(), video.id, LinkWish(), {}))
        assert (await links(studio, two).principal(link)).team_id == "team"
        assert len(await rows(database, deployment_secrets)) == 2
        await database.write(lambda connection: connection.execute(delete(deployment_secrets)))
        await refused(links(studio, two), link)


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({HOST_HEADER: "gateway.example:8443", SCHEME_HEADER: "https"}, "https://gateway.example:8443"),
        ({HOST_HEADER: "[::1]:8080", SCHEME_HEADER: "http"}, "http://[::1]:8080"),
        ({HOST_HEADER: "a@evil.example", SCHEME_HEADER: "http"}, "http://127.0.0.1:8080"),
        ({HOST_HEADER: "a/b", SCHEME_HEADER: "http"}, "http://127.0.0.1:8080"),
        ({HOST_HEADER: "a.example", SCHEME_HEADER: "javascript"}, "http://127.0.0.1:8080"),
        ({"x-forwarded-host": "evil.example", SCHEME_HEADER: "https"}, "http://127.0.0.1:8080"),
        ({}, "http://127.0.0.1:8080"),
    ],
    ids=["host", "IPv6", "user", "path", "scheme", "forwarded", "nothing"],
)
async def test_it_leads_to_where_it_was_asked_for(studio: Studio, headers: Mapping[str, str], base: str) -> None:
    worker = studio.worker("one")
    video = await made(studio, worker)
    link = await links(studio, worker, public_url=None).make(studio.principal(), video.id, LinkWish(), headers)
    assert link.url.startswith(f"{base}/v1/videos/")
    named = await links(studio, worker).make(studio.principal(), video.id, LinkWish(), headers)
    assert named.url.startswith(f"{BASE}/v1/videos/")
