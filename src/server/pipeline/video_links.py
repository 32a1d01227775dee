"""Signed addresses of videos: who has one needs no key, and nobody makes one but a gateway on the same database.

What is signed is all that the address says, under a secret of the deployment. It tells nothing of the team: whose the
video is, is looked up once the signature holds. A video that is deleted takes its addresses with it.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from server.domain.errors import GatewayError, Reason
from server.domain.identity import Principal
from server.domain.ports import Clock
from server.domain.video import VARIANTS, Video, VideoStatus
from server.domain.video_jobs import VideoJobStore
from server.domain.video_links import DISPOSITIONS, GivenLink, Link, LinkWish, Secrets
from server.pipeline.videos import Videos

__all__ = ["HOST_HEADER", "SCHEME_HEADER", "VideoLinks"]

HOST_HEADER: Final = "x-gw-host"
"""The host that the request was sent to, as Envoy says; what clients send under this name never arrives."""
SCHEME_HEADER: Final = "x-forwarded-proto"
"""Envoy's own word, or that of the proxies before it which the operator trusts."""
SECRET: Final = "video_links"  # noqa: S105 - its name

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ID: Final = re.compile(r"video_([0-9a-f]{32})")
_EXPIRES: Final = re.compile(r"[1-9][0-9]{0,11}")


class VideoLinks:
    """`public_url`: what clients know the gateway by, without a slash at its end; None: what each request was sent to.

    `local_url` is what is told where a call did not come through Envoy.
    """

    def __init__(
        self,
        videos: Videos,
        store: VideoJobStore,
        secrets: Secrets,
        clock: Clock,
        *,
        public_url: str | None,
        local_url: str,
    ) -> None:
        self._videos = videos
        self._store = store
        self._secrets = secrets
        self._clock = clock
        self._public_url = public_url
        self._local_url = local_url

    async def make(self, principal: Principal, video_id: str, wish: LinkWish, headers: Mapping[str, str]) -> Link:
        """`headers` are those of the request. Raises GatewayError: as content does where there is none, or none yet."""
        video = await self._videos.get(principal, video_id)
        expires_at = int(self._clock.now()) + wish.lifetime_s
        if video.expires_at is not None:
            expires_at = min(expires_at, video.expires_at)
        _check_downloadable(video, expires_at, self._clock.now())
        signature = await self._signature(video.suffix, wish.variant, wish.disposition, expires_at)
        query = urlencode(
            {
                "variant": wish.variant,
                "disposition": wish.disposition,
                "expires": expires_at,
                "signature": signature,
            }
        )
        return Link(f"{self._base(headers)}/v1/videos/{video.id}/download?{query}", wish.variant, expires_at)

    async def principal(self, given: GivenLink) -> Principal:
        """The team whose video an address leads to. Raises GatewayError, the same whatever is wrong with it."""
        found = _ID.fullmatch(given.video_id)
        if (
            found is None
            or given.variant not in VARIANTS
            or given.disposition not in DISPOSITIONS
            or given.expires is None
            or not _EXPIRES.fullmatch(given.expires)
            or given.signature is None
        ):
            raise _nowhere()
        suffix, expires_at = found[1], int(given.expires)
        signature = await self._signature(suffix, given.variant, given.disposition, expires_at)
        if not hmac.compare_digest(signature.encode(), given.signature.encode()):
            raise _nowhere()
        if expires_at <= self._clock.now():
            raise _nowhere()
        team_id = await self._store.team_of(suffix)
        if team_id is None:
            raise _nowhere()
        return Principal(team_id, "", frozenset())

    async def _signature(self, suffix: str, variant: str, disposition: str, expires_at: int) -> str:
        key = await self._secrets.get(SECRET)
        said = f"{suffix}\n{variant}\n{disposition}\n{expires_at}"
        return urlsafe_b64encode(hmac.digest(key, said.encode(), "sha256")).rstrip(b"=").decode()

    def _base(self, headers: Mapping[str, str]) -> str:
        if self._public_url is not None:
            return self._public_url
        host, scheme = headers.get(HOST_HEADER, ""), headers.get(SCHEME_HEADER, "")
        if not _HOST.fullmatch(host) or scheme not in ("http", "https"):
            return self._local_url
        return f"{scheme}://{host}"


def _check_downloadable(video: Video, expires_at: int, now: float) -> None:
    if not video.has_ended:
        raise GatewayError(
            Reason.NOT_READY, f'The video is {video.status.value}: it has content once it is "completed".'
        )
    if video.status is not VideoStatus.COMPLETED:
        raise GatewayError(Reason.RESOURCE_NOT_FOUND, f"The video is {video.status.value}: it has no content.")
    if expires_at <= now:
        raise GatewayError(Reason.RESOURCE_NOT_FOUND, "The content of this video has expired.")


def _nowhere() -> GatewayError:
    return GatewayError(Reason.RESOURCE_NOT_FOUND, "This address leads to no video, or no longer: ask for a new one.")
