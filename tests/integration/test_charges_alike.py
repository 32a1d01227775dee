"""One answer is used and charged alike (U14), whether its provider sends it whole or in pieces, by both OpenAI APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from msgspec.structs import replace

from server.domain.catalog import ProviderProfile
from server.domain.events import Settled
from server.domain.pricing import PriceList
from server.domain.request import GenerationRequest, Image, Role, Text, Turn
from server.domain.usage import Usage
from tests.fakes.chat_wire import (
    chat_chunks,
    chat_unary,
    delta_chunk,
    finish_chunk,
    role_chunk,
    text_chunk,
    tool_call,
    usage,
    usage_chunk,
)
from tests.fakes.openai_upstream import responses_events, responses_unary
from tests.fakes.responses_wire import message_item, response_object, text_events
from tests.fakes.wire import Reply
from tests.integration.databases import migrated
from tests.integration.money import Till, till

DIMENSIONS = (
    "input_text_tokens", "cached_read_text_tokens", "cached_write_text_tokens", "input_audio_tokens",
    "output_text_tokens", "reasoning_text_tokens", "output_audio_tokens",
)  # fmt: skip
PRICES = PriceList({name: 1_000_000 * number for number, name in enumerate(DIMENSIONS, 1)})
RESPONSES: Final[frozenset[Any]] = frozenset({"responses"})


@pytest.fixture
async def counter(sqlite_url: str) -> AsyncIterator[Till]:
    async with migrated(sqlite_url) as database, till(database) as counter:
        yield counter


def detailed(
    inputs: dict[str, int] | None = None, outputs: dict[str, int] | None = None, **more: int
) -> dict[str, Any]:
    counted = usage(1000, 500)
    counted["prompt_tokens_details"] |= inputs or {}
    counted["completion_tokens_details"] |= outputs or {}
    return counted


CHAT = {
    "plain": usage(1000, 500),
    "nothing at all": usage(0, 0),
    "cached": detailed({"cached_tokens": 900}),
    "written to the cache": detailed({"cached_tokens": 100, "cache_write_tokens": 800}),
    "cached, as DeepSeek says it": {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "prompt_cache_hit_tokens": 600,
        "prompt_cache_miss_tokens": 400,
    },
    "reasoning": detailed(outputs={"reasoning_tokens": 300}),
    "audio": detailed({"audio_tokens": 40}, {"audio_tokens": 47}),
    "predicted": detailed(outputs={"accepted_prediction_tokens": 5, "rejected_prediction_tokens": 7}),
    "without details": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
}
NATIVE: dict[str, dict[str, Any]] = {
    "plain": {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500},
    "nothing at all": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    "cached": {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 900}, "output_tokens": 500},
    "reasoning": {"input_tokens": 1000, "output_tokens": 500, "output_tokens_details": {"reasoning_tokens": 300}},
}


def looking(counter: Till, *, stream: bool) -> GenerationRequest:
    """A request with a picture in it."""
    parts = (Text("What is this?"), Image(url="https://example.com/cat.png"))
    return replace(counter.request(stream=stream), turns=(Turn(Role.USER, parts),))


async def used(counter: Till, reply: Reply, *, stream: bool) -> Usage:
    """The account of a request that is answered so, its pricing included."""
    counter.first.script(reply)
    account = (await counter.run(counter.call(), looking(counter, stream=stream)))[-1]
    assert isinstance(account, Settled)
    assert account.usage.pricing is not None
    return account.usage


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", CHAT)
async def test_u14_by_chat(counter: Till, name: str, beside: bool) -> None:
    profile = ProviderProfile(reasoning_tokens="beside" if beside else "inside")
    counter.current = counter.catalog(PRICES, profile=profile)
    counted = CHAT[name]
    start = [role_chunk(), text_chunk("Hello"), text_chunk(" there!")]
    running = {**counted, "completion_tokens": min(1, counted["completion_tokens"])}
    whole = await used(counter, chat_unary(usage_=counted), stream=False)
    assert whole.source == "provider"
    for chunks in (
        [*start, finish_chunk(), usage_chunk(counted)],
        [*start, finish_chunk(usage=counted)],
        [start[0], text_chunk("Hello", usage=running), start[2], finish_chunk(), usage_chunk(counted)],
    ):
        assert await used(counter, chat_chunks(chunks), stream=True) == whole


@pytest.mark.parametrize("name", NATIVE)
async def test_u14_by_responses(counter: Till, name: str) -> None:
    counter.current = counter.catalog(PRICES, profile=ProviderProfile(apis=RESPONSES))
    counted = NATIVE[name]
    whole = await used(counter, responses_unary(usage=counted), stream=False)
    assert whole.source == "provider"
    assert await used(counter, responses_events(completed_with(counted)), stream=True) == whole


def completed_with(counted: dict[str, Any] | None) -> list[dict[str, Any]]:
    events = text_events("Hello", " there!")
    return [*events[:-1], {**events[-1], "response": response_object([message_item("Hello there!")], usage=counted)}]


MESSAGES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "text": ({"content": "Hello there!"}, [{"content": "Hello"}, {"content": " there!"}]),
    "reasoning": (
        {"content": "Four.", "reasoning_content": "Two and two, let me see"},
        [{"reasoning_content": "Two and two,"}, {"reasoning_content": " let me see"}, {"content": "Four."}],
    ),
    "a tool call": (
        {"content": None, "tool_calls": [tool_call("look_up", '{"city": "Ulm"}')]},
        [
            {"tool_calls": [tool_call("look_up", "", index=0)]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ' "Ulm"}'}}]},
        ],
    ),
}
"""A message whole and in pieces."""


@pytest.mark.parametrize("name", MESSAGES)
async def test_u14_what_is_counted_here_by_chat(counter: Till, name: str) -> None:
    counter.current = counter.catalog(PRICES)
    message, deltas = MESSAGES[name]
    reason = "tool_calls" if "tool_calls" in message else "stop"
    body = chat_unary(message=message, finish_reason=reason, usage=None)
    whole = await used(counter, body, stream=False)
    assert whole.source == "counted"
    assert min(whole.input_tokens, whole.output_tokens) > 0
    chunks = [role_chunk(), *map(delta_chunk, deltas), finish_chunk(reason)]
    assert await used(counter, chat_chunks(chunks), stream=True) == whole


async def test_u14_what_is_counted_here_by_responses(counter: Till) -> None:
    counter.current = counter.catalog(PRICES, profile=ProviderProfile(apis=RESPONSES))
    whole = await used(counter, responses_unary(usage=None), stream=False)
    assert (whole.source, whole.output_tokens) == ("counted", 3)
    assert await used(counter, responses_events(completed_with(None)), stream=True) == whole
