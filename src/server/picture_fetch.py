"""Pictures are fetched from addresses that clients choose: from the open network only, and only pictures.

Whatever goes wrong on the way is told in one sentence: nobody learns from it what answers at an address, and what not.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final
from urllib.parse import urljoin

from server.domain.client_urls import check_client_url
from server.domain.errors import GatewayError, ProviderFailure, Reason
from server.domain.image_limits import MAX_INPUT_BYTES, check_picture
from server.domain.limits import invalid_value
from server.domain.video import LinkedPicture
from server.spool import Spool, Spooled
from server.transport import Transport, UpstreamResponse

__all__ = ["PictureFetch"]

CONNECT_S: Final = 5.0
FETCH_S: Final = 20.0
"""For all of it, redirects included."""
MAX_HOPS: Final = 3
"""How often a picture may have moved."""

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"accept": "image/png, image/jpeg, image/webp", "user-agent": "aistats-gateway"}


class PictureFetch:
    """Implements `server.domain.video.PictureSource`. Pictures wait in the spool, as uploads do."""

    def __init__(
        self, transport: Transport, spool: Spool, *, allow_http: bool, allow_private: bool, fetch_s: float = FETCH_S
    ) -> None:
        self._transport = transport
        self._spool = spool
        self._allow_http = allow_http
        self._allow_private = allow_private
        self._fetch_s = fetch_s

    def check(self, picture: LinkedPicture) -> None:
        check_client_url(picture.url, picture.param, allow_http=self._allow_http, allow_private=self._allow_private)

    async def fetch(self, picture: LinkedPicture) -> Spooled:
        self.check(picture)
        try:
            async with asyncio.timeout(self._fetch_s):
                found = await self._followed(picture)
        except (ProviderFailure, TimeoutError):
            raise _unreachable(picture) from None
        try:
            await check_picture(picture.param, found)
        except BaseException:
            found.close()
            raise
        return found

    async def _followed(self, picture: LinkedPicture) -> Spooled:
        """Raises GatewayError, ProviderFailure."""
        url = picture.url
        for _ in range(MAX_HOPS + 1):
            response = await self._transport.request(
                "GET", url, headers=_HEADERS, connect_timeout_s=CONNECT_S, allow_near=self._allow_private
            )
            async with response:
                if response.status == 200:
                    return await self._kept(picture, response)
                location = response.headers.get("location")
            if response.status not in _MOVED or location is None:
                break
            try:
                url = urljoin(url, location).partition("#")[0]
                self.check(LinkedPicture(url, picture.param))
            except (ValueError, GatewayError):
                break
        raise _unreachable(picture)

    async def _kept(self, picture: LinkedPicture, response: UpstreamResponse) -> Spooled:
        kept = self._spool.begin(media_type=response.headers.get("content-type") or "")
        try:
            async with aclosing(response.chunks()) as chunks:
                async for chunk in chunks:
                    if kept.size + len(chunk) > MAX_INPUT_BYTES:
                        raise GatewayError(
                            Reason.REQUEST_TOO_LARGE,
                            f"{picture.param} is larger than {MAX_INPUT_BYTES // 2**20} MiB.",
                            param=picture.param,
                        )
                    await kept.write(chunk)
        except BaseException:
            kept.close()
            raise
        return kept


def _unreachable(picture: LinkedPicture) -> GatewayError:
    return invalid_value(picture.param, "could not be fetched: there must be a picture at its address")
