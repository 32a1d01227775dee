"""Errors as gRPC clients see them: the one mapping from the domain's errors to a status with `google.rpc` details.

Metadata over 16 KB replaces the error itself on some paths, so every text is cut, on a code point, to a budget that
keeps all trailers under 8 KB whatever a provider said.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, TypeAlias

import grpc
import msgspec
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # the package has no stubs

from server.domain.errors import ErrorCode, GatewayError
from server.domain.identity import Arrival

DOMAIN: Final = "gateway.aistats"
DETAILS_KEY: Final = "grpc-status-details-bin"
REST_MARK_KEY: Final = "x-gw-rest"
"""Set to 1 by Envoy on what it transcodes, and taken away from what its own clients send."""
REST_STATUS_KEY: Final = "x-gw-status"
REST_ERROR_KEY: Final = "x-gw-error"

MAX_MESSAGE_BYTES: Final = 1024
"""It travels percent-encoded, which trebles it at worst."""
MAX_VALUE_BYTES: Final = 512
MAX_LIST_BYTES: Final = 256
MAX_REST_ERROR_BYTES: Final = 3900

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

STATUS_OF_CODE: Final[dict[ErrorCode, grpc.StatusCode]] = {
    ErrorCode.VALIDATION: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNSUPPORTED_MODEL_OR_ENDPOINT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.AUTHENTICATION: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.AUTHORIZATION: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.INSUFFICIENT_FUNDS: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.METHOD_NOT_ALLOWED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorCode.CONFLICT: grpc.StatusCode.ABORTED,
    ErrorCode.REQUEST_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.RATE_LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.PROVIDER: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.SERVER: grpc.StatusCode.INTERNAL,
}

_TYPED_NAMES: Final = {
    "models": "routing.fallback_models",
    "provider.order": "routing.order",
    "provider.only": "routing.only",
    "provider.ignore": "routing.ignore",
    "provider.max_price": "routing.max_prompt_usd",
    "provider.max_price.prompt": "routing.max_prompt_usd",
    "provider.max_price.completion": "routing.max_completion_usd",
}
"""What routing calls by its REST name, because every surface comes to it alike."""


class RpcFailure(Exception):
    """A call ends with this status. The host sends it; nothing above the host raises anything else."""

    def __init__(self, code: grpc.StatusCode, message: str, trailing_metadata: Metadata) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailing_metadata = trailing_metadata


def rpc_failure(error: GatewayError, arrival: Arrival) -> RpcFailure:
    """The status of an error, for a gRPC client: with ErrorInfo, and RetryInfo where it is known when to try again."""
    code = STATUS_OF_CODE[error.code]
    message = cut(error.description, MAX_MESSAGE_BYTES)
    status = status_pb2.Status(code=code.value[0], message=message)
    _add_detail(
        status,
        error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=_error_metadata(error, arrival)),
    )
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(math.ceil(error.retry_after_s * 1000))
        _add_detail(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return RpcFailure(code, message, ((DETAILS_KEY, status.SerializeToString()),))


def rest_failure(error: GatewayError, http_status: int, body: bytes) -> RpcFailure:
    """The status of an error for a REST client: Envoy puts HTTP status and JSON `body` from the trailers in place."""
    trailing: list[tuple[str, str | bytes]] = [
        (REST_STATUS_KEY, str(http_status)),
        (REST_ERROR_KEY, _one_ascii_line(body)),
    ]
    if error.retry_after_s is not None:
        trailing.append(("retry-after", str(math.ceil(error.retry_after_s))))
    return RpcFailure(STATUS_OF_CODE[error.code], cut(error.description, MAX_MESSAGE_BYTES), tuple(trailing))


def _error_metadata(error: GatewayError, arrival: Arrival) -> dict[str, str]:
    metadata = {"error": error.code.value, "origin": error.origin, "generation_id": arrival.generation_id}
    if error.param is not None:
        metadata["param"] = cut(typed_param(error.param), MAX_LIST_BYTES)
    if error.categories:
        metadata["categories"] = cut(",".join(error.categories), MAX_LIST_BYTES)
    if error.failures:
        metadata["attempt_count"] = str(len(error.failures))
        metadata["failed_providers"] = cut(",".join(f.provider for f in error.failures), MAX_LIST_BYTES)
        metadata["failed_statuses"] = cut(",".join(str(f.status) for f in error.failures), MAX_LIST_BYTES)
        upstream = error.failures[-1].upstream
        for name, text, limit in (
            ("upstream_code", upstream.code, MAX_LIST_BYTES),
            ("upstream_message", upstream.message, MAX_VALUE_BYTES),
            ("upstream_param", upstream.param, MAX_LIST_BYTES),
        ):
            if text is not None:
                metadata[name] = cut(text, limit)
    return metadata


def typed_param(param: str) -> str:
    """The typed field for what the core calls by its REST name; any other name as it is."""
    name, bracket, index = param.partition("[")
    typed = _TYPED_NAMES.get(name)
    if typed is None and name.startswith("provider_options."):
        typed = f"provider_options_json.{name.removeprefix('provider_options.')}"
    return param if typed is None else f"{typed}{bracket}{index}"


def _add_detail(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _one_ascii_line(body: bytes) -> str:
    """The JSON `body` as header text: escaped, and with its longest strings cut until it fits."""
    value = msgspec.json.decode(body)
    for at_most in (MAX_REST_ERROR_BYTES, 512, 128, 32):
        line = json.dumps(_shortened(value, at_most), separators=(",", ":"))
        if len(line) <= MAX_REST_ERROR_BYTES:
            return line
    raise AssertionError("the error body has too many fields to be a header")


def _shortened(value: Any, at_most: int) -> Any:
    match value:
        case str():
            return value[:at_most]
        case dict():
            return {key: _shortened(item, at_most) for key, item in value.items()}
        case list():
            return [_shortened(item, at_most) for item in value[:at_most]]
        case _:
            return value


def cut(text: str, at_most: int) -> str:
    """`text` within `at_most` bytes of UTF-8, cut between code points."""
    return text.encode(errors="replace")[:at_most].decode(errors="ignore")
