"""A stream whose provider is slow to begin, before a real gateway that may ask a second one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import ACME_KEY, config
from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import SURFACES, Surface, open_raw, read_stream, request_bytes, streaming, whole
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import chat_stream, silent

AFTER_S = 0.3


@pytest.fixture(scope="module")
def hedging(
    tmp_path_factory: pytest.TempPathFactory, acme_upstream: UpstreamThread, backup_upstream: UpstreamThread
) -> Iterator[Gateway]:
    usual = config(acme_upstream, backup_upstream)
    settings = usual.replace("max_attempts: 3", f"max_attempts: 3, hedge_after_s: {AFTER_S}")
    gateway = Gateway(tmp_path_factory.mktemp("hedging"), settings, environ={"ACME_KEY": ACME_KEY}).start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]


def attempts_of(gateway: Gateway, generation_id: str) -> list[tuple[str, str | None]]:
    record = gateway.get(f"/v1/generation/{generation_id}").json()
    assert (record["status_code"], record["success"], record["provider"]) == (200, True, "backup")
    return [(attempt["provider"], attempt["error_code"]) for attempt in record["attempts"]]


@pytest.mark.parametrize("surface", SURFACES, ids=str)
def test_who_says_nothing_is_outrun_and_the_client_sees_one_answer(
    hedging: Gateway, acme: UpstreamThread, backup: UpstreamThread, surface: Surface, pair: dict[str, Any]
) -> None:
    acme.script(silent())
    backup.script(chat_stream("From", " backup"))
    began_s = time.monotonic()
    with streaming(hedging, surface, **pair) as reader:
        events = list(reader)
        generation_id = reader.reply.headers["x-generation-id"]
    assert AFTER_S <= events[-1].at - began_s < 30
    assert whole(events)
    assert (surface.text(events), surface.failures(events)) == ("From backup", [])
    acme.wait_disconnect()
    assert (len(acme.requests), len(backup.requests)) == (1, 1)
    assert attempts_of(hedging, generation_id) == [("acme", "outrun"), ("backup", None)]


def test_a_client_that_leaves_while_both_are_silent_leaves_neither_busy(
    hedging: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any]
) -> None:
    acme.script(silent())
    backup.script(silent())
    with open_raw(hedging, request_bytes(hedging, SURFACES[0], **pair)):
        backup.wait_request()
    acme.wait_disconnect()
    backup.wait_disconnect()


def test_who_is_fast_enough_is_the_only_one_asked(
    hedging: Gateway, acme: UpstreamThread, backup: UpstreamThread, pair: dict[str, Any]
) -> None:
    assert whole(read_stream(hedging, SURFACES[0], **pair))
    assert (len(acme.requests), backup.requests) == (1, [])
