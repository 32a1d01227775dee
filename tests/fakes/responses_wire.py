"""What OpenAI's Responses API looks like on the wire: named events, no `[DONE]`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fakes.replies import END, compact, json_reply, sse, sse_event
from tests.fakes.wire import Reply, Step

MODEL = "test-1-2026-10-01"
ID = "resp_upstream1"
ITEM_ID = "msg_upstream1"
CREATED = 1_790_000_000

USAGE: dict[str, Any] = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 12,
}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(text: str, *, status: str = "completed") -> dict[str, Any]:
    content = [text_part(text)] if status == "completed" else []
    return {"id": ITEM_ID, "type": "message", "status": status, "role": "assistant", "content": content}


def response_object(
    output: list[dict[str, Any]],
    *,
    status: str = "completed",
    usage: dict[str, Any] | None = USAGE,
    **extra: Any,
) -> dict[str, Any]:
    return {
        "id": ID,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": MODEL,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
        **extra,
    }


def text_events(*pieces: str) -> list[dict[str, Any]]:
    """The full sequence of one message, each event with its `sequence_number`."""
    text = "".join(pieces)
    place = {"item_id": ITEM_ID, "output_index": 0, "content_index": 0}
    begun = response_object([], status="in_progress", usage=None)
    return numbered(
        [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": message_item("", status="in_progress"),
            },
            {"type": "response.content_part.added", **place, "part": text_part("")},
            *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in pieces),
            {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **place, "part": text_part(text)},
            {"type": "response.output_item.done", "output_index": 0, "item": message_item(text)},
            {"type": "response.completed", "response": response_object([message_item(text)])},
        ]
    )


def numbered(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": event["type"], "sequence_number": number, **event} for number, event in enumerate(events)]


def frame(events: Iterable[dict[str, Any]], *, named: bool = True) -> list[bytes]:
    return [sse_event(compact(event), event=event["type"] if named else None) for event in events]


def responses_unary(text: str = "Hello there!", **extra: Any) -> Reply:
    return json_reply(response_object([message_item(text)], **extra), headers={"x-request-id": "req_upstream1"})


def responses_stream(*pieces: str, every_s: float = 0.0, end: Step = END) -> Reply:
    """A stream of these texts (default: two)."""
    return responses_events(text_events(*(pieces or ("Hello", " there!"))), every_s=every_s, end=end)


def responses_events(
    events: Iterable[dict[str, Any]], *, named: bool = True, every_s: float = 0.0, end: Step = END
) -> Reply:
    """A stream of exactly these events."""
    return sse(frame(events, named=named), every_s=every_s, end=end)
