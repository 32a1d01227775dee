"""`/v1/videos`: jobs are begun, looked at, ended and forgotten, and what they made is downloaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from typing import Final

import msgspec

from rest_bridge.http import ANY_KEY, Exchange, RestRequest, RestResponse, Route, json_response
from rest_bridge.json import check_json_headers, decode_body
from rest_bridge.query import check_query, single, whole_number
from rest_bridge.videos_decode import decode_link, decode_remix, decode_video, decode_video_form
from rest_bridge.videos_encode import encode_deleted, encode_link, encode_models, encode_page, encode_video
from server.domain.identity import Principal
from server.domain.request import Endpoint
from server.domain.video import VARIANTS, Content, Video, VideoRequest
from server.domain.video_links import DISPOSITIONS, GivenLink, LinkWish
from server.pipeline.video_links import VideoLinks
from server.pipeline.video_models import VideoModels
from server.pipeline.videos import Videos

__all__ = ["VideosRest"]

PATHS: Final = ("/v1/videos", "/v1/video/generation", "/v1/video/generations")
"""The first is the one that a worker is asked for."""
POLL_AFTER: Final = "openai-poll-after-ms"
ACCEPTED: Final = 202


class NothingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that needs none."""


_NOTHING: Final = msgspec.json.Decoder(NothingBody)
_HEADERS: Final = ("content-type", "content-length", "content-range", "accept-ranges", "etag", "last-modified")
"""Of a provider's reply, what is told of content."""
_LINK: Final = ("variant", "disposition", "expires", "signature")
"""The query of a signed address."""
_HARMLESS: Final = (("x-content-type-options", "nosniff"), ("content-security-policy", "sandbox"))
"""Of what a browser shows as a page of its own: nothing in a file may run in the gateway's name."""
_KEPT_BY: Final = ("cache-control", "private, no-cache")
"""No cache may have it for longer than its address is good."""
_ENDINGS: Final = {
    "video/mp4": "mp4",
    "video/webm": "webm",
    "image/webp": "webp",
    "image/jpeg": "jpg",
    "image/png": "png",
}


class VideosRest:
    """Handlers of `/v1/videos` and its aliases."""

    def __init__(self, videos: Videos, models: VideoModels, links: VideoLinks) -> None:
        self._videos = videos
        self._models = models
        self._links = links

    def routes(self) -> tuple[Route, ...]:
        signed = f"{PATHS[0]}/{{video_id}}/download"
        return (
            *(route for path in PATHS for route in self._at(path)),
            Route("GET", signed, self.download_signed, (), signed=self._signed_by),
            Route("HEAD", signed, self.describe_signed, (), signed=self._signed_by),
        )

    def _at(self, path: str) -> tuple[Route, ...]:
        at = f"{path}/{{video_id}}"
        return (
            Route("POST", path, self.create, endpoint=Endpoint.VIDEO, takes_form=True),
            Route("GET", path, self.list),
            Route("GET", f"{path}/models", self.list_models, ANY_KEY),
            Route("GET", at, self.get),
            Route("DELETE", at, self.delete),
            Route("POST", f"{at}/cancel", self.cancel),
            Route("POST", f"{at}/remix", self.remix, endpoint=Endpoint.VIDEO),
            Route("GET", f"{at}/content", self.download),
            Route("HEAD", f"{at}/content", self.describe),
            Route("POST", f"{at}/download_url", self.link),
        )

    async def create(self, exchange: Exchange) -> RestResponse:
        form = exchange.form
        if form is not None:
            request = await decode_video_form(form.fields, form.files)
        else:
            check_json_headers(exchange.request.headers)
            request = await decode_video(exchange.body)
        return _job(await self._videos.create(exchange.call, request), ACCEPTED)

    async def remix(self, exchange: Exchange) -> RestResponse:
        check_json_headers(exchange.request.headers)
        request = VideoRequest(
            endpoint=Endpoint.VIDEO,
            model="",
            prompt=decode_remix(exchange.body),
            remix_of=exchange.path_params["video_id"],
        )
        return _job(await self._videos.create(exchange.call, request), ACCEPTED)

    async def list(self, exchange: Exchange) -> RestResponse:
        request = exchange.request
        check_query(request, ("after", "limit", "order"))
        page = await self._videos.list(
            exchange.call.principal,
            after=single(request, "after"),
            limit=whole_number(request, "limit"),
            order=single(request, "order") or "desc",
        )
        return json_response(encode_page(tuple(page.data), page.next_cursor is not None))

    async def list_models(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        return json_response(encode_models(self._models(exchange.call.principal)))

    async def get(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        return _job(await self._videos.get(exchange.call.principal, _id(exchange)))

    async def cancel(self, exchange: Exchange) -> RestResponse:
        if exchange.body.strip():
            check_json_headers(exchange.request.headers)
            decode_body(_NOTHING, exchange.body)
        return _job(await self._videos.cancel(exchange.call.principal, _id(exchange)))

    async def delete(self, exchange: Exchange) -> RestResponse:
        check_query(exchange.request, ())
        video = await self._videos.delete(exchange.call.principal, _id(exchange))
        return json_response(encode_deleted(video.id))

    async def download(self, exchange: Exchange) -> RestResponse:
        content = await self._content(exchange)
        return RestResponse(content.status, _headers(content), _Body(content))

    async def describe(self, exchange: Exchange) -> RestResponse:
        """The headers of the same GET. Its content is begun and left: not every provider answers a HEAD."""
        async with await self._content(exchange) as content:
            return RestResponse(content.status, _headers(content), b"")

    async def link(self, exchange: Exchange) -> RestResponse:
        wish = LinkWish()
        if exchange.body.strip():
            check_json_headers(exchange.request.headers)
            wish = decode_link(exchange.body)
        video_id, principal = _id(exchange), exchange.call.principal
        link = await self._links.make(principal, video_id, wish, exchange.request.headers)
        return json_response(encode_link(link))

    async def download_signed(self, exchange: Exchange) -> RestResponse:
        content = await self._content(exchange, _LINK)
        return RestResponse(content.status, _signed_headers(exchange, content), _Body(content))

    async def describe_signed(self, exchange: Exchange) -> RestResponse:
        async with await self._content(exchange, _LINK) as content:
            return RestResponse(content.status, _signed_headers(exchange, content), b"")

    async def _signed_by(self, request: RestRequest, path_params: Mapping[str, str]) -> Principal:
        given = {name: values[0] if len(values) == 1 else None for name, values in request.query.items()}
        return await self._links.principal(
            GivenLink(path_params["video_id"], *(given.get(name) for name in _LINK)),
        )

    async def _content(self, exchange: Exchange, known: Collection[str] = ("variant",)) -> Content:
        request = exchange.request
        check_query(request, known)
        variant = single(request, "variant") or VARIANTS[0]
        return await self._videos.content(exchange.call.principal, _id(exchange), variant, request.headers.get("range"))


def _job(video: Video, status: int = 200) -> RestResponse:
    """OpenAI's SDKs look at a job again when the header says so."""
    response = json_response(encode_video(video), status)
    if video.poll_after_seconds is None:
        return response
    hint = (POLL_AFTER, str(video.poll_after_seconds * 1000))
    return msgspec.structs.replace(response, headers=(*response.headers, hint))


def _id(exchange: Exchange) -> str:
    return exchange.path_params["video_id"]


def _headers(content: Content) -> tuple[tuple[str, str], ...]:
    told = content.headers
    return tuple((name, told[name]) for name in _HEADERS if name in told)


def _signed_headers(exchange: Exchange, content: Content) -> tuple[tuple[str, str], ...]:
    told = _headers(content)
    ending = _ENDINGS.get(dict(told).get("content-type", ""), "bin")
    disposition = single(exchange.request, "disposition") or DISPOSITIONS[0]
    name = f'{disposition}; filename="{_id(exchange)}.{ending}"'
    return (*told, ("content-disposition", name), _KEPT_BY, *_HARMLESS)


class _Body:
    """A `rest_bridge.http.ByteStream`: what a provider sends goes on as it comes, no faster than it is taken."""

    ended = False

    def __init__(self, content: Content) -> None:
        self._content = content
        self._chunks: AsyncGenerator[bytes, None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            await self._content.__aenter__()
            self._chunks = self._content.chunks()
        return await anext(self._chunks)

    async def aclose(self) -> None:
        if self._chunks is None:
            await self._content.__aenter__()
        else:
            await self._chunks.aclose()
        await self._content.__aexit__(None, None, None)
