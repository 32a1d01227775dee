"""The bodies of events, as receivers get them. Storage writes them around what is told; tests hold it to this."""

from __future__ import annotations

from typing import Literal

import msgspec

from rest_bridge.videos_encode import VideoJson

__all__ = ["VideoEventJson", "WebhookTestEventJson"]


class VideoEventJson(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a video. `data` is the video as `GET /v1/videos/{video_id}` answered then."""

    id: str
    object: Literal["event"] = "event"
    type: Literal["video.in_progress", "video.completed", "video.failed", "video.cancelled", "video.expired"]
    created_at: int
    data: VideoJson


class WebhookTestJson(msgspec.Struct, frozen=True, kw_only=True):
    webhook_id: str


class WebhookTestEventJson(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for by `POST /v1/webhooks/{webhook_id}/test`."""

    id: str
    object: Literal["event"] = "event"
    type: Literal["webhook.test"]
    created_at: int
    data: WebhookTestJson
