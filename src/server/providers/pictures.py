"""Pictures as providers answer with them: base64, or an address that has to be fetched."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from server.domain.addresses import is_near
from server.domain.catalog import Provider
from server.domain.images import MadeImage
from server.domain.upload import Renamed, Upload
from server.providers.exchange import DEADLINES, MAX_BODY_BYTES, USER_AGENT, Deadlines
from server.providers.http_port import HttpTransport
from server.providers.media import image_type
from server.providers.openai_errors import protocol_failure
from server.providers.several import as_they_end

__all__ = ["LinkedImage", "Pictures", "made_image", "media_type_of", "true_type", "with_true_type"]

MAX_PICTURE_BYTES: Final = 32 * 1024 * 1024
"""Of one picture that is fetched; those of an answer together may be no more than any whole answer."""
FETCHED_AT_ONCE: Final = 4

_SVG: Final = "image/svg+xml"
_FORMATS: Final[Mapping[object, str]] = {"jpg": "image/jpeg", "svg": _SVG}
_PORTS: Final = {"http": 80, "https": 443}
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}


class LinkedImage(msgspec.Struct, frozen=True):
    """A picture that a provider keeps for a while. `declared`: its media type, as far as the provider says."""

    url: str
    declared: str | None = None
    revised_prompt: str | None = None


class Pictures:
    """Fetches pictures. `headers` are those of the provider's own requests; they go to its own origin only."""

    def __init__(self, transport: HttpTransport, deadlines: Deadlines = DEADLINES) -> None:
        self._transport = transport
        self._deadlines = deadlines

    async def whole(
        self, pictures: Sequence[MadeImage | LinkedImage], provider: Provider, headers: Mapping[str, str]
    ) -> tuple[MadeImage, ...]:
        """All of them as base64, in their order. Raises ProviderFailure."""
        linked = {place: one for place, one in enumerate(pictures) if isinstance(one, LinkedImage)}
        found = {place: one for place, one in enumerate(pictures) if isinstance(one, MadeImage)}
        jobs = [partial(self._fetch, one, provider, headers) for one in linked.values()]
        places, size = list(linked), 0
        async with aclosing(as_they_end(jobs, FETCHED_AT_ONCE)) as ended:
            async for number, picture in ended:
                size += len(picture.data)
                if size > MAX_BODY_BYTES:
                    raise protocol_failure("The provider's pictures are larger than the gateway's limit.")
                found[places[number]] = picture
        return tuple(found[place] for place in range(len(pictures)))

    async def _fetch(self, picture: LinkedImage, provider: Provider, headers: Mapping[str, str]) -> MadeImage:
        is_own = _is_own(picture.url, provider)
        sent = {"accept": "image/*", "user-agent": USER_AGENT}
        if is_own:
            sent |= {name: value for name, value in headers.items() if name == "authorization"}
        response = await self._transport.request(
            "GET",
            picture.url,
            headers=sent,
            connect_timeout_s=self._deadlines.connect_s,
            allow_link_local=is_own and provider.allow_link_local,
            allow_near=is_own or is_near(urlsplit(provider.base_url).hostname or ""),
        )
        async with response:
            if response.status != 200:
                raise protocol_failure(f"The provider's picture could not be fetched (HTTP {response.status}).")
            declared = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
            data = await response.read(MAX_PICTURE_BYTES)
        kind = image_type(data) or (declared if declared.startswith("image/") else None)
        if kind is None or not data:
            raise protocol_failure("The provider told of a picture at an address where there is none.")
        return MadeImage(base64.b64encode(data).decode(), kind, picture.revised_prompt)


def _is_own(url: str, provider: Provider) -> bool:
    """Whether it is of the provider's own origin. Raises ProviderFailure for what is no web address.

    A provider that is far away has no business near by: what is there is none of its pictures.
    """
    try:
        origin = _origin(urlsplit(url))
    except ValueError:
        origin = None
    if origin is None:
        raise protocol_failure("The provider told of a picture at something that is no web address.")
    return origin == _origin(urlsplit(provider.base_url))


def _origin(parts: SplitResult) -> tuple[str, str, int] | None:
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def made_image(data: object, declared: str | None = None, revised_prompt: str | None = None) -> MadeImage:
    """A picture from base64, or from a data URL, under the type that its bytes have. Raises ProviderFailure."""
    if not isinstance(data, str) or not data:
        raise protocol_failure("The provider sent a picture that is none.")
    if data.startswith("data:"):
        label, _, data = data.partition(",")
        declared = label[len("data:") :].partition(";")[0].strip().lower() or declared
    if "\n" in data:
        data = "".join(data.split())
    try:
        start = base64.b64decode(data, validate=True)[:16]
    except (binascii.Error, ValueError):
        start = b""
    if not start:
        raise protocol_failure("The provider sent a picture that is not base64.")
    if start.lstrip().startswith((b"<svg", b"<?xml")):
        declared = _SVG
    return MadeImage(data, image_type(start) or declared or "image/png", revised_prompt)


def media_type_of(output_format: object) -> str | None:
    """Of a format as OpenAI calls them (`jpeg`); None for what is none."""
    if not isinstance(output_format, str) or not output_format.isalnum():
        return None
    name = output_format.lower()
    return _FORMATS.get(name, f"image/{name}")


def true_type(upload: Upload) -> str:
    """Its media type: as its first bytes tell, else as the client declared it."""
    return image_type(upload.head) or upload.media_type


def with_true_type(upload: Upload) -> Upload:
    """The upload under its true type, and with a name: providers go by both."""
    media_type = true_type(upload)
    filename = upload.filename or f"image.{_EXTENSIONS.get(media_type, 'bin')}"
    return Renamed(upload, filename=filename, media_type=media_type)
