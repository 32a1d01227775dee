"""Every reason as REST says it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.errors import MAX_TEXT_CHARS, bounded, error_response, rest_error
from server.domain.errors import (
    CODE_OF_REASON,
    HTTP_STATUS,
    AttemptFailure,
    ErrorCode,
    FailureCategory,
    GatewayError,
    Reason,
    UpstreamError,
    internal_error,
)
from tests.fakes.rest import ARRIVAL

CONTRACT = {
    Reason.MALFORMED_JSON: (400, "validation_error", "user", "user"),
    Reason.MALFORMED_REQUEST: (400, "validation_error", "user", "user"),
    Reason.MISSING_FIELD: (400, "validation_error", "user", "user"),
    Reason.INVALID_VALUE: (400, "validation_error", "user", "user"),
    Reason.UNKNOWN_PARAMETER: (400, "validation_error", "user", "user"),
    Reason.UNSUPPORTED_PARAMETER: (400, "validation_error", "user", "user"),
    Reason.CONTEXT_LENGTH_EXCEEDED: (400, "validation_error", "user", "user"),
    Reason.CONTENT_POLICY_VIOLATION: (400, "validation_error", "user", "user"),
    Reason.UPSTREAM_REJECTED_REQUEST: (400, "validation_error", "user", "upstream"),
    Reason.UNSUPPORTED_ENDPOINT: (400, "unsupported_model_or_endpoint", "user", "user"),
    Reason.PROVIDER_NOT_CONFIGURED: (400, "unsupported_model_or_endpoint", "user", "user"),
    Reason.INVALID_API_KEY: (401, "authentication_error", "user", "user"),
    Reason.MISSING_SCOPE: (403, "authorization_error", "user", "user"),
    Reason.ADDRESS_NOT_ALLOWED: (403, "authorization_error", "user", "user"),
    Reason.MODEL_NOT_ALLOWED: (403, "authorization_error", "user", "user"),
    Reason.PROVIDER_NOT_ALLOWED: (403, "authorization_error", "user", "user"),
    Reason.BEYOND_OWN_RIGHTS: (403, "authorization_error", "user", "user"),
    Reason.INSUFFICIENT_FUNDS: (402, "insufficient_funds", "user", "user"),
    Reason.KEY_LIMIT_REACHED: (402, "insufficient_funds", "user", "user"),
    Reason.UNKNOWN_ROUTE: (404, "not_found_error", "user", "user"),
    Reason.UNKNOWN_MODEL: (404, "not_found_error", "user", "user"),
    Reason.RESOURCE_NOT_FOUND: (404, "not_found_error", "user", "user"),
    Reason.METHOD_NOT_ALLOWED: (405, "method_not_allowed", "user", "user"),
    Reason.IDEMPOTENCY_KEY_REUSED: (409, "conflict_error", "user", "user"),
    Reason.IDEMPOTENCY_KEY_IN_USE: (409, "conflict_error", "user", "user"),
    Reason.OUTCOME_NOT_KEPT: (409, "conflict_error", "user", "user"),
    Reason.TOO_MANY_KEYS: (409, "conflict_error", "user", "user"),
    Reason.NOT_READY: (409, "conflict_error", "user", "user"),
    Reason.TOO_MANY_WEBHOOKS: (409, "conflict_error", "user", "user"),
    Reason.REQUEST_TOO_LARGE: (413, "request_too_large", "user", "user"),
    Reason.UPSTREAM_RATE_LIMITED: (429, "rate_limit_error", "system", "upstream"),
    Reason.ALL_CANDIDATES_FAILED: (502, "provider_error", "system", "upstream"),
    Reason.PROVIDERS_UNAVAILABLE: (503, "unavailable_error", "system", "upstream"),
    Reason.STREAM_INTERRUPTED: (502, "provider_error", "system", "upstream"),
    Reason.DATABASE_UNAVAILABLE: (503, "unavailable_error", "system", "gateway"),
    Reason.OVERLOADED: (503, "unavailable_error", "system", "gateway"),
    Reason.SHUTTING_DOWN: (503, "unavailable_error", "system", "gateway"),
    Reason.UPSTREAM_TIMEOUT: (504, "timeout_error", "system", "upstream"),
    Reason.DEADLINE_EXCEEDED: (504, "timeout_error", "system", "gateway"),
    Reason.INTERNAL: (500, "server_error", "system", "gateway"),
}

FAILURES = (
    AttemptFailure("acme", FailureCategory.RATE_LIMITED, 429, UpstreamError("slow_down", "Too fast.", None), 7.0),
    AttemptFailure("emca", FailureCategory.CALLER_ERROR, 400, UpstreamError("bad", "Bad field.", "tools")),
)


def body_of(error: GatewayError) -> dict[str, Any]:
    response = error_response(error, "gen_1")
    assert isinstance(response.body, bytes)
    decoded: dict[str, Any] = json.loads(response.body)
    return decoded


def test_the_table_is_complete() -> None:
    assert set(CONTRACT) == set(Reason) == set(CODE_OF_REASON)
    assert set(HTTP_STATUS) == set(ErrorCode)


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_the_status_and_the_words_of_the_contract(reason: Reason) -> None:
    status, code, error_type, origin = CONTRACT[reason]
    response = error_response(GatewayError(reason, "What happened."), "gen_1")
    assert response.status == status
    assert dict(response.headers)["content-type"] == "application/json"
    assert body_of(GatewayError(reason, "What happened.")) == {
        "generation_id": "gen_1",
        "status_code": status,
        "error": code,
        "error_type": error_type,
        "error_origin": origin,
        "description": "What happened.",
        "reason": reason.value,
        "param": None,
        "details": [],
    }


def test_a_field_that_is_wrong_is_in_param_and_in_the_details() -> None:
    body = body_of(GatewayError(Reason.INVALID_VALUE, "Too hot.", param="temperature"))
    assert body["param"] == "temperature"
    assert body["details"] == [{"param": "temperature", "message": "Too hot.", "reason": "invalid_value"}]


def test_failures_of_providers_are_told() -> None:
    body = body_of(GatewayError(Reason.ALL_CANDIDATES_FAILED, "All failed.", failures=FAILURES))
    assert body["attempt_count"] == 2
    assert body["failed_providers"] == ["acme", "emca"]
    assert body["failed_statuses"] == [429, 400]
    assert body["upstream_error"] == {"code": "bad", "message": "Bad field.", "param": "tools"}
    assert body["failure_sample"][0] == {
        "provider": "acme",
        "type": "rate_limited",
        "status": 429,
        "retryable": True,
        "upstream_error_code": "slow_down",
        "upstream_error_message": "Too fast.",
        "upstream_error_param": None,
    }
    diagnostics = body["provider_failure_diagnostics"]
    assert (diagnostics["category"], diagnostics["provider"]) == ("caller_error", "emca")
    assert diagnostics["hint"]


@pytest.mark.parametrize(("seconds", "header"), [(30.0, "30"), (0.2, "1"), (4.01, "5"), (0.0, "0"), (-3.0, "0")])
def test_retry_after_is_whole_seconds_and_never_too_soon(seconds: float, header: str) -> None:
    error = GatewayError(Reason.UPSTREAM_RATE_LIMITED, "Wait.", retry_after_s=seconds)
    assert dict(error_response(error, "gen_1").headers)["retry-after"] == header


def test_headers_that_http_itself_wants() -> None:
    not_allowed = GatewayError(Reason.METHOD_NOT_ALLOWED, "No.", allowed_methods=("DELETE", "GET"))
    assert dict(error_response(not_allowed, "gen_1").headers)["allow"] == "DELETE, GET"
    no_key = GatewayError(Reason.INVALID_API_KEY, "No.")
    assert dict(error_response(no_key, "gen_1").headers)["www-authenticate"] == "Bearer"
    assert set(dict(error_response(internal_error(), "gen_1").headers)) == {"content-type"}


def test_a_long_text_is_cut_between_code_points() -> None:
    upstream = UpstreamError("code", "漢字🙂" * 20_000, "参数" * 20_000)
    failures = tuple(AttemptFailure("acme", FailureCategory.SERVER_ERROR, 500, upstream) for _ in range(50))
    error = GatewayError(Reason.ALL_CANDIDATES_FAILED, "漢字🙂" * 20_000, param="é" * 5000, failures=failures)
    status, encoded = rest_error(error, ARRIVAL)
    body = json.loads(encoded.decode("utf-8", "strict"))
    assert status == 502
    assert len(body["description"]) == MAX_TEXT_CHARS
    assert body["description"].startswith("漢字🙂漢字🙂")
    assert body["attempt_count"] == 50
    assert len(body["failure_sample"]) == 8
    assert len(encoded) < 200_000


def test_half_a_surrogate_pair_does_not_break_the_body() -> None:
    assert bounded("a\ud800b") == "a?b"
    assert body_of(GatewayError(Reason.STREAM_INTERRUPTED, "a\ud800b"))["description"] == "a?b"
