"""Embeddings from the client's JSON to the provider's and back: encodings, order, limits, failures and charges."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from msgspec.structs import replace

from server.domain.catalog import Catalog
from server.domain.embedding import EmbeddingRequest
from server.domain.identity import TeamPolicy
from server.domain.request import Endpoint
from tests.fakes.embedding_wire import (
    as_gemini_embeddings,
    as_openai_embeddings,
    from_base64,
    in_base64,
    openai_list,
    vector_of,
    with_text,
)
from tests.fakes.openai_upstream import Call, Hang, Reply, Request, Script, error, json_reply, rate_limited
from tests.integration.databases import migrated
from tests.integration.embedding_stage import NANOS_EACH, Stage, stage

TEXTS = [f"text number {n}" for n in range(250)]
CALLS = {"numbers": 1, "packed": 1, "small": 125, "google": 3, "cohere": 3}
"""How many calls of each provider they come to."""


@pytest.fixture
async def at(sqlite_url: str) -> AsyncIterator[Stage]:
    async with migrated(sqlite_url) as database, stage(database) as made:
        yield made


async def vectors(at: Stage, provider: str, given: Any, encoding: str | None = None, **more: Any) -> list[list[float]]:
    """What comes back for them, and in the encoding that was asked for."""
    asked = {} if encoding is None else {"encoding_format": encoding}
    told = await at.raw(model=f"a/{provider}", input=given, **asked, **more)
    data = told.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [from_base64(item["embedding"]) if encoding == "base64" else item["embedding"] for item in data]


async def refused(at: Stage, **body: Any) -> dict[str, Any]:
    with pytest.raises(openai.APIStatusError) as caught:
        await at.raw(**body)
    told: dict[str, Any] = caught.value.response.json()
    assert told["status_code"] == caught.value.status_code
    return told


@pytest.mark.parametrize("provider", CALLS)
async def test_every_provider_answers_in_either_encoding_in_the_order_of_the_inputs(at: Stage, provider: str) -> None:
    """D6: what was asked for comes, whatever the provider was asked for."""
    expected = list(map(vector_of, TEXTS))
    assert await vectors(at, provider, TEXTS, "float") == expected
    assert await vectors(at, provider, TEXTS, "base64") == expected
    assert await vectors(at, provider, "one") == [vector_of("one")]
    upstream = at.upstreams[provider]
    assert len(upstream.requests) == 2 * CALLS[provider] + 1
    formats = {request.json.get("encoding_format") for request in upstream.requests}
    assert formats == ({"base64"} if provider in ("packed", "small") else {None})
    assert await at.counter.spent() == (2 * len(TEXTS) + 1) * NANOS_EACH if provider != "google" else True


async def test_the_sdk_by_its_own_default_and_with_numbers(at: Stage) -> None:
    client = at.client
    told = await client.embeddings.create(model="a/packed", input=["one", "two"], dimensions=4, user="u-1")
    assert [item.embedding for item in told.data] == [vector_of("one", 4), vector_of("two", 4)]
    assert (told.object, told.model, told.usage.prompt_tokens, told.usage.total_tokens) == ("list", "a/packed", 6, 6)
    numbers = await client.embeddings.create(model="a/packed", input=["one"], encoding_format="float")
    assert numbers.data[0].embedding == vector_of("one")
    sent = at.upstreams["packed"].requests[0].json
    assert (sent["model"], sent["input"], sent["dimensions"]) == ("embed-1", ["one", "two"], 4)
    assert sent["user"] not in ("", "u-1")


async def test_the_whole_reply(at: Stage) -> None:
    told = (await at.raw(model="a/packed", input=["one"], encoding_format="base64", meta=True)).json()
    meta = told.pop("meta")
    assert told == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": in_base64(vector_of("one"))}],
        "model": "a/packed",
        "usage": {
            "prompt_tokens": 3,
            "total_tokens": 3,
            "pricing": {
                "currency": "USD",
                "total_nanos": 60,
                "total_usd": "0.00000006",
                "lines": [
                    {
                        "dimension": "input_text_tokens",
                        "quantity": 3,
                        "unit_size": 1_000_000,
                        "unit_price_usd": "0.02",
                        "line_nanos": 60,
                        "line_usd": "0.00000006",
                    }
                ],
            },
        },
    }
    assert (meta["provider"], meta["provider_model"], meta["attempts"]) == ("packed", "embed-1-2026", 1)


async def test_an_answer_of_many_megabytes_comes_in_pieces_and_whole(at: Stage) -> None:
    texts = [f"t{n}" for n in range(300)]
    got = await vectors(at, "packed", texts, "float", dimensions=1024)
    assert got == [vector_of(text, 1024) for text in texts]


async def test_numbers_for_numbers_pass_digit_for_digit(at: Stage) -> None:
    at.upstreams["numbers"].script(with_text("[0.10000000000000001, -1e-7,2.5E-3 ]|[1,0,-0.0]"))
    told = await at.raw(model="a/numbers", input=["a", "b"])
    assert b'"embedding":[0.10000000000000001, -1e-7,2.5E-3 ]' in told.content
    assert b'"embedding":[1,0,-0.0]' in told.content


async def test_tokens_go_to_who_takes_them(at: Stage) -> None:
    assert await vectors(at, "packed", [5, 6, 7]) == [vector_of([5, 6, 7])]
    assert await vectors(at, "small", [[1], [2, 3], [4]]) == [vector_of([1]), vector_of([2, 3]), vector_of([4])]
    for provider in ("text", "google", "cohere"):
        told = await refused(at, model=f"a/{provider}", input=[[1, 2]])
        assert (told["status_code"], told["reason"], told["param"]) == (400, "unsupported_parameter", "input")
        assert "ids of tokens" in told["description"]
        assert not at.upstreams[provider].requests


@pytest.mark.parametrize(
    ("provider", "option", "place"),
    [("google", "taskType", "requests"), ("cohere", "input_type", None), ("packed", "input_type", None)],
)
async def test_provider_options_are_passed_on(at: Stage, provider: str, option: str, place: str | None) -> None:
    await vectors(at, provider, ["a"], provider_options={provider: {option: "clustering"}})
    sent = at.upstreams[provider].requests[0].json
    assert (sent if place is None else sent[place][0])[option] == "clustering"


async def test_cohere_is_told_what_the_texts_are_for_and_to_cut_none(at: Stage) -> None:
    await vectors(at, "cohere", ["a"], dimensions=4)
    assert at.upstreams["cohere"].requests[0].json == {
        "model": "embed-1",
        "texts": ["a"],
        "input_type": "search_document",
        "embedding_types": ["base64"],
        "truncate": "NONE",
        "output_dimension": 4,
    }


async def test_gemini_gets_a_request_for_each_text(at: Stage) -> None:
    await vectors(at, "google", ["a", "b"], dimensions=4)
    [request] = at.upstreams["google"].requests
    assert request.path == "/v1/models/embed-1:batchEmbedContents"
    common = {"model": "models/embed-1", "outputDimensionality": 4}
    assert request.json == {
        "requests": [
            {**common, "content": {"parts": [{"text": "a"}]}},
            {**common, "content": {"parts": [{"text": "b"}]}},
        ]
    }


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("packed", {"encoding_format": "float"}),
        ("packed", {"input": "x"}),
        ("packed", {"dimensions": 2}),
        ("renamed", {"dimensions": 2}),
        ("renamed", {"output_dimension": 2}),
        ("google", {"requests": []}),
        ("google", {"output_dimensionality": 3}),
        ("cohere", {"embedding_types": ["int8"]}),
        ("cohere", {"texts": ["x"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_options_that_no_client_may_set(at: Stage, provider: str, options: dict[str, Any]) -> None:
    asked = {"dimensions": 4} if "dimension" in next(iter(options)) else {}
    told = await refused(at, model=f"a/{provider}", input="a", provider_options={provider: options}, **asked)
    assert (told["status_code"], told["param"]) == (400, f"provider_options.{provider}.{next(iter(options))}")
    assert not at.upstreams[provider].requests


@pytest.mark.parametrize("provider", ["google", "cohere"])
async def test_a_user_is_refused_by_name_where_there_is_no_word_for_it(at: Stage, provider: str) -> None:
    told = await refused(at, model=f"a/{provider}", input="a", user="u")
    assert (told["reason"], told["param"]) == ("unsupported_parameter", "user")


async def test_what_is_no_answer_makes_the_next_provider_serve_and_costs_nothing(at: Stage) -> None:
    at.upstreams["packed"].script(with_text("[1,null]|[1,2]"))
    assert await vectors(at, "two", ["a", "b"], "base64") == [vector_of("a"), vector_of("b")]
    assert len(at.upstreams["numbers"].requests) == 1
    assert await at.counter.spent() == 2 * NANOS_EACH


def hasty(at: Stage) -> Catalog:
    """The catalogue, with two seconds for everything."""
    return replace(at.counter.current, routing=replace(at.counter.current.routing, timeout_s=2.0))


async def test_a_vector_of_another_length_than_was_asked_for_is_no_answer(at: Stage) -> None:
    at.upstreams["packed"].script(with_text("[1,2]"))
    assert await vectors(at, "two", ["a"], dimensions=4) == [vector_of("a", 4)]


async def test_vectors_that_come_out_of_order_are_put_in_order(at: Stage) -> None:
    shuffled = openai_list([[2.0], [0.0], [1.0]])
    for item, index in zip(shuffled["data"], (2, 0, 1), strict=True):
        item["index"] = index
    at.upstreams["numbers"].script(json_reply(shuffled))
    assert await vectors(at, "numbers", ["a", "b", "c"]) == [[0.0], [1.0], [2.0]]


async def test_a_rate_limit_is_passed_on_with_its_time(at: Stage) -> None:
    at.upstreams["packed"].script(rate_limited("7"))
    with pytest.raises(openai.RateLimitError) as caught:
        await at.client.embeddings.create(model="a/packed", input="a")
    assert caught.value.response.headers["retry-after"] == "7"
    assert await at.counter.spent() == 0


async def test_a_refusal_of_the_caller_is_told_and_costs_nothing(at: Stage) -> None:
    said = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens."
    at.upstreams["packed"].script(error(400, said, type="invalid_request_error"))
    told = await refused(at, model="a/two", input="a")
    assert (told["status_code"], told["reason"]) == (400, "context_length_exceeded")
    assert not at.upstreams["numbers"].requests
    assert await at.counter.spent() == 0


async def test_llama_cpps_word_for_too_long_is_a_400(at: Stage) -> None:
    said = "input (2101 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
    at.upstreams["packed"].script(error(500, said, code=500))
    told = await refused(at, model="a/two", input="a")
    assert (told["status_code"], told["reason"], told["param"]) == (400, "context_length_exceeded", "input")
    assert told["description"] == "A text of the input has 2101 tokens, and this model takes 512 at most."


def answers_until(last: int) -> Script:
    """OpenAI, which fails from a call on."""
    number = itertools.count()

    def play(request: Request) -> Reply:
        return error(500) if next(number) >= last else as_openai_embeddings(request)

    return play


async def test_a_failure_half_way_bills_what_was_billed(at: Stage) -> None:
    upstream = at.upstreams["small"]
    play = answers_until(4)
    upstream.script(*(play for _ in range(10)))
    told = await refused(at, model="a/small", input=TEXTS[:20])
    assert told["status_code"] == 502
    assert len(upstream.requests) <= 8, "the others were not even begun"
    assert await at.counter.spent() == 4 * 2 * NANOS_EACH


async def test_a_provider_without_usage_is_counted_even_half_way(at: Stage) -> None:
    number = itertools.count()

    def play(request: Request) -> Reply:
        return as_gemini_embeddings(request) if next(number) == 0 else [Hang()]

    at.counter.current = hasty(at)
    at.upstreams["google"].script(*(play for _ in range(3)))
    texts = ["12345678"] * 201
    assert (await refused(at, model="a/google", input=texts))["status_code"] == 504
    assert await at.counter.spent() == 100 * 2 * 20


async def test_no_more_calls_than_four_at_a_time(at: Stage) -> None:
    under_way, most, all_four = 0, 0, asyncio.Event()

    async def begin(_: Request) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if most == 4:
            all_four.set()
        await all_four.wait()
        await asyncio.sleep(0.01)
        under_way -= 1

    upstream = at.upstreams["small"]
    upstream.script(*((lambda request: [Call(begin), *as_openai_embeddings(request)]) for _ in range(20)))
    assert len(await vectors(at, "small", TEXTS[:40])) == 40
    assert most == 4


async def test_who_leaves_ends_all_calls(at: Stage) -> None:
    upstream = at.upstreams["small"]
    upstream.script(*([Hang()] for _ in range(4)))
    asking = asyncio.create_task(at.raw(model="a/small", input=TEXTS[:20]))
    await upstream.wait_request(4)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await upstream.wait_disconnect(4)
    async with asyncio.timeout(30):
        while (await at.counter.wallet())[1]:  # noqa: ASYNC110 - the database tells no more
            await asyncio.sleep(0.01)
    assert await at.counter.spent() == 0


async def test_the_record_has_no_vectors_even_where_content_is_kept(at: Stage) -> None:
    """O5."""
    at.counter.policy = TeamPolicy(store_content=True)
    call = at.counter.call()
    request = EmbeddingRequest(endpoint=Endpoint.EMBEDDINGS, model="a/packed", inputs=tuple(TEXTS))
    await at.counter.run(call, request)
    record = await at.counter.settled(call)
    assert (record.endpoint, record.model_id, record.provider, record.success) == (
        "embeddings", "a/packed", "packed", True,
    )  # fmt: skip
    assert record.usage is not None
    assert record.usage.input_tokens == 750
    _, _, reply = (await at.counter.contents())[call.suffix]
    assert len(reply) + len(str(record)) < 4096
