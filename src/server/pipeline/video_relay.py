"""Content of a video as its provider sends it, whose failures are told in the gateway's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final, Self

from server.domain.byte_ranges import plain
from server.domain.catalog import Offer
from server.domain.errors import AttemptFailure, FailureCategory, GatewayError, ProviderFailure, Reason
from server.domain.video import CONTENT_GONE, Content, Variant
from server.domain.video_jobs import VideoJob
from server.pipeline.failures import exhausted, interrupted
from server.pipeline.video_looks import Looks

__all__ = ["relayed"]

CONTENT_WAIT_S: Final = 30.0
"""How long a provider may take to begin with the content."""
STALL_S: Final = 60.0
"""How long it may be silent after that."""


async def relayed(looks: Looks, job: VideoJob, variant: Variant, byte_range: str | None) -> Content:
    """What the provider of a completed job has, or the part that `byte_range` names; to be entered, and left.

    Raises GatewayError: `resource_not_found` where there is nothing, or no longer. So does what its `chunks` raises.
    """
    if job.native_id is None:
        raise GatewayError(Reason.RESOURCE_NOT_FOUND, "The video has no content.")
    byte_range = plain(byte_range)
    way = looks.way(job)
    if way is None:
        raise GatewayError(
            Reason.PROVIDERS_UNAVAILABLE, "The provider that has this video is not in use here at the moment."
        )
    adapter, offer = way
    try:
        async with asyncio.timeout(CONTENT_WAIT_S):
            try:
                content = await adapter.content(offer, job.native_id, job.handle, variant, byte_range)
            except ProviderFailure as failure:
                if failure.upstream.code != CONTENT_GONE or job.handle is None:
                    raise
                handle = (await adapter.poll(offer, job.native_id)).handle
                content = await adapter.content(offer, job.native_id, handle, variant, byte_range)
    except ProviderFailure as failure:
        raise _content_error(offer, failure) from failure
    except TimeoutError:
        raise GatewayError(Reason.UPSTREAM_TIMEOUT, "The provider did not begin with the content in time.") from None
    return _Relayed(content, offer)


class _Relayed:
    def __init__(self, content: Content, offer: Offer) -> None:
        self._content = content
        self._offer = offer

    @property
    def status(self) -> int:
        return self._content.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._content.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._content.chunks()) as chunks:
            while True:
                try:
                    async with asyncio.timeout(STALL_S):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    silence = ProviderFailure(FailureCategory.TIMEOUT)
                    raise interrupted((_recorded(self._offer, silence),)) from None
                except ProviderFailure as failure:
                    raise interrupted((_recorded(self._offer, failure),)) from failure
                yield chunk

    async def __aenter__(self) -> Self:
        await self._content.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._content.__aexit__(*exc_info)


def _content_error(offer: Offer, failure: ProviderFailure) -> GatewayError:
    if failure.upstream.code == CONTENT_GONE:
        return GatewayError(Reason.RESOURCE_NOT_FOUND, "The content of this video is no longer kept.")
    return exhausted((_recorded(offer, failure),))


def _recorded(offer: Offer, failure: ProviderFailure) -> AttemptFailure:
    return AttemptFailure(
        offer.provider.id, failure.category, failure.status, failure.upstream, failure.retry_after_s, failure.request_id
    )
