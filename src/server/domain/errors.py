"""The one error type of the domain, and the table of everything that can go wrong.

A `Reason` says precisely what happened; the `ErrorCode` that it belongs to is what clients branch on. Two edges
translate codes and nothing else does: `server.rpc.status` (gRPC) and `rest_bridge.errors` (HTTP).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:  # events may hold what is checked with errors
    from server.domain.events import Headroom

Origin = Literal["user", "gateway", "upstream"]


class ErrorCode(StrEnum):
    """What a client branches on: the `error` field of the REST body."""

    VALIDATION = "validation_error"
    UNSUPPORTED_MODEL_OR_ENDPOINT = "unsupported_model_or_endpoint"
    AUTHENTICATION = "authentication_error"
    AUTHORIZATION = "authorization_error"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    NOT_FOUND = "not_found_error"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict_error"
    REQUEST_TOO_LARGE = "request_too_large"
    RATE_LIMIT = "rate_limit_error"
    PROVIDER = "provider_error"
    UNAVAILABLE = "unavailable_error"
    TIMEOUT = "timeout_error"
    SERVER = "server_error"


class Reason(StrEnum):
    """What happened, precisely. The names are those of `aistats.gateway.v1.ErrorReason` without its prefix."""

    MALFORMED_JSON = "malformed_json"
    MALFORMED_REQUEST = "malformed_request"
    MISSING_FIELD = "missing_field"
    INVALID_VALUE = "invalid_value"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    CONTENT_POLICY_VIOLATION = "content_policy_violation"
    UPSTREAM_REJECTED_REQUEST = "upstream_rejected_request"
    UNSUPPORTED_ENDPOINT = "unsupported_endpoint"
    PROVIDER_NOT_CONFIGURED = "provider_not_configured"
    INVALID_API_KEY = "invalid_api_key"
    MISSING_SCOPE = "missing_scope"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    PROVIDER_NOT_ALLOWED = "provider_not_allowed"
    BEYOND_OWN_RIGHTS = "beyond_own_rights"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    KEY_LIMIT_REACHED = "key_limit_reached"
    UNKNOWN_ROUTE = "unknown_route"
    UNKNOWN_MODEL = "unknown_model"
    RESOURCE_NOT_FOUND = "resource_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_KEY_IN_USE = "idempotency_key_in_use"
    OUTCOME_NOT_KEPT = "outcome_not_kept"
    TOO_MANY_KEYS = "too_many_keys"
    NOT_READY = "not_ready"
    TOO_MANY_WEBHOOKS = "too_many_webhooks"
    REQUEST_TOO_LARGE = "request_too_large"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    ALL_CANDIDATES_FAILED = "all_candidates_failed"
    PROVIDERS_UNAVAILABLE = "providers_unavailable"
    STREAM_INTERRUPTED = "stream_interrupted"
    DATABASE_UNAVAILABLE = "database_unavailable"
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


CODE_OF_REASON: dict[Reason, ErrorCode] = {
    Reason.MALFORMED_JSON: ErrorCode.VALIDATION,
    Reason.MALFORMED_REQUEST: ErrorCode.VALIDATION,
    Reason.MISSING_FIELD: ErrorCode.VALIDATION,
    Reason.INVALID_VALUE: ErrorCode.VALIDATION,
    Reason.UNKNOWN_PARAMETER: ErrorCode.VALIDATION,
    Reason.UNSUPPORTED_PARAMETER: ErrorCode.VALIDATION,
    Reason.CONTEXT_LENGTH_EXCEEDED: ErrorCode.VALIDATION,
    Reason.CONTENT_POLICY_VIOLATION: ErrorCode.VALIDATION,
    Reason.UPSTREAM_REJECTED_REQUEST: ErrorCode.VALIDATION,
    Reason.UNSUPPORTED_ENDPOINT: ErrorCode.UNSUPPORTED_MODEL_OR_ENDPOINT,
    Reason.PROVIDER_NOT_CONFIGURED: ErrorCode.UNSUPPORTED_MODEL_OR_ENDPOINT,
    Reason.INVALID_API_KEY: ErrorCode.AUTHENTICATION,
    Reason.MISSING_SCOPE: ErrorCode.AUTHORIZATION,
    Reason.ADDRESS_NOT_ALLOWED: ErrorCode.AUTHORIZATION,
    Reason.MODEL_NOT_ALLOWED: ErrorCode.AUTHORIZATION,
    Reason.PROVIDER_NOT_ALLOWED: ErrorCode.AUTHORIZATION,
    Reason.BEYOND_OWN_RIGHTS: ErrorCode.AUTHORIZATION,
    Reason.INSUFFICIENT_FUNDS: ErrorCode.INSUFFICIENT_FUNDS,
    Reason.KEY_LIMIT_REACHED: ErrorCode.INSUFFICIENT_FUNDS,
    Reason.UNKNOWN_ROUTE: ErrorCode.NOT_FOUND,
    Reason.UNKNOWN_MODEL: ErrorCode.NOT_FOUND,
    Reason.RESOURCE_NOT_FOUND: ErrorCode.NOT_FOUND,
    Reason.METHOD_NOT_ALLOWED: ErrorCode.METHOD_NOT_ALLOWED,
    Reason.IDEMPOTENCY_KEY_REUSED: ErrorCode.CONFLICT,
    Reason.IDEMPOTENCY_KEY_IN_USE: ErrorCode.CONFLICT,
    Reason.OUTCOME_NOT_KEPT: ErrorCode.CONFLICT,
    Reason.TOO_MANY_KEYS: ErrorCode.CONFLICT,
    Reason.NOT_READY: ErrorCode.CONFLICT,
    Reason.TOO_MANY_WEBHOOKS: ErrorCode.CONFLICT,
    Reason.REQUEST_TOO_LARGE: ErrorCode.REQUEST_TOO_LARGE,
    Reason.UPSTREAM_RATE_LIMITED: ErrorCode.RATE_LIMIT,
    Reason.ALL_CANDIDATES_FAILED: ErrorCode.PROVIDER,
    Reason.PROVIDERS_UNAVAILABLE: ErrorCode.UNAVAILABLE,
    Reason.STREAM_INTERRUPTED: ErrorCode.PROVIDER,
    Reason.DATABASE_UNAVAILABLE: ErrorCode.UNAVAILABLE,
    Reason.OVERLOADED: ErrorCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: ErrorCode.UNAVAILABLE,
    Reason.UPSTREAM_TIMEOUT: ErrorCode.TIMEOUT,
    Reason.DEADLINE_EXCEEDED: ErrorCode.TIMEOUT,
    Reason.INTERNAL: ErrorCode.SERVER,
}

HTTP_STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.VALIDATION: 400,
    ErrorCode.UNSUPPORTED_MODEL_OR_ENDPOINT: 400,
    ErrorCode.AUTHENTICATION: 401,
    ErrorCode.INSUFFICIENT_FUNDS: 402,
    ErrorCode.AUTHORIZATION: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.CONFLICT: 409,
    ErrorCode.REQUEST_TOO_LARGE: 413,
    ErrorCode.RATE_LIMIT: 429,
    ErrorCode.SERVER: 500,
    ErrorCode.PROVIDER: 502,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.TIMEOUT: 504,
}
"""What REST clients are answered, and what the record of a request says."""

_UPSTREAM_REASONS = frozenset(
    {
        Reason.UPSTREAM_REJECTED_REQUEST,
        Reason.UPSTREAM_RATE_LIMITED,
        Reason.ALL_CANDIDATES_FAILED,
        Reason.PROVIDERS_UNAVAILABLE,
        Reason.STREAM_INTERRUPTED,
        Reason.UPSTREAM_TIMEOUT,
    }
)
_USER_CODES = frozenset(
    {
        ErrorCode.VALIDATION,
        ErrorCode.UNSUPPORTED_MODEL_OR_ENDPOINT,
        ErrorCode.AUTHENTICATION,
        ErrorCode.AUTHORIZATION,
        ErrorCode.INSUFFICIENT_FUNDS,
        ErrorCode.NOT_FOUND,
        ErrorCode.METHOD_NOT_ALLOWED,
        ErrorCode.CONFLICT,
        ErrorCode.REQUEST_TOO_LARGE,
    }
)


class FailureCategory(StrEnum):
    """Why one attempt on one provider failed; decides whether another candidate may be tried."""

    CALLER_ERROR = "caller_error"
    """The provider refused the request itself; another provider would too."""
    CONTEXT_LENGTH = "context_length"
    CONTENT_POLICY = "content_policy"
    CREDENTIALS = "credentials"
    """Our key for the provider is wrong, or lacks a permission."""
    QUOTA_EXHAUSTED = "quota_exhausted"
    """Our account with the provider has no money or quota left."""
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    """Refused, reset or cut; or the name did not resolve."""
    PROTOCOL = "protocol"
    """The provider answered with something that its dialect does not allow."""
    SERVER_ERROR = "server_error"
    MODEL_NOT_FOUND = "model_not_found"
    NO_CAPACITY = "no_capacity"
    """The gateway itself has no connection left; the provider was not asked."""


_OF_ACCOUNT: Final = frozenset({401, 402, 429})
"""Statuses of refusals that have nothing to do with what was asked. In a 400 the words may be the caller's."""
_FINAL_CATEGORIES = frozenset(
    {FailureCategory.CALLER_ERROR, FailureCategory.CONTEXT_LENGTH, FailureCategory.CONTENT_POLICY}
)

HINTS: dict[FailureCategory, str] = {
    FailureCategory.CALLER_ERROR: "Change the request: the provider says that it is invalid.",
    FailureCategory.CONTEXT_LENGTH: "Shorten the input or choose a model with a longer context.",
    FailureCategory.CONTENT_POLICY: "The provider's content policy refused the request.",
    FailureCategory.CREDENTIALS: "The gateway's key for this provider was refused: its operator must renew it.",
    FailureCategory.QUOTA_EXHAUSTED: "The gateway's account with this provider is out of quota or credit.",
    FailureCategory.RATE_LIMITED: "Retry after the time in retry-after, or allow more providers.",
    FailureCategory.OVERLOADED: "The provider is overloaded: retry with back-off.",
    FailureCategory.TIMEOUT: "The provider did not answer in time: retry, or shorten the request.",
    FailureCategory.CONNECTION: "The provider could not be reached or dropped the connection: retry.",
    FailureCategory.PROTOCOL: "The provider's answer could not be understood: retry, or choose another provider.",
    FailureCategory.SERVER_ERROR: "The provider failed: retry with back-off.",
    FailureCategory.MODEL_NOT_FOUND: "The provider does not know this model: its catalogue entry is out of date.",
    FailureCategory.NO_CAPACITY: "The gateway is handling as much as it can: retry shortly.",
}


class UpstreamError(msgspec.Struct, frozen=True):
    """What a provider said, in its own words; bounded, and free of credentials and addresses."""

    code: str | None = None
    message: str | None = None
    param: str | None = None


class AttemptFailure(msgspec.Struct, frozen=True):
    """One failed attempt. `status` is the provider's HTTP status, 0 where there was none.

    `request_id` is the provider's own, where it gave one: what its support asks for.
    """

    provider: str
    category: FailureCategory
    status: int = 0
    upstream: UpstreamError = UpstreamError()
    retry_after_s: float | None = None
    request_id: str | None = None


class ProviderFailure(Exception):
    """Raised by a provider adapter: one attempt failed, and how.

    `was_sent` is False where nothing of the request can have reached the provider.
    """

    def __init__(
        self,
        category: FailureCategory,
        *,
        status: int = 0,
        upstream: UpstreamError | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        is_of_model: bool | None = None,
        headroom: Headroom | None = None,
        was_sent: bool = True,
    ) -> None:
        super().__init__(category.value)
        self.category = category
        self.status = status
        self.upstream = upstream or UpstreamError()
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.headroom = headroom
        self.was_sent = was_sent
        self._is_of_model = is_of_model

    @property
    def is_of_model(self) -> bool:
        """Whether a refusal of our account goes for this model only: as its provider says, or else by its status."""
        return self.status not in _OF_ACCOUNT if self._is_of_model is None else self._is_of_model

    @property
    def is_final(self) -> bool:
        """Whether every other provider would refuse the request as well."""
        return self.category in _FINAL_CATEGORIES


class GatewayError(Exception):
    """A request failed, in words that the client may read.

    `description` is a sentence for a person and never holds paths, addresses, keys or another team's data. `param`
    names the field that is wrong, in the spelling of the surface that received it (`messages[0].content`). `categories`
    are those of a moderation model to which the content was found to belong.
    """

    def __init__(
        self,
        reason: Reason,
        description: str,
        *,
        param: str | None = None,
        failures: tuple[AttemptFailure, ...] = (),
        retry_after_s: float | None = None,
        allowed_methods: tuple[str, ...] = (),
        categories: tuple[str, ...] = (),
    ) -> None:
        super().__init__(description)
        self.reason = reason
        self.description = description
        self.param = param
        self.failures = failures
        self.retry_after_s = retry_after_s
        self.allowed_methods = allowed_methods
        self.categories = categories

    @property
    def code(self) -> ErrorCode:
        return CODE_OF_REASON[self.reason]

    @property
    def origin(self) -> Origin:
        """Who caused it: the caller, a provider, or the gateway itself."""
        if self.reason in _UPSTREAM_REASONS or self.failures:
            return "upstream"
        return "user" if self.code in _USER_CODES else "gateway"

    @property
    def error_type(self) -> Literal["user", "system"]:
        """`user` where the caller can mend it by changing the request, else `system`."""
        return "user" if self.code in _USER_CODES else "system"


def internal_error() -> GatewayError:
    """What a client is told of a bug: nothing but that it happened."""
    return GatewayError(Reason.INTERNAL, "The gateway failed to handle this request. It has been logged.")


def option_refused(within: str, key: str, *, instead: str = "") -> GatewayError:
    """For what a client may not set through `provider_options`. `within` is the provider, and the option that holds it
    where that is one; `instead` says what to do.
    """
    text = f"`{key}` cannot be set through provider_options{f': {instead}' if instead else ''}."
    return GatewayError(Reason.UNSUPPORTED_PARAMETER, text, param=f"provider_options.{within}.{key}")
