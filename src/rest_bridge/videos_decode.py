"""A request for a video: JSON or a form, and how it becomes a `VideoRequest`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from rest_bridge.content import inline_file
from rest_bridge.extras import ExtrasBody
from rest_bridge.form_fields import decode_fields
from rest_bridge.json import decode_body, invalid
from server.domain.catalog import VideoVariant
from server.domain.errors import GatewayError, Reason
from server.domain.limits import MAX_SHOWN_CHARS, invalid_value, missing_field
from server.domain.request import Endpoint
from server.domain.upload import Upload
from server.domain.video import LinkedPicture, VideoRequest
from server.domain.video_limits import REFERENCE, check_prompt, check_reference, check_settings
from server.domain.video_links import Disposition, LinkWish, link_wish

__all__ = ["LinkBody", "RemixBody", "VideoBody", "decode_link", "decode_remix", "decode_video", "decode_video_form"]

REFERENCES: Final = "input_references"
_SECONDS: Final = ("seconds", "duration", "duration_seconds")
_SETTINGS: Final = ("size", "resolution", "aspect_ratio", "seed", "negative_prompt")
_DIGITS: Final = 4


class ReferenceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's object."""

    image_url: str


class ReferenceUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The address of an entry of `input_references`."""

    url: str


class ReferenceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture as the `phaseo` SDK has it: `image_url`, `url`, or base64 in `data` under the type `mime_type`."""

    type: Literal["image_url", "image"] = "image_url"
    role: Literal["first_frame"] | None = None
    image_url: ReferenceUrl | None = None
    url: str | None = None
    data: str | None = None
    mime_type: str | None = None


class VideoBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/videos`. `duration` and `duration_seconds` are other words for `seconds`."""

    model: str
    prompt: str
    seconds: int | str | None = None
    duration: int | str | None = None
    duration_seconds: int | str | None = None
    size: str | None = None
    resolution: str | None = None
    aspect_ratio: str | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    input_reference: str | ReferenceBody | None = None
    input_references: tuple[ReferenceEntry, ...] | None = None


class RemixBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/videos/{video_id}/remix`."""

    prompt: str


class LinkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/videos/{video_id}/download_url`. `ttl_seconds` is another word for `expires_in_seconds`."""

    variant: VideoVariant | None = None
    expires_in_seconds: int | None = None
    ttl_seconds: int | None = None
    disposition: Disposition | None = None
    index: Literal[0] | None = None


_VIDEO: Final = msgspec.json.Decoder(VideoBody)
_REMIX: Final = msgspec.json.Decoder(RemixBody)
_LINK: Final = msgspec.json.Decoder(LinkBody)


async def decode_video(body: bytes) -> VideoRequest:
    """Raises GatewayError naming the field that is wrong."""
    return await _request(decode_body(_VIDEO, body), ())


async def decode_video_form(fields: Iterable[tuple[str, str]], files: Iterable[tuple[str, Upload]]) -> VideoRequest:
    """As OpenAI's SDKs send it. Raises GatewayError naming the field that is wrong."""
    return await _request(decode_fields(VideoBody, fields), files)


def decode_remix(body: bytes) -> str:
    """The prompt. Raises GatewayError naming the field that is wrong."""
    prompt = decode_body(_REMIX, body).prompt
    check_prompt(prompt)
    return prompt


def decode_link(body: bytes) -> LinkWish:
    """Raises GatewayError naming the field that is wrong."""
    asked = decode_body(_LINK, body)
    spelling, lifetime_s = "expires_in_seconds", asked.expires_in_seconds
    if asked.ttl_seconds is not None:
        if lifetime_s is not None:
            raise invalid_value("ttl_seconds", "cannot be given together with expires_in_seconds, which says as much")
        spelling, lifetime_s = "ttl_seconds", asked.ttl_seconds
    return link_wish(asked.variant, lifetime_s, asked.disposition, spelling)


async def _request(body: VideoBody, files: Iterable[tuple[str, Upload]]) -> VideoRequest:
    if not body.model:
        raise missing_field("model")
    spelling, seconds = _seconds(body)
    parameters = {name: name for name in _SETTINGS if getattr(body, name) is not None}
    if seconds is not None:
        parameters["seconds"] = spelling
    reference = _reference(body, files)
    if reference is not None:
        parameters[REFERENCE] = REFERENCES if body.input_references else REFERENCE
    request = VideoRequest(
        endpoint=Endpoint.VIDEO,
        model=body.model,
        prompt=body.prompt,
        seconds=seconds,
        size=body.size,
        resolution=body.resolution,
        aspect_ratio=body.aspect_ratio,
        seed=body.seed,
        negative_prompt=body.negative_prompt,
        reference=None if isinstance(reference, LinkedPicture) else reference,
        linked=reference if isinstance(reference, LinkedPicture) else None,
        parameters=parameters,
        provider_options=body.options(),
        routing=body.routing(),
    )
    check_settings(request)
    if request.reference is not None:
        await check_reference(request.reference)
    return request


def _seconds(body: VideoBody) -> tuple[str, int | None]:
    """How long it is to be, and which word said so. OpenAI's own are texts (`"4"`)."""
    given = {name: value for name in _SECONDS if (value := getattr(body, name)) is not None}
    if not given:
        return _SECONDS[0], None
    name, *others = given
    if others:
        raise invalid_value(others[0], f"cannot be given together with {name}, which says as much")
    value = given[name]
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS):
            raise invalid(name, f"`{name}` must be a whole number of seconds.")
        value = int(value)
    return name, value


def _reference(body: VideoBody, files: Iterable[tuple[str, Upload]]) -> Upload | LinkedPicture | None:
    """The picture, or where it is."""
    found = [*_inside(body), *_listed(body.input_references or ())]
    for name, file in files:
        if name != REFERENCE:
            shown = name[:MAX_SHOWN_CHARS]
            raise GatewayError(Reason.UNKNOWN_PARAMETER, f"`{shown}` is not a known file.", param=shown)
        found.append(file)
    if len(found) > 1:
        several = REFERENCES if body.input_references else REFERENCE
        raise invalid(several, f"`{several}` is more than the one picture that a video begins with.")
    return found[0] if found else None


def _inside(body: VideoBody) -> Iterator[Upload | LinkedPicture]:
    given = body.input_reference
    if given is not None:
        url, param = (given, REFERENCE) if isinstance(given, str) else (given.image_url, f"{REFERENCE}.image_url")
        yield _at(url, param)


def _listed(entries: Sequence[ReferenceEntry]) -> Iterator[Upload | LinkedPicture]:
    for place, entry in enumerate(entries):
        param = f"{REFERENCES}[{place}]"
        told: list[Upload | LinkedPicture] = []
        if entry.image_url is not None:
            told.append(_at(entry.image_url.url, f"{param}.image_url.url"))
        if entry.url is not None:
            told.append(_at(entry.url, f"{param}.url"))
        if entry.data is not None:
            told.append(inline_file(f"data:{entry.mime_type or 'image/png'};base64,{entry.data}", f"{param}.data"))
        if len(told) != 1:
            raise invalid(param, f"`{param}` must have one of image_url, url and data.")
        yield told[0]


def _at(url: str, param: str) -> Upload | LinkedPicture:
    """The file of a data URL; any other address is for the gateway to judge."""
    return inline_file(url, param) if url[:5].lower() == "data:" else LinkedPicture(url, param)
