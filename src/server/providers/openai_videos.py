"""Videos by upstreams with OpenAI's API of them: `/videos`, or xAI's `/videos/generations`."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from server.domain.catalog import Offer, Provider
from server.domain.errors import ProviderFailure
from server.domain.ports import Clock
from server.domain.video import Content, JobReport, Variant, VideoAbilities, VideoRequest
from server.providers.exchange import DEADLINES, Deadlines, FailureOfReply
from server.providers.http_port import HttpTransport, ResponseHeaders
from server.providers.openai_errors import failure_of_reply
from server.providers.openai_videos_decode import begun, report
from server.providers.openai_videos_encode import PATH, is_generations, submission, unsupported
from server.providers.video_abilities import abilities
from server.providers.video_calls import VideoCalls, content_gone, lost_job

__all__ = ["OpenAIVideos"]

_GONE: Final = frozenset({404, 410})
_NOT_DONE: Final = _GONE | {400, 405, 409, 422, 501}
"""How providers say that a job cannot be cancelled or deleted: it has ended, or there is no such call."""


class OpenAIVideos:
    """See `server.domain.video.VideoAdapter`."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._calls = VideoCalls(transport, clock, deadlines)
        self._clock = clock

    def unsupported(self, offer: Offer, request: VideoRequest) -> str | None:
        return unsupported(offer, request)

    def abilities(self, offer: Offer) -> VideoAbilities:
        return abilities(offer, unsupported)

    async def submit(self, offer: Offer, request: VideoRequest, key: str) -> JobReport:
        provider, said = offer.provider, submission(offer, request)
        answer = await self._calls.ask(
            "POST",
            provider.base_url + said.path,
            provider,
            {"content-type": said.content_type, "idempotency-key": key, **_credentials(provider)},
            self._failure_of(provider),
            body=said.body,
            once=True,
        )
        return begun(answer, offer)

    async def poll(self, offer: Offer, native_id: str) -> JobReport:
        provider = offer.provider
        try:
            answer = await self._calls.ask(
                "GET", _url(offer, native_id), provider, _credentials(provider), self._failure_of(provider)
            )
        except ProviderFailure as failure:
            if failure.status in _GONE:
                return lost_job(native_id, provider, failure)
            raise
        return report(answer, offer, native_id)

    async def cancel(self, offer: Offer, native_id: str) -> bool:
        return offer.videos.cancel and await self._done("POST", f"{_url(offer, native_id)}/cancel", offer)

    async def delete(self, offer: Offer, native_id: str) -> bool:
        return not is_generations(offer) and await self._done("DELETE", _url(offer, native_id), offer)

    async def content(
        self, offer: Offer, native_id: str, handle: str | None, variant: Variant, byte_range: str | None
    ) -> Content:
        provider, url = offer.provider, handle
        if is_generations(offer):
            if url is None or variant != "video":
                raise content_gone(404)
        else:
            url = f"{_url(offer, native_id)}/content?variant={variant}"
        return await self._calls.content(
            url, provider, _credentials(provider), self._failure_of(provider), variant, byte_range
        )

    async def _done(self, method: str, url: str, offer: Offer) -> bool:
        """Whether it was done, now or before. Raises ProviderFailure."""
        provider = offer.provider
        try:
            await self._calls.ask(method, url, provider, _credentials(provider), self._failure_of(provider))
        except ProviderFailure as failure:
            if failure.status in _NOT_DONE:
                return method == "DELETE" and failure.status in _GONE
            raise
        return True

    def _failure_of(self, provider: Provider) -> FailureOfReply:
        def failure_of(status: int, headers: ResponseHeaders, body: bytes) -> ProviderFailure:
            return failure_of_reply(status, headers, body, provider, self._clock.now())

        return failure_of


def _url(offer: Offer, native_id: str) -> str:
    return f"{offer.provider.base_url}{PATH}/{quote(native_id, safe='')}"


def _credentials(provider: Provider) -> dict[str, str]:
    return {"authorization": f"Bearer {provider.api_key}"} if provider.api_key else {}
