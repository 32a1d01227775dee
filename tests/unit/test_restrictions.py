"""What a key is held to: models, providers and addresses, and which of two keys is held to more."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.catalog import Model
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Scope
from server.domain.ledger import LimitReset, SpendLimit
from server.domain.restrictions import Restrictions, canonical_cidr, check_model_pattern, check_provider_id
from server.domain.rights import Rights, check_gift

BOTH = frozenset(Scope)
USD = 1_000_000_000


@pytest.mark.parametrize(
    ("cidr", "address", "is_allowed"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.0/24", "203.0.113.255", True),
        ("203.0.113.0/24", "203.0.114.0", False),
        ("203.0.113.0/24", "::ffff:203.0.113.9", True),
        ("::ffff:203.0.113.0/120", "203.0.113.9", True),
        ("0.0.0.0/0", "198.51.100.1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "198.51.100.1", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "[2001:db8::1]", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::1", "::1", True),
        ("10.0.0.0/8", "unix", False),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "10.0.0.1, 1.2.3.4", False),
        ("10.0.0.0/8", "1" * 10_000, False),
    ],
)
def test_from_where_a_key_may_be_used(cidr: str, address: str, is_allowed: bool) -> None:
    assert Restrictions(cidrs=(canonical_cidr(cidr),)).allows_address(address) is is_allowed
    assert Restrictions().allows_address(address)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7/32", "203.0.113.7/32"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.0/120", "1.2.3.0/24"),
    ],
)
def test_a_network_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_cidr(text) == canonical


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.1.2.3/8", "the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "the network is 2001:db8::/32"),
        ("10.0.0.0/33", "must be an address or a network"),
        ("10.0.0", "must be an address or a network"),
        ("010.0.0.1", "must be an address or a network"),
        ("example.com", "must be an address or a network"),
        ("", "must be an address or a network"),
        ("10.0.0.0/8 ", "must be an address or a network"),
        ("1" * 10_000, "must be an address or a network"),
        ("10.0.0.0/-1", "must be an address or a network"),
        ("fe80::1%eth0", "must be an address or a network"),
        ("2001:db8::1%a 203.0.113.7", "must be an address or a network"),
        ("2001:db8::1%a 203.0.113.7/64", "must be an address or a network"),
        ("10.0.0.0/" + "8".zfill(55) + "9", "must be an address or a network"),
    ],
)
def test_what_is_no_network_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        canonical_cidr(text)
    assert len(str(caught.value)) < 250


def test_an_entry_that_is_no_network_allows_nothing_and_covers_nothing() -> None:
    """Keys were once kept with a zone, after which Python takes any text."""
    broken = Restrictions(cidrs=("2001:db8::1%a", "b", "10.0.0.0/8"))
    assert [broken.allows_address(address) for address in ("2001:db8::1", "b", "10.0.0.1")] == [False, False, True]
    assert broken.exceeding(Restrictions(cidrs=("::/0", "0.0.0.0/0"))) == "allowed_cidrs"
    assert Restrictions(cidrs=("10.0.0.1",)).exceeding(broken) is None
    assert Restrictions(cidrs=("2001:db8::1",)).exceeding(broken) == "allowed_cidrs"


@pytest.mark.parametrize(
    ("pattern", "model", "is_allowed"),
    [
        ("openai/gpt-4o", "openai/gpt-4o", True),
        ("openai/gpt-4o", "openai/gpt-4o:free", False),
        ("openai/gpt-4o", "openai/gpt-4o-mini", False),
        ("openai/*", "openai/gpt-4o", True),
        ("openai/*", "openai/gpt-4o:free", True),
        ("openai/*", "openai2/gpt-4o", False),
        ("*:free", "openai/gpt-4o:free", True),
        ("*:free", "openai/gpt-4o", False),
        ("openai/*:free", "openai/x:free", True),
        ("openai/*:free", "acme/x:free", False),
        ("openai/gpt-*", "openai/gpt-4o", True),
        ("*", "a/b", True),
        ("ab*ba", "aba", False),
        ("an-alias", "acme/test-1", True),
    ],
)
def test_which_models_a_key_may_use(pattern: str, model: str, is_allowed: bool) -> None:
    held_to = Restrictions(models=(check_model_pattern(pattern),))
    assert held_to.allows_model(Model(model, (), aliases=("an-alias",))) is is_allowed


@pytest.mark.parametrize("text", ["", "a/*/*", "**", "a b", "a/b:paid", "é", "acme:a/b", "a\0", "x" * 129, "a/b:*"])
def test_what_can_be_no_model(text: str) -> None:
    with pytest.raises(ValueError, match="one asterisk"):
        check_model_pattern(text)


@pytest.mark.parametrize("text", ["", "Acme", "a b", "-a", "a*", "a" * 65])
def test_what_can_be_no_provider(text: str) -> None:
    with pytest.raises(ValueError, match="id of a provider"):
        check_provider_id(text)


letters = st.text("ab", max_size=3)
patterns = st.one_of(letters, st.builds(lambda head, tail: f"{head}*{tail}", letters, letters)).filter(bool)
networks = st.builds(
    lambda bits, length: f"{ip_address((bits >> (32 - length)) << (32 - length) if length else 0)}/{length}",
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(
    st.lists(patterns, min_size=1, max_size=3), st.lists(patterns, min_size=1, max_size=3), st.text("ab", max_size=6)
)
def test_what_exceeds_nothing_allows_no_model_more(inner: list[str], outer: list[str], name: str) -> None:
    own, given_ = Restrictions(models=tuple(outer)), Restrictions(models=tuple(inner))
    if given_.exceeding(own) is None and given_.allows_model(Model(name, ())):
        assert own.allows_model(Model(name, ()))


@given(
    st.lists(networks, min_size=1, max_size=3), st.lists(networks, min_size=1, max_size=3), st.integers(0, 2**32 - 1)
)
def test_what_exceeds_nothing_allows_no_address_more(inner: list[str], outer: list[str], number: int) -> None:
    own, given_, address = Restrictions(cidrs=tuple(outer)), Restrictions(cidrs=tuple(inner)), str(ip_address(number))
    if given_.exceeding(own) is None and given_.allows_address(address):
        assert own.allows_address(address)


def held(**to: tuple[str, ...]) -> dict[str, Any]:
    return {"restrictions": Restrictions(**to)}


@pytest.mark.parametrize(
    ("given_", "own", "field"),
    [
        ({}, {}, None),
        ({"scopes": {Scope.INFERENCE}}, {}, None),
        ({}, {"scopes": {Scope.INFERENCE}}, "scopes"),
        ({"expires_at": 5}, {"expires_at": 5}, None),
        ({"expires_at": 6}, {"expires_at": 5}, "expires_at"),
        ({}, {"expires_at": 5}, "expires_at"),
        (held(models=("a/b",)), held(models=("a/*",)), None),
        (held(models=("*",)), held(models=("a/*",)), "allowed_models"),
        ({}, held(models=("a/*",)), "allowed_models"),
        (held(providers=("a",)), held(providers=("a", "b")), None),
        ({}, held(providers=("a",)), "allowed_providers"),
        (held(cidrs=("10.1.0.0/16",)), held(cidrs=("10.0.0.0/8",)), None),
        (held(cidrs=("11.0.0.1",)), held(cidrs=("10.0.0.0/8",)), "allowed_cidrs"),
        ({}, held(cidrs=("10.0.0.0/8",)), "allowed_cidrs"),
    ],
)  # fmt: skip
def test_a_key_gives_nothing_that_it_has_not(given_: dict[str, Any], own: dict[str, Any], field: str | None) -> None:
    gift, giver = (Rights(**{"scopes": BOTH, **rights}) for rights in (given_, own))
    assert gift.exceeding(giver) == field
    if field is None:
        check_gift(gift, giver)
        return
    with pytest.raises(GatewayError) as caught:
        check_gift(gift, giver)
    assert (caught.value.reason, caught.value.param) == (Reason.BEYOND_OWN_RIGHTS, field)


@pytest.mark.parametrize(
    ("reset", "own", "field"),
    [
        (None, None, None),
        (None, "monthly", None),
        ("monthly", None, "limit_reset"),
        ("monthly", "daily", None),
        ("weekly", "daily", None),
        ("monthly", "weekly", "limit_reset"),
        ("weekly", "monthly", "limit_reset"),
        ("daily", "weekly", "limit_reset"),
        ("daily", "daily", None),
    ],
)
def test_a_limit_that_comes_back_sooner_is_more(reset: LimitReset | None, own: LimitReset | None, field: str) -> None:
    limit, most = SpendLimit(USD, reset), SpendLimit(USD, own)
    assert Rights(BOTH, spend_limit=limit).exceeding(Rights(BOTH, spend_limit=most)) == field
    assert Rights(BOTH, spend_limit=SpendLimit(USD + 1, own)).exceeding(Rights(BOTH, spend_limit=most)) == "limit"
    assert Rights(BOTH).exceeding(Rights(BOTH, spend_limit=most)) == "limit"
    assert Rights(BOTH, spend_limit=limit).exceeding(Rights(BOTH)) is None


def test_a_key_with_a_limit_gives_nothing_away() -> None:
    """Two limits of a dollar are two dollars."""
    one = Rights(BOTH, spend_limit=SpendLimit(USD))
    with pytest.raises(GatewayError) as caught:
        check_gift(one, one)
    assert (caught.value.reason, caught.value.param) == (Reason.BEYOND_OWN_RIGHTS, "limit")
