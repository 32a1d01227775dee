"""A Valkey server, or else a Redis server, that a test starts and ends."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.probes import unused_port

START_LIMIT_S = 60.0


class ValkeyServer:
    """On a port of the loopback and on a Unix socket; nothing is written to disk."""

    def __init__(self, *options: str, password: str = "", tls: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="valkey-", dir="/tmp"))
        self.port = unused_port()
        self.tls_port = unused_port() if tls else 0
        self._flags = [*options, "--requirepass", password, *(["--tls-port", str(self.tls_port)] if tls else [])]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.directory}/valkey.sock?db=1"

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.directory / "valkey.sock"),
            "dir": str(self.directory),
            "save": "",
        }
        flags = [flag for name, value in options.items() for flag in (f"--{name}", value)]
        log = self.directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen([_program(), *flags, *self._flags], stdout=output, stderr=output)
        give_up = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError("Valkey did not start:\n" + log.read_text()[-2000:])
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_LIMIT_S)
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), START_LIMIT_S) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _program() -> str:
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    raise AssertionError("Neither Valkey nor Redis is installed: run scripts/install-test-deps.sh")


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
