"""Retry-After, in every spelling that upstreams use."""

from __future__ import annotations

from typing import Any

import pytest

from server.providers.retry_after import MAX_RETRY_AFTER_S, retry_after_s

NOW = 1_790_856_000.0
"""12:00:00 on 1 October 2026, UTC."""


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, None, None),
        ({"retry-after": "7"}, None, 7.0),
        ({"retry-after": "1.5"}, None, 1.5),
        ({"retry-after-ms": "250.5"}, None, 0.2505),
        ({"retry-after-ms": "250", "retry-after": "7"}, None, 0.25),
        ({"retry-after-ms": "0", "retry-after": "7"}, None, 7.0),
        ({"retry-after-ms": "soon", "retry-after": "7"}, None, 7.0),
        ({"retry-after": "0"}, None, None),
        ({"retry-after": "-3"}, None, None),
        ({"retry-after": "nan"}, None, None),
        ({"retry-after": "inf"}, None, None),
        ({"retry-after": ""}, None, None),
        ({"retry-after": "tomorrow"}, None, None),
        ({"retry-after": "Thu, 01 Oct 2026 12:00:30 GMT"}, None, 30.0),
        ({"retry-after": "Thu, 01 Oct 2026 11:59:30 GMT"}, None, None),
        ({"retry-after": "Thu, 01 Oct 2026 14:00:30 +0200"}, None, 30.0),
        ({"retry-after": "Thu, 99 Oct 2026 12:00:30 GMT"}, None, None),
        ({"retry-after": "86400"}, None, MAX_RETRY_AFTER_S),
        ({"x-ratelimit-reset": "12"}, None, 12.0),
        ({"x-ratelimit-reset": "86400"}, None, MAX_RETRY_AFTER_S),
        ({"x-ratelimit-reset": "1790856030"}, None, 30.0),
        ({"x-ratelimit-reset": "1790856030500"}, None, 30.5),
        ({"x-ratelimit-reset": "1790942400000"}, None, MAX_RETRY_AFTER_S),
        ({"x-ratelimit-reset": "1790856000"}, None, None),
        ({"x-ratelimit-reset": "1790855970000"}, None, None),
        ({"x-ratelimit-reset": "1790855970"}, {"details": [{"retryDelay": "39s"}]}, 39.0),
        ({}, {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "39s"}]}, 39.0),
        ({}, {"details": [{"violations": []}, {"retryDelay": "0.5s"}]}, 0.5),
        ({"retry-after": "2"}, {"details": [{"retryDelay": "39s"}]}, 2.0),
        ({}, {"details": [{"retryDelay": "0s"}]}, None),
        ({}, {"details": [{"retryDelay": 39}]}, None),
        ({}, {"details": "39s"}, None),
        ({}, [], None),
    ],
)
def test_the_grammar(headers: dict[str, str], body: Any, expected: float | None) -> None:
    assert retry_after_s(headers, body, NOW) == (None if expected is None else pytest.approx(expected))
