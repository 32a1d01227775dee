"""Pictures that come as addresses: fetched by the same transport, and only where a picture can be."""

from __future__ import annotations

from typing import Any

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.images import MadeImage
from server.providers import pictures
from server.transport import Transport
from tests.fakes.gemini_upstream import KEY
from tests.fakes.image_wire import images_body, picture, png
from tests.fakes.openai_upstream import Cut, Reply, Request, Upstream, json_reply, whole
from tests.fakes.replies import head, short_body
from tests.integration.image_adapters import batches, data_of, images_of, offer, wanted

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def shows(data: bytes, content_type: str = "image/png") -> Reply:
    return whole(data, content_type=content_type)


async def test_pictures_are_fetched_in_their_order_and_the_key_stays_with_the_provider() -> None:
    def show(request: Request) -> Reply:
        return shows(png(int(request.path.rpartition("=")[2])), "application/octet-stream")

    async with Upstream() as upstream, Upstream(show) as store:
        items = [{"url": f"{store.origin}/made/a.png?sig=a%2Fb&n={n}", "revised_prompt": f"no {n}"} for n in range(9)]
        upstream.script(json_reply(images_body(*items[:4], 77, *items[4:])))
        seen = await batches(offer("openai", upstream.base_url), wanted(n=10))
        asked = store.requests
    expected = [MadeImage(picture(n), "image/png", f"no {n}") for n in range(9)]
    assert images_of(seen).images == (*expected[:4], MadeImage(picture(77), "image/png"), *expected[4:])
    assert {request.method for request in asked} == {"GET"}
    assert {request.path for request in asked} == {f"/made/a.png?sig=a%2Fb&n={n}" for n in range(9)}
    assert not any(KEY in value for request in asked for _, value in request.headers)
    assert all(request.header("authorization") is None for request in asked)


async def test_the_providers_own_origin_gets_its_key() -> None:
    async with Upstream() as upstream:
        link = f"{upstream.origin}/generated/1.png"
        upstream.script(json_reply(images_body({"url": link})), shows(SVG, "image/svg+xml; charset=utf-8"))
        seen = await batches(offer("openai", upstream.base_url), wanted())
        fetched = upstream.requests[1]
    assert fetched.header("authorization") == f"Bearer {KEY}"
    assert images_of(seen).images[0].media_type == "image/svg+xml"


async def test_a_streamed_picture_may_be_an_address_too() -> None:
    async with Upstream() as upstream:
        upstream.script(json_reply(images_body({"url": f"{upstream.origin}/1.png"})), shows(png(3)))
        assert data_of(await batches(offer("openai", upstream.base_url), wanted(stream=True))) == [picture(3)]


C = FailureCategory
NO_PICTURES: dict[str, tuple[Reply, FailureCategory]] = {
    "gone": (whole(b"", status=404), C.PROTOCOL),
    "expired": (whole(b"<Error/>", status=403, content_type="application/xml"), C.PROTOCOL),
    "moved": ([head(302, {"location": "http://169.254.169.254/", "content-length": "0"})], C.PROTOCOL),
    "a page": (shows(b"<html>secret</html>", "text/html"), C.PROTOCOL),
    "json": (shows(b'{"secret": 1}', "application/json"), C.PROTOCOL),
    "nothing": (shows(b""), C.PROTOCOL),
    "too large": (shows(png(padding=3000)), C.PROTOCOL),
    "cut": (short_body(png()[:20], 100), C.CONNECTION),
    "hung up": ([Cut()], C.CONNECTION),
}


@pytest.mark.parametrize("kind", NO_PICTURES)
async def test_what_is_no_picture_is_a_failure(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reply, category = NO_PICTURES[kind]
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 2000)
    async with Upstream() as upstream:
        upstream.script(json_reply(images_body({"url": f"{upstream.origin}/1.png"})), reply)
        with pytest.raises(ProviderFailure) as caught:
            await batches(offer("openai", upstream.base_url), wanted())
        assert len(upstream.requests) == 2
    assert caught.value.category is category
    assert "secret" not in str(caught.value.upstream)


async def test_all_of_them_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BODY_BYTES", 5000)
    async with Upstream() as upstream:
        items = [{"url": f"{upstream.origin}/{n}.png"} for n in range(2)]
        upstream.script(json_reply(images_body(*items)), *[shows(png(padding=3000))] * 2)
        with pytest.raises(ProviderFailure) as caught:
            await batches(offer("openai", upstream.base_url), wanted(n=2))
    assert caught.value.category is FailureCategory.PROTOCOL


@pytest.mark.parametrize(
    ("url", "category"),
    [
        ("http://169.254.169.254/latest/meta-data/", C.CONNECTION),
        ("http://[fd00:ec2::254]/", C.CONNECTION),
        ("http://0.0.0.0/", C.CONNECTION),
        ("http://2852039166/", C.CONNECTION),
        ("ftp://example.com/a.png", C.PROTOCOL),
        ("file:///etc/passwd", C.PROTOCOL),
        ("/relative.png", C.PROTOCOL),
        ("http://[::1", C.PROTOCOL),
        ("http://host:99999/", C.PROTOCOL),
        ("http:///a.png", C.PROTOCOL),
    ],
)
async def test_no_address_is_called_that_no_provider_may_have(url: str, category: FailureCategory) -> None:
    async with Upstream() as upstream:
        upstream.script(json_reply(images_body({"url": url})))
        with pytest.raises(ProviderFailure) as caught:
            await batches(offer("openai", upstream.base_url), wanted())
    assert caught.value.category is category
    assert "169" not in str(caught.value.upstream)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433"])
async def test_a_provider_far_away_does_not_lead_to_what_is_near(host: str) -> None:
    own: Any = {"authorization": "Bearer x"}
    async with Upstream() as store, Transport() as transport:
        linked = pictures.LinkedImage(f"http://{host}:{store.port}/a.png")
        with pytest.raises(ProviderFailure) as caught:
            await pictures.Pictures(transport).whole([linked], offer("openai").provider, own)
        assert store.connections_accepted == 0
    assert caught.value.category is FailureCategory.CONNECTION
