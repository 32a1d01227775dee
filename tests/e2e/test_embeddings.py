"""Embeddings as their users have them: SDKs, typed clients and large answers, through Envoy."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
from typing import Any

import grpc
import httpx
import openai
import pytest
from phaseo import Phaseo

from aistats.gateway.v1 import embeddings_pb2, embeddings_pb2_grpc
from tests.e2e.gateway import Gateway
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.embedding_wire import as_openai_embeddings, openai_list
from tests.fakes.openai_upstream import Reply, Request, json_reply
from tests.fakes.replies import whole

LOCAL = "local/smollm2-135m-embed:free"
STAND_IN = "acme/embeddings-only:free"
TEXTS = [
    "Prices on the stock market fell sharply on Monday.",
    "Stock prices dropped steeply at the start of the week.",
    "The cat is asleep on a warm chair in the kitchen.",
]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.sqrt(
        sum(a * a for a in one) * sum(b * b for b in other)
    )


async def test_d6_the_sdk_gets_the_same_vectors_by_its_default_and_as_numbers(gateway: Gateway) -> None:
    """D6: the SDK asks for base64 unless it is told otherwise."""
    options = {"api_key": gateway.key, "base_url": gateway.base_url, "max_retries": 0, "timeout": 60}
    with openai.OpenAI(**options) as client:  # type: ignore[arg-type]
        told = client.embeddings.create(model=LOCAL, input=TEXTS)
    async with openai.AsyncOpenAI(**options) as client:  # type: ignore[arg-type]
        numbers, [one] = await asyncio.gather(
            client.embeddings.create(model=LOCAL, input=TEXTS, encoding_format="float"), _first(client, TEXTS[2])
        )
    vectors = [item.embedding for item in told.data]
    assert [len(vector) for vector in vectors] == [576] * 3
    assert vectors == [item.embedding for item in numbers.data]
    assert one == vectors[2]
    assert told.usage.prompt_tokens == told.usage.total_tokens > 20
    alike, apart = cosine(vectors[0], vectors[1]), cosine(vectors[0], vectors[2])
    assert alike > apart


async def _first(client: openai.AsyncOpenAI, text: str) -> list[list[float]]:
    return [(await client.embeddings.create(model=LOCAL, input=text)).data[0].embedding]


def test_the_products_own_sdk(gateway: Gateway) -> None:
    client = Phaseo(api_key=gateway.key, base_url=gateway.base_url, timeout=60)
    told = client.generate_embedding({"model": LOCAL, "input": TEXTS[0]})
    assert told["object"] == "list"
    assert len(told["data"][0]["embedding"]) == 576


def test_typed_vectors(gateway: Gateway, channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
    stub: Any = embeddings_pb2_grpc.EmbeddingsServiceStub(channel)
    asked = embeddings_pb2.CreateEmbeddingsRequest(model=LOCAL, texts=TEXTS[:2])
    reply = stub.CreateEmbeddings(asked, metadata=metadata, timeout=60)
    assert [(one.index, len(one.values)) for one in reply.data] == [(0, 576), (1, 576)]
    assert math.fsum(x * x for x in reply.data[0].values) == pytest.approx(1, abs=1e-5)
    assert reply.meta.provider == "local-embeddings"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "word " * 600}, "input"),
        ({"input": "word " * 1600}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": "a", "dimensions": 64}, "dimensions"),
    ],
    ids=("too long", "much too long", "tokens", "dimensions"),
)
def test_what_the_embedded_model_cannot_do_is_a_400(gateway: Gateway, body: dict[str, object], param: str) -> None:
    answer = httpx.post(
        f"{gateway.base_url}/embeddings",
        json={"model": LOCAL, **body},
        headers={"authorization": f"Bearer {gateway.key}"},
        timeout=60,
    )
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert told["param"] == param
    assert told["reason"] in ("context_length_exceeded", "unsupported_parameter")


def test_other_methods_are_405(gateway: Gateway) -> None:
    answer = httpx.get(f"{gateway.base_url}/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_g11_an_answer_of_more_than_64_mb_comes_whole(gateway: Gateway, acme: UpstreamThread, encoding: str) -> None:
    """G11: 2,048 vectors of 3,072 dimensions, however the provider writes them."""
    numbers = [math.sin(n) for n in range(3072)]
    single = struct.unpack("<3072f", struct.pack("<3072f", *numbers))
    text = json.dumps(numbers).encode()
    item = b'{"object":"embedding","index":%d,"embedding":' + text + b"}"

    def play(request: Request) -> Reply:
        count = len(request.json["input"])
        return whole(b'{"object":"list","data":[' + b",".join(item % n for n in range(count)) + b'],"model":"m"}')

    acme.script(*(play for _ in range(4)))
    answer = httpx.post(
        f"{gateway.base_url}/embeddings",
        json={"model": STAND_IN, "input": ["x"] * 2048, "encoding_format": encoding},
        headers={"authorization": f"Bearer {gateway.key}"},
        timeout=100,
    )
    assert answer.status_code == 200, answer.text[:500]
    assert answer.content.count(b'"object":"embedding"') == 2048
    if encoding == "float":
        assert len(answer.content) > 100_000_000
        assert answer.content.count(text) == 2048
    else:
        packed = base64.b64encode(struct.pack("<3072f", *single))
        assert answer.content.count(packed) == 2048


def test_a_request_with_a_key_is_answered_once(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(as_openai_embeddings, json_reply(openai_list([[9.0]])))
    headers = {"authorization": f"Bearer {gateway.key}", "idempotency-key": "embed-once"}
    body = {"model": STAND_IN, "input": "x"}
    first, again = (httpx.post(f"{gateway.base_url}/embeddings", json=body, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-generation-id"] == first.headers["x-generation-id"]
    record = httpx.get(
        f"{gateway.base_url}/generation/{first.headers['x-generation-id']}",
        headers={"authorization": f"Bearer {gateway.key}"},
    ).json()
    assert (record["endpoint"], record["model_id"], record["provider"]) == ("embeddings", STAND_IN, "acme")
    assert record["usage"]["pricing"]["total_nanos"] == 0
