"""What Envoy does where a worker ends a call that it had read: it may be billed by now, so nobody else gets it."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from h2.errors import ErrorCodes

from rest_bridge.envoy import EnvoyOptions, render
from server.preflight import envoy_binary
from server.probes import unused_port
from tests.fakes.typed_client import eventually
from tests.integration.test_envoy_speechless import answers

BODY = b'{"model": "acme/test-1", "messages": [{"role": "user", "content": "hi"}]}'


class Resetting:
    """A worker that speaks HTTP/2 by hand: it reads a request to its end, and then resets the stream or hangs up."""

    def __init__(self, path: Path) -> None:
        self.requests = 0
        self.how: ErrorCodes | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        spoken = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        spoken.initiate_connection()
        with peer, suppress(OSError):
            peer.sendall(spoken.data_to_send())
            while data := peer.recv(65536):
                for event in spoken.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        spoken.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, h2.events.StreamEnded):
                        self.requests += 1
                        if self.how is None:
                            return
                        spoken.reset_stream(event.stream_id, self.how)
                peer.sendall(spoken.data_to_send())


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Resetting]]]:
    """The address of an Envoy, and the two workers behind it."""
    directory, port = tmp_path_factory.mktemp("resetting"), unused_port()
    paths = [directory / f"worker-{number}.sock" for number in (1, 2)]
    behind = [Resetting(path) for path in paths]
    config = directory / "envoy.yaml"
    sockets = tuple(map(str, paths))
    config.write_text(render(EnvoyOptions(str(directory / "admin.sock"), sockets, http_port=port)))
    argv = [str(envoy_binary()), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]
    with subprocess.Popen([*argv, "--concurrency", "1"], stdout=subprocess.DEVNULL) as envoy:
        try:
            assert eventually(lambda: answers(port))
            yield f"http://127.0.0.1:{port}", behind
        finally:
            envoy.terminate()
            for worker in behind:
                worker.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("how", [ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, None])
def test_r9_a_post_that_a_worker_had_read_is_not_sent_again(
    workers: tuple[str, list[Resetting]], how: ErrorCodes | None, path: str
) -> None:
    url, behind = workers
    for worker in behind:
        worker.how, worker.requests = how, 0
    reply = httpx.post(f"{url}{path}", content=BODY, headers={"content-type": "application/json"}, timeout=30)
    assert sum(worker.requests for worker in behind) == 1
    assert reply.status_code == 503
    assert "Retry with back-off" in str(reply.json())
