"""Retries with an idempotency key, as clients send them: two workers behind Envoy, one charge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.openai_upstream import Pause, chat_chunks, chat_unary, text_chunks

PAID = "acme/test-1"
REPLY_NANOS = 9 * 150 + 3 * 600
"""What the stand-in's ordinary reply of 9 and 3 tokens costs."""
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
SLOW = [step for part in chat_chunks(text_chunks("你好", "🙂", "end")) for step in (part, Pause(0.1))]
_numbers = itertools.count(1)


class Payer:
    """A team with credit, and clients of it."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.gateway = gateway
        gateway.create_team(name)
        self.key = gateway.create_key(team=name, scopes=("inference", "management"))
        done = gateway.run("wallet", "top-up", "--team", name, "--usd", "10")
        assert done.returncode == 0, done.stderr
        self.before = self.balance_nanos()

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.gateway.base_url, api_key=self.key, max_retries=0)

    def balance_nanos(self) -> int:
        reply = self.gateway.get("/v1/credits", headers=self.headers)
        assert reply.status_code == 200, reply.text
        balance: int = reply.json()["credits"]["balance_nanos"]
        return balance

    def spent_nanos(self) -> int:
        return self.before - self.balance_nanos()

    def post(self, key: str, body: Any) -> httpx.Response:
        return self.gateway.post("/v1/chat/completions", body, headers={**self.headers, "idempotency-key": key})


@pytest.fixture
def payer(gateway: Gateway) -> Payer:
    return Payer(gateway, f"payer-{next(_numbers)}")


@pytest.fixture(autouse=True)
def upstream(acme_upstream: UpstreamThread) -> Iterator[UpstreamThread]:
    acme_upstream.reset()
    yield acme_upstream
    acme_upstream.reset()


def test_the_openai_client_retries_for_nothing(payer: Payer, upstream: UpstreamThread) -> None:
    headers = {"Idempotency-Key": "order-1"}
    options: Any = {"model": PAID, "messages": MESSAGES, "extra_headers": headers}
    with payer.client() as client:
        create = client.chat.completions.with_raw_response.create
        replies = [create(**options, max_tokens=100) for _ in range(3)]
        assert len({reply.text for reply in replies}) == 1
        assert len({reply.headers["x-generation-id"] for reply in replies}) == 1
        assert [reply.headers.get("idempotent-replayed") for reply in replies] == [None, "true", "true"]
        assert len(upstream.requests) == 1
        assert payer.spent_nanos() == REPLY_NANOS
        with pytest.raises(openai.ConflictError) as conflict:
            create(**options, max_tokens=99)
    assert conflict.value.response.json()["reason"] == "idempotency_key_reused"


def test_a_stream_that_was_left_is_had_whole_later(payer: Payer, upstream: UpstreamThread) -> None:
    upstream.script(SLOW)
    options: Any = {"model": PAID, "messages": MESSAGES, "max_tokens": 100, "stream": True}
    headers = {"Idempotency-Key": "stream-1"}
    with payer.client() as client, client.chat.completions.create(**options, extra_headers=headers) as stream:
        first = next(iter(stream))
    with payer.client() as client, client.chat.completions.create(**options, extra_headers=headers) as stream:
        chunks = list(stream)
        assert stream.response.headers["idempotent-replayed"] == "true"
    assert chunks[0] == first
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "你好🙂end"
    assert {chunk.id for chunk in chunks} == {first.id}
    assert len(upstream.requests) == 1
    assert payer.spent_nanos() == REPLY_NANOS


@pytest.mark.parametrize("stream", [False, True])
def test_duplicates_on_all_workers_at_once(payer: Payer, upstream: UpstreamThread, stream: bool) -> None:
    upstream.script(SLOW if stream else [Pause(0.3), *chat_unary()])
    body = {"model": PAID, "messages": MESSAGES, "max_tokens": 100, "stream": stream}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: payer.post("at-once", body), range(8)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert len({reply.headers["x-generation-id"] for reply in replies}) == 1
    assert {reply.headers["content-type"] for reply in replies} == {
        "text/event-stream" if stream else "application/json"
    }
    assert sorted("idempotent-replayed" in reply.headers for reply in replies) == [False] + 7 * [True]
    assert len(upstream.requests) == 1
    assert payer.spent_nanos() == REPLY_NANOS


def test_a_bad_key_is_refused_by_name(payer: Payer, upstream: UpstreamThread) -> None:
    reply = payer.post("x" * 256, {"model": PAID, "messages": MESSAGES})
    assert (reply.status_code, reply.json()["param"]) == (400, "Idempotency-Key")
    assert upstream.requests == []


def test_an_error_is_told_again_under_its_first_id(payer: Payer) -> None:
    first, again = (payer.post("bad", {"model": "acme/none", "messages": MESSAGES}) for _ in range(2))
    assert first.status_code == again.status_code == 404
    assert first.content == again.content
    assert again.headers["x-generation-id"] == again.json()["generation_id"] == first.headers["x-generation-id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers.get_list("x-generation-id") == [first.headers["x-generation-id"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": PAID, "input": "Hi", "max_output_tokens": 100, "stream": True}),
        ("/v1/responses", {"model": PAID, "input": "Hi", "max_output_tokens": 100}),
        ("/v1/pricing/calculate", {"model": PAID, "usage": {"input_text_tokens": 5}}),
    ],
)
def test_every_post_takes_a_key(payer: Payer, path: str, body: Any) -> None:
    headers = {**payer.headers, "idempotency-key": "any"}
    first, again = (payer.gateway.post(path, body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 200, first.text
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert again.headers["x-generation-id"] == first.headers["x-generation-id"]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert payer.spent_nanos() == (REPLY_NANOS if path == "/v1/responses" else 0)
