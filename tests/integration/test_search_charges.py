"""What searches of the web cost that a provider makes for a model: each once, and nothing where none was made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from server.domain.catalog import ProviderProfile
from server.domain.errors import GatewayError
from server.domain.pricing import PriceList
from server.domain.request import BuiltInTool, GenerationRequest
from server.domain.usage import Usage
from server.pipeline.units import USUAL_SEARCHES
from tests.fakes.chat_wire import chat_unary, usage
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import Cut, json_reply, responses_events
from tests.fakes.responses_wire import USAGE, message_item, numbered, response_object
from tests.fakes.wire import Reply
from tests.integration.databases import migrated
from tests.integration.money import Till, till

RESPONSES: Final[frozenset[Any]] = frozenset({"responses"})
SEARCH = 10_000_000
"""Nano-dollars for one: a cent."""
PLAIN = {"input_text_tokens": 150_000_000, "output_text_tokens": 600_000_000}
PRICES = PriceList({**PLAIN, "web_searches": SEARCH * 1_000_000})
TOKENS = 9 * 150 + 3 * 600
"""What the answer costs beside them."""


def call_item(number: int, kind: str = "search", status: str = "completed") -> dict[str, Any]:
    return {"type": "web_search_call", "id": f"ws_{number}", "status": status, "action": {"type": kind}}


ITEMS = [
    call_item(0),
    call_item(1, "open_page"),
    call_item(2),
    call_item(3, "find_in_page"),
    call_item(4, status="failed"),
]
"""Two searches, and what is none."""


@pytest.fixture
async def counter(sqlite_url: str) -> AsyncIterator[Till]:
    async with migrated(sqlite_url) as database, till(database) as counter:
        counter.current = counter.catalog(PRICES, profile=ProviderProfile(apis=RESPONSES))
        yield counter


def searching(counter: Till, *, stream: bool, kind: str = "web_search", **passthrough: bytes) -> GenerationRequest:
    tool = BuiltInTool(kind, msgspec.Raw(b'{"type":"%s"}' % kind.encode()), "tools[0]")
    raw = {name: msgspec.Raw(value) for name, value in passthrough.items()}
    return replace(counter.request(stream=stream), tools=(tool,), passthrough=raw)


def whole(*items: dict[str, Any], **counted: Any) -> Reply:
    return json_reply(response_object([*items, message_item("Hello")], usage={**USAGE, **counted}))


def streamed(*items: dict[str, Any], is_whole: bool = True) -> Reply:
    """The items one after another, then the answer; or a cut in its place."""
    output = [*items, message_item("Hello")] if is_whole else list(items)
    begun: dict[str, Any] = {
        "type": "response.created",
        "response": response_object([], status="in_progress", usage=None),
    }
    done = ({"type": "response.output_item.done", "output_index": at, "item": one} for at, one in enumerate(output))
    told: list[dict[str, Any]] = [begun, *done]
    if is_whole:
        told.append({"type": "response.completed", "response": response_object(output)})
        return responses_events(numbered(told))
    return responses_events(numbered(told), end=Cut())


async def used(counter: Till, reply: Reply, request: GenerationRequest) -> tuple[dict[str, int], int]:
    """By dimension what was charged, and what has left the wallet."""
    counter.first.script(reply)
    call = counter.call()
    await counter.run(call, request)
    return charged((await counter.settled(call)).usage), await counter.spent()


def charged(counted: Usage | None) -> dict[str, int]:
    assert counted is not None
    assert counted.pricing is not None
    return {line.dimension: line.quantity for line in counted.pricing.lines}


@pytest.mark.parametrize("stream", [True, False])
async def test_each_search_that_was_made_is_charged(counter: Till, stream: bool) -> None:
    reply = streamed(*ITEMS) if stream else whole(*ITEMS)
    lines, spent = await used(counter, reply, searching(counter, stream=stream))
    assert lines == {"input_text_tokens": 9, "output_text_tokens": 3, "web_searches": 2}
    assert spent == TOKENS + 2 * SEARCH


async def test_searches_that_perplexity_counts_are_charged(counter: Till) -> None:
    """Its Agent API has results for items, and tells in the usage how often it searched."""
    found = {"type": "search_results", "queries": ["a", "b"], "results": []}
    told = {"search_web": {"invocation": 3}, "fetch_url": {"invocation": 7}}
    lines, spent = await used(counter, whole(found, tool_calls_details=told), searching(counter, stream=False))
    assert (lines["web_searches"], spent) == (3, TOKENS + 3 * SEARCH)


async def test_a_model_that_could_search_and_did_not_costs_its_tokens(counter: Till) -> None:
    assert (await used(counter, whole(), searching(counter, stream=False)))[1] == TOKENS


async def test_where_searches_have_no_price_they_cost_nothing(counter: Till) -> None:
    counter.current = counter.catalog(PriceList(PLAIN), profile=ProviderProfile(apis=RESPONSES))
    assert (await used(counter, whole(*ITEMS), searching(counter, stream=False)))[1] == TOKENS


async def test_a_stream_that_is_cut_is_charged_for_the_searches_that_it_told(counter: Till) -> None:
    counter.first.script(streamed(*ITEMS, is_whole=False))
    call = counter.call()
    with pytest.raises(GatewayError):
        await counter.run(call, searching(counter, stream=True))
    record = await counter.settled(call)
    assert charged(record.usage)["web_searches"] == 2
    assert counter.second.requests == []
    assert 2 * SEARCH < await counter.spent() < 2 * SEARCH + 100 * 150


@pytest.mark.parametrize(
    ("kind", "limit", "most"),
    [
        ("web_search", None, USUAL_SEARCHES),
        ("web_search_preview_2025_03_11", b"null", USUAL_SEARCHES),
        ("web_search", b"3", 3),
        ("image_generation", b"3", 0),
    ],
)
async def test_the_most_that_it_may_search_is_held_meanwhile(
    counter: Till, kind: str, limit: bytes | None, most: int
) -> None:
    held: list[int] = []

    async def look(_: object) -> None:
        held.append((await counter.wallet())[1])

    counter.first.script([Do(look), *whole()])
    asked = {} if limit is None else {"max_tool_calls": limit}
    await counter.run(counter.call(), searching(counter, stream=False, kind=kind, **asked))
    assert held[0] // SEARCH == most


@pytest.mark.parametrize(
    ("more", "searches"),
    [({}, 1), ({"server_tool_use": {"web_search_requests": 4}}, 4), ({"num_search_queries": 5}, 5)],
    ids=["untold", "openrouter", "perplexity"],
)
async def test_a_chat_that_asks_for_a_search_pays_for_one_where_nobody_counts(
    counter: Till, more: dict[str, Any], searches: int
) -> None:
    counter.current = counter.catalog(PRICES)
    reply = chat_unary(usage_={**usage(9, 3), **more})
    asked = replace(counter.request(stream=False), passthrough={"web_search_options": msgspec.Raw(b"{}")})
    assert await used(counter, reply, asked) == (
        {"input_text_tokens": 9, "output_text_tokens": 3, "web_searches": searches},
        TOKENS + searches * SEARCH,
    )
