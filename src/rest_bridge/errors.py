"""A domain error as REST says it: one JSON shape, with its HTTP status. The only mapping there is."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from rest_bridge.http import JSON, ErrorWriter, Headers, RestResponse
from server.domain.errors import (
    HINTS,
    HTTP_STATUS,
    AttemptFailure,
    ErrorCode,
    FailureCategory,
    GatewayError,
    UpstreamError,
)
from server.domain.identity import Arrival

MAX_TEXT_CHARS: Final = 2000
"""Of each text in an error, this much at most is sent."""
MAX_FAILURES_SHOWN: Final = 8
MAX_CATEGORIES_SHOWN: Final = 32


class ErrorDetail(msgspec.Struct, frozen=True):
    """One thing that is wrong with the request; of content that was flagged, `category` is one that it belongs to."""

    param: str
    message: str
    reason: str
    category: str | msgspec.UnsetType = msgspec.UNSET


class Diagnostics(msgspec.Struct, frozen=True):
    category: str
    hint: str
    provider: str


class FailureSample(msgspec.Struct, frozen=True):
    """One failed attempt; `type` is its category, `status` the provider's HTTP status, 0 where there was none."""

    provider: str
    type: str
    status: int
    retryable: bool
    upstream_error_code: str | None
    upstream_error_message: str | None
    upstream_error_param: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The contract's error object. The fields from `attempt_count` on are there where providers failed."""

    generation_id: str
    status_code: int
    error: str
    error_type: str
    error_origin: str
    description: str
    reason: str
    param: str | None
    details: tuple[ErrorDetail, ...]
    attempt_count: int | msgspec.UnsetType = msgspec.UNSET
    failed_providers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    failed_statuses: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    upstream_error: UpstreamError | msgspec.UnsetType = msgspec.UNSET
    failure_sample: tuple[FailureSample, ...] | msgspec.UnsetType = msgspec.UNSET
    provider_failure_diagnostics: Diagnostics | msgspec.UnsetType = msgspec.UNSET


def status_of(error: GatewayError) -> int:
    return HTTP_STATUS[error.code]


def error_response(error: GatewayError, generation_id: str) -> RestResponse:
    """The whole response that tells of `error`, except for the headers that every response has."""
    return error_reply(error, msgspec.json.encode(error_body(error, generation_id)))


def error_reply(error: GatewayError, body: bytes) -> RestResponse:
    """`body` with the status and the headers that an error has, however it is told."""
    return RestResponse(status_of(error), (("content-type", JSON), *_headers(error)), body, error.reason)


def written(error: GatewayError, arrival: Arrival, writer: ErrorWriter | None) -> RestResponse:
    """The response as the surface writes it; the contract's where it has no shape of its own."""
    return error_response(error, arrival.generation_id) if writer is None else writer(error, arrival)


def rest_error(error: GatewayError, arrival: Arrival) -> tuple[int, bytes]:
    """HTTP status and JSON body, for hosts that tell a REST caller of an error by themselves."""
    return status_of(error), msgspec.json.encode(error_body(error, arrival.generation_id))


def error_body(error: GatewayError, generation_id: str) -> ErrorBody:
    description = bounded(error.description)
    param = None if error.param is None else bounded(error.param)
    details: tuple[ErrorDetail, ...] = ()
    if param is not None:
        details = (ErrorDetail(param, description, error.reason.value),)
    if error.categories:
        told = map(bounded, error.categories[:MAX_CATEGORIES_SHOWN])
        details = tuple(ErrorDetail(param or "", f"Flagged as {one}.", error.reason.value, one) for one in told)
    body = ErrorBody(
        generation_id=generation_id,
        status_code=status_of(error),
        error=error.code.value,
        error_type=error.error_type,
        error_origin=error.origin,
        description=description,
        reason=error.reason.value,
        param=param,
        details=details,
    )
    return _with_failures(body, error.failures) if error.failures else body


def bounded(text: str) -> str:
    """`text` as it may be sent: cut between code points where it is long, and free of what UTF-8 cannot say."""
    shown = text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS - 1]}…"
    return shown.encode("utf-8", "replace").decode()


def _with_failures(body: ErrorBody, failures: tuple[AttemptFailure, ...]) -> ErrorBody:
    """The last failure is the one that decided; the samples are the first ones."""
    last = failures[-1]
    return msgspec.structs.replace(
        body,
        attempt_count=len(failures),
        failed_providers=tuple(failure.provider for failure in failures[:MAX_FAILURES_SHOWN]),
        failed_statuses=tuple(failure.status for failure in failures[:MAX_FAILURES_SHOWN]),
        upstream_error=_bounded_upstream(last.upstream),
        failure_sample=tuple(_sample(failure) for failure in failures[:MAX_FAILURES_SHOWN]),
        provider_failure_diagnostics=Diagnostics(last.category.value, HINTS[last.category], last.provider),
    )


def _sample(failure: AttemptFailure) -> FailureSample:
    upstream = _bounded_upstream(failure.upstream)
    return FailureSample(
        provider=failure.provider,
        type=failure.category.value,
        status=failure.status,
        retryable=failure.category in _RETRYABLE,
        upstream_error_code=upstream.code,
        upstream_error_message=upstream.message,
        upstream_error_param=upstream.param,
    )


_RETRYABLE: Final = frozenset(
    {
        FailureCategory.RATE_LIMITED,
        FailureCategory.OVERLOADED,
        FailureCategory.TIMEOUT,
        FailureCategory.CONNECTION,
        FailureCategory.PROTOCOL,
        FailureCategory.SERVER_ERROR,
        FailureCategory.NO_CAPACITY,
    }
)


def _bounded_upstream(upstream: UpstreamError) -> UpstreamError:
    return UpstreamError(
        code=None if upstream.code is None else bounded(upstream.code),
        message=None if upstream.message is None else bounded(upstream.message),
        param=None if upstream.param is None else bounded(upstream.param),
    )


def _headers(error: GatewayError) -> Headers:
    """What HTTP itself wants said: `retry-after` (whole seconds, never too soon), `allow`, `www-authenticate`."""
    headers: list[tuple[str, str]] = []
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(max(0, math.ceil(error.retry_after_s)))))
    if error.allowed_methods:
        headers.append(("allow", ", ".join(error.allowed_methods)))
    if error.code is ErrorCode.AUTHENTICATION:
        headers.append(("www-authenticate", "Bearer"))
    return tuple(headers)
