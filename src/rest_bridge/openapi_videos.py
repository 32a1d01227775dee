"""What the routes of videos read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rest_bridge.openapi_surface import Surface
from rest_bridge.videos_decode import LinkBody, RemixBody, VideoBody
from rest_bridge.videos_encode import DeletedVideoJson, DownloadUrlJson, VideoJson, VideoModelsJson, VideosJson

__all__ = ["VIDEOS", "VIDEO_WORDS"]

_MODEL: Final = "local/test-card-video:free"
_PROMPT: Final = "A cinematic sunrise over a mountain lake"
_ASKED: Final[Mapping[str, Mapping[str, Any]]] = {
    "least": {"model": _MODEL, "prompt": _PROMPT},
    "more": {"model": _MODEL, "prompt": _PROMPT, "seconds": 4, "size": "1280x720", "seed": 7},
}
_FILES: Final = ("video/mp4", "image/webp", "image/jpeg", "image/png")

VIDEOS: Final[Mapping[str, Surface]] = {
    "VideosRestService.CreateVideo": Surface(
        body=VideoBody,
        examples=_ASKED,
        form=VideoBody,
        form_examples={"with a picture": {**_ASKED["least"], "input_reference": "(the bytes of a file)"}},
        reply=VideoJson,
        status=202,
    ),
    "VideosRestService.ListVideos": Surface(reply=VideosJson),
    "VideosRestService.ListVideoModels": Surface(reply=VideoModelsJson),
    "VideosRestService.GetVideo": Surface(reply=VideoJson),
    "VideosRestService.DeleteVideo": Surface(reply=DeletedVideoJson),
    "VideosRestService.CancelVideo": Surface(reply=VideoJson),
    "VideosRestService.RemixVideo": Surface(
        body=RemixBody, examples={"night": {"prompt": "The same at night"}}, reply=VideoJson, status=202
    ),
    "VideosRestService.DownloadVideo": Surface(sounds=_FILES, is_file=True),
    "VideosRestService.DescribeContent": Surface(is_file=True),
    "VideosRestService.CreateVideoDownloadUrl": Surface(
        body=LinkBody,
        examples={"a day": {"expires_in_seconds": 86_400}},
        needs_body=False,
        reply=DownloadUrlJson,
    ),
    "VideosRestService.DownloadSignedVideo": Surface(sounds=_FILES, is_file=True),
    "VideosRestService.DescribeSignedContent": Surface(is_file=True),
}

VIDEO_WORDS: Final[Mapping[str, str]] = {
    "VideosRequestVideo.seconds": "How long the video is to be, 1 to 600; also as text, such as `4`.",
    "VideosRequestVideo.duration": "Another word for `seconds`.",
    "VideosRequestVideo.duration_seconds": "Another word for `seconds`.",
    "VideosRequestVideo.size": "`<width>x<height>` in pixels.",
    "VideosRequestVideo.input_reference": (
        "A picture to begin with, of at most 64 megapixels: in a form a file, in JSON a data URL, an `https` address "
        "that it is fetched from, or OpenAI's object with either as its `image_url`."
    ),
    "VideosRequestVideo.input_references": "The same as a list of one, as the `phaseo` SDK has it.",
    "VideosRequestVideo.negative_prompt": "What is not to be seen; at most 4,096 characters.",
    "VideosRequestLink.ttl_seconds": "Another word for `expires_in_seconds`.",
    "VideosRequestLink.index": "Which video of the job: 0, for it makes one.",
    "VideosDownloadUrl.download_url": "The same as `url`.",
    "Video.seconds": "How long the video is, or is meant to be, as text.",
    "Video.polling_url": "Where to look at the job again, on this gateway.",
    "Video.content_url": "Where to download it from, on this gateway; null until it is completed.",
    "Videos.has_more": "Whether there is another page.",
    "Videos.first_id": "Id of the first of the page.",
    "Videos.last_id": "Id of the last of the page: `after` of the next one.",
}
