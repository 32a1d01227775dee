"""An error as Anthropic's SDKs read it, with the contract's own fields beside.

Both shapes have a field `error`. Here it is Anthropic's object, as its clients take the kind and the message from it,
and the contract's word for the kind stands in `error_code`; every other field of the contract keeps its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from rest_bridge.errors import error_body, error_reply
from rest_bridge.http import RestResponse
from server.domain.errors import ErrorCode, GatewayError
from server.domain.identity import Arrival

TYPES: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.VALIDATION: "invalid_request_error",
    ErrorCode.UNSUPPORTED_MODEL_OR_ENDPOINT: "invalid_request_error",
    ErrorCode.AUTHENTICATION: "authentication_error",
    ErrorCode.INSUFFICIENT_FUNDS: "billing_error",
    ErrorCode.AUTHORIZATION: "permission_error",
    ErrorCode.NOT_FOUND: "not_found_error",
    ErrorCode.METHOD_NOT_ALLOWED: "invalid_request_error",
    ErrorCode.CONFLICT: "conflict_error",
    ErrorCode.REQUEST_TOO_LARGE: "request_too_large",
    ErrorCode.RATE_LIMIT: "rate_limit_error",
    ErrorCode.SERVER: "api_error",
    ErrorCode.PROVIDER: "api_error",
    ErrorCode.UNAVAILABLE: "overloaded_error",
    ErrorCode.TIMEOUT: "timeout_error",
}
"""Our code to Anthropic's word. The HTTP status stays the contract's."""

SDK_REASONS: Final[Mapping[str | None, str]] = {"thread": "thread_unsupported_request"}
"""By the parameter at fault, a reason that the SDKs know: at this one their tool runner goes on without threads."""


def messages_error(error: GatewayError, arrival: Arrival) -> RestResponse:
    """The whole response that tells of `error`. See `rest_bridge.http.ErrorWriter`."""
    return error_reply(error, msgspec.json.encode(messages_error_body(error, arrival)))


def messages_error_body(error: GatewayError, arrival: Arrival) -> Mapping[str, Any]:
    """`details.error_code` is where the SDKs look for the precise reason."""
    told: dict[str, Any] = msgspec.to_builtins(error_body(error, arrival.generation_id))
    code = told.pop("error")
    inner = {
        "type": TYPES[error.code],
        "message": told["description"],
        "details": {"error_code": SDK_REASONS.get(told["param"], told["reason"])},
    }
    return {"type": "error", "error": inner, "request_id": arrival.request_id, "error_code": code, **told}
