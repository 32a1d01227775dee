from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.settings import MAX_SOCKET_PATH_BYTES, Settings, SettingsError, load_settings, unknown_variables
from server.storage.content_address import ContentAddress
from server.storage.valkey_url import ValkeyAddress


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AISTATS_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings()
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8080)
    assert (settings.grpc_host, settings.grpc_port) == ("127.0.0.1", 50051)
    assert settings.data_dir == tmp_path / "data"
    assert settings.database_url == f"sqlite+aiosqlite:///{tmp_path}/data/gateway.db"
    assert settings.workers == len(os.sched_getaffinity(0))
    assert settings.valkey is None
    assert settings.config is None
    assert settings.metrics_port is None
    assert settings.local_model is True
    assert (settings.log_format, settings.log_level) == ("console", "info")
    assert settings.bootstrap_key_file == tmp_path / "data" / "bootstrap-key"
    assert settings.http_url == "http://127.0.0.1:8080"


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "HTTP_HOST": "0.0.0.0",
        "HTTP_PORT": " 9000 ",
        "GRPC_PORT": "0",
        "DATA_DIR": "elsewhere",
        "WORKERS": "3",
        "DATABASE_URL": "postgresql+asyncpg://me@db/x",
        "VALKEY_URL": "rediss://me:pw@cache/2",
        "CONFIG": "gateway.yaml",
        "LOCAL_MODEL": "0",
        "LOG_FORMAT": "JSON",
        "LOG_LEVEL": "Debug",
        "DRAIN_TIMEOUT_S": "2.5",
        "RECORD_DAYS": "90",
        "METRICS_PORT": "9464",
        "TLS_CERT": "cert.pem",
        "TLS_KEY": "key.pem",
    }.items():
        monkeypatch.setenv(f"AISTATS_{name}", value)
    settings = load_settings()
    assert settings.http_url == "https://127.0.0.1:9000"
    assert settings.grpc_port == 0
    assert settings.data_dir == tmp_path / "elsewhere"
    assert settings.workers == 3
    assert settings.database_url == "postgresql+asyncpg://me@db/x"
    assert settings.valkey == ValkeyAddress("cache", 6379, is_tls=True, user="me", password="pw", database=2)
    assert settings.config == tmp_path / "gateway.yaml"
    assert settings.local_model is False
    assert (settings.log_format, settings.log_level) == ("json", "debug")
    assert settings.drain_timeout_s == 2.5
    assert settings.metrics_port == 9464
    assert settings.record_days == 90
    assert (settings.tls_cert, settings.tls_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_a_blank_variable_is_unset(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    for name in ("HTTP_PORT", "DATABASE_URL", "CONFIG", "WORKERS", "LOCAL_MODEL", "TLS_CERT", "LOG_FORMAT"):
        monkeypatch.setenv(f"AISTATS_{name}", blank)
    assert load_settings() == Settings()
    assert load_settings().http_port == 8080


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AISTATS_HTTP_PORT", "abc", "integer"),
        ("AISTATS_HTTP_PORT", "70000", "65535"),
        ("AISTATS_WORKERS", "0", "1"),
        ("AISTATS_WORKERS", "1000", "128"),
        ("AISTATS_LOG_FORMAT", "xml", "'console' or 'json'"),
        ("AISTATS_LOCAL_MODEL", "perhaps", "boolean"),
        ("AISTATS_DRAIN_TIMEOUT_S", "-1", "0"),
        ("AISTATS_RECORD_DAYS", "0", "1"),
        ("AISTATS_VALKEY_URL", "memcached://cache", "valkey://"),
        ("AISTATS_CONTENT_STORE", "ftp://host/x", "s3://<bucket>/<prefix>"),
        ("AISTATS_CONTENT_STORE", "s3://", "s3://<bucket>/<prefix>"),
        ("AISTATS_CONTENT_STORE", "memory://x", "a directory"),
        ("AISTATS_CONTENT_STORE", "s3://bucket/x?endpoint=y", "AWS_"),
        ("AISTATS_CONTENT_MAX_AGE_S", "2592001", "2592000"),
        ("AISTATS_CONTENT_MAX_BYTES", "0", "1"),
        ("AISTATS_DATABASE_URL", "mysql://u@h/d", "postgresql+asyncpg://"),
    ],
)
def test_a_wrong_value_names_its_variable_and_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.message.startswith(name)
    assert said in caught.value.message
    assert caught.value.exit_code == 2


def test_every_wrong_value_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTATS_HTTP_PORT", "x")
    monkeypatch.setenv("AISTATS_WORKERS", "y")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert {line.partition("=")[0] for line in caught.value.message.splitlines()} == {
        "AISTATS_HTTP_PORT",
        "AISTATS_WORKERS",
    }


@pytest.mark.parametrize(
    ("value", "directory", "url", "total"),
    [
        ("", "data/content", "", 10 << 30),
        ("elsewhere", "elsewhere", "", 10 << 30),
        ("~/films", "home/films", "", 10 << 30),
        ("s3://bucket/films", None, "s3://bucket/films", None),
        ("gs://bucket", None, "gs://bucket", None),
    ],
)
def test_where_content_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, directory: str | None, url: str, total: int | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AISTATS_CONTENT_STORE", value)
    settings = load_settings()
    assert settings.content_address == ContentAddress(None if directory is None else tmp_path / directory, url)
    assert settings.content_total_bytes == total


def test_content_may_stay_where_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTATS_CONTENT_STORE", "OFF")
    assert load_settings().content_address is None
    monkeypatch.setenv("AISTATS_CONTENT_STORE", "file:///srv/films")
    assert load_settings().content_address == ContentAddress(Path("/srv/films"))
    monkeypatch.setenv("AISTATS_CONTENT_STORE", "s3://key:s3cret@bucket/x")
    with pytest.raises(SettingsError, match="AWS_") as caught:
        load_settings()
    assert "s3cret" not in caught.value.message


def test_a_certificate_without_its_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTATS_TLS_CERT", "cert.pem")
    with pytest.raises(SettingsError, match="AISTATS_TLS_KEY"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [("DATABASE_URL", "mysql", "postgresql"), ("VALKEY_URL", "memcached", "valkeys")],
)
def test_a_servers_password_is_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, right: str) -> None:
    monkeypatch.setenv(f"AISTATS_{name}", f"{wrong}://user:s3cret@host/0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "s3cret" not in caught.value.message
    monkeypatch.setenv(f"AISTATS_{name}", f"{right}://user:s3cret@host/0")
    assert "s3cret" not in repr(load_settings())


def test_a_misspelt_variable_is_warned_of_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AISTATS_HTTP_PROT", "9")
    load_settings()
    assert capsys.readouterr().err == (
        "warning: AISTATS_HTTP_PROT is set but means nothing to the gateway; did you mean AISTATS_HTTP_PORT?\n"
    )


def test_variables_of_others_are_no_concern() -> None:
    assert unknown_variables({"PATH": "x", "AISTATS_API_KEY": "k", "AISTATS_HTTP_PORT": "1"}) == []
    assert unknown_variables({"AISTATS_ZZZ": ""}) == ["AISTATS_ZZZ is set but means nothing to the gateway"]


def test_sockets_lie_in_the_data_directory_where_the_path_is_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTATS_DATA_DIR", "/srv/gateway")
    assert load_settings().run_dir == Path("/srv/gateway/run")


def test_a_long_data_directory_has_its_sockets_elsewhere_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "/srv/" + "é" * 60
    monkeypatch.setenv("AISTATS_DATA_DIR", long)
    run_dir = load_settings().run_dir
    assert run_dir == load_settings().run_dir
    assert len(os.fsencode(run_dir / "65535" / "worker-128.sock")) <= MAX_SOCKET_PATH_BYTES
    monkeypatch.setenv("AISTATS_DATA_DIR", long + "x")
    assert load_settings().run_dir != run_dir


@pytest.mark.parametrize(("host", "url"), [("::", "http://[::1]:8080"), ("::1", "http://[::1]:8080")])
def test_an_ipv6_host_makes_a_url_that_can_be_used(monkeypatch: pytest.MonkeyPatch, host: str, url: str) -> None:
    monkeypatch.setenv("AISTATS_HTTP_HOST", host)
    assert load_settings().http_url == url
