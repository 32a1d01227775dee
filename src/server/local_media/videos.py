"""`/v1/videos`: the shape of OpenAI's video jobs, answered with films of test cards."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from server.local_media import VIDEO_MODEL
from server.local_media.bodies import converted, form_body, is_form, json_body
from server.local_media.jobs import ENDED, Job, Jobs
from server.local_media.refusal import Refused, bad_request
from server.local_media.replies import require_model, size_of
from server.local_media.spool import Spool

__all__ = ["MAX_SECONDS", "Videos"]

MAX_SECONDS: Final = 12
MIN_SIDE: Final = 64
MAX_SIDE: Final = 1920
MAX_PIXELS: Final = 1920 * 1088
MAX_REFERENCE_BYTES: Final = 20 * 1024 * 1024
MAX_KEY_CHARS: Final = 256
POLL_AFTER_MS: Final = 1000
"""When there may be news of a job; most films are done in a few seconds."""
_VARIANTS: Final = {
    "video": ("video.mp4", "video/mp4"),
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.jpg", "image/jpeg"),
}
_DATA: Final = re.compile(r"data:image/(?:png|jpeg|webp);base64,")

_Prompt = Annotated[str, msgspec.Meta(min_length=1, max_length=32_000)]


class Reference(msgspec.Struct, frozen=True):
    """A picture within JSON, as a data URL."""

    image_url: str


class VideoAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body. `seed` is ours: without it the colours follow from the prompt."""

    prompt: _Prompt
    model: str = VIDEO_MODEL
    seconds: str | int = 4
    size: str = "720x1280"
    seed: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] | None = None
    input_reference: Reference | str | None = None


class RemixAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a remix."""

    prompt: _Prompt


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a list is asked for by."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class Videos:
    """The handlers."""

    def __init__(self, jobs: Jobs, spool: Spool) -> None:
        self._jobs = jobs
        self._spool = spool

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/v1/videos", self.create),
            web.get("/v1/videos", self.list),
            web.get("/v1/videos/{id}", self.retrieve),
            web.delete("/v1/videos/{id}", self.delete),
            web.post("/v1/videos/{id}/cancel", self.cancel),
            web.post("/v1/videos/{id}/remix", self.remix),
            web.get("/v1/videos/{id}/content", self.content),
        )

    async def create(self, request: web.Request) -> web.Response:
        key = _key(request)
        with self._spool.directory() as directory:
            reference = None
            if is_form(request):
                fields, files = await form_body(request, directory, ("input_reference",))
                asked = converted(fields, VideoAsked, strict=False)
                given = files.get("input_reference", [])
                if len(given) > 1:
                    raise bad_request("invalid_value", "There can be one picture.", "input_reference")
                reference = given[0] if given else None
            else:
                asked = await json_body(request, VideoAsked)
                if asked.input_reference is not None:
                    reference = directory / "reference"
                    reference.write_bytes(_inline(asked.input_reference))
            if reference is not None and reference.stat().st_size > MAX_REFERENCE_BYTES:
                raise bad_request("invalid_value", "The picture is too large.", "input_reference")
            require_model(asked.model, VIDEO_MODEL)
            job = None if key is None else self._jobs.under(key)
            if job is None:
                job = self._jobs.create(
                    prompt=asked.prompt,
                    seconds=_seconds(asked.seconds),
                    size=_size(asked.size),
                    seed=zlib.crc32(asked.prompt.encode()) if asked.seed is None else asked.seed,
                    key=key,
                    reference=reference,
                )
        return _answer(job)

    async def list(self, request: web.Request) -> web.Response:
        page = converted(dict(request.query), Page, strict=False)
        jobs, has_more = self._jobs.listed(page.after, page.limit, newest_first=page.order == "desc")
        data = [_told(job) for job in jobs]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return web.json_response({"object": "list", "data": data, "has_more": has_more, **ends})

    async def retrieve(self, request: web.Request) -> web.Response:
        return _answer(self._job(request))

    async def delete(self, request: web.Request) -> web.Response:
        job = self._job(request)
        self._jobs.delete(job)
        return web.json_response({"id": job.id, "object": "video.deleted", "deleted": True})

    async def cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.status in ENDED and job.status != "cancelled":
            raise Refused(HTTPStatus.CONFLICT, "video_ended", f"The video is {job.status} already.", "video_id")
        self._jobs.cancel(job)
        return _answer(job)

    async def remix(self, request: web.Request) -> web.Response:
        asked, key = await json_body(request, RemixAsked), _key(request)
        source = self._job(request)
        job = None if key is None else self._jobs.under(key)
        return _answer(job or self._jobs.remix(source, asked.prompt, key))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The file, or the part of it that a `range` header names."""
        variant = request.query.get("variant", "video")
        if variant not in _VARIANTS:
            raise bad_request("invalid_value", f"A variant is one of {', '.join(_VARIANTS)}.", "variant")
        job = self._job(request)
        if job.status != "completed":
            raise Refused(HTTPStatus.CONFLICT, "video_not_ready", f"The video is {job.status}.", "video_id")
        name, media_type = _VARIANTS[variant]
        return web.FileResponse(self._jobs.directory(job.id) / name, headers={"content-type": media_type})

    def _job(self, request: web.Request) -> Job:
        return self._jobs.get(request.match_info["id"])


def _answer(job: Job) -> web.Response:
    headers = {} if job.status in ENDED else {"openai-poll-after-ms": str(POLL_AFTER_MS)}
    return web.json_response(_told(job), headers=headers)


def _told(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "video",
        "model": VIDEO_MODEL,
        "status": job.status,
        "progress": job.progress,
        "created_at": job.created_at,
        "completed_at": job.completed_at,
        "expires_at": job.expires_at,
        "seconds": str(job.seconds),
        "size": f"{job.size[0]}x{job.size[1]}",
        "prompt": job.prompt,
        "remixed_from_video_id": job.remix_of,
        "error": None if job.error is None else msgspec.to_builtins(job.error),
    }


def _key(request: web.Request) -> str | None:
    key = request.headers.get("idempotency-key") or None
    if key is not None and len(key) > MAX_KEY_CHARS:
        raise bad_request("invalid_value", f"An Idempotency-Key has {MAX_KEY_CHARS} letters at the most.")
    return key


def _seconds(asked: str | int) -> int:
    text = str(asked)
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_SECONDS:
        return int(text)
    raise bad_request("invalid_value", f"'seconds' is a whole number from 1 to {MAX_SECONDS}.", "seconds")


def _size(text: str) -> tuple[int, int]:
    size = size_of(text, MIN_SIDE, MAX_SIDE, step=2)
    if size[0] * size[1] > MAX_PIXELS:
        raise bad_request("invalid_size", f"A size has {MAX_PIXELS:,} pixels at the most.", "size")
    return size


def _inline(reference: Reference | str) -> bytes:
    url = reference if isinstance(reference, str) else reference.image_url
    if found := _DATA.match(url):
        try:
            return base64.b64decode(url[found.end() :], validate=True)
        except (binascii.Error, ValueError):
            pass
    text = "A picture within JSON is a data URL of base64, of PNG, JPEG or WebP; nothing is fetched from elsewhere."
    raise bad_request("invalid_value", text, "input_reference")
