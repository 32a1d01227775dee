"""What a gateway is told, and what it makes of it: at its start, while it runs, and when it must end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from aistats.gateway.v1 import chat_pb2_grpc
from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import CHAT, RESPONSES, Event, Surface, read_stream, whole
from tests.e2e.test_errors import assert_contract
from tests.e2e.test_grpc_clients import chat_request, error_info
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream
from tests.fakes.typed_client import eventually

ROOT = Path(__file__).parents[2]
RELOADED_WITHIN_S = 30.0
"""On an idle machine it takes one second: a file is read once it has been left alone for half of one."""

CONFIG = """
replace_catalog: true
providers:
  - {{id: acme, dialect: openai, base_url: "{url}", api_key_env: ACME_KEY}}
models:
  - id: {model}
    offers: [{{provider: acme, provider_model: test-1}}]
"""


# Before it starts.


def refused(gateway: Gateway, *, within_s: float = 60.0) -> str:
    """What `up` says when it doesn't start; nothing may be left of it."""
    ended = subprocess.run(
        gateway.command, env=gateway.environ, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{gateway.http_port}/healthz")
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("value", [None, "", "   "], ids=["unset", "empty", "spaces"])
def test_a_key_that_is_not_there_ends_the_start(tmp_path: Path, value: str | None) -> None:
    environ = {} if value is None else {"ACME_KEY": value}
    said = refused(Gateway(tmp_path, CONFIG.format(url="http://127.0.0.1:1/v1", model="acme/x:free"), environ=environ))
    assert "providers[0]" in said
    assert "ACME_KEY" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("base_url:", "base_uri:"), "base_uri"),
        (lambda text: text.replace("http://127.0.0.1:1/v1", "   "), "base_url"),
        (lambda text: text.replace("http://127.0.0.1:1/v1", "${ACME_URL}"), "base_url"),
        (lambda text: text.replace("api_key_env: ACME_KEY", "api_key_env: sk-live-123"), "api_key_env"),
        (lambda text: text.replace("provider: acme", "provider: amce"), "amce"),
        (lambda text: text.replace("acme/x:free", "acme/x"), "acme/x"),  # a paid model without a price
        (lambda text: text + "\nrouting: {timeouts: 3}\n", "timeouts"),
        (lambda text: text[:-20] + "[", "not valid YAML"),
    ],
    ids=range(8),
)
def test_a_wrong_file_ends_the_start_and_is_told(tmp_path: Path, change: Callable[[str], str], told: str) -> None:
    text = CONFIG.format(url="http://127.0.0.1:1/v1", model="acme/x:free")
    said = refused(Gateway(tmp_path, change(text), environ={"ACME_KEY": ACME_KEY}))
    assert told in said
    assert ACME_KEY not in said
    assert "sk-live-123" not in said


def test_a_second_gateway_on_the_same_port_says_so_and_leaves_the_first_alone(gateway: Gateway, tmp_path: Path) -> None:
    second = Gateway(tmp_path)
    second.environ["AISTATS_HTTP_PORT"] = str(gateway.http_port)
    said = refused(second)
    assert str(gateway.http_port) in said
    assert "already in use" in said
    assert "AISTATS_HTTP_PORT" in said
    assert gateway.get("/v1/models").status_code == 200


def test_no_key_that_stands_in_the_repository_lets_anybody_in(gateway: Gateway) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    found: set[str] = set()
    for name in filter(None, tracked):
        path = ROOT / name.decode()
        if path.is_file() and path.suffix != ".binpb":
            found.update(re.findall(r"(?a)aistats_v1_s?k_\w+", path.read_text(errors="replace")))
    assert found
    for key in sorted(found):
        reply = gateway.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert_contract(reply, 401, "authentication_error")


# While it runs.


def test_a_running_gateway_follows_its_file_and_keeps_what_works(tmp_path: Path, acme: UpstreamThread) -> None:
    def text(model: str) -> str:
        return CONFIG.format(url=acme.base_url, model=model)

    gateway = Gateway(tmp_path, text("acme/first:free"), environ={"ACME_KEY": ACME_KEY}).start()

    def models() -> set[tuple[str, ...]]:
        """What each worker has, asked often enough, by connections of their own, to hear all of them."""
        lists = [gateway.get("/v1/models").json()["data"] for _ in range(8)]
        return {tuple(model["id"] for model in data if "smollm" not in model["id"]) for data in lists}

    def told(event: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in gateway.log.splitlines() if f'"event":"{event}"' in line]

    with ExitStack() as running:
        running.callback(gateway.stop)
        assert models() == {("acme/first:free",)}
        gateway.config_file.write_text(text("acme/second:free"))
        assert eventually(lambda: len(told("catalogue_reloaded")) == 2, RELOADED_WITHIN_S)
        assert models() == {("acme/second:free",)}

        gateway.config_file.write_text(text("acme/third:free").replace("api_key_env", "api_key_evn"))
        assert eventually(lambda: len(told("catalogue_rejected")) == 2, RELOADED_WITHIN_S)
        time.sleep(1.1)  # two more looks at the same bad file
        assert models() == {("acme/second:free",)}
        assert len(told("catalogue_rejected")) == 2, "each worker tells once"
        assert "api_key_evn" in str(told("catalogue_rejected")[0]["problems"])
        asked = {"model": "acme/second:free", "messages": [{"role": "user", "content": "hi"}]}
        assert gateway.post("/v1/chat/completions", asked).status_code == 200

        gateway.config_file.write_text(text("acme/fourth:free"))
        assert eventually(lambda: len(told("catalogue_reloaded")) == 4, RELOADED_WITHIN_S)
        assert models() == {("acme/fourth:free",)}


# When it must end.

STREAMS = 10


def native_stream(gateway: Gateway) -> list[Any]:
    """All events of a typed stream, and the error that ends it, if one does."""
    seen: list[Any] = []
    with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc_port}") as channel:
        metadata = (("authorization", f"Bearer {gateway.key}"),)
        call = chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(chat_request(), metadata=metadata)
        try:
            seen.extend(call)
        except grpc.RpcError as error:
            seen.append(error)
    return seen


def ended_with_streams_under_way(
    directory: Path, acme: UpstreamThread, backup: UpstreamThread, *, seconds: float, drain_s: float
) -> tuple[list[tuple[Surface, list[Event]]], list[Any], Gateway]:
    """What ten clients over REST and one over gRPC see of their streams when SIGTERM comes after a second."""
    environ = {"ACME_KEY": ACME_KEY, "AISTATS_DRAIN_TIMEOUT_S": str(drain_s)}
    gateway = Gateway(directory, config(acme, backup), environ=environ).start()
    acme.script(*[chat_stream(*["tick "] * int(seconds / 0.1), every_s=0.1)] * (STREAMS + 1))
    surfaces = [CHAT, RESPONSES] * (STREAMS // 2)
    with ThreadPoolExecutor(STREAMS + 1) as pool:
        rest = [pool.submit(read_stream, gateway, surface) for surface in surfaces]
        native = pool.submit(native_stream, gateway)
        acme.wait_request(STREAMS + 1)
        time.sleep(1)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        answers = [(surface, future.result()) for surface, future in zip(surfaces, rest, strict=True)]
        typed = native.result()
    assert gateway.process.wait(60) == 0, gateway.log[-4000:]
    return answers, typed, gateway


def test_streams_under_way_come_to_their_end(tmp_path: Path, acme: UpstreamThread, backup: UpstreamThread) -> None:
    answers, typed, _ = ended_with_streams_under_way(tmp_path, acme, backup, seconds=4, drain_s=30)
    for surface, events in answers:
        assert whole(events)
        assert surface.text(events) == "tick " * 40
        assert surface.failures(events) == []
    assert typed[-1].WhichOneof("event") == "completed"


def test_past_the_limit_each_stream_ends_in_an_error_that_says_why(
    tmp_path: Path, acme: UpstreamThread, backup: UpstreamThread
) -> None:
    began_s = time.monotonic()
    answers, typed, gateway = ended_with_streams_under_way(tmp_path, acme, backup, seconds=200, drain_s=1)
    assert time.monotonic() - began_s < 110
    for surface, events in answers:
        assert not whole(events)
        assert surface.text(events).startswith("tick tick ")
        [failure] = surface.failures(events)
        assert "being stopped" in json.dumps(failure)
        if surface is RESPONSES:
            assert events[-1].name == "response.failed"
            assert events[-1].json["response"]["error"]["message"]
    assert typed[-1].code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(typed[-1]).reason == "SHUTTING_DOWN"
    assert "Traceback" not in gateway.log
    acme.wait_disconnect(STREAMS + 1)
