"""What a crash may cost: the requests of the process that crashed, and those never in silence."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream

CHAT: dict[str, Any] = {"model": "acme/test-1:free", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    """One of this module's own, for it is about to suffer."""
    settings = config(acme_upstream, backup_upstream)
    gateway = Gateway(tmp_path_factory.mktemp("crashing"), settings, environ={"ACME_KEY": ACME_KEY}).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def kill_workers_after(gateway: Gateway, reply: httpx.Response, events: int) -> None:
    """Read so many events, then end every worker at once, and read on."""
    seen = 0
    for line in reply.iter_lines():
        seen += line.startswith("data:")
        if seen == events:
            for worker in gateway.workers():
                worker.send_signal(signal.SIGKILL)


def test_a_worker_killed_in_mid_stream_is_never_a_silent_end(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(chat_stream(*["tick "] * 200, every_s=0.05))
    body = {**CHAT, "stream": True}
    url = f"{gateway.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=gateway.headers) as reply, pytest.raises(httpx.HTTPError):
        kill_workers_after(gateway, reply, 5)
    deadline = time.monotonic() + 30
    while gateway.post("/v1/chat/completions", CHAT).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
