"""A whole gateway as a child process, as a person starts it: supervisor, workers, Envoy, and the local model."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psutil
from click.testing import CliRunner, Result

from server.cli import cli
from server.probes import unused_port
from tests.fakes.hosting import CHOSEN

READY_WITHIN_S = 90.0
STOPPED_WITHIN_S = 60.0
WORKER = re.compile(r" worker |/envoy-[0-9]+[.]yaml ")
"""The command of a worker on either host."""
_COMMANDS = ThreadPoolExecutor(1, "command")
"""One command at a time, since it has the process's environment and output; each begins a loop of its own."""


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty where it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


class Gateway:
    """One gateway on ports of its own, with its data under `directory`.

    `config` is the text of its configuration file; `environ` is added to the environment. With AISTATS_TLS_CERT in it,
    `verify` is what its clients trust.
    """

    def __init__(
        self,
        directory: Path,
        config: str = "",
        *,
        workers: int = 2,
        local_model: bool = False,
        environ: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.directory = directory
        self.config_file = directory / "gateway.yaml"
        self.config_file.write_text(config or "{}\n")
        self.http_port, self.grpc_port = unused_port(), unused_port()
        self.log_file = directory / "gateway.log"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AISTATS_")},
            "AISTATS_HTTP_PORT": str(self.http_port),
            "AISTATS_GRPC_PORT": str(self.grpc_port),
            "AISTATS_DATA_DIR": str(directory / "data"),
            "AISTATS_WORKERS": str(workers),
            "AISTATS_LOCAL_MODEL": "1" if local_model else "0",
            "AISTATS_LOG_FORMAT": "json",
            "AISTATS_HOST": CHOSEN,
            "AISTATS_CONFIG": str(self.config_file),
            **(environ or {}),
        }
        self.verify = verify
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_in_envoy(self) -> bool:
        """Whether each worker is inside an Envoy of its own."""
        return self.environ["AISTATS_HOST"] == "in-envoy"

    @property
    def rpc_port(self) -> int:
        """Where native calls meet the host alone: `grpc_port` is grpc.aio's on either host."""
        return self.http_port if self.is_in_envoy else self.grpc_port

    @property
    def url(self) -> str:
        scheme = "https" if "AISTATS_TLS_CERT" in self.environ else "http"
        return f"{scheme}://127.0.0.1:{self.http_port}"

    @property
    def base_url(self) -> str:
        """What an SDK is given."""
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        return (self.directory / "data" / "bootstrap-key").read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "server", "up"]

    def start(self) -> Gateway:
        """Start it, and return when all of its workers serve."""
        told = len(self.log) if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._has_started(self.log[told:]) or not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the gateway did not become ready:\n{self.log[-8000:]}")
            time.sleep(0.05)
        return self

    def _has_started(self, log: str) -> bool:
        """Whether every worker says that it serves, and the supervisor that all of it answers, the model included."""
        return log.count('"event":"serving"') >= int(self.environ["AISTATS_WORKERS"]) and '"event":"ready"' in log

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=10, verify=self.verify).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        """Stop it as Ctrl-C does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOPPED_WITHIN_S)

    def kill(self) -> None:
        """End it and all of its children at once."""
        assert self.process is not None
        for child in self.children():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait()

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The worker processes, by index."""
        found = [(command_of(child), child) for child in self.children()]
        return [child for command, child in sorted(found, key=lambda pair: pair[0]) if WORKER.search(" ".join(command))]

    def serving(self) -> list[psutil.Process]:
        """The worker processes that are up, and have said that they serve."""
        log = self.log
        return [worker for worker in self.workers() if f'"pid":{worker.pid},"event":"serving"' in log]

    def envoy(self) -> psutil.Process:
        return next(child for child in self.children() if Path((command_of(child) or [""])[0]).name == "envoy")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the CLI on the same data, in this process: most take less than Python to start."""

        def invoked() -> Result:
            with patch.dict(os.environ, self.environ, clear=True):
                return CliRunner().invoke(cli, arguments, prog_name="aistats-gateway", catch_exceptions=False)

        done = _COMMANDS.submit(invoked).result(timeout=60)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    def create_key(self, *, team: str = "default", scopes: tuple[str, ...] = ("inference",), name: str = "test") -> str:
        scoped = [part for scope in scopes for part in ("--scope", scope)]
        made = self.run("keys", "create", "--team", team, "--name", name, *scoped, "--json")
        assert made.returncode == 0, made.stderr
        created: dict[str, Any] = json.loads(made.stdout)
        return str(created["key"])

    def create_team(self, name: str) -> None:
        made = self.run("teams", "create", name, "--json")
        assert made.returncode == 0, made.stderr

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """POST JSON with the bootstrap key."""
        return httpx.post(f"{self.url}{path}", json=body, **self._with_defaults(options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", **self._with_defaults(options))

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        if "headers" not in options:
            options["headers"] = self.headers
        return {"timeout": 30, "verify": self.verify, **options}
