"""Pictures from addresses that clients choose: from nowhere but the open network, and nothing else told of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from server.domain.errors import GatewayError, Reason
from server.domain.image_limits import MAX_INPUT_BYTES
from server.domain.video import LinkedPicture
from server.picture_fetch import MAX_HOPS, PictureFetch
from server.pipeline.videos import Videos
from server.spool import Spool
from server.transport import Transport
from tests.fakes.image_wire import png
from tests.fakes.openai_upstream import Request, Upstream
from tests.fakes.replies import head, whole
from tests.fakes.wire import Cut, Hang, Reply, Send
from tests.integration.databases import ManualClock, migrated
from tests.integration.video_world import CREDIT, Studio, film, studio_with

PARAM = "input_reference.image_url"
PICTURE = png(7)
NAME = "pictures.example"


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as running:
        yield running


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
def fetch(transport: Transport, spool: Spool) -> PictureFetch:
    """Of an operator who allows everything that can be allowed: stand-ins are here."""
    return PictureFetch(transport, spool, allow_http=True, allow_private=True)


def resolved(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Names lead there."""

    def getaddrinfo(host: str, port: int, *args: Any, **named: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def refused(fetch: PictureFetch, url: str) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await fetch.fetch(LinkedPicture(url, PARAM))
    assert caught.value.param == PARAM
    return caught.value


def shows(data: bytes = PICTURE, content_type: str = "image/png") -> Reply:
    return whole(data, content_type=content_type)


def moved(to: str, status: int = 302) -> Reply:
    return (head(status, {"location": to, "content-length": "0"}),)


async def test_a_picture_is_fetched_whole_and_without_anything_of_ours(fetch: PictureFetch, spool: Spool) -> None:
    async with Upstream() as store:
        store.script(shows(png(1, padding=200_000), "application/octet-stream"))
        kept = await fetch.fetch(LinkedPicture(f"{store.origin}/a.png?sig=a%2Fb", PARAM))
        [asked] = store.requests
    assert b"".join([piece async for piece in kept.pieces()]) == png(1, padding=200_000)
    assert (asked.method, asked.path) == ("GET", "/a.png?sig=a%2Fb")
    assert {name.lower() for name, _ in asked.headers} == {"host", "accept", "accept-encoding", "user-agent"}
    assert spool.held_bytes == kept.size
    del kept
    assert spool.held_bytes == 0


SPELLED = {
    "no TLS": "http://pictures.example/a.png",
    "a file": "file:///etc/passwd",
    "no address": "a.png",
    "nothing": "",
    "a user": "https://me:pw@pictures.example/a.png",
    "a fragment": "https://pictures.example/a.png#b",
    "white space": "https://pictures.example/a b.png",
    "a line": "https://pictures.example/a\r\nhost: b",
    "letters": "https://pictures.exämple/a.png",
    "long": f"https://pictures.example/{'a' * 3000}",
    "this machine": "https://127.0.0.1/a.png",
    "its name": "https://localhost/a.png",
    "IPv6": "https://[::1]/a.png",
    "mapped": "https://[::ffff:127.0.0.1]/a.png",
    "a number": "https://2130706433/a.png",
    "octal": "https://0177.0.0.1/a.png",
    "private": "https://10.0.0.1/a.png",
    "a name inside": "https://wiki.corp/a.png",
    "link-local": "https://169.254.169.254/latest/meta-data",
    "metadata": "https://metadata.google.internal/",
    "nowhere": "https://0.0.0.0/a.png",
    "a port": "https://pictures.example:99999/a.png",
}


@pytest.mark.parametrize("url", SPELLED.values(), ids=SPELLED)
async def test_what_may_not_be_called_is_refused_as_it_is_spelled(
    transport: Transport, spool: Spool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: pytest.fail("nobody is asked"))
    strict = PictureFetch(transport, spool, allow_http=False, allow_private=False)
    assert (await refused(strict, url)).reason is Reason.INVALID_VALUE


def hangs(request: Request) -> Reply:
    return (Hang(),)


INSIDE: dict[str, Callable[[Request], Reply] | None] = {
    "answers": lambda request: shows(),
    "refuses": lambda request: whole(b"secret", status=401),
    "is silent": hangs,
    "is closed": None,
}


async def test_nobody_learns_what_is_inside(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    """Of a name that leads to a private address: whatever is there is not called, and all are told the same."""
    told = set()
    strict = PictureFetch(transport, spool, allow_http=True, allow_private=False)
    for address in ("127.0.0.1", "10.1.2.3", "169.254.169.254"):
        resolved(monkeypatch, address)
        for answer in INSIDE.values():
            async with Upstream(*(() if answer is None else (answer,))) as inside:
                port = 9 if answer is None else inside.port
                told.add((await refused(strict, f"http://{NAME}:{port}/a.png")).description)
                assert inside.connections_accepted == 0
    resolved(monkeypatch)
    told.add((await refused(strict, f"http://{NAME}/a.png")).description)
    assert len(told) == 1
    assert not any(char.isdigit() for char in told.pop())


BROKEN: dict[str, Reply] = {
    "404": whole(b"no", status=404),
    "500": whole(b"oh", status=500),
    "204": (head(204),),
    "cut": (head(200, {"content-length": "500"}), Send(PICTURE[:20]), Cut()),
    "nothing": (Cut(),),
    "garbage": (Send(b"SSH-2.0-OpenSSH_9\r\n\r\n"),),
    "moved to nothing": (head(302, {"content-length": "0"}),),
    "moved in a circle": moved("/a.png"),
    "moved to a file": moved("file:///etc/passwd"),
    "moved to metadata": moved("http://169.254.169.254/latest"),
    "moved with a password": moved("http://me:pw@pictures.example/"),
    "moved to nonsense": moved("http://[::1"),
}


async def test_whatever_goes_wrong_is_told_in_one_sentence(fetch: PictureFetch, spool: Spool) -> None:
    said = set()
    for reply in BROKEN.values():
        async with Upstream(lambda request, reply=reply: reply) as store:  # type: ignore[misc]
            said.add((await refused(fetch, f"{store.origin}/a.png")).description)
            assert len(store.requests) <= MAX_HOPS + 1
    assert len(said) == 1
    assert spool.held_bytes == 0


async def test_it_takes_no_longer_than_it_may(transport: Transport, spool: Spool) -> None:
    hurried = PictureFetch(transport, spool, allow_http=True, allow_private=True, fetch_s=0.2)
    for steps in ((Hang(),), (head(200, {"content-length": "500"}), Send(PICTURE[:20]), Hang())):
        async with Upstream(lambda request, steps=steps: steps) as store:  # type: ignore[misc]
            async with asyncio.timeout(30):
                assert "could not be fetched" in (await refused(hurried, f"{store.origin}/a.png")).description
    assert spool.held_bytes == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>", Reason.INVALID_VALUE),
        (b"", Reason.INVALID_VALUE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.INVALID_VALUE),
        (PICTURE[:16] + (30_000).to_bytes(4) * 2 + PICTURE[24:], Reason.INVALID_VALUE),
        (PICTURE + bytes(MAX_INPUT_BYTES), Reason.REQUEST_TOO_LARGE),
    ],
    ids=["a page", "nothing", "SVG", "a bomb", "too large"],
)
async def test_what_is_no_picture_or_too_large(fetch: PictureFetch, spool: Spool, data: bytes, reason: Reason) -> None:
    async with Upstream() as store:
        store.script(shows(data))
        assert (await refused(fetch, f"{store.origin}/a.png")).reason is reason
    assert spool.held_bytes == 0


async def test_it_is_followed_where_it_has_moved_and_no_further(fetch: PictureFetch) -> None:
    async with Upstream() as store, Upstream() as other:
        store.script(moved("/b.png"), moved(f"{other.origin}/c.png#x", 307))
        other.script(moved(f"{store.origin}/d.png", 301))
        store.script(shows())
        kept = await fetch.fetch(LinkedPicture(f"{store.origin}/a.png", PARAM))
        assert kept.size == len(PICTURE)
        assert [request.path for request in (*store.requests, *other.requests)] == [
            "/a.png", "/b.png", "/d.png", "/c.png",
        ]  # fmt: skip


async def test_who_may_not_go_inside_is_not_led_there_either(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    """The first address is let through once, as if it were far away."""
    monkeypatch.setattr("server.transport.resolve.may_call", lambda address, **named: address == "127.0.0.1")
    resolved(monkeypatch, "127.0.0.1")
    outside = PictureFetch(transport, spool, allow_http=True, allow_private=False)
    async with Upstream() as store, Upstream() as inside:
        store.script(moved(f"http://127.0.0.1:{inside.port}/a.png"))
        await refused(outside, f"http://{NAME}:{store.port}/a.png")
        assert (len(store.requests), inside.connections_accepted) == (1, 0)


@asynccontextmanager
async def trusted_store() -> AsyncIterator[tuple[Upstream, ssl.SSLContext]]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with Upstream(tls=context) as store:
        yield store, client


async def test_with_tls_who_it_is_is_looked_at(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, "127.0.0.1")
    async with trusted_store() as (store, client), Transport(tls=client) as knows, Transport() as knows_not:
        store.script(shows())
        kept = await PictureFetch(knows, spool, allow_http=False, allow_private=True).fetch(
            LinkedPicture(f"https://{NAME}:{store.port}/a.png", PARAM)
        )
        assert kept.size == len(PICTURE)
        doubtful = PictureFetch(knows_not, spool, allow_http=False, allow_private=True)
        assert "could not be fetched" in (await refused(doubtful, f"https://{NAME}:{store.port}/a.png")).description


# As part of a request.


@pytest.fixture
async def studio(sqlite_url: str, clock: ManualClock) -> AsyncIterator[Studio]:
    async with migrated(sqlite_url) as database, studio_with(database, clock, 1) as opened:
        yield opened


def videos(studio: Studio, fetch: PictureFetch) -> Videos:
    made = studio.worker("one").videos
    made._pictures = fetch
    return made


async def test_the_provider_gets_the_picture(studio: Studio, fetch: PictureFetch) -> None:
    async with Upstream() as store:
        store.script(shows())
        request = film(linked=LinkedPicture(f"{store.origin}/a.png", PARAM))
        video = await videos(studio, fetch).create(studio.call(), request)
    assert video.status == "queued"
    [job] = studio.upstreams[0].jobs.values()
    assert job.files == {"input_reference": PICTURE}


async def test_what_cannot_be_fetched_costs_nothing_and_nobody_is_asked(studio: Studio, fetch: PictureFetch) -> None:
    ours = videos(studio, fetch)
    async with Upstream() as store:
        store.script(whole(b"no", status=404))
        request = film(linked=LinkedPicture(f"{store.origin}/a.png", PARAM))
        with pytest.raises(GatewayError, match="could not be fetched"):
            await ours.create(studio.call(), request)
        for model, changes in (
            ("a/none", {}),
            ("a/b", {"negative_prompt": "x", "parameters": {"negative_prompt": "x"}}),
        ):
            with pytest.raises(GatewayError):
                await ours.create(studio.call(), film(model, linked=request.linked, **changes))
        assert len(store.requests) == 1
    assert studio.upstreams[0].submits == {}
    assert await studio.wallet() == (CREDIT, 0)
