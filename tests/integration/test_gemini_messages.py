"""Anthropic's Messages through the gemini dialect to an upstream on a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.fakes.gemini_wire import SIGNATURE, call, text
from tests.integration.databases import migrated
from tests.integration.gemini_stage import FLASH, Stage, stage
from tests.integration.test_gemini_surfaces import WEATHER, both_ways, says


@pytest.fixture
async def scene(sqlite_url: str) -> AsyncIterator[Stage]:
    async with migrated(sqlite_url) as database, stage(database) as made:
        yield made


async def messages(scene: Stage, streaming: bool, said: list[Any]) -> dict[str, Any]:
    """The message; of a stream its blocks put together."""
    tool = {"name": "weather", "input_schema": WEATHER}
    body = {"model": FLASH, "max_tokens": 99, "messages": said, "tools": [tool], "stream": streaming}
    raw: Any = await scene.client.post("/messages", body=body, cast_to=httpx2.Response)
    if not streaming:
        return json.loads(raw.text)  # type: ignore[no-any-return]
    blocks: list[dict[str, Any]] = []
    found: dict[str, Any] = {"content": blocks}
    for line in raw.text.splitlines():
        event: Any = json.loads(line[6:]) if line.startswith("data: ") else {"type": ""}
        match event["type"]:
            case "content_block_start":
                blocks.append({**event["content_block"], "json": ""})
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                for name in delta.keys() & {"thinking", "text", "signature"}:
                    block[name] = block.get(name, "") + delta[name]
                block["json"] += delta.get("partial_json", "")
            case "message_delta":
                found["stop_reason"] = event["delta"]["stop_reason"]
    for block in blocks:
        told = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(told)
    return found


@both_ways
async def test_messages_calls_and_their_results(scene: Stage, streaming: bool) -> None:
    thought = text("Hm.", thought=True, signature="r+/=")
    says(scene, streaming, thought, "Let me see.", call("weather", {"city": "Bonn"}, id="n1", signature=SIGNATURE))
    asked: list[Any] = [{"role": "user", "content": "?"}]

    message = await messages(scene, streaming, asked)

    assert message["stop_reason"] == "tool_use"
    [use] = [block for block in message["content"] if block["type"] == "tool_use"]
    assert (use["name"], use["input"]) == ("weather", {"city": "Bonn"})
    failed = {"type": "tool_result", "tool_use_id": use["id"], "content": "No such city.", "is_error": True}
    says(scene, streaming, "Sorry.")
    again = await messages(
        scene,
        streaming,
        [*asked, {"role": "assistant", "content": message["content"]}, {"role": "user", "content": [failed]}],
    )

    assert again["content"][0]["text"] == "Sorry."
    assert again["stop_reason"] == "end_turn"
    assert scene.sent["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Hm.", "thought": True, "thoughtSignature": "r+/="},
                {"text": "Let me see."},
                {
                    "functionCall": {"name": "weather", "args": {"city": "Bonn"}, "id": "n1"},
                    "thoughtSignature": SIGNATURE,
                },
            ],
        },
        {
            "role": "user",
            "parts": [{"functionResponse": {"name": "weather", "response": {"error": "No such city."}, "id": "n1"}}],
        },
    ]
