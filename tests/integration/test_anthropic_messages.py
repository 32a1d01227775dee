"""The Messages surface by way of the anthropic dialect: what the vendor's own SDK sends and gets, there and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.fakes.anthropic_wire import (
    error_reply,
    message_reply,
    message_stream,
    redacted,
    text,
    thinking,
    tool_use,
    usage,
)
from tests.integration.anthropic_stage import HAIKU, PAID, SONNET, Stage, stage
from tests.integration.databases import migrated

TOOLS: Any = [{"name": "f", "description": "Does f.", "input_schema": {"type": "object", "properties": {"n": {}}}}]
SAID = [
    thinking("Hm, größer.", "EqQB+/a=="),
    redacted("EmwK"),
    text("Wait."),
    thinking("And?", "EqQB2"),
    tool_use("f", {"n": 1}),
    tool_use("f", {}, id="toolu_02"),
]


@pytest.fixture
async def at(sqlite_url: str) -> AsyncIterator[Stage]:
    async with migrated(sqlite_url) as database, stage(database) as ready:
        yield ready


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])


async def told(at: Stage, *blocks: Any, stream: bool, asked: dict[str, Any] | None = None, **fields: Any) -> Any:
    at.upstream.script(message_stream(*blocks, **fields) if stream else message_reply(*blocks, **fields))
    wanted: dict[str, Any] = {
        "model": HAIKU,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hi"}],
        **(asked or {}),
    }
    if not stream:
        return await at.native.messages.create(**wanted)
    async with at.native.messages.stream(**wanted) as events:
        return await events.get_final_message()


def blocks_of(message: Any) -> list[Any]:
    return [
        block.model_dump(exclude_none=True, include=set(said))
        for block, said in zip(message.content, SAID, strict=True)
    ]


@both_ways
async def test_a_turn_with_everything_goes_out_and_comes_back_as_it_was(at: Stage, stream: bool) -> None:
    asked = {"tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    first = await told(at, *SAID, stream=stream, stop_reason="tool_use", asked=asked)
    assert at.sent["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert blocks_of(first) == SAID
    assert first.stop_reason == "tool_use"

    results: Any = [
        {"type": "tool_result", "tool_use_id": "toolu_01", "content": "42"},
        {"type": "tool_result", "tool_use_id": "toolu_02", "content": "No.", "is_error": True},
        {"type": "text", "text": "So?"},
    ]
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": SAID}]
    asked = {**asked, "messages": [*history, {"role": "user", "content": results}]}
    await told(at, text("So."), stream=stream, asked=asked)
    assert at.sent["messages"][1] == {"role": "assistant", "content": SAID}
    assert at.sent["messages"][2] == {"role": "user", "content": results}
    assert at.sent["tools"] == TOOLS


@both_ways
async def test_counts_are_the_vendors_again(at: Stage, stream: bool) -> None:
    counted = (await told(at, stream=stream, usage_=usage(5, 7, read=100, written=20))).usage

    assert (counted.input_tokens, counted.cache_read_input_tokens, counted.cache_creation_input_tokens) == (5, 100, 20)
    assert counted.output_tokens == 7


@both_ways
async def test_u7_written_tokens_are_charged_once(at: Stage, stream: bool) -> None:
    await told(at, stream=stream, usage_=usage(6, 2_745, written=159_217), asked={"model": PAID})
    await at.counter.drains.close()

    assert await at.counter.spent() == 1_063_761_250


@both_ways
@pytest.mark.parametrize(
    "reason", ["end_turn", "max_tokens", "tool_use", "refusal", "pause_turn", "model_context_window_exceeded"]
)
async def test_reasons_are_the_vendors_again(at: Stage, reason: str, stream: bool) -> None:
    assert (await told(at, text(), stream=stream, stop_reason=reason)).stop_reason == reason


@both_ways
async def test_the_stop_sequence_is_told(at: Stage, stream: bool) -> None:
    asked = {"stop_sequences": ["END"]}
    message = await told(at, text(), stream=stream, stop_reason="stop_sequence", stop_sequence="END", asked=asked)

    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert at.sent["stop_sequences"] == ["END"]


async def test_cache_marks_and_schemas_go_through(at: Stage) -> None:
    mark = {"type": "ephemeral"}
    schema = {"type": "object", "properties": {"z": {"type": "null"}}, "additionalProperties": False}
    asked: dict[str, Any] = {
        "model": SONNET,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": mark}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": mark}]}],
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        "service_tier": "standard_only",
    }
    await told(at, stream=False, asked=asked)

    for name in ("system", "messages", "output_config", "service_tier"):
        assert at.sent[name] == asked[name]


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (429, "rate_limit_error", anthropic.RateLimitError),
        (529, "overloaded_error", anthropic.InternalServerError),
        (400, "invalid_request_error", anthropic.BadRequestError),
    ],
)
@both_ways
async def test_errors(at: Stage, status: int, kind: str, error: type[anthropic.APIStatusError], stream: bool) -> None:
    at.upstream.script(error_reply(status, kind))
    asked: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    with pytest.raises(error):
        await at.native.messages.create(model=HAIKU, **asked)
