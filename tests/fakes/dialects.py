"""What a model says, in each dialect: the reply that its stand-in plays, whole or streamed.

    anthropic.reply(Said("Hello there!"), stream=True)

`Said` is the same for all, so that a test can ask whether a client hears the same whoever says it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes import anthropic_wire, chat_wire, gemini_wire, responses_wire
from tests.fakes.replies import json_reply
from tests.fakes.wire import Reply

DialectName = Literal["openai", "openai_responses", "anthropic", "gemini"]
End = Literal["stop", "stop_sequence", "length", "tool_calls", "refusal"]


@dataclass(frozen=True)
class Called:
    """A call of a tool; Gemini says no id."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """`input` with what was `cached`, `output` with what was `reasoning`, whatever the dialect's own sums are."""

    input: int = 9
    output: int = 3
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Said:
    """`pieces` of the text are what a stream says at a time; `signature` seals `thought`."""

    pieces: tuple[str, ...] = ()
    thought: str = ""
    signature: str = ""
    calls: tuple[Called, ...] = ()
    refusal: str = ""
    end: End = "stop"
    counted: Counted = field(default_factory=Counted)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def openai(said: Said, *, stream: bool) -> Reply:
    counted = chat_wire.usage(
        said.counted.input, said.counted.output, cached=said.counted.cached, reasoning=said.counted.reasoning
    )
    reason = "stop" if said.end in ("refusal", "stop_sequence") else said.end
    if not stream:
        calls = [chat_wire.tool_call(call.name, json.dumps(call.arguments), id=call.id) for call in said.calls]
        fields = {
            "refusal": said.refusal or None,
            "reasoning_content": said.thought or None,
            "tool_calls": calls or None,
        }
        message = {name: value for name, value in fields.items() if value is not None}
        whole = chat_wire.completion(said.text or None, finish_reason=reason, usage_=counted, message=message)
        return json_reply(whole)
    deltas: list[dict[str, Any]] = []
    if said.thought:
        deltas.append({"reasoning_content": said.thought})
    deltas += [{"content": piece} for piece in said.pieces]
    if said.refusal:
        deltas.append({"refusal": said.refusal})
    for index, call in enumerate(said.calls):
        deltas.append({"tool_calls": [chat_wire.tool_call(call.name, "", id=call.id, index=index)]})
        for piece in _halves(json.dumps(call.arguments)):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    chunks = [chat_wire.role_chunk(), *map(chat_wire.delta_chunk, deltas), chat_wire.finish_chunk(reason)]
    return chat_wire.chat_chunks([*chunks, chat_wire.usage_chunk(counted)])


def openai_responses(said: Said, *, stream: bool) -> Reply:
    counted = {
        "input_tokens": said.counted.input,
        "input_tokens_details": {"cached_tokens": said.counted.cached},
        "output_tokens": said.counted.output,
        "output_tokens_details": {"reasoning_tokens": said.counted.reasoning},
        "total_tokens": said.counted.input + said.counted.output,
    }
    items = list(_items(said))
    fields: dict[str, Any] = {"usage": counted}
    if said.end == "length":
        fields |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    whole = responses_wire.response_object(items, **fields)
    if not stream:
        return json_reply(whole)
    begun = responses_wire.response_object([], status="in_progress", usage=None)
    events: list[dict[str, Any]] = [
        {"type": f"response.{step}", "response": begun} for step in ("created", "in_progress")
    ]
    for index, item in enumerate(items):
        events.append({"type": "response.output_item.added", "output_index": index, "item": _begun(item)})
        place = {"item_id": item["id"], "output_index": index}
        events += [{**place, **event} for event in _item_events(item, said)]
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{whole['status']}", "response": whole})
    return responses_wire.responses_events(responses_wire.numbered(events))


def _items(said: Said) -> Iterator[dict[str, Any]]:
    if said.thought:
        summary = [{"type": "summary_text", "text": said.thought}]
        sealed = {"encrypted_content": said.signature} if said.signature else {}
        yield {"id": "rs_upstream1", "type": "reasoning", "summary": summary, **sealed}
    if said.refusal:
        yield {**responses_wire.message_item(""), "content": [{"type": "refusal", "refusal": said.refusal}]}
    elif said.text:
        yield responses_wire.message_item(said.text)
    for call in said.calls:
        yield {
            "id": f"fc_{call.id}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": json.dumps(call.arguments),
        }


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {"content": [], "summary": [], "arguments": ""}
    known = {name: empty[name] for name in empty.keys() & item.keys()}
    return {**item, **known, **({"status": "in_progress"} if "status" in item else {})}


def _item_events(item: dict[str, Any], said: Said) -> Iterator[dict[str, Any]]:
    match item["type"]:
        case "reasoning":
            [part] = item["summary"]
            at = {"summary_index": 0}
            yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
            for piece in _halves(part["text"]):
                yield {"type": "response.reasoning_summary_text.delta", **at, "delta": piece}
            yield {"type": "response.reasoning_summary_text.done", **at, "text": part["text"]}
            yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
        case "message":
            [part] = item["content"]
            kind, name = ("refusal", "refusal") if said.refusal else ("output_text", "text")
            at = {"content_index": 0}
            yield {"type": "response.content_part.added", **at, "part": {**part, name: ""}}
            for piece in said.pieces or _halves(said.refusal):
                yield {"type": f"response.{kind}.delta", **at, "delta": piece}
            yield {"type": f"response.{kind}.done", **at, name: part[name]}
            yield {"type": "response.content_part.done", **at, "part": part}
        case _:
            for piece in _halves(item["arguments"]):
                yield {"type": "response.function_call_arguments.delta", "delta": piece}
            yield {"type": "response.function_call_arguments.done", "arguments": item["arguments"]}


def anthropic(said: Said, *, stream: bool) -> Reply:
    counted = anthropic_wire.usage(
        said.counted.input - said.counted.cached,
        said.counted.output,
        read=said.counted.cached,
        output_tokens_details={"thinking_tokens": said.counted.reasoning},
    )
    blocks = [anthropic_wire.thinking(said.thought, said.signature)] if said.thought else []
    blocks += [anthropic_wire.text(said.text)] if said.text else []
    blocks += [anthropic_wire.tool_use(call.name, call.arguments, id=call.id) for call in said.calls]
    ends = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    fields: dict[str, Any] = {"stop_reason": ends.get(said.end, said.end), "usage_": counted}
    if said.end == "stop_sequence":
        fields["stop_sequence"] = "two"
    if said.refusal:
        fields["stop_details"] = {"type": "refusal", "category": None, "explanation": said.refusal}
    whole = anthropic_wire.message(*blocks, **fields)
    if not stream:
        return json_reply(whole, headers=anthropic_wire.HEADERS)
    return anthropic_wire.event_stream(anthropic_wire.events_of(whole, pieces=len(said.pieces) or 2))


def gemini(said: Said, *, stream: bool) -> Reply:
    """Google counts thoughts beside the answer, and says `STOP` whatever a model stops for."""
    counted = gemini_wire.usage(
        said.counted.input,
        said.counted.output - said.counted.reasoning,
        cached=said.counted.cached or None,
        thoughts=said.counted.reasoning or None,
    )
    sealed = said.signature or None
    parts = [gemini_wire.text(said.thought, thought=True, signature=sealed)] if said.thought else []
    parts += [gemini_wire.text(piece) for piece in said.pieces]
    for number, call in enumerate(said.calls):
        mark = gemini_wire.SIGNATURE if number == 0 else None
        parts.append(gemini_wire.call(call.name, call.arguments, signature=mark))
    extra = {"finishMessage": said.refusal} if said.refusal else {}
    last: dict[str, Any] = {"finish": {"length": "MAX_TOKENS", "refusal": "SAFETY"}.get(said.end, "STOP"), **extra}
    if not stream:
        made = gemini_wire.candidate(*parts, content=bool(parts), **last)
        return gemini_wire.whole_reply(gemini_wire.reply(made, counted=counted))
    chunks = [gemini_wire.candidate(part, finish=None) for part in parts] + [
        gemini_wire.candidate(content=False, **last)
    ]
    return gemini_wire.stream(*(gemini_wire.reply(chunk, counted=counted) for chunk in chunks))


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]


REPLIES: Mapping[DialectName, Callable[..., Reply]] = {
    "openai": openai,
    "openai_responses": openai_responses,
    "anthropic": anthropic,
    "gemini": gemini,
}
