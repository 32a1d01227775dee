"""The form of a key: what is made, what is taken, and what is not even looked up."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.storage import api_key

SECRET = "0123456789abcdef" * 4


def test_a_new_key_has_the_documented_form_and_256_bits_of_secret() -> None:
    token = api_key.mint()
    assert re.fullmatch(r"aistats_v1_sk_[0-9a-f]{16}_[0-9a-f]{64}", str(token))
    assert api_key.parse(str(token)) == token


def test_new_keys_differ() -> None:
    tokens = [api_key.mint() for _ in range(1000)]
    assert len({token.kid for token in tokens}) == 1000
    assert len({token.secret for token in tokens}) == 1000


def test_the_older_form_is_read_too() -> None:
    assert api_key.parse(f"aistats_v1_k_abcd1234_{SECRET}") == api_key.Token(
        kid="abcd1234", secret=SECRET, format="aistats_v1_k"
    )


@pytest.mark.parametrize("secret", ["A-b_c" * 8, "x" * 128])
def test_a_secret_may_hold_underscores(secret: str) -> None:
    token = api_key.parse(f"aistats_v1_sk_abcd_{secret}")
    assert token is not None
    assert (token.kid, token.secret) == ("abcd", secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aistats_v1_sk_",
        "aistats_v1_sk_abcd1234",
        "aistats_v1_sk_abcd1234_",
        f"aistats_v1_sk__{SECRET}",
        f"aistats_v1_sk_abc_{SECRET}",
        f"aistats_v1_sk_ABCD1234_{SECRET}",
        f"aistats_v2_sk_abcd1234_{SECRET}",
        f"aistats_v1_pk_abcd1234_{SECRET}",
        f" aistats_v1_sk_abcd1234_{SECRET}",
        f"aistats_v1_sk_abcd1234_{SECRET}\n",
        f"aistats_v1_sk_abcd1234_{SECRET}\0",
        f"aistats_v1_sk_abcd1234_{SECRET[:31]}",
        f"aistats_v1_sk_abcd1234_{'x' * 129}",
        f"aistats_v1_sk_abcdé123_{SECRET}",
        f"aistats_v1_sk_abcd1٣34_{SECRET}",
        f"aistats_v1_sk_abcd'--4_{SECRET}",
        "' OR '1'='1",
        "'; SELECT pg_sleep(5); --",
    ],
)
def test_text_that_cannot_be_a_key_is_none(text: str) -> None:
    assert api_key.parse(text) is None


def test_a_megabyte_costs_nothing() -> None:
    texts = [f"aistats_v1_sk_abcd1234_{'a' * 1_000_000}", "aistats_v1_sk_" * 80_000, "é" * 1_000_000]
    began = time.thread_time()
    assert [api_key.parse(text) for text in texts] == [None, None, None]
    assert time.thread_time() - began < 0.5


def test_the_hash_tells_the_secret_from_its_neighbours_and_does_not_hold_it() -> None:
    stored = api_key.hash_secret(SECRET)
    assert len(stored) == 32
    assert api_key.secret_matches(SECRET, stored)
    assert not api_key.secret_matches(SECRET[:-1] + "0", stored)
    assert not api_key.secret_matches(SECRET[:-1], stored)
    assert SECRET.encode() not in stored


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"aistats_v1_s?k_[a-z0-9_]{0,40}_[A-Za-z0-9_-]{0,140}", fullmatch=True),
    )
)
def test_what_is_read_as_a_key_is_that_text_and_nothing_else(text: str) -> None:
    token = api_key.parse(text)
    if token is None:
        return
    assert str(token) == text
    assert text.isascii()
    assert "_" not in token.kid
    assert len(text) <= api_key.MAX_TOKEN_LENGTH


def test_a_key_in_a_log_line_is_its_id() -> None:
    token = api_key.mint()
    assert token.secret not in repr(token)
    assert token.secret not in f"{[token]}"
