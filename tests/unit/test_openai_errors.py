"""What upstream errors mean, in all the shapes of their bodies; and what of them a client may read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.domain.errors import FailureCategory, ProviderFailure
from server.providers.openai_error_tables import BY_LABEL, BY_STATUS
from server.providers.openai_errors import failure_in_band, failure_of_reply, parse_error
from server.providers.scrub import MAX_MESSAGE_CHARS
from tests.unit.openai_cases import KEY, provider

C = FailureCategory
NOW = 1_790_856_000.0


def failed(status: int, body: Any, **headers: str) -> ProviderFailure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failure_of_reply(status, named, data, provider(), NOW)


def openai(message: str = "No.", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


SHAPES: dict[str, tuple[Any, tuple[str | None, str | None, str | None]]] = {
    "openai": (openai("No.", code="c", param="p"), ("c", "No.", "p")),
    "openai without a code": (openai("No.", param="temperature"), ("invalid_request_error", "No.", "temperature")),
    "integer code (vllm)": ({"error": {"message": "No.", "code": 400}}, ("400", "No.", None)),
    "anthropic": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "No."}, "request_id": "r"},
        ("overloaded_error", "No.", None),
    ),
    "gemini": (
        {"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}},
        ("INVALID_ARGUMENT", "No.", None),
    ),
    "gemini in an array": (
        [{"error": {"code": 404, "message": "No.", "status": "NOT_FOUND"}}],
        ("NOT_FOUND", "No.", None),
    ),
    "mistral, flat": (
        {"object": "error", "message": "No.", "type": "invalid_request", "param": None, "code": "3001"},
        ("invalid_request", "No.", None),
    ),
    "mistral, message in a list": (
        {"object": "error", "message": [{"msg": "No."}, "Never."]},
        (None, "No.; Never.", None),
    ),
    "fastapi": (
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "No.", "type": "enum"}]},
        (None, "No.", "messages.0.role"),
    ),
    "fastapi, a sentence": ({"detail": "No."}, (None, "No.", None)),
    "cohere": ({"message": "No."}, (None, "No.", None)),
    "xai, responses": ({"code": "c", "error": "No."}, ("c", "No.", None)),
    "a string": ({"error": "No."}, (None, "No.", None)),
    "cloudflare": (
        {"success": False, "errors": [{"code": 7003, "message": "No."}], "messages": []},
        ("7003", "No.", None),
    ),
    "openrouter with its provider's words": (
        {
            "error": {
                "code": 400,
                "message": "Provider returned error",
                "metadata": {"raw": "No.", "provider_name": "x"},
            }
        },
        ("400", "Provider returned error: No.", None),
    ),
    "lm studio": ({"error": {"message": "No."}, "message": "No."}, (None, "No.", None)),
    "html": (b"<html>\n  <b>502</b> Bad Gateway</html>", (None, "<html> <b>502</b> Bad Gateway</html>", None)),
    "empty": (b"", (None, None, None)),
    "json that is no error": ({"ok": True}, (None, '{"ok": true}', None)),
    "half a character": (b"\xe4\xbd", (None, "\N{REPLACEMENT CHARACTER}", None)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_every_shape_of_an_error_body(case: str) -> None:
    body, expected = SHAPES[case]

    upstream = failed(400, body).upstream

    assert (upstream.code, upstream.message, upstream.param) == expected


def test_a_body_of_no_shape_is_quoted_briefly() -> None:
    assert len(parse_error(b"x" * 10_000).message or "") == 200


def test_deep_nesting_is_quoted_too() -> None:
    assert (parse_error(b"[" * 100_000).message or "").startswith("[[[")


MEANINGS: dict[str, tuple[int, Any, FailureCategory]] = {
    "rate limit": (429, openai(code="rate_limit_exceeded", type="requests"), C.RATE_LIMITED),
    "rate limit without words": (429, b"", C.RATE_LIMITED),
    "the money is gone (openai)": (
        429,
        openai(code="insufficient_quota", type="insufficient_quota"),
        C.QUOTA_EXHAUSTED,
    ),
    "the money is gone, by type": (429, openai(type="insufficient_quota"), C.QUOTA_EXHAUSTED),
    "a credit balance": (429, openai(code="credit_balance_exhausted"), C.QUOTA_EXHAUSTED),
    "an anthropic spend limit": (
        429,
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "No.",
                "details": {"error_code": "enforced_spend_limit_reached"},
            },
        },
        C.QUOTA_EXHAUSTED,
    ),
    "gemini, a minute's quota": (
        429,
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "You exceeded your current quota.",
                "details": [{"violations": [{"quotaId": "GenerateRequestsPerMinute"}]}],
            }
        },
        C.RATE_LIMITED,
    ),
    "gemini, a day's quota": (
        429,
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "You exceeded your current quota.",
                "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}],
            }
        },
        C.QUOTA_EXHAUSTED,
    ),
    "gemini, prepaid": (
        429,
        {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Your prepayment credits are depleted."}},
        C.QUOTA_EXHAUSTED,
    ),
    "deepseek without balance": (402, openai("Insufficient Balance", type="unknown_error"), C.QUOTA_EXHAUSTED),
    "openrouter, budget in flight": (402, openai("Too much in-flight spend."), C.RATE_LIMITED),
    "overloaded": (503, openai(code="server_is_overloaded", type="server_error"), C.OVERLOADED),
    "slow down": (503, openai(code="slow_down"), C.RATE_LIMITED),
    "529": (529, b"", C.OVERLOADED),
    "groq flex": (498, openai(code="capacity_exceeded"), C.OVERLOADED),
    "cohere 498": (498, {"message": "invalid token"}, C.CREDENTIALS),
    "llama.cpp, token ids that it has not": (
        400,
        {"error": {"code": 400, "message": "Prompt contains invalid tokens", "type": "invalid_request_error"}},
        C.CALLER_ERROR,
    ),
    "groq tool validation": (400, openai(code="tool_use_failed"), C.SERVER_ERROR),
    "context length (openai)": (400, openai(code="context_length_exceeded"), C.CONTEXT_LENGTH),
    "context length (anthropic)": (400, openai("prompt is too long: 210000 tokens > 200000 maximum"), C.CONTEXT_LENGTH),
    "context length (gemini)": (
        400,
        openai("The input token count (9) exceeds the maximum number of tokens allowed (8)."),
        C.CONTEXT_LENGTH,
    ),
    "context length (xai)": (400, openai("This model's maximum prompt length is 131072"), C.CONTEXT_LENGTH),
    "context length (mistral)": (
        400,
        openai("Prompt is too large for model with 32768 maximum context length"),
        C.CONTEXT_LENGTH,
    ),
    "context length (vllm)": (
        400,
        openai("The decoder prompt is longer than the maximum model length"),
        C.CONTEXT_LENGTH,
    ),
    "context length (llama.cpp)": (400, openai(type="exceed_context_size_error"), C.CONTEXT_LENGTH),
    "context length (llama.cpp, 500)": (
        500,
        openai("Context size has been exceeded.", type="server_error"),
        C.CONTEXT_LENGTH,
    ),
    "context length (perplexity)": (400, openai("The length of all messages is too long"), C.CONTEXT_LENGTH),
    "context length (responses)": (
        400,
        openai("Your input exceeds the context window of this model."),
        C.CONTEXT_LENGTH,
    ),
    "azure content filter": (
        400,
        {
            "error": {
                "code": "content_filter",
                "message": "No.",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        C.CONTENT_POLICY,
    ),
    "openrouter moderation": (403, openai("Your input was flagged."), C.CONTENT_POLICY),
    "a key that is wrong": (401, openai(code="invalid_api_key"), C.CREDENTIALS),
    "gemini says it with 400": (
        400,
        {
            "error": {
                "code": 400,
                "status": "INVALID_ARGUMENT",
                "message": "API key not valid.",
                "details": [{"@type": "ErrorInfo", "reason": "API_KEY_INVALID"}],
            }
        },
        C.CREDENTIALS,
    ),
    "forbidden": (403, b"", C.CREDENTIALS),
    "model gone": (404, openai(code="model_not_found"), C.MODEL_NOT_FOUND),
    "azure deployment": (404, openai(code="DeploymentNotFound"), C.MODEL_NOT_FOUND),
    "a bad parameter": (400, openai(param="temperature", code="unsupported_value"), C.CALLER_ERROR),
    "mistral 422": (422, {"detail": [{"loc": ["body"], "msg": "No."}]}, C.CALLER_ERROR),
    "too large": (413, b"<html>", C.CALLER_ERROR),
    "timeout": (504, b"", C.TIMEOUT),
    "cloudflare timeout": (524, b"", C.TIMEOUT),
    "bad gateway": (502, b"<html>", C.SERVER_ERROR),
    "llama.cpp loading": (503, openai("Loading model", type="unavailable_error", code=503), C.OVERLOADED),
    "a status of its own": (418, b"", C.CALLER_ERROR),
    "another server status": (599, b"", C.SERVER_ERROR),
    "a redirect": (302, b"", C.PROTOCOL),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_what_an_error_means(case: str) -> None:
    status, body, category = MEANINGS[case]

    failure = failed(status, body)

    assert failure.category is category
    assert failure.status == status


@pytest.mark.parametrize("label", sorted(BY_LABEL))
def test_every_label_counts_without_a_status(label: str) -> None:
    assert failure_in_band({"error": {"code": label, "message": "No."}}, provider()).category is BY_LABEL[label]


@pytest.mark.parametrize("status", sorted(BY_STATUS))
def test_every_status_counts_without_words(status: int) -> None:
    assert failed(status, b"").category is BY_STATUS[status]


@pytest.mark.parametrize(
    ("error", "status", "category"),
    [
        ({"code": 429, "message": "No."}, 429, C.RATE_LIMITED),
        ({"status_code": 400, "message": "No."}, 400, C.CALLER_ERROR),
        ({"code": "503", "message": "No."}, 503, C.OVERLOADED),
        ({"type": "invalid_request_error", "message": "No."}, 0, C.CALLER_ERROR),
        ({"message": "No."}, 0, C.SERVER_ERROR),
        ({"code": 7, "message": "No."}, 0, C.SERVER_ERROR),
    ],
)
def test_an_error_in_band_counts_as_the_status_it_names(
    error: dict[str, Any], status: int, category: FailureCategory
) -> None:
    failure = failure_in_band({"error": error}, provider())

    assert (failure.status, failure.category) == (status, category)


def test_the_http_status_wins_over_a_code_that_disagrees() -> None:
    assert failed(503, {"error": {"code": 400, "message": "No."}}).status == 503


def test_retry_after_comes_with_the_failure() -> None:
    assert failed(429, openai(), retry_after="7").retry_after_s == 7
    delay = {"error": {"code": 429, "message": "No.", "details": [{"retryDelay": "39.5s"}]}}
    assert failed(429, delay).retry_after_s == 39.5
    assert failure_in_band(delay, provider()).retry_after_s == 39.5


# What a client may read.


@pytest.mark.parametrize(
    "leak",
    [KEY, KEY[:8], KEY[-8:], KEY[5:15], f"Bearer {KEY}", f"{KEY}{KEY}"],
)
def test_x1_no_eight_characters_of_our_key_get_out(leak: str) -> None:
    failure = failed(401, openai(f"Incorrect API key provided: {leak}. Find yours.", code=f"c-{leak}", param=leak))

    said = f"{failure.upstream.code} {failure.upstream.message} {failure.upstream.param} {failure}"
    assert not [at for at in range(len(KEY) - 7) if KEY[at : at + 8] in said]
    assert "Find yours." in said


def test_x1_a_masked_key_is_taken_out_as_well() -> None:
    message = failed(401, openai("Incorrect API key provided: sk-pr***-Zz19. See docs.")).upstream.message

    assert message == "Incorrect API key provided: [key]. See docs."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://platform.acme.com/account?x=1 for more", "see [url] for more"),
        ("connect to 10.0.3.7:8080 failed", "connect to [address] failed"),
        ("dial [::1]:8080 or fe80::1:2:3", "dial [address] or [address]"),
        ("upstream vllm-3.prod.svc.cluster.local:8000 is down", "upstream [host] is down"),
        ("localhost:11434 refused", "[host] refused"),
        ("for gpt-5 in organization org-AbC123def456", "for gpt-5 in organization [account]"),
        ("messages.0.content: field required", "messages.0.content: field required"),
        ("temperature must be in 0.0..2.0, not 2.5", "temperature must be in 0.0..2.0, not 2.5"),
        ("model gpt-4.1-mini at 12:30:45", "model gpt-4.1-mini at 12:30:45"),
    ],
)
def test_addresses_are_taken_out_and_nothing_else(text: str, expected: str) -> None:
    assert failed(400, openai(text)).upstream.message == expected


def test_our_own_name_for_the_provider_is_taken_out() -> None:
    acme = provider(base_url="http://vllm-box:8000/v1")

    failure = failure_in_band({"error": {"message": "vllm-box is tired"}}, acme)

    assert failure.upstream.message == "[host] is tired"


def test_messages_are_bounded_and_whole_characters() -> None:
    failure = failed(400, openai("🙂" * 5000, code="c" * 900, param="p" * 900))

    assert failure.upstream.message == "🙂" * MAX_MESSAGE_CHARS
    assert len(failure.upstream.code or "") == len(failure.upstream.param or "") == 200


@pytest.mark.parametrize("key", [None, "", "abc"])
def test_no_key_or_a_placeholder_mars_nothing(key: str | None) -> None:
    failure = failure_in_band({"error": {"message": "abc"}}, provider(api_key=key))

    assert failure.upstream.message == "abc"
