"""Every error that a route may answer with, as OpenAPI's responses: the contract's shape, and one example of each."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from rest_bridge.errors import ErrorBody, error_body
from rest_bridge.messages_errors import messages_error_body
from rest_bridge.openapi_protos import Protos
from rest_bridge.openapi_types import Components, Schema, TypeSchemas, enumeration, ref
from server.domain.errors import (
    CODE_OF_REASON,
    HTTP_STATUS,
    AttemptFailure,
    ErrorCode,
    FailureCategory,
    GatewayError,
    Reason,
    UpstreamError,
)
from server.domain.identity import Arrival

ARRIVAL: Final = Arrival("0199a1b2c3d47e6f80718293a4b5c6d7", "e6f80718-93a4-4b5c-86d7-1f2e3d4c5b6a", 0.0, 1_790_000_000)
"""Of the request that every example is about."""

ALWAYS: Final = (400, 404, 405, 408, 413, 431, 500, 503, 504)
"""What any route may answer, if only Envoy says so."""
WITH_KEY: Final = (401, 403)
WITH_IDEMPOTENCY: Final = (409,)
GENERATING: Final = (402, 429, 502)

_FAILURE: Final = AttemptFailure(
    "acme", FailureCategory.OVERLOADED, 529, UpstreamError("overloaded", "Try again later.")
)
_TIMED_OUT: Final = AttemptFailure("acme", FailureCategory.TIMEOUT)
_LIMITED: Final = AttemptFailure("acme", FailureCategory.RATE_LIMITED, 429, UpstreamError("rate_limited", "Slow down."))

_SAMPLES: Final[Mapping[int, GatewayError]] = {
    400: GatewayError(Reason.INVALID_VALUE, "`limit` must be from 1 to 250, not 0.", param="limit"),
    401: GatewayError(Reason.INVALID_API_KEY, "The API key is missing or not valid."),
    402: GatewayError(Reason.INSUFFICIENT_FUNDS, "The team's available credit is $0.12; a paid model needs $1.00."),
    403: GatewayError(Reason.MISSING_SCOPE, "The API key lacks the scope that this call needs."),
    404: GatewayError(Reason.UNKNOWN_MODEL, 'There is no model "acme/none".', param="model"),
    405: GatewayError(Reason.METHOD_NOT_ALLOWED, "This route does not take PUT; the allow header says what it takes."),
    408: GatewayError(Reason.MALFORMED_REQUEST, "The request did not arrive in time."),
    409: GatewayError(
        Reason.IDEMPOTENCY_KEY_REUSED, "The idempotency key came before with another body.", param="Idempotency-Key"
    ),
    413: GatewayError(Reason.REQUEST_TOO_LARGE, "The body is larger than 64 MiB."),
    429: GatewayError(
        Reason.UPSTREAM_RATE_LIMITED, "Every provider is limiting requests.", failures=(_LIMITED,), retry_after_s=2.0
    ),
    431: GatewayError(Reason.REQUEST_TOO_LARGE, "The headers are larger than 32 KiB."),
    500: GatewayError(Reason.INTERNAL, "The gateway failed to handle this request. It has been logged."),
    502: GatewayError(Reason.ALL_CANDIDATES_FAILED, "Every provider failed.", failures=(_FAILURE,)),
    503: GatewayError(Reason.OVERLOADED, "The gateway cannot serve this request now. Retry with back-off."),
    504: GatewayError(Reason.UPSTREAM_TIMEOUT, "The provider did not answer in time.", failures=(_TIMED_OUT,)),
}
_TIMEOUT: Final[Mapping[str, Any]] = {"error": ErrorCode.TIMEOUT.value, "status_code": 408}
_TOO_LARGE: Final[Mapping[str, Any]] = {"status_code": 431}
_OF_ENVOY: Final[Mapping[int, Mapping[str, Any]]] = {408: _TIMEOUT, 431: _TOO_LARGE}
"""What Envoy says in other words than the domain has."""

_HEADERS: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WwwAuthenticate",),
    405: ("Allow",),
    409: ("RetryAfter",),
    429: ("RetryAfter",),
    503: ("RetryAfter",),
}


class MessagesErrorDetails(msgspec.Struct, frozen=True):
    """Where Anthropic's SDKs look for the precise reason."""

    error_code: str


class MessagesErrorInner(msgspec.Struct, frozen=True):
    """Anthropic's error object."""

    type: str
    message: str
    details: MessagesErrorDetails


class MessagesErrorBody(ErrorBody, frozen=True, kw_only=True, omit_defaults=True):
    """An error as Anthropic's SDKs read it, with the contract's fields beside; its code stands in `error_code`."""

    type: Literal["error"]
    error: MessagesErrorInner  # type: ignore[assignment]  # as it is in Anthropic's shape
    request_id: str
    error_code: str


def error_schemas(components: Components, protos: Protos) -> None:
    """Add the components `Error` and `MessagesError`."""

    def describe(component: str, field: str, _: Schema) -> Mapping[str, Any]:
        if component not in ("Error", "MessagesError"):
            return {}
        return _FIELDS.get(field, {}) if field != "error" or component == "Error" else {}

    reasons = [reason.value for reason in Reason]
    _FIELDS["reason"] = {**enumeration(reasons), "description": _reasons(protos)}
    types = TypeSchemas(components, describe, replies=True)
    types.of(ErrorBody)
    types.of(MessagesErrorBody)


_CODE: Final[Schema] = {
    **enumeration([code.value for code in ErrorCode]),
    "description": "What kind of error it is: what a client branches on.",
}
_FIELDS: Final[dict[str, Schema]] = {
    "generation_id": {
        "type": ["string", "null"],
        "description": "As in `x-generation-id`; null where not even the request's head arrived whole.",
    },
    "status_code": {"description": "The HTTP status."},
    "error": _CODE,
    "error_code": _CODE,
    "error_type": {
        **enumeration(["user", "system"]),
        "description": "`user` where changing the request mends it, else `system`.",
    },
    "error_origin": {**enumeration(["user", "gateway", "upstream"]), "description": "Who caused it."},
    "description": {"description": "A sentence for a person."},
    "param": {"description": "The field or parameter that is wrong, such as `messages[0].content`."},
    "details": {"description": "Everything that is wrong with the request."},
    "attempt_count": {"description": "How many providers were called. This and what follows: where providers failed."},
    "failed_providers": {"description": "Their ids, the first eight at most."},
    "failed_statuses": {"description": "Their HTTP statuses, 0 where there was none."},
    "upstream_error": {"description": "What the last of them said, in its own words."},
    "failure_sample": {"description": "The first eight failures."},
    "provider_failure_diagnostics": {"description": "The last failure, and what can be done about it."},
}


def _reasons(protos: Protos) -> str:
    """Every reason with its comment, as a list."""
    lines = []
    for reason in Reason:
        name = f"ERROR_REASON_{reason.name}"
        text = protos.said_of(name).removeprefix(f"{name}: ").partition(" {")[0]
        text = text.replace(" (REST only)", "").rsplit(". ", 1)[0].removesuffix(".")
        lines.append(f"- `{reason.value}` ({HTTP_STATUS[CODE_OF_REASON[reason]]}): {text}.")
    return "Precisely what happened:\n\n" + "\n".join(lines)


def response_name(status: int, *, is_messages: bool) -> str:
    phrase = "".join(word.capitalize() for word in HTTPStatus(status).phrase.replace("-", " ").split())
    return f"Messages{phrase}" if is_messages else phrase


def error_responses() -> dict[str, Schema]:
    """The component of every error status, in both shapes."""
    return {
        response_name(status, is_messages=is_messages): _response(status, is_messages=is_messages)
        for is_messages in (False, True)
        for status in _SAMPLES
    }


def _response(status: int, *, is_messages: bool) -> Schema:
    sample = _SAMPLES[status]
    if is_messages:
        body: dict[str, Any] = {**messages_error_body(sample, ARRIVAL)}
    else:
        body = msgspec.to_builtins(error_body(sample, ARRIVAL.generation_id))
    changes = {("error_code" if is_messages and k == "error" else k): v for k, v in _OF_ENVOY.get(status, {}).items()}
    headers = {
        _HEADER_NAMES[one]: {"$ref": f"#/components/headers/{one}"}
        for one in ("GenerationId", "RequestId", *_HEADERS.get(status, ()))
    }
    schema = ref("MessagesError" if is_messages else "Error")
    return {
        "description": f"{HTTPStatus(status).phrase}: {sample.description}",
        "headers": headers,
        "content": {"application/json": {"schema": schema, "example": {**body, **changes}}},
    }


_HEADER_NAMES: Final[Mapping[str, str]] = {
    "GenerationId": "x-generation-id",
    "RequestId": "x-request-id",
    "RetryAfter": "retry-after",
    "Allow": "allow",
    "WwwAuthenticate": "www-authenticate",
}
