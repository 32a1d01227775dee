"""What `up` looks at before it starts anything."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.preflight import (
    PreflightFailed,
    check_tls,
    claimed_run_dir,
    make_run_dir,
    preflight,
    running_supervisor,
)
from server.probes import port_problem, unused_port
from server.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", http_port=unused_port(), grpc_port=unused_port())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one


async def test_where_nothing_is_in_the_way_the_data_directory_is_made_private(settings: Settings) -> None:
    await preflight(settings)
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700
    assert list(settings.data_dir.iterdir()) == []


@pytest.mark.parametrize("which", ["http_port", "grpc_port"])
async def test_a_busy_port_is_seen_even_where_its_owner_would_share_it(
    settings: Settings, listener: socket.socket, which: str
) -> None:
    busy = settings.model_copy(update={which: listener.getsockname()[1]})
    with pytest.raises(PreflightFailed) as caught:
        await preflight(busy)
    assert "address already in use" in caught.value.message
    assert f"AISTATS_{which.upper()}" in caught.value.message


@pytest.mark.parametrize(
    ("store", "said"),
    [("data/file/content", "is no directory"), ("az://container/films", "Account must be specified")],
)
async def test_content_that_could_not_be_kept_keeps_the_gateway_from_starting(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, said: str
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    settings.data_dir.mkdir(mode=0o700)
    (settings.data_dir / "file").touch()
    where = store if "://" in store else str(tmp_path / store)
    with pytest.raises(PreflightFailed, match="AISTATS_CONTENT_STORE") as caught:
        await preflight(settings.model_copy(update={"content_store": where}))
    assert said in caught.value.message
    await preflight(settings.model_copy(update={"content_store": "off"}))


def test_a_port_taken_on_all_addresses_is_taken_on_one(listener: socket.socket) -> None:
    assert port_problem("0.0.0.0", listener.getsockname()[1]) is not None
    assert port_problem("127.0.0.1", unused_port()) is None


async def test_connections_that_are_closing_do_not_make_a_port_busy() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.listen()
        client.connect(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first is left in TIME_WAIT
        assert client.recv(1) == b""
    assert port_problem("127.0.0.1", port) is None


@pytest.mark.parametrize("other", ["grpc_port", "metrics_port"])
async def test_one_port_for_two_is_refused(settings: Settings, other: str) -> None:
    with pytest.raises(PreflightFailed, match=f"AISTATS_HTTP_PORT and AISTATS_{other.upper()} are the same"):
        await preflight(settings.model_copy(update={other: settings.http_port}))


async def test_a_busy_port_for_figures_is_told(settings: Settings, listener: socket.socket) -> None:
    with pytest.raises(PreflightFailed, match="AISTATS_METRICS_PORT"):
        await preflight(settings.model_copy(update={"metrics_port": listener.getsockname()[1]}))


async def test_everything_that_is_wrong_is_told_at_once(
    settings: Settings, listener: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    config = tmp_path / "gateway.yaml"
    config.write_text("providers: [{id: acme, dialect: klingon}]\nnonsense: 1\n")
    wrong = settings.model_copy(
        update={
            "data_dir": tmp_path / "file" / "data",
            "http_port": listener.getsockname()[1],
            "config": config,
            "tls_cert": tmp_path / "absent.pem",
            "tls_key": tmp_path / "absent.key",
        }
    )
    with pytest.raises(PreflightFailed) as caught:
        await preflight(wrong)
    for part in ("data directory:", "HTTP port:", "TLS:", "providers[0].dialect", "nonsense"):
        assert part in caught.value.message
    assert "gRPC port" not in caught.value.message


async def test_a_certificate_is_read_before_envoy_does(settings: Settings, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text(ssl.DER_cert_to_PEM_cert(b"not a certificate"))
    with_tls = settings.model_copy(update={"tls_cert": certificate, "tls_key": certificate})
    [finding] = await check_tls(with_tls)
    assert finding.level == "fail"
    assert "AISTATS_TLS_CERT" in finding.advice


def test_a_second_gateway_on_the_same_data_has_sockets_of_its_own(settings: Settings) -> None:
    with claimed_run_dir(settings) as first, claimed_run_dir(settings) as second:
        assert first == settings.run_dir
        assert second == settings.run_dir / str(settings.http_port)
        with pytest.raises(PreflightFailed, match="already running"), claimed_run_dir(settings):
            pass
    with claimed_run_dir(settings) as again:
        assert again == settings.run_dir


def test_a_gateway_that_runs_is_found_by_its_data_directory_and_port(settings: Settings) -> None:
    other = settings.model_copy(update={"http_port": unused_port()})
    assert running_supervisor(settings) is None
    with claimed_run_dir(settings):
        assert running_supervisor(settings) == os.getpid()
        assert running_supervisor(other) is None
        with claimed_run_dir(other):
            assert running_supervisor(other) == os.getpid()
    assert running_supervisor(settings) is None


def test_kill_9_lets_go_of_the_run_directory(settings: Settings) -> None:
    program = (
        "import sys, pathlib; from server.preflight import claimed_run_dir; from server.settings import Settings\n"
        "with claimed_run_dir(Settings(data_dir=pathlib.Path(sys.argv[1]))):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, str(settings.data_dir)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with claimed_run_dir(settings) as path:
            assert path != settings.run_dir
        holder.kill()
    with claimed_run_dir(settings) as path:
        assert path == settings.run_dir


def test_a_run_directory_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make_run_dir(path)
    assert path.stat().st_mode & 0o777 == 0o700
    os.chmod(path, 0o777)
    with pytest.raises(PreflightFailed, match="not this user's alone"):
        make_run_dir(path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(PreflightFailed, match="not this user's alone"):
        make_run_dir(link)
