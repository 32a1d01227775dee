"""The embedded model's embeddings as a real process: what the catalogue promises of them."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server import local_model
from server.catalogue.load import load_catalog
from server.probes import unused_port
from tests.fakes.embedding_wire import from_base64

LIKE = "Prices on the stock market fell sharply on Monday."
ALSO = "Stock prices dropped steeply at the start of the week."
OTHER = "The cat is asleep on a warm chair in the kitchen."


class Model:
    def __init__(self) -> None:
        self.port, chat_port = unused_port(), unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        argv = ["-m", "server.local_model", "--port", str(chat_port), "--embedding-port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, *argv], stdin=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not self._is_healthy():
            assert time.monotonic() < deadline, "it did not become ready"
            time.sleep(0.05)

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def embed(self, given: Any, **options: Any) -> httpx.Response:
        body = {"model": local_model.EMBEDDING_MODEL_NAME, "input": given, **options}
        return httpx.post(f"{self.url}/v1/embeddings", json=body, timeout=60)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    one = Model()
    yield one
    one.end()


def cosine(one: list[float], other: list[float]) -> float:
    norm = math.sqrt(math.fsum(x * x for x in one) * math.fsum(x * x for x in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / norm


def test_vectors_of_576_dimensions_and_length_one_the_same_in_both_encodings(model: Model) -> None:
    numbers = model.embed([LIKE, ALSO, OTHER]).json()
    packed = model.embed([LIKE, ALSO, OTHER], encoding_format="base64").json()
    assert numbers["usage"]["prompt_tokens"] == numbers["usage"]["total_tokens"] > 20
    vectors = [from_base64(item["embedding"]) for item in packed["data"]]
    assert [item["index"] for item in packed["data"]] == [0, 1, 2]
    assert {len(vector) for vector in vectors} == {576}
    for vector, item in zip(vectors, numbers["data"], strict=True):
        assert vector == pytest.approx(item["embedding"], abs=1e-6)
        assert math.fsum(x * x for x in vector) == pytest.approx(1, abs=1e-5)
    assert cosine(vectors[0], vectors[1]) > max(cosine(vectors[0], vectors[2]), cosine(vectors[1], vectors[2]))


def test_a_text_has_its_vector_whatever_comes_with_it(model: Model) -> None:
    texts = [LIKE, ALSO, OTHER, "a"]
    alone = [model.embed(text).json()["data"][0]["embedding"] for text in texts]
    assert [item["embedding"] for item in model.embed(texts).json()["data"]] == alone
    assert [item["embedding"] for item in model.embed(texts[::-1]).json()["data"]] == alone[::-1]


def test_a_text_that_is_too_long_is_refused_and_not_cut(model: Model) -> None:
    answer = model.embed("word " * (local_model.EMBEDDING_CONTEXT + 1))
    assert answer.status_code >= 400
    assert "too large to process" in answer.json()["error"]["message"]


def test_an_empty_text_is_refused(model: Model) -> None:
    assert model.embed(["a", ""]).status_code == 400


async def test_requests_at_once_wait_their_turn_and_get_their_own(model: Model) -> None:
    texts = [LIKE, ALSO, OTHER]
    alone = [model.embed(text).json()["data"][0]["embedding"] for text in texts]
    async with httpx.AsyncClient(timeout=60) as client:
        asked = (client.post(f"{model.url}/v1/embeddings", json={"input": [text, "a"]}) for text in texts)
        answers = await asyncio.gather(*asked)
    assert [answer.json()["data"][0]["embedding"] for answer in answers] == alone


def test_what_the_catalogue_says_of_it() -> None:
    [offer] = load_catalog(None, {}).models["local/smollm2-135m-embed:free"].offers
    assert offer.provider.id == local_model.EMBEDDING_PROVIDER_ID
    assert offer.provider_model == local_model.EMBEDDING_MODEL_NAME
    assert offer.context_length == local_model.EMBEDDING_CONTEXT
    assert (offer.params, offer.embeddings.encoding, offer.embeddings.token_input) == (frozenset(), "base64", False)
