"""VideosService: jobs that make videos, typed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aistats.gateway.v1 import videos_pb2, videos_pb2_grpc
from server.domain import limits
from server.domain.request import Endpoint
from server.domain.upload import HeldUpload
from server.domain.video import VARIANTS, LinkedPicture, Video, VideoBilling, VideoRequest, VideoStatus
from server.domain.video_limits import REFERENCE, check_prompt, check_reference, check_settings
from server.domain.video_links import link_wish
from server.pipeline.video_links import VideoLinks
from server.pipeline.video_models import VideoModel, VideoModels, VideoOffer
from server.pipeline.videos import Videos
from server.rpc.context import CallContext
from server.rpc.convert import encode_usage
from server.rpc.options import decode_provider_options, decode_routing

__all__ = ["VideosServicer"]

_STATUSES: Final = {status: videos_pb2.VideoStatus.Value(f"VIDEO_STATUS_{status.name}") for status in VideoStatus}
_STATES: Final[dict[str, videos_pb2.BillingState.ValueType]] = {
    "reserved": videos_pb2.BILLING_STATE_RESERVED,
    "settled": videos_pb2.BILLING_STATE_SETTLED,
    "void": videos_pb2.BILLING_STATE_VOID,
}
_SETTINGS: Final = ("seconds", "size", "resolution", "aspect_ratio", "seed", "negative_prompt")


class VideosServicer(videos_pb2_grpc.VideosServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, videos: Videos, models: VideoModels, links: VideoLinks) -> None:
        self._videos = videos
        self._models = models
        self._links = links

    async def CreateVideo(  # type: ignore[override]  # the context is our own
        self, request: videos_pb2.CreateVideoRequest, context: CallContext
    ) -> videos_pb2.CreateVideoResponse:
        video = await self._videos.create(context.call, await _decode(request))
        return videos_pb2.CreateVideoResponse(video=encode_video(video))

    async def RemixVideo(  # type: ignore[override]
        self, request: videos_pb2.RemixVideoRequest, context: CallContext
    ) -> videos_pb2.RemixVideoResponse:
        source = _id(request.video_id)
        check_prompt(request.prompt)
        wanted = VideoRequest(endpoint=Endpoint.VIDEO, model="", prompt=request.prompt, remix_of=source)
        return videos_pb2.RemixVideoResponse(video=encode_video(await self._videos.create(context.call, wanted)))

    async def GetVideo(  # type: ignore[override]
        self, request: videos_pb2.GetVideoRequest, context: CallContext
    ) -> videos_pb2.GetVideoResponse:
        video = await self._videos.get(context.call.principal, _id(request.video_id))
        return videos_pb2.GetVideoResponse(video=encode_video(video))

    async def WatchVideo(  # type: ignore[override]
        self, request: videos_pb2.WatchVideoRequest, context: CallContext
    ) -> AsyncGenerator[videos_pb2.WatchVideoResponse, None]:
        async with aclosing(self._videos.watch(context.call.principal, _id(request.video_id))) as seen:
            async for video in seen:
                yield videos_pb2.WatchVideoResponse(video=encode_video(video))

    async def ListVideos(  # type: ignore[override]
        self, request: videos_pb2.ListVideosRequest, context: CallContext
    ) -> videos_pb2.ListVideosResponse:
        page = await self._videos.list(
            context.call.principal,
            after=request.after if request.HasField("after") else None,
            limit=request.limit if request.HasField("limit") else None,
            order="asc" if request.ascending else "desc",
        )
        return videos_pb2.ListVideosResponse(
            videos=map(encode_video, page.data), limit=page.limit, next_cursor=page.next_cursor or ""
        )

    async def CancelVideo(  # type: ignore[override]
        self, request: videos_pb2.CancelVideoRequest, context: CallContext
    ) -> videos_pb2.CancelVideoResponse:
        video = await self._videos.cancel(context.call.principal, _id(request.video_id))
        return videos_pb2.CancelVideoResponse(video=encode_video(video))

    async def DeleteVideo(  # type: ignore[override]
        self, request: videos_pb2.DeleteVideoRequest, context: CallContext
    ) -> videos_pb2.DeleteVideoResponse:
        await self._videos.delete(context.call.principal, _id(request.video_id))
        return videos_pb2.DeleteVideoResponse()

    async def DownloadVideo(  # type: ignore[override]
        self, request: videos_pb2.DownloadVideoRequest, context: CallContext
    ) -> AsyncGenerator[videos_pb2.DownloadVideoResponse, None]:
        video_id, variant = _id(request.video_id), request.variant or VARIANTS[0]
        found = await self._videos.content(context.call.principal, video_id, variant)
        async with found as content, aclosing(content.chunks()) as chunks:
            length = content.headers.get("content-length")
            head = videos_pb2.ContentHead(
                content_type=content.headers.get("content-type", ""), size=None if length is None else int(length)
            )
            yield videos_pb2.DownloadVideoResponse(head=head)
            async for chunk in chunks:
                yield videos_pb2.DownloadVideoResponse(data=chunk)

    async def CreateVideoDownloadUrl(  # type: ignore[override]
        self, request: videos_pb2.CreateVideoDownloadUrlRequest, context: CallContext
    ) -> videos_pb2.CreateVideoDownloadUrlResponse:
        video_id = _id(request.video_id)
        lifetime_s = request.expires_in_seconds if request.HasField("expires_in_seconds") else None
        wish = link_wish(request.variant or None, lifetime_s, request.disposition or None)
        link = await self._links.make(context.call.principal, video_id, wish, context.metadata)
        return videos_pb2.CreateVideoDownloadUrlResponse(url=link.url, expires_at=link.expires_at, variant=link.variant)

    async def ListVideoModels(  # type: ignore[override]
        self, request: videos_pb2.ListVideoModelsRequest, context: CallContext
    ) -> videos_pb2.ListVideoModelsResponse:
        models = self._models(context.call.principal)
        return videos_pb2.ListVideoModelsResponse(models=map(_encode_model, models))


def _id(video_id: str) -> str:
    if not video_id:
        raise limits.missing_field("video_id")
    return video_id


async def _decode(request: videos_pb2.CreateVideoRequest) -> VideoRequest:
    """Raises GatewayError naming the field that is wrong."""
    if not request.model:
        raise limits.missing_field("model")
    given = {name: value for field, value in request.ListFields() if (name := field.name) in _SETTINGS}
    parameters = {name: name for name in given}
    reference, linked = None, None
    if request.HasField(REFERENCE):
        told = request.input_reference
        if told.url and told.data:
            raise limits.invalid_value(f"{REFERENCE}.url", "cannot be given together with data")
        if told.url:
            linked = LinkedPicture(told.url, f"{REFERENCE}.url")
        else:
            reference = HeldUpload(told.data, told.media_type)
        parameters[REFERENCE] = REFERENCE
    wanted = VideoRequest(
        endpoint=Endpoint.VIDEO,
        model=request.model,
        prompt=request.prompt,
        reference=reference,
        linked=linked,
        parameters=parameters,
        provider_options=decode_provider_options(request.provider_options_json),
        routing=decode_routing(request.routing),
        **given,
    )
    check_settings(wanted)
    if reference is not None:
        await check_reference(reference)
    return wanted


def encode_video(video: Video) -> videos_pb2.Video:
    error = video.error
    return videos_pb2.Video(
        id=video.id,
        model=video.model,
        status=_STATUSES[video.status],
        progress=video.progress,
        created_at=video.created_at,
        started_at=video.started_at,
        completed_at=video.completed_at,
        expires_at=video.expires_at,
        seconds=video.seconds,
        size=video.size or "",
        prompt=video.prompt,
        poll_after_seconds=video.poll_after_seconds,
        provider=video.provider or "",
        remixed_from_video_id=video.remixed_from,
        usage=None if video.usage is None else encode_usage(video.usage),
        billing=_encode_billing(video.billing),
        error=None if error is None else videos_pb2.VideoError(code=error.code, message=error.message),
    )


def _encode_billing(billing: VideoBilling) -> videos_pb2.VideoBilling:
    return videos_pb2.VideoBilling(
        state=_STATES[billing.state], reserved_nanos=billing.reserved_nanos, total_nanos=billing.total_nanos
    )


def _encode_model(one: VideoModel) -> videos_pb2.VideoModel:
    model = one.listed.model
    return videos_pb2.VideoModel(id=model.id, name=model.name, offers=map(_encode_offer, one.offers))


def _encode_offer(one: VideoOffer) -> videos_pb2.VideoOffer:
    offer, facts, abilities = one.listed.offer, one.listed.offer.videos, one.abilities
    return videos_pb2.VideoOffer(
        provider=offer.provider.id,
        is_configured=offer.provider.is_configured,
        seconds=facts.seconds,
        sizes=facts.sizes,
        default_seconds=facts.default_seconds,
        default_size=facts.default_size or "",
        variants=facts.variants,
        price_nanos=offer.prices.rates,
        params=abilities.fields,
        resolutions=abilities.resolutions,
        aspect_ratios=abilities.aspect_ratios,
    )
