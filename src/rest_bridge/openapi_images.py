"""What the routes of pictures read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rest_bridge.images_decode import EditFormBody, EditsBody, ImagesBody
from rest_bridge.images_encode import EVENTS, ImagesJson
from rest_bridge.openapi_errors import ARRIVAL
from rest_bridge.openapi_surface import Surface

__all__ = ["IMAGES", "IMAGES_BODIES", "IMAGES_WORDS"]

IMAGES_BODIES: Final = ("ImagesRequest", "ImagesRequestEdits", "ImagesRequestEditForm")

_MODEL: Final = "local/test-card-image:free"
_DOT: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGM4AQAAygDJmcpdfgAAAABJRU5ErkJggg=="
)
_DRAWN: Final[Mapping[str, Any]] = {"model": _MODEL, "prompt": "A lighthouse at dusk."}
_EDITED: Final[Mapping[str, Any]] = {"model": _MODEL, "prompt": "The same at night.", "size": "256x256"}
_FILE: Final = "(the bytes of a file)"
_STREAM: Final = (
    'Where the request says `"stream": true`: `event: <type>` and `data: {{event}}` for each unfinished picture '
    "(`{0}.partial_image`) that the provider shows, then for each finished one (`{0}.completed`), then `data: [DONE]`. "
    'A later failure is `event: error` with `{{"type": "error", "error": {{…}}}}`, and nothing follows.'
    "\n\nA comment (`: ping`) comes after 15 seconds of silence."
)


def _event(kind: str) -> str:
    return (
        f'event: {kind}.completed\ndata: {{"type":"{kind}.completed","b64_json":"iVBORw0KGgo=","image_index":0,'
        f'"created_at":{ARRIVAL.created_at},"background":"auto","output_format":"png","quality":"auto",'
        '"size":"1024x1024","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0,'
        '"input_tokens_details":{"text_tokens":0,"image_tokens":0},'
        '"output_tokens_details":{"text_tokens":0,"image_tokens":0},'
        '"pricing":{"currency":"USD","total_nanos":0,"total_usd":"0","lines":[]}}}\n\ndata: [DONE]\n\n'
    )


IMAGES: Final[Mapping[str, Surface]] = {
    "ImagesRestService.CreateImages": Surface(
        body=ImagesBody,
        examples={"whole": _DRAWN, "streamed": {**_DRAWN, "stream": True}},
        reply=ImagesJson,
        events=EVENTS,
        stream=_STREAM.format("image_generation"),
        stream_example=_event("image_generation"),
    ),
    "ImagesRestService.EditImages": Surface(
        body=EditsBody,
        required=("image",),
        examples={
            "whole": {**_EDITED, "image": _DOT},
            "streamed": {**_EDITED, "image": [_DOT, _DOT], "stream": True},
        },
        form=EditFormBody,
        form_examples={"whole": {**_EDITED, "image": _FILE}, "masked": {**_EDITED, "image": _FILE, "mask": _FILE}},
        files=("image", "mask"),
        optional_files=("mask",),
        many_files=("image",),
        reply=ImagesJson,
        events=EVENTS,
        stream=_STREAM.format("image_edit"),
        stream_example=_event("image_edit"),
    ),
}

_WORDS: Final[Mapping[str, str]] = {
    "response_format": "`url` is answered with a data URL: nothing is hosted.",
    "image": "What is to be changed: PNG, JPEG or WebP, 64 megapixels each; as JSON, data URLs.",
    "mask": "A PNG whose transparent parts say where the first picture is to change.",
}
IMAGES_WORDS: Final[Mapping[str, str]] = {
    **{f"{body}.{field}": text for body in IMAGES_BODIES for field, text in _WORDS.items()},
    "ImagesRequestEditForm.image": "What is to be changed: PNG, JPEG or WebP, 64 megapixels each; many as `image[]`.",
}
