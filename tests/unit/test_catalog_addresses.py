"""A provider's address in the catalogue: which are refused at once, and what is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from server.catalogue import CatalogError, load_catalog, read_catalog
from server.catalogue.watch import ReloadingCatalog
from server.cli_catalog import check
from server.domain.catalog import Provider

LINK_LOCAL = "is link-local, or where a cloud keeps its metadata; where that is meant, add allow_link_local: true"
NOWHERE = "is the address of no single machine; write that of one (this machine is 127.0.0.1)"


def written(tmp_path: Path, base_url: str, extra: str = "") -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(f"providers:\n  - {{id: acme, dialect: openai, base_url: '{base_url}'{extra}}}\n")
    return path


def provider(tmp_path: Path, base_url: str, extra: str = "") -> Provider:
    return load_catalog(written(tmp_path, base_url, extra), {}).providers["acme"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://169.254.169.254/latest", LINK_LOCAL),
        ("https://169.254.169.254:8443/v1", LINK_LOCAL),
        ("http://2852039166/v1", LINK_LOCAL),
        ("http://0xA9FEA9FE/v1", LINK_LOCAL),
        ("http://0251.0376.0251.0376/v1", LINK_LOCAL),
        ("http://[::ffff:169.254.169.254]/v1", LINK_LOCAL),
        ("http://[64:ff9b::a9fe:a9fe]/v1", LINK_LOCAL),
        ("http://[fe80::1]/v1", LINK_LOCAL),
        ("http://[fd00:ec2::254]/v1", LINK_LOCAL),
        ("http://100.100.100.200/v1", LINK_LOCAL),
        ("http://METADATA.google.internal/v1", LINK_LOCAL),
        ("http://0.0.0.0:8000/v1", NOWHERE),
        ("http://[::]:8000/v1", NOWHERE),
        ("http://0/v1", NOWHERE),
        ("http://239.1.2.3/v1", NOWHERE),
        ("http://[ff02::1]/v1", NOWHERE),
        ("ftp://api.example.com/v1", "must be an address such as https://api.example.com/v1"),
        ("file:///etc/passwd", "must be an address such as https://api.example.com/v1"),
        ("http://user:secret@10.0.0.1/v1", "must not hold a user or password; use api_key_env or api_key_file"),
        ("http://169.254.169.254@evil.example/v1", "must not hold a user or password; use api_key_env or api_key_file"),
        ("https://api.example.com/v1?x=1", "must end with its path, and hold no spaces, ? or #"),
        ("https://api.example.com/v1#x", "must end with its path, and hold no spaces, ? or #"),
        ("http://１６９.254.169.254/v1", "must end with its path, and hold no spaces, ? or #"),
    ],
)
def test_an_address_that_is_never_called_is_refused_by_name(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(CatalogError) as caught:
        provider(tmp_path, url)
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == ("providers[0].base_url", 2)
    assert problem.text == f'provider "acme": {said}'


def test_a_variable_cannot_bring_one_in(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        load_catalog(written(tmp_path, "http://${HOST}/v1"), {"HOST": "169.254.169.254"})
    assert LINK_LOCAL in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:80", "10.0.0.1", "192.168.1.2", "[fd12::1]"])
def test_machines_of_ones_own_are_as_good_as_any(tmp_path: Path, host: str) -> None:
    assert provider(tmp_path, f"http://{host}/v1").base_url == f"http://{host}/v1"


@pytest.mark.parametrize("host", ["169.254.10.20", "[fe80::1%eth0]", "metadata.google.internal"])
def test_link_local_addresses_can_be_allowed(tmp_path: Path, host: str) -> None:
    found = provider(tmp_path, f"http://{host}/v1", ", allow_link_local: true")
    assert found.allow_link_local


def test_what_is_no_machine_cannot_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        provider(tmp_path, "http://0.0.0.0/v1", ", allow_link_local: true")


@pytest.mark.parametrize(
    ("base_url", "api_key", "in_clear"),
    [
        ("http://api.example.com/v1", "sk-1", True),
        ("http://8.8.8.8/v1", "sk-1", True),
        ("https://api.example.com/v1", "sk-1", False),
        ("http://api.example.com/v1", None, False),
        ("http://127.0.0.1/v1", "sk-1", False),
        ("http://vllm:8000/v1", "sk-1", False),
    ],
)
def test_a_key_in_clear_is_one_without_tls_to_elsewhere(base_url: str, api_key: str | None, in_clear: bool) -> None:
    assert Provider("acme", "openai", base_url, api_key).sends_key_in_clear == in_clear


def test_a_key_in_clear_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "sk-canary")
    path = written(tmp_path, "http://api.example.com/v1", ", api_key_env: ACME_KEY")
    checked = CliRunner().invoke(check, [str(path)])
    assert checked.exit_code == 0
    assert 'warning: provider "acme": its key is sent without TLS; use https' in checked.stderr
    with capture_logs() as logged:
        ReloadingCatalog(lambda: read_catalog(path, {"ACME_KEY": "sk-canary"}))
    (warning,) = logged
    assert (warning["event"], warning["log_level"], warning["providers"]) == ("keys_sent_in_clear", "warning", ["acme"])
    assert "sk-canary" not in checked.output + str(logged)
