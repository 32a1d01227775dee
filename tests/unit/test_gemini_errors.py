"""Errors of the Gemini API: what each one means, and how long to wait."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.providers.gemini_errors import bare_error, failure_in_band, failure_of_reply
from tests.fakes.gemini_upstream import KEY
from tests.fakes.gemini_wire import BAD_KEY, error_info, exhausted, frame, quota_failure, retry_info, status
from tests.fakes.replies import compact
from tests.unit.gemini_cases import provider, stream_failure, unary_failure

C = FailureCategory
NOW = 1_790_856_000.0


def failure(body: Any, headers: dict[str, str] | None = None) -> ProviderFailure:
    named = body[0] if isinstance(body, list) else body
    return failure_of_reply(named["error"]["code"], headers or {}, compact(body), provider(), NOW)


CASES = [
    ("bad key", BAD_KEY, C.CREDENTIALS),
    ("expired", status(400, "INVALID_ARGUMENT", "API key expired.", error_info("API_KEY_INVALID")), C.CREDENTIALS),
    ("bad key without details", status(400, "INVALID_ARGUMENT", "API key not valid."), C.CREDENTIALS),
    ("no key", status(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers."), C.CREDENTIALS),
    ("leaked key", status(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), C.CREDENTIALS),
    ("referrer", status(403, "PERMISSION_DENIED", "No.", error_info("API_KEY_HTTP_REFERRER_BLOCKED")), C.CREDENTIALS),
    ("disabled", status(403, "PERMISSION_DENIED", "No.", error_info("SERVICE_DISABLED")), C.CREDENTIALS),
    (
        "a file of somebody else's",
        status(
            403,
            "PERMISSION_DENIED",
            "You do not have permission to access the File abc or it may not exist.",
        ),
        C.CALLER_ERROR,
    ),
    (
        "a file, but the key is to blame",
        status(
            403,
            "PERMISSION_DENIED",
            "You do not have permission to access the File abc or it may not exist.",
            error_info("SERVICE_DISABLED"),
        ),
        C.CREDENTIALS,
    ),
    ("unauthenticated", status(401, "UNAUTHENTICATED", "Expected OAuth 2 access token."), C.CREDENTIALS),
    ("region", status(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), C.CREDENTIALS),
    ("precondition", status(400, "FAILED_PRECONDITION", "Precondition check failed."), C.CALLER_ERROR),
    ("argument", status(400, "INVALID_ARGUMENT", 'Unknown name "x": Cannot find field.'), C.CALLER_ERROR),
    ("no signature", status(400, "INVALID_ARGUMENT", "is missing a thought_signature"), C.CALLER_ERROR),
    (
        "too long",
        status(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        C.CONTEXT_LENGTH,
    ),
    ("no model", status(404, "NOT_FOUND", "models/x is not found for API version v1beta."), C.MODEL_NOT_FOUND),
    ("per minute", exhausted(), C.RATE_LIMITED),
    ("per day", exhausted(quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier"), C.QUOTA_EXHAUSTED),
    ("bare 429", status(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."), C.RATE_LIMITED),
    (
        "rate by reason",
        status(429, "RESOURCE_EXHAUSTED", "Slow down.", error_info("RATE_LIMIT_EXCEEDED")),
        C.RATE_LIMITED,
    ),
    (
        "per day by reason",
        status(
            429, "RESOURCE_EXHAUSTED", "Slow down.", error_info("RATE_LIMIT_EXCEEDED"), quota_failure("TokensPerDay")
        ),
        C.QUOTA_EXHAUSTED,
    ),
    ("prepaid", status(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."), C.QUOTA_EXHAUSTED),
    ("prepaid 402", status(402, "RESOURCE_EXHAUSTED", "Prepayment credits depleted."), C.QUOTA_EXHAUSTED),
    ("billing", status(403, "PERMISSION_DENIED", "No.", error_info("BILLING_DISABLED")), C.QUOTA_EXHAUSTED),
    ("overloaded", status(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), C.OVERLOADED),
    ("deadline", status(504, "DEADLINE_EXCEEDED", "Deadline expired."), C.TIMEOUT),
    ("internal", status(500, "INTERNAL", "An internal error has occurred."), C.SERVER_ERROR),
    ("cancelled", status(499, "CANCELLED", "The operation was cancelled."), C.SERVER_ERROR),
]
named = pytest.mark.parametrize(("body", "category"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])


@named
def test_what_a_reply_means(body: Any, category: FailureCategory) -> None:
    found = failure(body)

    assert found.category is category
    assert found.status == body["error"]["code"]


@named
def test_the_same_inside_a_200(body: Any, category: FailureCategory) -> None:
    for found in (stream_failure(body), stream_failure([body]), unary_failure(body), unary_failure([body])):
        assert (found.category, found.status) == (category, body["error"]["code"])


@named
def test_an_array_of_one_is_unwrapped(body: Any, category: FailureCategory) -> None:
    assert failure([body]).category is category


def test_the_client_reads_googles_own_words_without_our_key() -> None:
    found = failure(
        status(400, "INVALID_ARGUMENT", f"Bad field near {KEY} at https://generativelanguage.googleapis.com")
    )

    assert found.upstream.code == "INVALID_ARGUMENT"
    assert found.upstream.message == "Bad field near [key] at [url]"


def test_the_code_is_the_most_telling_word() -> None:
    assert failure(BAD_KEY).upstream.code == "API_KEY_INVALID"


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (exhausted("39s"), {}, 39.0),
        (exhausted("39.837502s"), {}, 39.837502),
        (exhausted("999999s"), {}, 3600.0),
        (exhausted("0s"), {}, None),
        (status(429, "RESOURCE_EXHAUSTED", "Please retry in 39.8s."), {}, 39.8),
        (status(429, "RESOURCE_EXHAUSTED", "Please retry in 310.5ms."), {}, 0.3105),
        (status(503, "UNAVAILABLE", "Overloaded."), {}, None),
        (exhausted("39s"), {"retry-after": "7"}, 7.0),
    ],
)
def test_when_to_ask_again(body: Any, headers: dict[str, str], expected: float | None) -> None:
    assert failure(body, headers).retry_after_s == pytest.approx(expected)


def test_when_to_ask_again_inside_a_200() -> None:
    assert failure_in_band(exhausted("39s"), provider()).retry_after_s == 39.0
    assert failure_in_band(exhausted("999999s"), provider()).retry_after_s == 3600.0
    assert failure_in_band(status(429, "X", "Please retry in 2s."), provider()).retry_after_s == 2.0
    assert failure_in_band(status(429, "X", "No.", retry_info("-1s")), provider()).retry_after_s is None


@pytest.mark.parametrize(
    ("data", "code", "category", "message"),
    [
        (b"<html><title>502</title></html>", 502, C.SERVER_ERROR, "<html><title>502</title></html>"),
        (b"", 503, C.OVERLOADED, None),
        (b"{}", 500, C.SERVER_ERROR, "{}"),
        (b"[]", 429, C.RATE_LIMITED, "[]"),
        (b'{"error": "plain"}', 400, C.CALLER_ERROR, "plain"),
        (b"\xff\xfe", 500, C.SERVER_ERROR, "\ufffd\ufffd"),
        (b"[" * 5000, 400, C.CALLER_ERROR, "[" * 200),
    ],
)
def test_bodies_that_are_no_status(data: bytes, code: int, category: FailureCategory, message: str | None) -> None:
    found = failure_of_reply(code, {}, data, provider(), NOW)

    assert (found.category, found.upstream.message) == (category, message)


# An error as plain JSON among events.

PRETTY = json.dumps(exhausted(), indent=2).encode()


@pytest.mark.parametrize(
    "stream",
    [
        PRETTY,
        frame({"candidates": []}) + PRETTY,
        frame({"candidates": []}) + PRETTY.replace(b"\n", b"\r\n") + b"\r\n\r\n",
        frame({"a": 1}) + b"[" + PRETTY + b"]\n",
    ],
)
def test_an_error_without_data_is_found(stream: bytes) -> None:
    value = bare_error(stream)

    assert failure_in_band(value, provider()).category is C.RATE_LIMITED


@pytest.mark.parametrize("stream", [b"", frame({"error": {"code": 1}}), b'{"a": 1}\n\n', b"{broken\n\n", PRETTY[:50]])
def test_no_error_without_data(stream: bytes) -> None:
    assert bare_error(stream) is None


@pytest.mark.parametrize(
    ("body", "is_of_model"),
    [
        (BAD_KEY, False),
        (status(403, "PERMISSION_DENIED", "No.", error_info("SERVICE_DISABLED")), False),
        (status(401, "UNAUTHENTICATED", "Expected OAuth 2 access token."), False),
        (status(402, "RESOURCE_EXHAUSTED", "Prepayment credits depleted."), False),
        (exhausted(quota_id="GenerateRequestsPerDayPerProject"), False),
        (exhausted(quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier"), True),
        (status(403, "PERMISSION_DENIED", "You may not use tuned models."), True),
        (status(400, "INVALID_ARGUMENT", "API key not valid."), True),
    ],
)
def test_whom_a_refused_account_concerns(body: Any, is_of_model: bool) -> None:
    assert failure(body).is_of_model is is_of_model
