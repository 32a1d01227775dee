"""What of a provider's answer is no list of vectors, and how adapters find out."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Dialect, EmbeddingFacts, Offer, Provider
from server.domain.embedding import EmbeddingRequest, Embeddings
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Produced, ProviderEvent
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.providers.cohere import CohereAdapter
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.embedding_wire import in_base64, with_text
from tests.fakes.openai_upstream import Cut, Reply, Upstream, error, json_reply, sse
from tests.fakes.replies import short_body

GARBAGE = {
    "not json": with_text("[1,2"),
    "nothing": json_reply({"object": "list", "model": "m"}),
    "too few": with_text("[1,2]"),
    "too many": with_text("[1,2]|[1,2]|[1,2]"),
    "null": with_text("null|[1,2]"),
    "a null in it": with_text("[1,null]|[1,2]"),
    "nan in base64": with_text(f'"{in_base64([float("nan"), 1.0])}"|"{in_base64([1.0, 1.0])}"'),
    "infinite": with_text("[1e39,1]|[1,2]"),
    "empty": with_text("[]|[]"),
    "lengths": with_text("[1,2]|[1]"),
    "no base64": with_text('"$$$$"|"AAAA"'),
    "half a float": with_text('"AAAAAAA="|"AAAAAAA="'),
    "nested": with_text("[[1]]|[[2]]"),
    "same index": json_reply(
        {"data": [{"index": 1, "embedding": [1.0]}, {"index": 1, "embedding": [2.0]}], "model": "m"}
    ),
    "an error": json_reply({"error": {"message": "Out of memory.", "type": "server_error"}}),
    "events": sse([b'data: {"data": []}\n\n']),
    "cut": short_body(b'{"object":"list","data":[', 100),
    "gone": [Cut()],
    "500": error(500),
}


COHERE = {
    "nothing": json_reply({"id": "x"}),
    "an error": json_reply({"id": "x", "message": "trial key rate limit"}),
    "another type": json_reply({"id": "x", "embeddings": {"int8": [[1], [2]]}}),
    "too few": json_reply({"id": "x", "embeddings": {"float": [[1.0]]}}),
    "numbers as text": json_reply({"id": "x", "embeddings": {"float": [["1"], ["2"]]}}),
}
GEMINI = {
    "nothing": json_reply({}),
    "an error": json_reply({"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}),
    "too few": json_reply({"embeddings": [{"values": [1.0]}]}),
    "no values": json_reply({"embeddings": [{}, {}]}),
}


async def answer(dialect: Dialect, reply: Reply) -> list[ProviderEvent]:
    clock = SystemClock()
    async with Upstream() as upstream, Transport() as transport:
        adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(transport, clock, UuidV7()),
            "gemini": GeminiAdapter(transport, clock, UuidV7()),
            "cohere": CohereAdapter(transport, clock),
        }
        upstream.script(reply)
        provider = Provider("p", dialect, upstream.base_url)
        offer = Offer(provider, "m", frozenset({Endpoint.EMBEDDINGS}), embeddings=EmbeddingFacts(max_inputs=2))
        request = EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model="a/b", inputs=("a", "b"))
        async with aclosing(adapters[dialect].stream(offer, request)) as batches:
            return [event async for batch in batches for event in batch]


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        *(("openai", kind) for kind in GARBAGE),
        *(("cohere", kind) for kind in COHERE),
        *(("gemini", kind) for kind in GEMINI),
    ],
)
async def test_what_is_no_answer_is_a_failure(dialect: Dialect, kind: str) -> None:
    table = {"openai": GARBAGE, "cohere": COHERE, "gemini": GEMINI}[dialect]
    with pytest.raises(ProviderFailure) as caught:
        await answer(dialect, table[kind])
    expected = {
        "cut": FailureCategory.CONNECTION,
        "gone": FailureCategory.CONNECTION,
        "500": FailureCategory.SERVER_ERROR,
        "an error": FailureCategory.OVERLOADED if dialect == "gemini" else FailureCategory.SERVER_ERROR,
    }
    assert caught.value.category is expected.get(kind, FailureCategory.PROTOCOL)
    assert not caught.value.is_final


async def test_without_indexes_the_order_is_that_of_the_answer() -> None:
    events = await answer("openai", json_reply({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}))
    [produced] = [event for event in events if isinstance(event, Produced)]
    assert produced.result == Embeddings((b"\0\0\x80?", b"\0\0\0@"))
