"""`/v1/images/generations` and `/v1/images/edits`: OpenAI's shapes, answered with test cards."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from server.domain.ports import Clock
from server.local_media import IMAGE_MODEL
from server.local_media.bodies import converted, form_body, is_form, json_body
from server.local_media.messages import Message
from server.local_media.refusal import bad_request
from server.local_media.replies import opening, require_model, size_of, streamed
from server.local_media.spool import Spool
from server.local_media.workers import Workers

__all__ = ["Images"]

MAX_SIDE: Final = 2048
MIN_SIDE: Final = 64
MAX_INPUTS: Final = 16
_NO_TOKENS: Final = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
"""Nothing here is made of tokens."""


class ImagesAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body. `seed` is ours: without it the colours follow from the prompt."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=32_000)]
    model: str = IMAGE_MODEL
    n: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    size: str = "auto"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, msgspec.Meta(ge=0, le=100)] = 100
    response_format: Literal["b64_json"] = "b64_json"
    partial_images: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    stream: bool = False
    seed: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] | None = None
    user: str | None = None


class Images:
    """The handlers."""

    def __init__(self, workers: Workers, spool: Spool, clock: Clock) -> None:
        self._workers = workers
        self._spool = spool
        self._clock = clock

    def routes(self) -> Sequence[web.RouteDef]:
        return web.post("/v1/images/generations", self.generations), web.post("/v1/images/edits", self.edits)

    async def generations(self, request: web.Request) -> web.StreamResponse:
        asked = await json_body(request, ImagesAsked)
        return await self._answer(request, asked, "image_generation", [], None)

    async def edits(self, request: web.Request) -> web.StreamResponse:
        if not is_form(request):
            raise bad_request("invalid_content_type", "An edit comes as multipart/form-data, with its pictures.")
        with self._spool.directory() as directory:
            fields, files = await form_body(request, directory, ("image", "mask"))
            asked = converted(fields, ImagesAsked, strict=False)
            images, masks = files.get("image", []), files.get("mask", [])
            if not 1 <= len(images) <= MAX_INPUTS:
                raise bad_request("invalid_value", f"An edit is of 1 to {MAX_INPUTS} pictures.", "image")
            if len(masks) > 1:
                raise bad_request("invalid_value", "There can be one mask.", "mask")
            return await self._answer(request, asked, "image_edit", images, masks[0] if masks else None)

    async def _answer(
        self, request: web.Request, asked: ImagesAsked, kind: str, images: Sequence[Path], mask: Path | None
    ) -> web.StreamResponse:
        require_model(asked.model, IMAGE_MODEL)
        if asked.partial_images and not asked.stream:
            raise bad_request("invalid_value", "Unfinished pictures come in a stream only.", "partial_images")
        task = {
            "prompt": asked.prompt,
            "n": asked.n,
            "size": None if asked.size == "auto" else size_of(asked.size, MIN_SIDE, MAX_SIDE),
            "format": asked.output_format,
            "compression": asked.output_compression,
            "partials": asked.partial_images,
            "quality": asked.quality,
            "seed": zlib.crc32(asked.prompt.encode()) if asked.seed is None else asked.seed,
            "images": [str(path) for path in images],
            "mask": None if mask is None else str(mask),
        }
        facts = {"background": "opaque", "output_format": asked.output_format, "quality": asked.quality}
        messages = self._workers.run("image", task, of_a_file=bool(images))
        async with aclosing(messages):
            if asked.stream:
                return await self._stream(request, messages, kind, facts)
            made = [message async for message in messages]
        return web.json_response(
            {
                "created": int(self._clock.now()),
                **facts,
                "size": made[0].facts["size"],
                "data": [{"b64_json": _base64(message)} for message in made],
                "usage": _NO_TOKENS,
            }
        )

    async def _stream(
        self, request: web.Request, messages: AsyncGenerator[Message, None], kind: str, facts: dict[str, Any]
    ) -> web.StreamResponse:
        async def events() -> AsyncGenerator[dict[str, Any], None]:
            async for message in messages:
                common = {"b64_json": _base64(message), "created_at": int(self._clock.now()), **facts}
                common["size"] = message.facts["size"]
                if message.kind == "partial":
                    yield {"type": f"{kind}.partial_image", "partial_image_index": message.facts["index"], **common}
                else:
                    yield {"type": f"{kind}.completed", **common, "usage": _NO_TOKENS}

        return await streamed(request, await opening(events()))


def _base64(message: Message) -> str:
    return base64.b64encode(message.data).decode()
