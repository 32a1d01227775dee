"""Calls about video jobs: small JSON back and forth, and the content, which is relayed as it comes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final, Self
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

from server.domain.addresses import is_near
from server.domain.catalog import Provider
from server.domain.errors import AttemptFailure, FailureCategory, ProviderFailure, UpstreamError
from server.domain.ports import Clock
from server.domain.video import CONTENT_GONE, Content, JobReport, Variant, VideoStatus
from server.providers.decoding import UNREADABLE
from server.providers.exchange import DEADLINES, USER_AGENT, Deadlines, FailureOfReply, failed_reply
from server.providers.http_port import HttpResponse, HttpTransport, ResponseHeaders, SizedBody
from server.providers.openai_error_tables import category_of
from server.providers.openai_errors import protocol_failure
from server.providers.rate_limits import headroom_of
from server.providers.request_ids import upstream_request_id
from server.providers.retry_after import retry_after_s

__all__ = ["Answer", "VideoCalls", "attempt_failure", "content_gone", "lost_job"]

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Of what a provider says about a job."""
MAX_HOPS: Final = 5
"""How often content may have moved."""

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})
_GONE_ELSEWHERE: Final = _GONE | {401, 403}
"""What a signed address answers after its time; our key has nothing to do with it."""
_PORTS: Final = {"http": 80, "https": 443}
_NO_VIDEO: Final = frozenset({"application/json", "text/html", "text/plain", "application/xml", "text/xml"})
_USUAL_TYPE: Final[Mapping[Variant, str]] = {
    "video": "video/mp4",
    "thumbnail": "image/webp",
    "spritesheet": "image/jpeg",
}
_MEDIA_TYPE: Final = re.compile(r"(?:video|image)/[a-z0-9.+-]{1,40}")
_RELAYED: Final[Mapping[str, re.Pattern[str]]] = {
    "content-length": re.compile(r"\d{1,15}"),
    "content-range": re.compile(r"bytes (?:\d{1,15}-\d{1,15}|\*)/(?:\d{1,15}|\*)"),
    "accept-ranges": re.compile(r"bytes|none"),
    "etag": re.compile(r'(?:W/)?"[!#-~]{0,200}"'),
    "last-modified": re.compile(r"[A-Za-z0-9 ,:+-]{10,40}"),
}

_decode: Final = msgspec.json.Decoder().decode


class Answer(msgspec.Struct, frozen=True):
    """A reply of 2xx. `value` is its JSON, None where it has no body."""

    status: int
    headers: ResponseHeaders
    value: Any


class VideoCalls:
    """Everything that the dialects do alike. Its callers set all deadlines but `deadlines`."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._deadlines = deadlines

    async def ask(
        self,
        method: str,
        url: str,
        provider: Provider,
        headers: Mapping[str, str],
        failure_of: FailureOfReply,
        *,
        body: bytes | SizedBody = b"",
        once: bool = False,
    ) -> Answer:
        """Raises ProviderFailure, for a reply outside 2xx as well."""
        response = await self._transport.request(
            method,
            url,
            headers={"accept": "application/json", "user-agent": USER_AGENT, **headers},
            body=body,
            connect_timeout_s=self._deadlines.connect_s,
            allow_link_local=provider.allow_link_local,
            once=once,
        )
        async with response:
            if not 200 <= response.status < 300:
                raise await self._failure(response, provider, failure_of)
            said = await response.read(MAX_ANSWER_BYTES)
            try:
                value = _decode(said) if said.strip() else None
            except UNREADABLE:
                failure = protocol_failure("The provider sent something that is not JSON.")
                failure.request_id = upstream_request_id(response.headers, provider)
                raise failure from None
        return Answer(response.status, response.headers, value)

    async def content(
        self,
        url: str,
        provider: Provider,
        credentials: Mapping[str, str],
        failure_of: FailureOfReply,
        variant: Variant,
        byte_range: str | None,
    ) -> Content:
        """What is at `url`, or where that leads to. `credentials` are for the provider's own origin, and go nowhere
        else. Raises ProviderFailure.
        """
        for _ in range(MAX_HOPS + 1):
            is_own = _check(url, provider)
            headers = {"accept": "*/*", "user-agent": USER_AGENT, **(credentials if is_own else {})}
            if byte_range is not None:
                headers["range"] = byte_range
            response = await self._transport.request(
                "GET",
                url,
                headers=headers,
                connect_timeout_s=self._deadlines.connect_s,
                allow_link_local=is_own and provider.allow_link_local,
                allow_near=is_own or _is_near(provider),
            )
            async with AsyncExitStack() as closing:
                await closing.enter_async_context(response)
                if response.status in _MOVED and (location := response.headers.get("location")) is not None:
                    url = _moved(url, location)
                elif response.status in (200, 206, 416):
                    relay = Relay(response, variant, is_partial=byte_range is not None)
                    closing.pop_all()
                    return relay
                elif response.status in (_GONE if is_own else _GONE_ELSEWHERE):
                    raise content_gone(response.status)
                elif is_own:
                    raise await self._failure(response, provider, failure_of)
                else:
                    raise self._elsewhere(response)
        raise protocol_failure("The provider's content has moved too often.")

    async def _failure(self, response: HttpResponse, provider: Provider, failure_of: FailureOfReply) -> ProviderFailure:
        failure = await failed_reply(response, provider, self._deadlines.error_body_s, failure_of)
        failure.headroom = headroom_of(response.headers, self._clock.now())
        return failure

    def _elsewhere(self, response: HttpResponse) -> ProviderFailure:
        """Of a store that the provider keeps its content at: what it says is not for clients."""
        category = category_of(response.status, (), "")
        if category in (FailureCategory.CALLER_ERROR, FailureCategory.QUOTA_EXHAUSTED):
            category = FailureCategory.SERVER_ERROR  # neither the client nor the account asked it for anything
        failure = ProviderFailure(category, status=response.status)
        failure.retry_after_s = retry_after_s(response.headers, None, self._clock.now())
        return failure


class Relay:
    """See `server.domain.video.Content`."""

    def __init__(self, response: HttpResponse, variant: Variant, *, is_partial: bool) -> None:
        """Raises ProviderFailure where that is no content."""
        self.status = response.status
        self.headers = _relayed(response, variant, is_partial=is_partial)
        self._response = response

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        if self.status == 416:
            return
        async with aclosing(self._response.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._response.__aexit__(*exc_info)


def _relayed(response: HttpResponse, variant: Variant, *, is_partial: bool) -> dict[str, str]:
    declared = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
    headers = {"content-type": declared if _MEDIA_TYPE.fullmatch(declared) else _USUAL_TYPE[variant]}
    for name, pattern in _RELAYED.items():
        value = response.headers.get(name)
        if value is not None and pattern.fullmatch(value):
            headers[name] = value
    if response.headers.get("transfer-encoding") is not None:
        headers.pop("content-length", None)  # the chunks say how long it is
    if response.status == 416:
        return {name: headers[name] for name in ("content-range",) if name in headers}
    if declared in _NO_VIDEO or (response.status == 206 and not (is_partial and "content-range" in headers)):
        raise protocol_failure("The provider sent something else where the content should be.")
    if (response.headers.get("content-encoding") or "identity").strip().lower() != "identity":
        if response.status == 206:
            raise protocol_failure("The provider sent a part of something that it had compressed.")
        headers = {"content-type": headers["content-type"]}
    return headers


def _check(url: str, provider: Provider) -> bool:
    """Whether it is of the provider's own origin. Raises ProviderFailure for what is no address to get content from."""
    try:
        theirs, own = urlsplit(url), urlsplit(provider.base_url)
        origin = _origin(theirs)
    except ValueError:
        origin = None
    if origin is None or (own.scheme == "https" and theirs.scheme != "https"):
        raise protocol_failure("The provider told of content at an address that the gateway does not call.")
    return origin == _origin(own)


def _origin(parts: SplitResult) -> tuple[str, str, int] | None:
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _is_near(provider: Provider) -> bool:
    return is_near(urlsplit(provider.base_url).hostname or "")


def _moved(url: str, location: str) -> str:
    try:
        return urljoin(url, location).partition("#")[0]
    except ValueError:
        raise protocol_failure("The provider told of content at an address that the gateway does not call.") from None


def content_gone(status: int) -> ProviderFailure:
    said = UpstreamError(code=CONTENT_GONE, message="The provider does not have this content, or no longer.")
    return ProviderFailure(FailureCategory.SERVER_ERROR, status=status, upstream=said)


def lost_job(native_id: str, provider: Provider, failure: ProviderFailure) -> JobReport:
    """Of a job that its provider does not know."""
    said = UpstreamError(code="job_not_found", message="The provider does not know this job any more.")
    lost = ProviderFailure(FailureCategory.SERVER_ERROR, status=failure.status, upstream=said)
    lost.request_id = failure.request_id
    return JobReport(native_id, VideoStatus.FAILED, failure=attempt_failure(lost, provider))


def attempt_failure(failure: ProviderFailure, provider: Provider) -> AttemptFailure:
    return AttemptFailure(
        provider.id, failure.category, failure.status, failure.upstream, failure.retry_after_s, failure.request_id
    )
