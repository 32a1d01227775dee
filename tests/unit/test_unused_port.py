"""Ports for what starts beside the gateway: nobody else may come by one before its owner listens there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from server import probes
from server.probes import unused_port


def given_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "range").write_text(text)
    monkeypatch.setattr(probes, "_GIVEN_PORTS", tmp_path / "range")


def test_it_is_none_that_the_kernel_gives_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ports(tmp_path, monkeypatch, "20000\t60999\n")
    assert all(10_000 <= unused_port() < 20_000 for _ in range(50))


def test_one_that_is_listened_on_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(probes, "_LOWEST_PORT", port)
        given_ports(tmp_path, monkeypatch, f"{port + 1}\t60999\n")
        assert unused_port() != port


@pytest.mark.parametrize("text", ["1024\t60999\n", None], ids=["all are given", "not told"])
def test_where_there_is_no_such_port_it_is_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setattr(probes, "_GIVEN_PORTS", tmp_path / "range")
    if text is not None:
        given_ports(tmp_path, monkeypatch, text)
    assert unused_port() > 0
