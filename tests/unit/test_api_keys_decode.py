"""What a key is to be, of a JSON body: every field of its type, and every mistake by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET

from rest_bridge.api_keys_decode import decode_changes, decode_new_key, decode_overlap
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Scope
from server.domain.keys import KeyChanges, NewKey
from server.domain.ledger import SpendLimit
from server.domain.restrictions import Restrictions

USD = 1_000_000_000
WHOLE = {
    "name": "ci",
    "scopes": ["inference", "management"],
    "expires_at": "2027-01-31T12:00:00Z",
    "disabled": True,
    "limit": 5.5,
    "limit_reset": "monthly",
    "allowed_models": ["openai/*"],
    "allowed_providers": ["openai"],
    "allowed_cidrs": ["10.0.0.0/8"],
}


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def test_a_new_key_in_full() -> None:
    assert decode_new_key(encoded(WHOLE)) == NewKey(
        "ci",
        frozenset(Scope),
        1_801_396_800,
        True,
        SpendLimit(5_500_000_000, "monthly"),
        Restrictions(("openai/*",), ("openai",), ("10.0.0.0/8",)),
    )


def test_only_the_name_is_required() -> None:
    assert decode_new_key(b'{"name": "ci"}') == NewKey("ci", frozenset({Scope.INFERENCE}))


def test_what_is_not_given_stays_and_null_lifts() -> None:
    assert decode_changes(b"{}") == KeyChanges()
    lifted = decode_changes(b'{"limit": null, "expires_at": null, "allowed_models": null, "limit_reset": null}')
    assert lifted == KeyChanges(limit_nanos=None, expires_at=None, models=None, limit_reset=None)
    changes = decode_changes(encoded(WHOLE))
    assert changes.limit_nanos == 5_500_000_000
    assert changes.scopes == frozenset(Scope)
    assert decode_changes(b'{"disabled": false}').scopes is UNSET


@pytest.mark.parametrize(
    ("limit", "nanos"),
    [("5", 5 * USD), ("5.00", 5 * USD), ("0", 0), ("0.000000001", 1), ("1e3", 1000 * USD), ("1000000000", 10**18),
     ('"5.00"', 5 * USD), ("19.99", 19_990_000_000)],
)  # fmt: skip
def test_a_limit_is_exact(limit: str, nanos: int) -> None:
    key = decode_new_key(f'{{"name": "x", "limit": {limit}}}'.encode())
    assert key.spend_limit == SpendLimit(nanos)


@pytest.mark.parametrize("time", [1_801_396_800, "1801396800", "2027-01-31T12:00:00Z", "2027-01-31T13:00:00+01:00"])
def test_a_time_in_every_spelling(time: Any) -> None:
    assert decode_new_key(encoded({"name": "x", "expires_at": time})).expires_at == 1_801_396_800


@pytest.mark.parametrize("field", ["budget", "Limit", "limits", "limit_nanos", "id", "key", "team_id", "secret_hash"])
@pytest.mark.parametrize("decode", [decode_new_key, decode_changes])
def test_a_field_that_is_not_known_is_named(decode: Any, field: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode(encoded({"name": "x", field: 1}))
    assert (caught.value.reason, caught.value.param) == (Reason.UNKNOWN_PARAMETER, field)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("name", 5, "name"),
        ("name", None, "name"),
        ("scopes", "inference", "scopes"),
        ("scopes", ["everything"], "scopes[0]"),
        ("scopes", ["inference", "inference"], "scopes[1]"),
        ("scopes", [None], "scopes[0]"),
        ("expires_at", "tomorrow", "expires_at"),
        ("expires_at", True, "expires_at"),
        ("expires_at", 1.5, "expires_at"),
        ("disabled", "yes", "disabled"),
        ("disabled", None, "disabled"),
        ("limit", -1, "limit"),
        ("limit", 1_000_000_001, "limit"),
        ("limit", "0.0000000001", "limit"),
        ("limit", "1e-999999999", "limit"),
        ("limit", f"1.{'9' * 40}", "limit"),
        ("limit", "NaN", "limit"),
        ("limit", "Infinity", "limit"),
        ("limit", "1e999999999", "limit"),
        ("limit", "five", "limit"),
        ("limit", True, "limit"),
        ("limit", [], "limit"),
        ("limit_reset", "hourly", "limit_reset"),
        ("allowed_models", "a/b", "allowed_models"),
        ("allowed_models", ["a/b", 5], "allowed_models[1]"),
        ("allowed_providers", {}, "allowed_providers"),
        ("allowed_cidrs", [None], "allowed_cidrs[0]"),
    ],
)
@pytest.mark.parametrize("decode", [decode_new_key, decode_changes])
def test_what_is_wrong_is_named(decode: Any, field: str, value: Any, param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        decode(encoded({"name": "x", "limit": 1, field: value}))
    assert (caught.value.reason, caught.value.param) == (Reason.INVALID_VALUE, param)
    assert field in caught.value.description


def test_a_reset_needs_a_limit() -> None:
    with pytest.raises(GatewayError) as caught:
        decode_new_key(b'{"name": "x", "limit_reset": "daily"}')
    assert caught.value.param == "limit_reset"


def test_the_name_is_missed() -> None:
    with pytest.raises(GatewayError) as caught:
        decode_new_key(b"{}")
    assert (caught.value.reason, caught.value.param) == (Reason.MISSING_FIELD, "name")


@pytest.mark.parametrize("body", [b"", b" ", b"[]", b"null", b'"x"', b"{", b'{"name": "x"} x', b"\xff"])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        decode_new_key(body)
    assert caught.value.reason in (Reason.MALFORMED_JSON, Reason.INVALID_VALUE)


def test_a_rotation_may_have_no_body() -> None:
    assert decode_overlap(b"") is None
    assert decode_overlap(b"{}") is None
    assert decode_overlap(b'{"overlap_s": 0}') == 0
    for wrong in (b'{"overlap_s": -1}', b'{"overlap_s": 1.5}', b'{"overlap_s": "1h"}', b'{"overlap": 1}', b"[]"):
        with pytest.raises(GatewayError):
            decode_overlap(wrong)
