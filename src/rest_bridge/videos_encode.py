"""Videos as the contract tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from rest_bridge.pricing_json import PricingJson, rates_json, usage_pricing
from server.domain.catalog import VideoVariant
from server.domain.usage import Usage
from server.domain.video import Video
from server.domain.video_links import Link
from server.pipeline.video_models import VideoModel, VideoOffer

__all__ = [
    "DeletedVideoJson",
    "DownloadUrlJson",
    "VideoJson",
    "VideoModelsJson",
    "VideosJson",
    "encode_deleted",
    "encode_link",
    "encode_models",
    "encode_page",
    "encode_video",
]

_json: Final = msgspec.json.Encoder().encode


class VideoUsage(msgspec.Struct, frozen=True):
    """What was charged for."""

    seconds: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    pricing: PricingJson


class BillingJson(msgspec.Struct, frozen=True):
    """`reserved`: the credit is held; `settled`: the video was charged; `void`: nothing was."""

    state: Literal["reserved", "settled", "void"]
    reserved_nanos: int
    total_nanos: int


class VideoErrorJson(msgspec.Struct, frozen=True):
    code: str
    message: str


class VideoJson(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds since 1970. `seconds` is a text, as OpenAI's is. URLs are paths on this gateway."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled", "expired"]
    progress: int
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    seconds: str | None
    size: str | None
    prompt: str
    remixed_from_video_id: str | None
    polling_url: str
    content_url: str | None
    poll_after_seconds: int | None
    provider: str | None
    usage: VideoUsage | None
    billing: BillingJson
    error: VideoErrorJson | None


class VideosJson(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[VideoJson, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideoJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class DownloadUrlJson(msgspec.Struct, frozen=True, kw_only=True):
    """`url` and `download_url` are the same. `expires_at` is in seconds since 1970."""

    object: Literal["video.download_url"] = "video.download_url"
    url: str
    download_url: str
    variant: VideoVariant
    expires_at: int


class VideoOfferJson(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider makes: an empty list leaves it to the provider. `pricing` is in USD per million units.

    `params` are the fields that it takes beside `model` and `prompt`; `remix` among them says that its videos can be
    changed.
    """

    api_provider_id: str
    status: Literal["active", "not_configured"]
    seconds: tuple[int, ...]
    sizes: tuple[str, ...]
    default_seconds: int | None
    default_size: str | None
    variants: tuple[VideoVariant, ...]
    params: tuple[str, ...]
    resolutions: tuple[str, ...]
    aspect_ratios: tuple[str, ...]
    pricing: Mapping[str, str]


class VideoModelJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    name: str
    description: str
    providers: tuple[VideoOfferJson, ...]


class VideoModelsJson(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[VideoModelJson, ...]


def encode_models(models: Sequence[VideoModel]) -> bytes:
    return _json(VideoModelsJson(data=tuple(map(_model, models))))


def _model(one: VideoModel) -> VideoModelJson:
    model = one.listed.model
    return VideoModelJson(
        id=model.id,
        created=model.created,
        owned_by=one.listed.organisation_id,
        name=model.name,
        description=model.description,
        providers=tuple(map(_offer, one.offers)),
    )


def _offer(one: VideoOffer) -> VideoOfferJson:
    offer, facts, abilities = one.listed.offer, one.listed.offer.videos, one.abilities
    return VideoOfferJson(
        api_provider_id=offer.provider.id,
        status=one.listed.status,
        seconds=facts.seconds,
        sizes=facts.sizes,
        default_seconds=facts.default_seconds,
        default_size=facts.default_size,
        variants=facts.variants,
        params=abilities.fields,
        resolutions=abilities.resolutions,
        aspect_ratios=abilities.aspect_ratios,
        pricing=rates_json(offer.prices.rates),
    )


def encode_video(video: Video) -> bytes:
    return _json(_video(video))


def encode_page(videos: tuple[Video, ...], has_more: bool) -> bytes:
    first, last = (videos[0].id, videos[-1].id) if videos else (None, None)
    return _json(VideosJson(data=tuple(map(_video, videos)), first_id=first, last_id=last, has_more=has_more))


def encode_deleted(video_id: str) -> bytes:
    return _json(DeletedVideoJson(id=video_id))


def encode_link(link: Link) -> bytes:
    return _json(DownloadUrlJson(url=link.url, download_url=link.url, variant=link.variant, expires_at=link.expires_at))


def _video(video: Video) -> VideoJson:
    url = f"/v1/videos/{video.id}"
    billing, error = video.billing, video.error
    return VideoJson(
        id=video.id,
        model=video.model,
        status=video.status.value,
        progress=video.progress,
        created_at=video.created_at,
        started_at=video.started_at,
        completed_at=video.completed_at,
        expires_at=video.expires_at,
        seconds=None if video.seconds is None else f"{video.seconds:g}",
        size=video.size,
        prompt=video.prompt,
        remixed_from_video_id=video.remixed_from,
        polling_url=url,
        content_url=f"{url}/content" if video.status == "completed" else None,
        poll_after_seconds=video.poll_after_seconds,
        provider=video.provider,
        usage=None if video.usage is None else _usage(video.usage),
        billing=BillingJson(billing.state, billing.reserved_nanos, billing.total_nanos),
        error=None if error is None else VideoErrorJson(error.code, error.message),
    )


def _usage(usage: Usage) -> VideoUsage:
    return VideoUsage(
        usage.units.get("video_seconds", 0),
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        usage_pricing(usage),
    )
