"""The embedded media server as the supervisor starts it, and OpenAI's SDK to ask it with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import av
from openai import OpenAI
from PIL import Image

from server.probes import unused_port

PATIENCE_S = 60


class MediaServer:
    """One process; `start` may be called again after it has ended."""

    def __init__(self, directory: Path) -> None:
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "server.local_media", "--port", str(self.port)]
        self.process = subprocess.Popen([*command, "--directory", str(self._directory)], stdin=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=PATIENCE_S).close()
                return
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.ended()

    def ended(self) -> int:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Message, bytes]:
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def refusal(self, path: str, body: Any) -> tuple[int, str, str | None]:
        """Status, code and parameter of the error."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, told = self.ask("POST", path, sent, {"content-type": "application/json"})
        error = json.loads(told)["error"]
        assert error["message"]
        return status, error["code"], error["param"]

    def sdk(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


@contextmanager
def media_server(directory: Path) -> Iterator[MediaServer]:
    server = MediaServer(directory)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.ended()


def picture(size: tuple[int, int] = (64, 48), colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def seconds_of(sound: bytes, format_: str) -> float:
    """How long it sounds, by decoding all of it."""
    options = {"sample_rate": "24000", "ch_layout": "mono"} if format_ == "pcm" else {}
    with av.open(io.BytesIO(sound), format="s16le" if format_ == "pcm" else None, options=options) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
