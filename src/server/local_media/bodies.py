"""Bodies of requests: JSON, or forms whose files go to disk as they come in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import BodyPartReader, web

from server.local_media.refusal import Refused, bad_request

__all__ = ["MAX_JSON_BYTES", "MAX_UPLOAD_BYTES", "converted", "form_body", "is_form", "json_body"]

MAX_JSON_BYTES: Final = 32 * 1024 * 1024
"""Of which a picture in base64 may be most."""
MAX_UPLOAD_BYTES: Final = 64 * 1024 * 1024
"""Of a whole form."""
MAX_PARTS: Final = 64
MAX_FIELD_BYTES: Final = 256 * 1024
STALL_S: Final = 30.0
"""A body that nothing has come of for so long will not be completed."""
_CHUNK: Final = 64 * 1024
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")
_WHERE: Final = re.compile(r"`\$\.([A-Za-z_]+)")

Asked = TypeVar("Asked")


def is_form(request: web.Request) -> bool:
    return request.content_type.startswith("multipart/")


def converted(values: Any, type_: type[Asked], *, strict: bool = True) -> Asked:
    """Raises Refused, naming the field that is unknown, missing or of another kind."""
    try:
        return msgspec.convert(values, type_, strict=strict)
    except msgspec.ValidationError as error:
        text = str(error)
    if found := _UNKNOWN.search(text):
        raise bad_request("unknown_parameter", f"There is no parameter '{found[1]}' here.", found[1])
    if found := _MISSING.search(text):
        raise bad_request("missing_required_parameter", f"The parameter '{found[1]}' is missing.", found[1])
    raise bad_request("invalid_value", text, found[1] if (found := _WHERE.search(text)) else None)


async def json_body(request: web.Request, type_: type[Asked]) -> Asked:
    """Raises Refused."""
    body = bytearray()
    async with _Incoming():
        while chunk := await asyncio.wait_for(request.content.read(_CHUNK), STALL_S):
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise _too_large()
    try:
        values = msgspec.json.decode(bytes(body), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise bad_request("invalid_json", "The body is no JSON object.") from None
    return converted(values, type_)


async def form_body(
    request: web.Request, directory: Path, files: Collection[str], lists: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, list[Path]]]:
    """The fields, those in `lists` as lists, and where each of the `files` is; names without `[]`. Raises Refused."""
    fields: dict[str, Any] = {}
    found: dict[str, list[Path]] = {}
    size = 0
    async with _Incoming():
        reader = await request.multipart()
        for number in range(MAX_PARTS + 1):
            part = await asyncio.wait_for(reader.next(), STALL_S)
            if part is None:
                return fields, found
            if number == MAX_PARTS or not isinstance(part, BodyPartReader) or not part.name:
                break
            name = part.name.removesuffix("[]")
            if name in files:
                path = directory / f"upload-{number}"
                size += await _spooled(part, path, MAX_UPLOAD_BYTES - size)
                found.setdefault(name, []).append(path)
                continue
            value = await _text(part)
            if name in lists:
                fields.setdefault(name, []).append(value)
            else:
                fields[name] = value
    raise bad_request("invalid_form", "The form has too many parts, or one without a name.")


async def _spooled(part: BodyPartReader, path: Path, most: int) -> int:
    size = 0
    with path.open("wb") as file:
        while chunk := await asyncio.wait_for(part.read_chunk(_CHUNK), STALL_S):
            size += len(chunk)
            if size > most:
                raise _too_large()
            file.write(chunk)
    return size


async def _text(part: BodyPartReader) -> str:
    value = bytearray()
    while chunk := await asyncio.wait_for(part.read_chunk(_CHUNK), STALL_S):
        value += chunk
        if len(value) > MAX_FIELD_BYTES:
            raise _too_large()
    return value.decode()


class _Incoming:
    """Tells what goes wrong with a body as it comes in as a refusal."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "timeout", "The rest of the body did not come.") from None
        if isinstance(error, ValueError | AssertionError | web.RequestPayloadError):
            raise bad_request("invalid_body", "The body cannot be read: it is cut off, or not what it says it is.")


def _too_large() -> Refused:
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", "The body is too large.")
