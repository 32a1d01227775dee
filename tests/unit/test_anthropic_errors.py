"""What the Messages API's errors mean, by code, type, status and text; and that none of our secrets is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.errors import FailureCategory as C
from server.providers.anthropic_errors import failure_in_band, failure_of_reply
from tests.unit.anthropic_cases import KEY, provider

NOW = 1_790_856_000.0


class Headers(dict[str, str]):
    pass


def body(kind: str, said: str = "It failed.", code: str | None = None) -> bytes:
    error: dict[str, Any] = {"type": kind, "message": said}
    if code is not None:
        error["details"] = {"error_code": code}
    return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()


@pytest.mark.parametrize(
    ("status", "said", "category"),
    [
        (400, body("invalid_request_error", "messages: at least one message is required"), C.CALLER_ERROR),
        (400, body("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"), C.CONTEXT_LENGTH),
        (
            400,
            body("invalid_request_error", "input length and `max_tokens` exceed context limit: 9 + 8 > 10"),
            C.CONTEXT_LENGTH,
        ),
        (400, body("invalid_request_error", "Your credit balance is too low to access the API."), C.QUOTA_EXHAUSTED),
        (
            400,
            body("invalid_request_error", "You have reached your specified API usage limits."),
            C.QUOTA_EXHAUSTED,
        ),
        (400, body("invalid_request_error", "The compiled grammar is too large"), C.CALLER_ERROR),
        (401, body("authentication_error", "invalid x-api-key"), C.CREDENTIALS),
        (402, body("billing_error"), C.QUOTA_EXHAUSTED),
        (403, body("permission_error"), C.CREDENTIALS),
        (403, body("permission_error", code="organization_on_hold"), C.CREDENTIALS),
        (404, body("not_found_error", "model: claude-none"), C.MODEL_NOT_FOUND),
        (409, body("conflict_error"), C.SERVER_ERROR),
        (413, body("request_too_large", "Request exceeds the maximum size"), C.CALLER_ERROR),
        (429, body("rate_limit_error", "This request would exceed your rate limit"), C.RATE_LIMITED),
        (429, body("rate_limit_error", code="ramp_limit_exceeded"), C.RATE_LIMITED),
        (429, body("rate_limit_error", code="enforced_spend_limit_reached"), C.QUOTA_EXHAUSTED),
        (400, body("invalid_request_error", code="contract_spend_limit_reached"), C.QUOTA_EXHAUSTED),
        (500, body("api_error", "Internal server error"), C.SERVER_ERROR),
        (504, body("timeout_error"), C.TIMEOUT),
        (529, body("overloaded_error", "Overloaded"), C.OVERLOADED),
        (529, b"", C.OVERLOADED),
        (502, b"<html>Bad gateway</html>", C.SERVER_ERROR),
        (413, b"<html>Payload too large</html>", C.CALLER_ERROR),
        (400, body("brand_new_error"), C.CALLER_ERROR),
        (500, body("brand_new_error"), C.SERVER_ERROR),
    ],
)
def test_every_error_has_its_category(status: int, said: bytes, category: C) -> None:
    failure = failure_of_reply(status, Headers(), said, provider(), NOW)

    assert (failure.category, failure.status) == (category, status)


def test_money_that_is_gone_is_not_a_rate_limit() -> None:
    """Both are a 429; only the code tells, and there is nothing to wait for."""
    gone = failure_of_reply(
        429, Headers(), body("rate_limit_error", code="enforced_spend_limit_reached"), provider(), NOW
    )

    assert (gone.category, gone.retry_after_s) == (C.QUOTA_EXHAUSTED, None)


@pytest.mark.parametrize(
    ("headers", "wait"), [({"retry-after": "17"}, 17.0), ({"retry-after-ms": "250"}, 0.25), ({}, None)]
)
def test_how_long_to_wait(headers: dict[str, str], wait: float | None) -> None:
    failure = failure_of_reply(429, Headers(headers), body("rate_limit_error"), provider(), NOW)

    assert failure.retry_after_s == wait


def test_the_requests_id_is_kept() -> None:
    told = failure_of_reply(500, Headers({"request-id": "req_header"}), body("api_error"), provider(), NOW)
    in_band = failure_in_band(json.loads(body("api_error")), provider())

    assert (told.request_id, in_band.request_id) == ("req_header", "req_1")


def test_what_a_client_may_read_holds_no_secret_and_no_address() -> None:
    said = body("authentication_error", f"invalid x-api-key {KEY} at https://api.anthropic.com/v1")
    failure = failure_of_reply(401, Headers(), said, provider(), NOW)

    assert failure.upstream.code == "authentication_error"
    assert failure.upstream.message is not None
    assert "canary" not in failure.upstream.message
    assert "anthropic.com" not in failure.upstream.message


@pytest.mark.parametrize(
    ("kind", "category"),
    [
        ("overloaded_error", C.OVERLOADED),
        ("rate_limit_error", C.RATE_LIMITED),
        ("timeout_error", C.TIMEOUT),
        ("api_error", C.SERVER_ERROR),
        ("not_found_error", C.MODEL_NOT_FOUND),
        ("invalid_request_error", C.CALLER_ERROR),
        ("brand_new_error", C.SERVER_ERROR),
    ],
)
def test_an_error_within_a_200_means_what_its_status_would(kind: str, category: C) -> None:
    assert failure_in_band(json.loads(body(kind)), provider()).category is category
