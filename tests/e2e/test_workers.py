"""What a worker never does, while it does everything else."""

from __future__ import annotations

import json
from pathlib import Path

import grpc

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.test_errors import CHAT, FREE
from tests.e2e.test_grpc_clients import chat_request
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.typed_client import eventually

WATCH = """
import json, os, sys

STARTS = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn", "os.system", "subprocess.Popen")

def watch(event, arguments):
    if event in STARTS:
        tell(event)

def tell(event):
    with open(os.environ["WATCH_FILE"], "a") as file:
        file.write(json.dumps([os.getpid(), event]) + "\\n")

if "worker" in sys.orig_argv or "GATEWAY_IN_ENVOY" in os.environ:
    tell("watched")
    sys.addaudithook(watch)
"""
"""What an interpreter does at its start that finds this as `sitecustomize` on its path."""


def test_a_worker_starts_no_process(tmp_path: Path, acme: UpstreamThread, backup: UpstreamThread) -> None:
    """grpc does not survive a fork."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(WATCH)
    seen = tmp_path / "seen"
    environ = {"ACME_KEY": ACME_KEY, "PYTHONPATH": str(tmp_path / "path"), "WATCH_FILE": str(seen)}
    gateway = Gateway(tmp_path, config(acme, backup), environ=environ).start()
    try:
        pids = {worker.pid for worker in gateway.workers()}
        for body in (CHAT, {**CHAT, "stream": True}, {**CHAT, "model": "acme/dead:free"}):
            gateway.post("/v1/chat/completions", body)
        assert gateway.post("/v1/responses", {"model": FREE, "input": "Kept."}).status_code == 200
        with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc_port}") as channel:
            metadata = (("authorization", f"Bearer {gateway.key}"),)
            assert list(chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(chat_request(), metadata=metadata))
        gateway.config_file.write_text(gateway.config_file.read_text() + "\n# another version\n")
        assert eventually(lambda: gateway.log.count("catalogue_reloaded") == 2)
    finally:
        assert gateway.stop() == 0
    events = [json.loads(line) for line in seen.read_text().splitlines()]
    assert {pid for pid, _ in events} == pids
    assert {event for _, event in events} == {"watched"}
