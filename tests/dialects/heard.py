"""How each surface tells the end of an answer and its stream, and what is refused instead."""

from __future__ import annotations

from collections.abc import Mapping

from tests.dialects.asked import Feature
from tests.fakes.dialects import DialectName, End
from tests.fakes.surfaces import SurfaceName

ENDS: Mapping[SurfaceName, Mapping[End, str]] = {
    "chat": {
        "stop": "stop",
        "stop_sequence": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "refusal": "content_filter",
    },
    "responses": {
        "stop": "completed",
        "length": "incomplete: max_output_tokens",
        "tool_calls": "completed",
        "refusal": "incomplete: content_filter",
    },
    "messages": {
        "stop": "end_turn",
        "stop_sequence": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "refusal": "refusal",
    },
}
"""How an answer ends, in the surface's own words."""
OTHER_ENDS: Mapping[tuple[SurfaceName, DialectName, End], str] = {
    ("chat", "openai", "refusal"): "stop",
    ("chat", "openai_responses", "refusal"): "stop",
    ("responses", "openai", "refusal"): "completed",
    ("responses", "openai_responses", "refusal"): "completed",
    ("messages", "anthropic", "stop_sequence"): "stop_sequence",
}
"""OpenAI's models refuse with a text and stop; only Anthropic says which sequence it met."""

EVENTS: Mapping[SurfaceName, list[str]] = {
    "chat": ["role", "delta", "finish", "usage"],
    "responses": [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ],
    "messages": [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ],
}
"""The kinds of a stream's events, of several alike in a row the first."""

REFUSED: Mapping[tuple[SurfaceName, DialectName, Feature], str] = {
    ("responses", "openai", "stop"): "stop",
    ("responses", "openai_responses", "stop"): "stop",
    ("responses", "anthropic", "stop"): "stop",
    ("responses", "gemini", "stop"): "stop",
    ("chat", "openai_responses", "stop"): "stop",
    ("messages", "openai_responses", "stop"): "stop_sequences",
}
"""The cells that are refused, with the parameter that the refusal names: OpenAI's Responses API has no `stop`."""
