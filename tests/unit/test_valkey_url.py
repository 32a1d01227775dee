"""Where a Valkey is, as its URL says it."""

from __future__ import annotations

import pytest

from server.storage.valkey_url import FORMS, ValkeyAddress, parse_valkey_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("valkey://cache", ValkeyAddress("cache", 6379)),
        ("redis://cache:7000/", ValkeyAddress("cache", 7000)),
        ("redis://cache:7000/3", ValkeyAddress("cache", 7000, database=3)),
        ("valkeys://cache", ValkeyAddress("cache", 6379, is_tls=True)),
        ("rediss://me:p%40ss@[::1]:7000", ValkeyAddress("::1", 7000, is_tls=True, user="me", password="p@ss")),
        ("redis://:secret@cache", ValkeyAddress("cache", 6379, password="secret")),
        ("unix:///run/valkey.sock", ValkeyAddress(path="/run/valkey.sock")),
        (
            "unix://me:pw@/run/a%20b.sock?db=2",
            ValkeyAddress(path="/run/a b.sock", user="me", password="pw", database=2),
        ),
    ],
)
def test_what_a_url_says(url: str, address: ValkeyAddress) -> None:
    assert parse_valkey_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://cache",
        "valkey://",
        "valkey:///0",
        "valkey://cache:port",
        "valkey://cache:99999",
        "valkey://cache/zero",
        "valkey://cache/-1",
        "valkey://cache/0/1",
        "valkey://cache?db=1",
        "valkeys://cache?ssl_cert_reqs=none",
        "valkey://cache#part",
        "valkey://[::1",
        "unix://run/valkey.sock",
        "unix://",
        "unix:///run/valkey.sock?db=",
        "unix:///run/valkey.sock?timeout=1",
    ],
)
def test_what_is_no_url_of_one_is_refused_with_what_may_be(url: str) -> None:
    with pytest.raises(ValueError, match="it must be") as refused:
        parse_valkey_url(url)
    assert str(refused.value) == f"it must be {FORMS}"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://me:secret@cache:7000/3", "cache:7000"),
        ("redis://me:secret@[::1]", "[::1]:6379"),
        ("unix://me:secret@/run/valkey.sock", "/run/valkey.sock"),
    ],
)
def test_what_is_shown_of_it_is_no_secret(url: str, place: str) -> None:
    address = parse_valkey_url(url)
    assert address.place == place
    assert "secret" not in repr(address)
