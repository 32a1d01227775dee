"""The three surfaces as the SDKs of OpenAI and Anthropic show them: what is asked on each, and what is heard.

`Heard` is in the same words for all; only how an answer ended, and who refused it, is said as the surface says it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import anthropic
import httpx2
import openai

from tests.fakes.dialects import Called, Counted

SurfaceName = Literal["chat", "responses", "messages"]
Turns = list[Any]


@dataclass(frozen=True)
class Heard:
    """`turn` is the answer as a client hands it back with its next question."""

    text: str
    thought: str
    refusal: str
    calls: tuple[Called, ...]
    end: str
    counted: Counted
    turn: Turns


class Surface(Protocol):
    """`turns` is the field in which a conversation is asked."""

    turns: str

    async def ask(self, model: str, asked: Mapping[str, Any], *, stream: bool) -> Heard:
        """The answer; a stream's as the SDK puts it together."""

    def results(self, calls: Sequence[Called], said: Sequence[str]) -> Turns:
        """The turns that tell what the tools returned."""

    def events(self, model: str, asked: Mapping[str, Any]) -> Any:
        """A context of the stream, event by event: `(kind, text that it adds)`."""


class Chat:
    turns = "messages"

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._create: Any = client.chat.completions

    async def ask(self, model: str, asked: Mapping[str, Any], *, stream: bool) -> Heard:
        if stream:
            told = await self._folded(model, asked)
        else:
            told = (await self._create.create(model=model, **asked)).to_dict()
        assert [choice["index"] for choice in told["choices"]] == [0]
        message, used = told["choices"][0]["message"], told["usage"]
        fields = ("role", "content", "refusal", "tool_calls", "reasoning_content", "reasoning_signature")
        turn = {name: message[name] for name in fields if message.get(name) is not None}
        return Heard(
            text=message.get("content") or "",
            thought=message.get("reasoning_content") or "",
            refusal=message.get("refusal") or "",
            calls=tuple(
                Called(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
                for call in turn.get("tool_calls", ())
            ),
            end=told["choices"][0]["finish_reason"],
            counted=Counted(
                used["prompt_tokens"],
                used["completion_tokens"],
                used["prompt_tokens_details"]["cached_tokens"],
                used["completion_tokens_details"]["reasoning_tokens"],
            ),
            turn=[turn],
        )

    async def _folded(self, model: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The chunks put together: the SDK's own way raises where an answer was cut or filtered."""
        message: dict[str, Any] = {}
        choice: dict[str, Any] = {"index": 0, "message": message}
        told: dict[str, Any] = {"choices": [choice]}
        calls: list[dict[str, Any]] = []
        options: Any = {"include_usage": True}
        async for chunk in await self._create.create(model=model, stream=True, stream_options=options, **asked):
            for said in chunk.to_dict()["choices"]:
                assert said["index"] == 0
                choice["finish_reason"] = said["finish_reason"]
                delta = said["delta"]
                for call in delta.pop("tool_calls", ()):
                    _fold_call(calls, call)
                for name, value in delta.items():
                    message[name] = (message.get(name) or "") + value if name != "role" and value else value
            told["usage"] = chunk.to_dict().get("usage")
        if calls:
            message["tool_calls"] = calls
        return told

    def results(self, calls: Sequence[Called], said: Sequence[str]) -> Turns:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": text} for call, text in zip(calls, said, strict=True)
        ]

    @asynccontextmanager
    async def events(self, model: str, asked: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        async def pairs() -> AsyncIterator[tuple[str, str]]:
            async for chunk in chunks:
                delta = chunk.choices[0].delta if chunk.choices else None
                ended = bool(chunk.choices) and chunk.choices[0].finish_reason is not None
                kind = "usage" if delta is None else "finish" if ended else "role" if delta.role else "delta"
                yield kind, (delta.content or "") if delta is not None else ""

        options = {"include_usage": True}
        async with await self._create.create(model=model, stream=True, stream_options=options, **asked) as chunks:
            yield pairs()


def _fold_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    """The first fragment of a call has its id and name, none that follows has them again."""
    index = delta.pop("index")
    if index == len(calls):
        assert delta["id"]
        assert delta["function"]["name"]
        calls.append(delta)
        return
    assert delta.keys() == {"function"}
    assert delta["function"].keys() == {"arguments"}
    calls[index]["function"]["arguments"] += delta["function"]["arguments"]


class Responses:
    turns = "input"

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._create: Any = client.responses

    async def ask(self, model: str, asked: Mapping[str, Any], *, stream: bool) -> Heard:
        if stream:
            events = [event async for event in await self._create.create(model=model, stream=True, **asked)]
            whole: Any = events[-1].response
        else:
            whole = await self._create.create(model=model, **asked)
        told = whole.to_dict()
        items, used = told["output"], told["usage"]
        parts = [part for item in items if item["type"] == "message" for part in item["content"]]
        thoughts = [
            part["text"]
            for item in items
            if item["type"] == "reasoning"
            for part in (*item["summary"], *(item.get("content") or ()))
        ]
        details = told["incomplete_details"]
        return Heard(
            text="".join(part["text"] for part in parts if part["type"] == "output_text"),
            thought="".join(thoughts),
            refusal="".join(part["refusal"] for part in parts if part["type"] == "refusal"),
            calls=tuple(
                Called(item["call_id"], item["name"], json.loads(item["arguments"]))
                for item in items
                if item["type"] == "function_call"
            ),
            end=told["status"] if details is None else f"{told['status']}: {details['reason']}",
            counted=Counted(
                used["input_tokens"],
                used["output_tokens"],
                used["input_tokens_details"]["cached_tokens"],
                used["output_tokens_details"]["reasoning_tokens"],
            ),
            turn=items,
        )

    def results(self, calls: Sequence[Called], said: Sequence[str]) -> Turns:
        return [
            {"type": "function_call_output", "call_id": call.id, "output": text}
            for call, text in zip(calls, said, strict=True)
        ]

    @asynccontextmanager
    async def events(self, model: str, asked: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        async def pairs() -> AsyncIterator[tuple[str, str]]:
            async for event in events:
                yield event.type, event.delta if event.type == "response.output_text.delta" else ""

        async with await self._create.create(model=model, stream=True, **asked) as events:
            yield pairs()


class Messages:
    turns = "messages"

    def __init__(self, client: anthropic.AsyncAnthropic) -> None:
        self._create: Any = client.messages

    async def ask(self, model: str, asked: Mapping[str, Any], *, stream: bool) -> Heard:
        if stream:
            async with self._create.stream(model=model, **asked) as events:
                whole: Any = await events.get_final_message()
        else:
            whole = await self._create.create(model=model, **asked)
        told = whole.to_dict()
        blocks, used = told["content"], told["usage"]
        refused = told["stop_reason"] == "refusal"
        said = "".join(block["text"] for block in blocks if block["type"] == "text")
        for block in blocks:
            block.pop("parsed_output", None)
        return Heard(
            text="" if refused else said,
            thought="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            refusal=said if refused else "",
            calls=tuple(
                Called(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"
            ),
            end=told["stop_reason"],
            counted=Counted(
                used["input_tokens"] + used["cache_read_input_tokens"] + used["cache_creation_input_tokens"],
                used["output_tokens"],
                used["cache_read_input_tokens"],
                used["output_tokens_details"]["thinking_tokens"],
            ),
            turn=[{"role": "assistant", "content": blocks}],
        )

    def results(self, calls: Sequence[Called], said: Sequence[str]) -> Turns:
        blocks = [
            {"type": "tool_result", "tool_use_id": call.id, "content": text}
            for call, text in zip(calls, said, strict=True)
        ]
        return [{"role": "user", "content": blocks}]

    @asynccontextmanager
    async def events(self, model: str, asked: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        async def pairs() -> AsyncIterator[tuple[str, str]]:
            async for event in events:
                is_text = event.type == "content_block_delta" and event.delta.type == "text_delta"
                yield event.type, event.delta.text if is_text else ""

        async with await self._create.create(model=model, stream=True, **asked) as events:
            yield pairs()


def surfaces(origin: str, key: str, http: httpx2.AsyncClient) -> dict[SurfaceName, Surface]:
    """All three by the SDKs as their users have them: only the base URL and the key differ. `http` is the caller's."""
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{origin}/v1", http_client=http, max_retries=0)
    native = anthropic.AsyncAnthropic(api_key=key, base_url=origin, http_client=http, max_retries=0)
    return {"chat": Chat(client), "responses": Responses(client), "messages": Messages(native)}
