"""`aistats-gateway doctor`, as a person runs it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from server.doctor import reach
from server.domain.catalog import Provider
from server.probes import unused_port
from server.storage.migrate import upgrade
from tests.integration.valkey import ValkeyServer

WITHOUT_ITS_POWERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()
"""So that what is locked is locked for root as well."""


class Doctor:
    def __init__(self, directory: Path) -> None:
        self.runs_by: Sequence[str] = ()
        self.data_dir = directory / "data"
        self.config = directory / "gateway.yaml"
        self.config.write_text("replace_catalog: true\nproviders: []\nmodels: []\n")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AISTATS_")},
            "AISTATS_DATA_DIR": str(self.data_dir),
            "AISTATS_CONFIG": str(self.config),
            "AISTATS_HTTP_PORT": str(unused_port()),
            "AISTATS_GRPC_PORT": str(unused_port()),
        }

    async def run(self, *options: str, command: str = "doctor", **environ: str) -> tuple[int, str]:
        """Its exit code and what it prints."""
        process = await asyncio.create_subprocess_exec(
            *(*self.runs_by, sys.executable, "-m", "server", command, *options),
            env={**self.environ, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, printed.decode()

    async def findings(self, **environ: str) -> tuple[int, Mapping[str, Mapping[str, Any]]]:
        """Its exit code and findings by check."""
        code, printed = await self.run("--json", **environ)
        report = json.loads(printed)
        assert report["ok"] is (code == 0)
        return code, {finding["check"]: finding for finding in report["findings"]}


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


async def test_on_a_bare_machine_all_is_well_and_nothing_is_made(doctor: Doctor) -> None:
    code, printed = await doctor.run()
    assert code == 0, printed
    assert "ok    Envoy           1.40.0" in printed
    assert "SmolLM2-135M-Instruct" in printed
    assert printed.rstrip().endswith("0 to look at, 0 failed")
    assert not doctor.data_dir.exists()


async def test_the_database_is_asked_for_its_schema(doctor: Doctor) -> None:
    doctor.data_dir.mkdir(mode=0o700)
    path = doctor.data_dir / "gateway.db"
    await upgrade(f"sqlite+aiosqlite:///{path}")
    code, findings = await doctor.findings()
    assert code == 0
    assert findings["database"]["text"] == "SQLite in WAL mode, schema up to date"

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE aistats_schema_version SET version_num = 'from-the-future'")
    connection.close()
    code, findings = await doctor.findings()
    assert code == 1
    assert "ahead" in findings["database"]["text"]


async def test_a_database_that_does_not_answer_is_a_failure_and_its_password_stays_secret(doctor: Doctor) -> None:
    url = f"postgresql+asyncpg://me:s3cret@127.0.0.1:{unused_port()}/gateway"
    code, printed = await doctor.run(AISTATS_DATABASE_URL=url)
    assert code == 1
    assert "fail  database" in printed
    assert "AISTATS_DATABASE_URL" in printed
    assert "s3cret" not in printed


async def test_a_valkey_is_asked_whether_it_answers_and_without_it_the_gateway_may_run(
    doctor: Doctor, valkey: ValkeyServer
) -> None:
    assert (await doctor.findings())[1].get("Valkey") is None
    _, findings = await doctor.findings(AISTATS_VALKEY_URL=valkey.url)
    assert (findings["Valkey"]["level"], findings["Valkey"]["text"]) == ("ok", f"127.0.0.1:{valkey.port}")
    valkey.kill()
    code, printed = await doctor.run(AISTATS_VALKEY_URL=valkey.url.replace("://", "://me:s3cret@"))
    assert code == 0
    assert "warn  Valkey" in printed
    assert "Connection refused" in printed
    assert "AISTATS_VALKEY_URL" in printed
    assert "s3cret" not in printed


async def test_a_port_that_something_else_holds_is_a_failure(doctor: Doctor) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, findings = await doctor.findings(AISTATS_HTTP_PORT=str(other.getsockname()[1]))
    assert code == 1
    assert findings["HTTP port"]["level"] == "fail"
    assert "AISTATS_HTTP_PORT" in findings["HTTP port"]["advice"]


async def test_a_gateway_that_already_runs_is_no_failure(doctor: Doctor) -> None:
    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Alive) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            code, findings = await doctor.findings(AISTATS_HTTP_PORT=str(server.server_port))
        finally:
            server.shutdown()
            thread.join()
    assert code == 0
    assert findings["ports"]["text"].startswith("a gateway is running")


async def test_a_catalogue_that_cannot_be_used_is_told_line_by_line(doctor: Doctor) -> None:
    doctor.config.write_text("providers: []\nmodel: []\n")
    code, printed = await doctor.run()
    assert code == 1
    assert 'gateway.yaml:2: model: unknown key; did you mean "models"?' in printed


async def test_an_open_data_directory_is_only_warned_of(doctor: Doctor) -> None:
    doctor.data_dir.mkdir()
    doctor.data_dir.chmod(0o755)
    code, findings = await doctor.findings()
    assert code == 0
    assert findings["data directory"]["level"] == "warn"
    assert findings["data directory"]["advice"] == f"chmod 700 {doctor.data_dir}"


async def test_what_cannot_be_looked_into_is_told(doctor: Doctor, tmp_path: Path) -> None:
    doctor.runs_by = WITHOUT_ITS_POWERS
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    code, findings = await doctor.findings(AISTATS_DATA_DIR=str(locked / "data"))
    assert code == 1
    for check, place, variable in (
        ("data directory", locked / "data", "AISTATS_DATA_DIR"),
        ("content store", locked / "data/content", "AISTATS_CONTENT_STORE"),
    ):
        assert (findings[check]["level"], findings[check]["text"]) == ("fail", f"{place}: permission denied")
        assert variable in findings[check]["advice"]
    assert findings["database"]["level"] == "fail"
    code, printed = await doctor.run(command="up", AISTATS_DATA_DIR=str(locked / "data"))
    assert code == 1
    assert "the gateway cannot start" in printed
    assert f"content store: {locked}/data/content: permission denied" in printed


async def test_providers_are_reached(doctor: Doctor) -> None:
    with socket.socket() as up:
        up.bind(("127.0.0.1", 0))
        up.listen()
        doctor.config.write_text(
            f"""
replace_catalog: true
providers:
  - {{id: alive, dialect: openai, base_url: "http://127.0.0.1:{up.getsockname()[1]}/v1"}}
  - {{id: dead, dialect: openai, base_url: "http://127.0.0.1:{unused_port()}/v1", api_key_env: DEAD_KEY}}
  - {{id: idle, dialect: openai, base_url: "http://127.0.0.1:{unused_port()}/v1"}}
models:
  - {{id: "x/a:free", offers: [{{provider: alive, provider_model: a, endpoints: [chat]}}]}}
  - {{id: "x/d:free", offers: [{{provider: dead, provider_model: d, endpoints: [chat]}}]}}
  - {{id: "x/i:free", offers: [{{provider: idle, provider_model: i, endpoints: [chat]}}]}}
"""
        )
        code, findings = await doctor.findings(DEAD_KEY="k")
    levels = {name: finding["level"] for name, finding in findings.items() if name.startswith("provider")}
    assert levels == {"provider alive": "ok", "provider dead": "fail", "provider idle": "warn"}
    assert "connection refused" in findings["provider dead"]["text"]
    assert code == 1


async def test_a_shipped_provider_without_its_key_says_which_variable_to_set(doctor: Doctor) -> None:
    doctor.config.write_text("models: []\n")
    code, findings = await doctor.findings(OPENAI_API_KEY="")
    assert code == 0
    assert findings["provider openai"]["level"] == "warn"
    assert findings["provider openai"]["advice"] == "set OPENAI_API_KEY"
    assert findings["provider local"]["level"] == "ok"


async def test_an_address_that_swallows_packets_costs_no_more_than_the_limit() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [await _try_to_connect(port) for _ in range(4)]  # fills the queue of connections
        before = asyncio.get_running_loop().time()
        finding = await reach(Provider(id="slow", dialect="openai", base_url=f"http://127.0.0.1:{port}/v1"), 0.3)
        assert asyncio.get_running_loop().time() - before < 20
        for one in waiting:
            one.close()
    assert finding.level == "warn"
    assert "no answer within 0.3 s" in finding.text


async def _try_to_connect(port: int) -> socket.socket:
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0.05)
    return one


async def test_an_untrusted_certificate_is_named_as_such() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        finding = await reach(Provider(id="plain", dialect="openai", base_url=f"https://127.0.0.1:{port}", api_key="k"))
    assert finding.level == "fail"
    assert finding.advice
