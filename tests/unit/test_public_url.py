"""AISTATS_PUBLIC_URL: an address without anything that does not belong in front of a path."""

from __future__ import annotations

import pytest

from server.settings import Settings, SettingsError, load_settings


@pytest.mark.parametrize(
    ("said", "is_meant"),
    [
        ("https://gateway.example.com", "https://gateway.example.com"),
        ("https://gateway.example.com:8443/ai/", "https://gateway.example.com:8443/ai"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        (" ", None),
    ],
)
def test_it_is_read(monkeypatch: pytest.MonkeyPatch, said: str, is_meant: str | None) -> None:
    monkeypatch.setenv("AISTATS_PUBLIC_URL", said)
    assert Settings().public_url == is_meant


@pytest.mark.parametrize(
    "said",
    [
        "gateway.example.com",
        "ftp://x",
        "https://",
        "https://me:pw@x",
        "https://x?a=b",
        "https://x#a",
        "https://x:99999",
        "https://x y",
        "https://[::1",
    ],
)
def test_or_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("AISTATS_PUBLIC_URL", said)
    with pytest.raises(SettingsError, match="AISTATS_PUBLIC_URL"):
        load_settings()
